package daemon

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/eventlog"
)

func TestProofDecidesProtection(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		proof             *selftestResult
		state             string
		missing, warnings int
	}{
		"still running": {nil, "running", 0, 0},
		"passed":        {&selftestResult{at: now.Add(-time.Hour), ok: true}, "passed", 0, 0},
		"too old":       {&selftestResult{at: now.Add(-2 * time.Hour), ok: true}, "old", 1, 0},
		"failed":        {&selftestResult{at: now, detail: "IPv6 ban: packets pass"}, "failed", 1, 0},
		"not possible":  {&selftestResult{at: now, impossible: "no user namespaces"}, "impossible", 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var s control.Status
			tt.proof.show(&s, now)
			if s.Proof.State != tt.state || len(s.Missing) != tt.missing || len(s.Warnings) != tt.warnings {
				t.Errorf("state %q, missing %q, warnings %q; want %q, %d missing, %d warnings",
					s.Proof.State, s.Missing, s.Warnings, tt.state, tt.missing, tt.warnings)
			}
		})
	}
}

// The self-test is run at the start and every hour. What it finds is shown until the next one.
func TestProvenAtStartAndHourly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex        // protects what follows
		var runs []time.Duration // since the start
		var impossible, problem string
		began := time.Now()
		fake := &enforcetest.Fake{}
		d := &daemon{
			loop: &loop{enforcer: enforcetest.Start(t, fake, enforce.Options{}), log: quiet(), records: eventlog.New(quiet())},
			selfTest: func(context.Context) (string, string) {
				mu.Lock()
				defer mu.Unlock()
				runs = append(runs, time.Since(began))
				return impossible, problem
			},
		}
		enforcetest.Bans(t, d.enforcer, enforcetest.For("192.0.2.7", 0))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.runSelftests(ctx) }()
		for i, tt := range []struct {
			impossible, problem string
			undo                int // how often somebody throws the table away before
			state               string
			missing             string
		}{
			{state: "passed"},
			{problem: "IPv4 ban: packets got through", state: "failed", missing: "IPv4 ban: packets got through"},
			{state: "passed"},
			{problem: "the child was killed", state: "failed", missing: "the child was killed"},
			{impossible: "no namespaces", state: "impossible"},
			{undo: 1, state: "passed"}, // is mended in time
			{undo: 8, state: "failed", missing: "live table: missing or changed, and not put back: table, ban 192.0.2.7"},
			{state: "passed"}, // repairs wait longer each time, and never end
		} {
			mu.Lock()
			impossible, problem = tt.impossible, tt.problem
			mu.Unlock()
			const apart = 10 * time.Second
			at := began.Add(time.Duration(i)*time.Hour + 500*time.Millisecond)
			for n := tt.undo - 1; n >= 0; n-- {
				time.Sleep(time.Until(at.Add(-time.Duration(n) * apart)))
				fake.Lose("cron[7]")
			}
			time.Sleep(time.Until(at))
			time.Sleep(3 * time.Second)
			mu.Lock()
			ran := slices.Clone(runs)
			mu.Unlock()
			if len(ran) != i+1 || ran[i].Round(time.Hour) != time.Duration(i)*time.Hour {
				t.Fatalf("after %d hours: runs at %v", i, ran)
			}
			var s control.Status
			d.selftest.Load().show(&s, time.Now())
			if got := strings.Join(s.Missing, " "); s.Proof.State != tt.state || (got == "") != (tt.missing == "") || !strings.Contains(got, tt.missing) {
				t.Errorf("after %d hours: %s, missing %q; want %s, %q", i, s.Proof.State, got, tt.state, tt.missing)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
