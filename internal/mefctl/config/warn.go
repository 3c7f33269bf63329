package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/coverage"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/host"
	"mef/internal/host/docker"
	"mef/internal/mefctl/exposure"
)

const (
	// askDaemon is how long config check waits for a daemon, which it can do without.
	askDaemon = 2 * time.Second
	// watchedEnough is how long a host may only be watched before it is asked whether that is meant.
	watchedEnough = 7 * 24 * time.Hour
)

// warnings are what a valid configuration may still leave open, on this host and now. daemon is nil where none is to be asked.
func warnings(ctx context.Context, cfg *conf.Config, daemon *control.Client, now time.Time) (all []string) {
	var running *control.Status
	if daemon != nil {
		ctx, cancel := context.WithTimeout(ctx, askDaemon)
		defer cancel()
		switch s, err := daemon.Status(ctx); {
		case err == nil:
			running = &s
			all = append(all, withoutSource(s)...)
		case errors.Is(err, control.ErrNotRunning):
			all = append(all, withoutFiles(cfg.Rules)...)
			all = append(all, "mefdaemon is not running, so whether each rule has a log source is not known")
		default:
			all = append(all, fmt.Sprintf("whether each rule has a log source is not known: %v", err))
		}
	}
	if listeners, err := host.Listeners(); err == nil {
		all = append(all, exposure.UncoveredSSH(listeners, cfg.Rules)...)
		all = append(all, uncovered(listeners, cfg.Rules)...)
		all = append(all, elsewhere(listeners, cfg.Rules, now)...)
	}
	if containers, err := docker.Containers(); err == nil {
		all = append(all, unreadContainers(cfg.Rules, containers)...)
	}
	all = append(all, exposure.Blind(ctx, func(rule string) bool {
		return slices.ContainsFunc(cfg.Rules, func(r conf.Rule) bool { return r.Name == rule && r.Enabled })
	})...)
	all = append(all, fullyExempt(cfg)...)
	all = append(all, exposure.Page(cfg, running == nil)...)
	all = append(all, exposure.Countries(cfg)...)
	return append(all, watching(cfg, running, now)...)
}

// uncovered names the services that no rule covers.
func uncovered(listeners []host.Listener, rules []conf.Rule) (all []string) {
	set, errs := filter.Compile(rules)
	if len(errs) > 0 {
		return nil
	}
	for _, service := range coverage.Uncovered(rules, set, listeners) {
		all = append(all, fmt.Sprintf("no rule covers %s: failed logins there lead to no ban", service))
	}
	return all
}

// elsewhere names the ports that bans cover besides those of their rule, because the service listens there. Without root, only units are known.
func elsewhere(listeners []host.Listener, rules []conf.Rule, now time.Time) (all []string) {
	set, errs := filter.Compile(rules)
	if len(errs) > 0 {
		return nil
	}
	var ports coverage.Ports
	ports.Look(rules, set, listeners, host.UserIDs(), now)
	found := ports.All()
	for i := range rules {
		r := &rules[i]
		if !r.PortsAuto {
			continue
		}
		if more, _ := found[r.Name].Without(cmp.Or(r.Ports, r.ServicePorts)); found[r.Name] != "" && more != "" {
			all = append(all, fmt.Sprintf("rule %s: its bans also cover port %s, because %s", r.Name, more, ports.Reason(r)))
		}
	}
	return all
}

// unreadContainers names the containers of rules whose output no rule can read.
func unreadContainers(rules []conf.Rule, containers []docker.Container) (all []string) {
	set, errs := filter.Compile(rules)
	if len(errs) > 0 {
		return nil
	}
	nothing := func(string) bool { return false }
	readers := coverage.Read(rules, set, &coverage.Host{Containers: containers, Shared: nothing, Program: nothing, Files: func(string) []string { return nil }})
	for _, name := range slices.Sorted(maps.Keys(readers)) {
		all = append(all, readers[name].Warnings()...)
	}
	return all
}

// fullyExempt names the families of which no address can be banned.
func fullyExempt(cfg *conf.Config) (all []string) {
	facts := exempt.Facts{Allowed: conf.Addrs(cfg.Whitelist)}
	for _, family := range facts.FullyExempt() {
		all = append(all, fmt.Sprintf("the whitelist contains all of %s: none of these addresses is ever banned", family))
	}
	return all
}

// withoutSource names the rules to which no source of lines is live.
func withoutSource(s control.Status) (all []string) {
	for _, r := range s.Rules {
		reason := r.Reason
		switch r.Live {
		case "off":
			continue
		case "none":
		default:
			reason = waiting(r.Name, s.Sources)
		}
		if r.Enabled && reason != "" {
			all = append(all, fmt.Sprintf("rule %s has no live source: %s", r.Name, reason))
		}
	}
	return all
}

// waiting reports what a rule waits for, "" if one of its sources is live.
func waiting(rule string, sources []control.Source) string {
	var all []string
	for _, src := range sources {
		switch {
		case !slices.Contains(src.Rules, rule):
		case src.State == "active":
			return ""
		default:
			all = append(all, fmt.Sprintf("%s is %s (%s)", src.Name, src.State, src.Reason))
		}
	}
	return cmp.Or(strings.Join(all, ", "), "none of its log files is followed")
}

// withoutFiles names the rules of the operator that read files of which there is none, as far as can be reported without a daemon. The service of a
// built-in rule need not be on this host.
func withoutFiles(rules []conf.Rule) (all []string) {
	for _, r := range rules {
		exists := func(glob string) bool {
			found, err := filepath.Glob(glob)
			return err == nil && len(found) > 0
		}
		if r.Enabled && !r.BuiltIn() && r.Source == conf.SourceFile && !slices.ContainsFunc(r.Files, exists) {
			all = append(all, fmt.Sprintf("rule %s has no live source: there is no %s", r.Name, strings.Join(r.Files, ", no ")))
		}
	}
	return all
}

// watching reports a host on which bans have been logged and not applied for so long that it may have been forgotten. Without a daemon to ask, the age
// of the file has to do.
func watching(cfg *conf.Config, running *control.Status, now time.Time) []string {
	var since time.Time
	switch {
	case running != nil && running.WatchingSince != nil:
		since = *running.WatchingSince
	case running == nil && cfg.Observe:
		if info, err := os.Stat(cfg.Path); err == nil {
			since = info.ModTime()
		}
	}
	switch {
	case since.IsZero() || now.Sub(since) < watchedEnough:
		return nil
	case cfg.Observe:
		return []string{fmt.Sprintf("mode=observe since %s: no bans are applied; set mode=enforce in %s when you have seen enough", since.Format(time.DateOnly), cfg.Path)}
	case running != nil && running.Armed != nil && running.Armed.Lapsed:
		return []string{fmt.Sprintf("mefctl enable was not confirmed, so no bans are applied since %s: run mefctl confirm", since.Format(time.DateOnly))}
	}
	return nil
}
