package pipeline

import (
	"context"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsGivenBackWhenABurstIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		ctx, stop := context.WithCancel(t.Context())
		var given []time.Duration
		start := time.Now()
		done := make(chan error)
		m.give = func() { given = append(given, time.Since(start)) }
		saving := func() bool { return time.Since(start) < 55*time.Second }
		go func() { done <- m.Run(ctx, saving) }()
		for range 50 { // a burst of 50 s, which takes five more to save
			m.Changed(manyChanges + 1)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(given) != 2 || given[0] != stormy || given[1] < 55*time.Second || given[1] > 60*time.Second {
			t.Errorf("memory was given back after %v, want once during the burst and once after it", given)
		}
	})
}

func TestMemoryIsGivenBackAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		ctx, stop := context.WithCancel(t.Context())
		given, limit := 0, debug.SetMemoryLimit(-1)
		m.give = func() { given++ }
		m.Restoring(manyRestored + 1)
		if got := debug.SetMemoryLimit(-1); got != restoreLimit {
			t.Errorf("many bans are restored within %d bytes, want %d", got, restoreLimit)
		}
		done := make(chan error)
		go func() { done <- m.Run(ctx, func() bool { return false }) }()
		time.Sleep(time.Hour)
		stop()
		if err := <-done; err != nil || given != 1 {
			t.Errorf("%v; in an hour without a burst memory was given back %d times, want once", err, given)
		}
		if got := debug.SetMemoryLimit(-1); got != limit {
			t.Errorf("the limit is %d bytes afterwards, want %d as before", got, limit)
		}
	})
}

func TestStateIsSavedSoonerForTalliesThanForPositions(t *testing.T) {
	s := &State{unsaved: unsaved{read: make(map[string]string)}}
	for _, step := range []struct{ change, want time.Duration }{
		{saveLater, saveLater},
		{saveSoon, saveSoon},
		{saveLater, saveSoon}, // never put off
	} {
		s.changed(step.change)
		if s.unsaved.within != step.want {
			t.Errorf("after a change to be saved within %v: saved within %v, want %v", step.change, s.unsaved.within, step.want)
		}
	}
}
