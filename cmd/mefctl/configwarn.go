package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/filter"
	"mef/internal/host"
)

const (
	// askDaemon is how long config check waits for a daemon, which it can do without.
	askDaemon = 2 * time.Second
	// watchedEnough is how long a host may only be watched before it is asked whether that is meant.
	watchedEnough = 7 * 24 * time.Hour
)

// warnings are what a valid configuration may still leave open, on this host and now. daemon is nil where none is to be asked.
func warnings(ctx context.Context, cfg *conf.Config, daemon *control.Client, now time.Time) (all []string) {
	if daemon != nil {
		ctx, cancel := context.WithTimeout(ctx, askDaemon)
		defer cancel()
		if s, err := daemon.Status(ctx); err == nil {
			all = append(all, withoutSource(s)...)
		}
	}
	if listeners, err := host.Listeners(); err == nil {
		all = append(all, uncovered(listeners, cfg.Rules)...)
	}
	if info, err := os.Stat(cfg.Path); err == nil && cfg.Observe && now.Sub(info.ModTime()) >= watchedEnough {
		all = append(all, fmt.Sprintf("mode=observe, and %s has not changed since %s: nobody is banned; set mode=enforce if you have seen enough",
			cfg.Path, info.ModTime().Format(time.DateOnly)))
	}
	return all
}

// withoutSource names the rules that wait for a source of lines.
func withoutSource(s control.Status) (all []string) {
	for _, r := range s.Rules {
		if r.Enabled && r.Live == "none" {
			all = append(all, fmt.Sprintf("rule %s has no live source: %s", r.Name, r.Reason))
		}
	}
	return all
}

// uncovered names the ports on which sshd can be reached, and on which no rule that reads what it logs bans.
func uncovered(listeners []host.Listener, rules []conf.Rule) (all []string) {
	set, errs := filter.Compile(rules)
	if len(errs) > 0 {
		return nil
	}
	for _, l := range listeners {
		if l.Protocol != "tcp" || l.Local() || !isSSH(l) {
			continue
		}
		covered := slices.ContainsFunc(rules, func(r conf.Rule) bool {
			return r.Enabled && len(r.Programs) > 0 && set.Covers(r.Name, "sshd") && (r.Ports == "" || onPort(&r, l.Port))
		})
		text := fmt.Sprintf("sshd listens on port %d, on which no rule bans; add the port to ports= of the rule sshd", l.Port)
		if !covered && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

func isSSH(l host.Listener) bool {
	unit, _, _ := strings.Cut(l.Unit, ".")
	return l.Program == "sshd" || unit == "ssh" || unit == "sshd"
}
