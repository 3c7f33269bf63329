// Package reputation is what this host asks others about addresses, and what it reports to them.
package reputation

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/dnsbl"
	"mef/internal/event"
	"mef/internal/report"
)

// A Reputation asks block lists and sends reports. Any goroutine may call its methods. It is a control.ReputationService.
type Reputation struct {
	Lists   *dnsbl.Checker
	Reports *report.Reporter
}

// New returns the Reputation of a configuration. It does nothing until Run.
func New(cfg *conf.Config, log *slog.Logger) *Reputation {
	return &Reputation{dnsbl.New(cfg.RBL, log), report.New(cfg.Report, log)}
}

// Configure replaces the configuration.
func (r *Reputation) Configure(cfg *conf.Config) {
	r.Lists.Configure(cfg.RBL)
	r.Reports.Configure(cfg.Report)
}

// Run works until ctx is done: found is called with the event of each listing, and save is as that of report.Reporter.
func (r *Reputation) Run(ctx context.Context, found func(context.Context, *event.Event) error, save func(context.Context, string)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.Lists.Run(ctx, found) })
	g.Go(func() error { return r.Reports.Run(ctx, save) })
	return g.Wait()
}

// Status returns what adds to a status what lists are asked and what was reported, and warnings about those of which nothing can be had.
func (r *Reputation) Status(now time.Time) (add func(*control.Status)) {
	lists, reports := r.Lists.Status(now), r.Reports.Status(now)
	return func(s *control.Status) {
		s.DNSBL, s.Reports = lists, reports
		for _, l := range lists.Lists {
			if l.Problem != "" {
				s.Warnings = append(s.Warnings, fmt.Sprintf("block list %s (%s) is not used: %s", l.Name, l.Zone, l.Problem))
			}
		}
		for _, to := range reports {
			if to.Problem != "" {
				s.Warnings = append(s.Warnings, fmt.Sprintf("bans are not reported to %s: %s", to.To, to.Problem))
			}
		}
	}
}

// CheckDNSBL asks all lists about an address now.
func (r *Reputation) CheckDNSBL(ctx context.Context, addr netip.Addr) ([]control.DNSBLAnswer, error) {
	answers := r.Lists.Check(ctx, addr)
	if len(answers) == 0 {
		return nil, control.Refuse("no block list is asked; set rbl_enabled=true in mef.conf and run mefctl reload")
	}
	return answers, nil
}

// TestReports tries whether reports could be sent.
func (r *Reputation) TestReports(ctx context.Context) ([]control.ReportTest, error) {
	results := r.Reports.Test(ctx)
	if len(results) == 0 {
		return nil, control.Refuse("no reports are sent; set report_abuseipdb=true or report_blocklist_de=true in mef.conf and run mefctl reload")
	}
	return results, nil
}
