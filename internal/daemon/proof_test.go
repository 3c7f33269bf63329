package daemon

import (
	"context"
	"errors"
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
	"mef/internal/selftest"
)

func TestProofDecidesProtection(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		proof             *proof
		state             string
		missing, warnings int
	}{
		"still running": {nil, "running", 0, 0},
		"passed":        {&proof{at: now.Add(-time.Hour), ok: true}, "passed", 0, 0},
		"too old":       {&proof{at: now.Add(-2 * time.Hour), ok: true}, "old", 1, 0},
		"failed":        {&proof{at: now, detail: "IPv6 ban: packets pass"}, "failed", 1, 0},
		"not possible":  {&proof{at: now, impossible: "no user namespaces"}, "impossible", 0, 1},
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
		var result selftest.Result
		var failure error
		began := time.Now()
		fake := &enforcetest.Fake{}
		d := &daemon{
			loop: &loop{enforcer: enforcetest.Start(t, fake, enforce.Options{}), log: quiet(), records: eventlog.New(quiet())},
			trySelf: func(context.Context) (selftest.Result, error) {
				mu.Lock()
				defer mu.Unlock()
				runs = append(runs, time.Since(began))
				return result, failure
			},
		}
		enforcetest.Bans(t, d.enforcer, enforcetest.For("192.0.2.7", 0))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.prove(ctx) }()
		passed := selftest.Result{OK: true, Steps: []selftest.Step{{Name: "IPv4 ban", OK: true}}}
		failed := selftest.Result{Steps: []selftest.Step{{Name: "IPv4 ban", Detail: "packets got through"}}}
		for i, tt := range []struct {
			result  selftest.Result
			err     error
			undo    int // how often somebody throws the table away before
			state   string
			missing string
		}{
			{result: passed, state: "passed"},
			{result: failed, state: "failed", missing: "IPv4 ban: packets got through"},
			{result: passed, state: "passed"},
			{err: errors.New("the child was killed"), state: "failed", missing: "the child was killed"},
			{result: selftest.Result{Impossible: "no namespaces"}, state: "impossible"},
			{result: passed, undo: 1, state: "passed"}, // is mended in time
			{result: passed, undo: 8, state: "failed", missing: "live table: missing or changed, and not put back: table, ban 192.0.2.7"},
			{result: passed, state: "passed"}, // repairs wait longer each time, and never end
		} {
			mu.Lock()
			result, failure = tt.result, tt.err
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
			d.proof.Load().show(&s, time.Now())
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
