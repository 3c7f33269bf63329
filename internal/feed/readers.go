// Package feed gives the engine its lines: it decides what each rule reads (package coverage) and follows that: the journal and log
// files.
package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/coverage"
	"mef/internal/duration"
	"mef/internal/event"
	"mef/internal/host"
	"mef/internal/source/journal"
	"mef/internal/source/stdin"
	"mef/internal/source/syslog"
)

// A Host is what is known about logs and services of this host.
type Host = coverage.Host

// Look returns what is known of logs and services of this host now. It does not wait for long: journalctl has a few seconds.
func Look(ctx context.Context, log *slog.Logger) *Host {
	h := LookAtContainers()
	h.Journald, h.Files, h.Units, h.Program = host.JournaldRuns(), Files, host.Units(), host.ProgramInstalled
	syslog := host.ReadSyslogFiles()
	for _, path := range syslog.Unreadable {
		log.Warn("cannot read which files the syslog daemon writes", "path", path)
	}
	h.Shared = syslog.Has
	var err error
	if h.Listeners, err = host.Listeners(); err != nil {
		log.Debug("cannot list listening services", "err", err)
	}
	if h.Forwards, err = host.Forwards(); err != nil {
		log.Debug("cannot list forwarded ports", "err", err)
	}
	if h.Journald {
		if h.Logged, err = journal.Units(ctx, journal.Options{}); err != nil && !errors.Is(err, journal.ErrNoJournal) {
			log.Warn("look for services in the journal", "err", err)
		}
	}
	return h
}

// LookAtContainers returns a Host of which only Docker's containers and their ports are known. roots are as for host.Containers.
func LookAtContainers(roots ...string) *Host {
	containers, err := host.Containers(roots...)
	return &Host{Containers: containers, ContainersError: err, Listeners: host.Published(containers)}
}

// Ports are where the services of rules listen.
type Ports = coverage.Ports

// Listener is a socket that waits for connections.
type Listener = host.Listener

// RestorePorts returns the Ports of an earlier run from their text.
func RestorePorts(text string) *Ports { return coverage.RestorePorts(text) }

// LookAtPorts has ports take over what listens now. It reports whether those of a rule are others than before.
func LookAtPorts(p *Ports, rules []conf.Rule, services coverage.Services, listeners []Listener, now time.Time) (changed bool) {
	return p.Look(rules, services, listeners, host.UserIDs(), now)
}

// Listeners are what waits for connections. They belong to one goroutine.
type Listeners struct {
	look func(context.Context) *Host // nil: this host
	last uint64                      // of host.ListenStamp
}

// ListenersOf returns the Listeners that look finds; nil is for this host.
func ListenersOf(look func(context.Context) *Host) Listeners { return Listeners{look: look} }

// Changed returns what listens now, if that has changed since the last call, or if it is asked for again.
func (l *Listeners) Changed(again bool) (now []Listener, changed bool, err error) {
	if l.look != nil {
		return l.look(context.Background()).Listeners, true, nil
	}
	stamp, err := host.ListenStamp()
	if err != nil || stamp == l.last && !again {
		return nil, false, err
	}
	if now, err = host.Listeners(); err != nil {
		return nil, false, err
	}
	l.last = stamp
	return now, true, nil
}

// Files returns the files that a glob names.
func Files(glob string) []string {
	found, _ := filepath.Glob(glob)
	return found
}

// Readers are the enabled rules by name, each with what it reads. They belong to the engine's goroutine.
type Readers map[string]*coverage.Reader

// Read returns the readers of a configuration's rules on a host, which begin now. What those before know of records stays.
func Read(cfg *conf.Config, services coverage.Services, h *Host, before Readers, now time.Time) Readers {
	readers := Readers(coverage.Read(cfg.Rules, services, h))
	readers.Inherit(before, now)
	return readers
}

// Inherit takes over what readers of the same rules know of records. now is when r begin to read.
func (r Readers) Inherit(before Readers, now time.Time) {
	for name, reader := range r {
		if old := before[name]; old != nil {
			reader.Inherit(old, now)
		}
	}
}

// Origins returns by rule whether it reads the journal, rather than files.
func (r Readers) Origins() map[string]bool {
	origins := make(map[string]bool, len(r))
	for name, reader := range r {
		origins[name] = reader.Journal
	}
	return origins
}

// Moved takes note of the origins of an earlier run. now is when the readers begin.
func (r Readers) Moved(before map[string]bool, now time.Time) {
	for name, reader := range r {
		if journal, ok := before[name]; ok {
			reader.Moved(journal, now)
		}
	}
}

// Selected is coverage.Selected.
func Selected(rules []conf.Rule, h *Host) string { return coverage.Selected(rules, h) }

func (r Readers) want() coverage.Want { return coverage.Wanted(r, host.UserIDs()) }

