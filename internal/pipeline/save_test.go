package pipeline

import (
	"context"
	"crypto/sha256"
	"os"
	"strconv"
	"strings"
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
		given := 0
		m.give = func() { given++ }
		done := make(chan error)
		go func() { done <- m.Run(ctx, func() bool { return false }) }()
		time.Sleep(time.Hour)
		stop()
		if err := <-done; err != nil || given != 1 {
			t.Errorf("%v; in an hour without a burst memory was given back %d times, want once", err, given)
		}
	})
}

// What the start used of the program does not stay resident, and the program works on.
func TestProgramIsUnmapped(t *testing.T) {
	resident := func() int {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Skip(err)
		}
		_, rest, _ := strings.Cut(string(status), "\nRssFile:")
		kb, err := strconv.Atoi(strings.Fields(rest + " -")[0])
		if err != nil {
			t.Skip("this kernel does not report how much of files is resident")
		}
		return kb
	}
	const populateRead = 22 // MADV_POPULATE_READ
	adviseProgram(populateRead)
	before := resident()
	if before < 5000 {
		t.Skip("this kernel does not map the program at once")
	}
	giveBack()
	if after := resident(); after > before/2 {
		t.Errorf("%d KB of the program are resident, %d before", after, before)
	}
	if sum := sha256.Sum256([]byte("mef")); sum == sha256.Sum256(nil) {
		t.Error("the program works no more")
	}
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
