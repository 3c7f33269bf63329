// Package reputation is what this host asks others about addresses, and what it reports to them.
package reputation

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/cloud/agent"
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
	Cloud   *agent.Agent

	// Feeds, unless nil, returns what feeds report of an address; an entry of a feed counts until it is asked again. It is set before Run.
	Feeds func(netip.Addr) []event.Listing

	// Host is what other hosts of the operator have done here. It is set before Run.
	Host Host

	sources chan source // of which feeds are to be asked
}

// A source is an address that attacks.
type source struct {
	addr     netip.Addr
	verified bool
}

// maxSources is how many sources wait to be looked for in feeds. Looking takes microseconds, so more wait only where the engine is behind;
// what does not fit is looked for at its next attempt.
const maxSources = 1024

// New returns the Reputation of a configuration. It does nothing until Run.
func New(cfg *conf.Config, log *slog.Logger) *Reputation {
	r := &Reputation{Lists: dnsbl.New(cfg.RBL, log), Reports: report.New(cfg.Report, log), Cloud: agent.New(cfg, report.Category, log), sources: make(chan source, maxSources)}
	r.Cloud.Fleet = r.carryOut
	r.Lists.Community = r.Cloud.Listed
	return r
}

// Configure replaces the configuration.
func (r *Reputation) Configure(cfg *conf.Config) {
	r.Lists.Configure(cfg.RBL)
	r.Reports.Configure(cfg.Report)
	r.Cloud.Configure(cfg)
}

// Ask has block lists and feeds asked about a source. It never waits.
func (r *Reputation) Ask(addr netip.Addr, verified bool) {
	r.Lists.Ask(addr, verified)
	select {
	case r.sources <- source{addr, verified}:
	default:
	}
}

// askFeeds reports the listings of sources in feeds until ctx is done, that of an address again when it no longer counts.
func (r *Reputation) askFeeds(ctx context.Context, found func(context.Context, *event.Event) error) error {
	reported := make(map[netip.Addr]time.Time) // and until when that counts
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-r.sources:
			now := time.Now()
			if r.Feeds == nil || now.Before(reported[s.addr]) {
				continue
			}
			if len(reported) >= maxReported {
				clear(reported)
			}
			for _, l := range r.Feeds(s.addr) {
				reported[s.addr] = l.Until
				line := fmt.Sprintf("%s has %s", l.Zone, s.addr)
				if err := found(ctx, &event.Event{Time: now, Rule: l.Rule, Service: "feed", Addr: s.addr, Kind: event.Listed, Count: 1, Verified: s.verified,
					Line: line, Episode: &event.Episode{Text: "listed by " + l.String()}, Listings: &[]event.Listing{l}}); err != nil {
					return err
				}
			}
		}
	}
}

// maxReported bounds the sources that are known to have been reported. When there are more, all are forgotten, and some reported again.
const maxReported = 16_384

// Run works until ctx is done: found is called with the event of each listing, and save is as that of report.Reporter.
func (r *Reputation) Run(ctx context.Context, found func(context.Context, *event.Event) error, save func(context.Context, string)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.Lists.Run(ctx, found) })
	g.Go(func() error { return r.askFeeds(ctx, found) })
	g.Go(func() error { return r.Reports.Run(ctx, save) })
	g.Go(func() error { return r.Cloud.Run(ctx) })
	return g.Wait()
}

// Status returns what adds to a status what lists are asked and what was reported, and warnings about those of which nothing can be had.
func (r *Reputation) Status(now time.Time) (add func(*control.Status)) {
	lists, reports, cloud := r.Lists.Status(now), r.Reports.Status(now), r.Cloud.Status()
	return func(s *control.Status) {
		s.DNSBL, s.Reports, s.Cloud = lists, reports, cloud
		for _, p := range cloud.Problems {
			s.Warnings = append(s.Warnings, "community server: "+p)
		}
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
func (r *Reputation) TestReports(ctx context.Context) ([]control.SendTest, error) {
	results := r.Reports.Test(ctx)
	if len(results) == 0 {
		return nil, control.Refuse("no reports are sent; set report_abuseipdb=true or report_blocklist_de=true in mef.conf and run mefctl reload")
	}
	return results, nil
}

// JoinCloud joins a community server.
func (r *Reputation) JoinCloud(ctx context.Context, req control.CloudRequest) (control.Cloud, error) {
	if err := r.Cloud.Join(ctx, req.Invitation); err != nil {
		return control.Cloud{}, err
	}
	return r.Cloud.Status(), nil
}

// LeaveCloud leaves it.
func (r *Reputation) LeaveCloud(context.Context) error { return r.Cloud.Leave() }

// PreviewCloud returns what would be sent next.
func (r *Reputation) PreviewCloud(ctx context.Context) (json.RawMessage, error) {
	return r.Cloud.Preview(ctx)
}

// LookupCloud finds out about an address in the way that the configuration names.
func (r *Reputation) LookupCloud(ctx context.Context, addr netip.Addr) (v control.CloudVerdict, err error) {
	zone, ok := r.Cloud.Zone()
	if !ok {
		return r.Cloud.Lookup(ctx, addr)
	}
	a, ok := r.Lists.CheckList(ctx, conf.CommunityName, addr)
	switch {
	case !ok:
		return v, control.Refuse("the configuration has just changed; ask again")
	case a.Problem != "":
		return v, control.Refuse("%s", a.Problem)
	}
	v.Listed = a.Listed
	v.Shown = fmt.Sprintf("name server %s and the servers of %s were shown %s", a.Server, zone, addr)
	return v, nil
}
