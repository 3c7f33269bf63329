package kernel_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/kernel"
)

func TestSelfTestDecidesProtection(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		test             *kernel.SelfTest
		state            string
		missing, warning bool
	}{
		"still running": {nil, "running", false, false},
		"passed":        {&kernel.SelfTest{At: now.Add(-time.Hour), OK: true}, "passed", false, false},
		"too old":       {&kernel.SelfTest{At: now.Add(-2 * time.Hour), OK: true}, "old", true, false},
		"failed":        {&kernel.SelfTest{At: now, Detail: "IPv6 ban: packets pass"}, "failed", true, false},
		"not possible":  {&kernel.SelfTest{At: now, Impossible: "no user namespaces"}, "impossible", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			state, missing, warning := tt.test.State(now)
			if state != tt.state || (missing != "") != tt.missing || (warning != "") != tt.warning {
				t.Errorf("state %q, missing %q, warning %q; want %q, %v, %v", state, missing, warning, tt.state, tt.missing, tt.warning)
			}
		})
	}
}

// The self-test is run at the start and every hour. What it finds is shown until the next one.
func TestTestedAtStartAndHourly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex        // protects what follows
		var runs []time.Duration // since the start
		var impossible, problem string
		began := time.Now()
		fake := &enforcetest.Fake{}
		k := kernel.Over(fake, slog.New(slog.DiscardHandler), enforce.Options{})
		test := func(context.Context) (string, string) {
			mu.Lock()
			defer mu.Unlock()
			runs = append(runs, time.Since(began))
			return impossible, problem
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		failures := 0
		go func() { done <- k.Run(ctx) }()
		go func() { done <- k.RunSelfTests(ctx, test, func(kernel.SelfTest) { failures++ }) }()
		enforcetest.Bans(t, k.Enforcer, enforcetest.For("192.0.2.7", 0))
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
			{undo: 1, state: "passed"}, // is restored in time
			{undo: 8, state: "failed", missing: "live table: missing or changed, and not restored: table, ban 192.0.2.7"},
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
			state, missing, _ := k.LastSelfTest().State(time.Now())
			if state != tt.state || (missing == "") != (tt.missing == "") || !strings.Contains(missing, tt.missing) {
				t.Errorf("after %d hours: %s, missing %q; want %s, %q", i, state, missing, tt.state, tt.missing)
			}
		}
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if failures != 3 {
			t.Errorf("%d failures were reported, want 3", failures)
		}
	})
}