// Log logs what each rule reads.
func (r Readers) Log(log *slog.Logger) {
	for _, name := range slices.Sorted(maps.Keys(r)) {
		level := slog.LevelInfo
		if r[name].Off {
			level = slog.LevelDebug
		}
		log.Log(context.Background(), level, "rule", "name", name, "reads", r[name].Live(), "reason", r[name].Reason())
	}
}

// Accept reports whether an event of a source counts: no other source of its rule has reported the same. Events of rules that read
// nothing count.
func (r Readers) Accept(source string, ev *event.Event) bool {
	reader := r.of(ev.Rule)
	return reader == nil || reader.Accept(source, source == journal.Source, ev)
}

// of returns the reader of a rule as events name it: a rule about web requests has a threshold behind its name (webscan.EventRule).
func (r Readers) of(rule string) *coverage.Reader {
	name, _, _ := strings.Cut(rule, "/")
	return r[name]
}

// Reads reports whether a rule reads the lines of a source.
func (r Readers) Reads(rule *conf.Rule, source string) bool {
	switch {
	case source == journal.Source:
		return r[rule.Name].Journal
	case source == stdin.Source:
		return r[rule.Name].ReadsStream(conf.SourceStdin)
	case strings.HasPrefix(source, syslog.Prefix):
		return r[rule.Name].ReadsStream(conf.SourceSyslog)
	}
	return r[rule.Name].ReadsFile(source)
}

// List returns the services of a host, with what happened at the rules that cover each. hour and bans return that and the ports of the bans
// of a rule.
func (r Readers) List(cfg *conf.Config, services coverage.Services, h *Host, hour func(rule string) event.LastHour,
	bans func(rule string) coverage.BanPorts) []control.ListeningService {
	all := []control.ListeningService{}
	for _, s := range coverage.List(cfg.Rules, services, host.Forwarded(h.Listeners, h.Forwards), bans) {
		row := control.ListeningService{Name: s.Name, Protocol: s.Protocol, Ports: s.Ports, Local: s.Local, Rules: []string{}, Open: s.Open}
		usual, hours := 0.0, 0
		for _, rule := range s.Rules {
			last := hour(rule)
			row.Rules = append(row.Rules, rule)
			row.Failures, row.Logins = row.Failures+last.Failures, row.Logins+last.Logins
			row.Sources, row.More = max(row.Sources, last.Sources), row.More || last.More
			usual, hours = usual+last.Usual, max(hours, last.Hours)
		}
		if hours > 0 {
			row.Usual = &usual
		}
		if len(s.Rules) == 0 && !s.Local && s.Protocol == "tcp" {
			row.Help = "mefctl rules suggest"
			if !s.Unknown && !strings.Contains(s.Name, " ") { // a unit or a program
				row.Help += " --program " + strings.TrimSuffix(s.Name, ".service")
			}
		}
		all = append(all, row)
	}
	return all
}

// Describe adds to a status each rule with what it reads, and which services of a host no rule covers.
func (r Readers) Describe(s *control.Status, cfg *conf.Config, services coverage.Services, h *Host, counts func(rule string) event.RuleCounts,
	ports func(rule *conf.Rule) (ports, reason string)) {
	for _, name := range slices.Sorted(maps.Keys(r)) {
		reader, c := r[name], counts(name)
		on, why := ports(reader.Rule)
		row := control.Rule{Name: name, Service: reader.Rule.Service, Enabled: true, Action: reader.Rule.Action.String(),
			Live: reader.Live(), Reason: reader.Reason(), MaxRetry: reader.Rule.MaxRetry, FindTime: duration.Format(reader.Rule.FindTime),
			BanTime: duration.Format(reader.Rule.BanTime), Ports: on, PortsReason: why,
			Failures: c.Failures, Forgiven: c.Forgiven, Probes: c.Probes, Logins: c.Logins, Bans: c.Bans}
		if web := reader.Rule.Web; web != nil {
			row.MaxRetry, row.FindTime, row.Thresholds = 0, "", len(web.Thresholds)
		}
		s.Rules = append(s.Rules, row)
		s.Warnings = append(s.Warnings, reader.Warnings()...)
		if path := reader.Forgeable(); path != "" {
			s.Warnings = append(s.Warnings, fmt.Sprintf("rule %s has source=file and reads %q, which a syslog daemon writes: every local user can have any address banned with logger(1); logins in it are not recorded as known", name, path))
		}
	}
	if err := h.ContainersError; err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("no rule reads Docker's containers: %v; to allow it, grant CAP_DAC_READ_SEARCH: see read-logs.conf in the documentation of mef", err))
	}
	s.Warnings = append(s.Warnings, coverage.Silent(r, services, h.Listeners)...)
	s.Uncovered = coverage.Uncovered(cfg.Rules, services, h.Listeners)
}
