package duty_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/duty"
)

// What fails is tried again, ever more seldom, until it succeeds; it is reported when it begins to fail and when it is done.
func TestFailedDutyIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []string
		l := duty.New(func(name string, err error) { reports = append(reports, fmt.Sprint(name, ": ", err)) })
		begin := time.Now()
		var tries []time.Duration
		lift := func(context.Context) error {
			tries = append(tries, time.Since(begin))
			if len(tries) < 8 {
				return errors.New("no kernel")
			}
			return nil
		}
		if err := l.Do(t.Context(), "lift bans", lift); err == nil {
			t.Fatal("no error of the first attempt")
		}
		if got := l.Text(); got != "lift bans: no kernel" {
			t.Errorf("due is %q", got)
		}
		for len(tries) < 8 {
			<-l.Due()
			l.Retry(t.Context())
		}
		want := []time.Duration{0, 1, 3, 7, 15, 31, 61, 91} // twice as long each time, at most 30 s
		for i := range want {
			want[i] *= time.Second
		}
		if !slices.Equal(tries, want) {
			t.Errorf("tried after %v, want %v", tries, want)
		}
		if want := []string{"lift bans: no kernel", "lift bans: <nil>"}; !slices.Equal(reports, want) {
			t.Errorf("reports %q, want %q", reports, want)
		}
		if got := l.Text(); got != "" {
			t.Errorf("due is %q after success", got)
		}
		select {
		case <-l.Due():
			t.Error("a further attempt is due")
		case <-time.After(time.Hour):
		}
	})
}

// Several duties are independent: one that is done, or dropped, leaves the others due.
func TestDutiesAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := duty.New(func(string, error) {})
		fails := func(context.Context) error { return errors.New("no") }
		done := false
		_ = l.Do(t.Context(), "b", fails)
		_ = l.Do(t.Context(), "a", func(context.Context) error {
			if done {
				return nil
			}
			return errors.New("not yet")
		})
		if got := l.Text(); got != "a: not yet; b: no" {
			t.Errorf("due is %q", got)
		}
		done = true
		l.Retry(t.Context())
		if got := l.Text(); got != "b: no" {
			t.Errorf("due is %q after a is done", got)
		}
		l.Drop("b")
		if got := l.Text(); got != "" {
			t.Errorf("due is %q after b was dropped", got)
		}
	})
}

// An attempt that the end of the program cut off says nothing about the duty.
func TestEndOfProgramIsNoFailure(t *testing.T) {
	l := duty.New(func(name string, err error) { t.Errorf("reported %s: %v", name, err) })
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := l.Do(ctx, "lift bans", func(ctx context.Context) error { return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of ctx", err)
	}
	if got := l.Text(); got != "" {
		t.Errorf("due is %q", got)
	}
}
