package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/bench/gen"
	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/feed"
	"mef/internal/filter"
	"mef/internal/host"
	"mef/internal/lists"
	"mef/internal/logtime"
	"mef/internal/offline"
)

// A willing is a packet filter that takes everything and holds nothing.
type willing struct{ enforcetest.Fake }

func (*willing) Apply(context.Context, enforce.Changes) ([]enforce.Failure, error)   { return nil, nil }
func (*willing) Rebuild(context.Context, enforce.Changes) ([]enforce.Failure, error) { return nil, nil }
func (*willing) Check(context.Context) (enforce.Check, error)                        { return enforce.Check{Bans: -1}, nil }
func (*willing) Held(context.Context, ...ban.Key) (enforce.State, error)             { return enforce.State{}, nil }

// configured returns a configuration with shipped rules that read one file.
func configured(t *testing.T) *conf.Config {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"rules", "allow", "deny", "state"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("[global]\nrules_dir=%[1]s/rules\nwhitelist_dir=%[1]s/allow\nblacklist_dir=%[1]s/deny\ncache_dir=%[1]s/state\ncontrol_socket=%[1]s/sock\nproxies=192.0.2.7\n", dir)
	for name, text := range map[string]string{"allow/a.conf": "192.0.2.8\n", "deny/a.conf": "192.0.2.0/28\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "mef.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := mefconf.Load(path, filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	for i := range cfg.Rules {
		cfg.Rules[i].Source, cfg.Rules[i].Files = conf.SourceFile, []string{"/session.log"}
	}
	return cfg
}

// sessionLog is hours of an exposed server, the same every time but for the start: bans that are over are never put in force.
func sessionLog(start time.Time) []byte {
	g := gen.New(gen.Config{Seed: 7, Attackers: 400, PerSecond: 1, Start: start, RFC3339: true})
	var log []byte
	for i := range 20_000 {
		log = g.Append(log)
		if i%100 != 0 {
			continue
		}
		// Now and then somebody tries whose address is a proxy's, a CDN's, allowed, listed, or that of a known login.
		at := log[bytes.LastIndexByte(log[:len(log)-1], '\n')+1:]
		at = at[:bytes.IndexByte(at, ' ')]
		line := func(format string, args ...any) {
			log = fmt.Appendf(log, "%s host sshd[%d]: %s\n", at, 1000+i, fmt.Sprintf(format, args...))
		}
		if i%5000 == 0 {
			line("Accepted password for alice from 198.51.100.9 port 4711 ssh2")
		}
		for n, addr := range []string{"192.0.2.7", "104.16.0.9", "192.0.2.8", "192.0.2.9", "198.51.100.9"} {
			line("Failed password for alice from %s port %d ssh2", addr, 4711+n)
		}
	}
	return log
}

// replayed returns a pipeline without an enforcer, for a log that is the same each time.
func replayed(t *testing.T, cfg *conf.Config) (*Pipeline, *State) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	rules, err := engine.Compile(cfg.Rules, host.UserIDs())
	if err != nil {
		t.Fatal(err)
	}
	p, state := New(Options{Config: cfg, Rules: rules, Facts: engine.FactsFromConf(cfg), Log: quiet})
	state.Readers = feed.Read(cfg, rules, &feed.Host{Shared: func(string) bool { return false }, Files: feed.Files, Program: func(string) bool { return false }}, nil, time.Now())
	// The seed of hashes is part of what a session starts from: by it, user names now and then share a place.
	state.Engine = engine.New(state.settings(), state.Engine.Facts())
	l := lists.New(lists.Options{})
	l.Read(cfg.Paths)
	facts := state.SetFacts(func(f *engine.Facts) { f.Allowed = l.Allow().Set })
	state.Engine.SetBlocked(l.Block(&facts).Addrs)
	return p, state
}

// decisions runs a log through an engine, in batches of a given size, and returns what it banned.
func decisions(t *testing.T, cfg *conf.Config, log []byte, size int, start time.Time) []string {
	t.Helper()
	p, state := replayed(t, cfg)
	var bans []string
	p.Enforcer = enforce.New(new(willing), enforce.Options{OnResult: func(results []enforce.Result) {
		for _, r := range results {
			if r.Err != nil {
				t.Errorf("ban %v: %v", r.Ban.Key, r.Err)
			}
			bans = append(bans, decision(r.Ban))
		}
	}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Enforcer.Run(ctx) }()
	now, offset := start, uint64(0)
	lines := bytes.Split(bytes.TrimSuffix(log, []byte("\n")), []byte("\n"))
	for chunk := range slices.Chunk(lines, size) {
		b := new(event.Pool).Get()
		b.Source, b.Stream = "/session.log", "replay"
		for _, text := range chunk {
			offset++
			if at, ok := logtime.Parse(text, start, time.Local); ok && at.After(now) {
				now = at
			}
			b.Lines = append(b.Lines, event.Line{Time: now, Text: text, Offset: offset})
		}
		if err := state.Lines(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Enforcer.Held(ctx); err != nil { // waits for what is queued
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return bans
}

func decision(b ban.Ban) string {
	return fmt.Sprintf("%s %s until %s: %s (%s)", b.Start.UTC().Format(time.RFC3339), b.Key, b.Until.UTC().Format(time.RFC3339), b.Reason, b.ID)
}

// TestRecordedSessionGivesTheSameDecisions runs one log through the daemon's engine twice, cut into batches differently, and
// through the offline replay: all decide the same at the same moments, for the same reasons.
func TestRecordedSessionGivesTheSameDecisions(t *testing.T) {
	start := time.Now()
	cfg, log := configured(t), sessionLog(start)
	first := decisions(t, cfg, log, 1, start)
	if len(first) < 50 {
		t.Fatalf("the session makes %d bans only; it should show something", len(first))
	}
	for addr, want := range map[string]bool{"192.0.2.7 ports 1-79,81-442,444-65535": true, "104.16.0.9 ports 1-79,81-442,444-65535": true,
		"192.0.2.7 until": false, "104.16.0.9 until": false, "192.0.2.8": false, "192.0.2.9": false} {
		if got := slices.ContainsFunc(first, func(d string) bool { return strings.Contains(d, " "+addr) }); got != want {
			t.Errorf("a ban of %s: %v, want %v", addr, got, want)
		}
	}
	if again := decisions(t, cfg, log, 512, start); !slices.Equal(first, again) {
		t.Errorf("in other batches the decisions differ: %s", difference(first, again))
	}
	replay, err := offline.NewReplay(cfg, offline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var replayed []string
	err = replay.Run(bytes.NewReader(log), start, func(b ban.Ban) error {
		replayed = append(replayed, decision(b))
		return nil
	})
	if err != nil || !slices.Equal(first, replayed) {
		t.Errorf("replay, %v: the decisions differ: %s", err, difference(first, replayed))
	}
}

// difference shows the first decision in which two sessions differ.
func difference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("number %d:\n%s\n%s", i, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d and %d of them; %s", len(a), len(b), strings.Join(append(a, b...)[min(len(a), len(b)):][:1], ""))
}
