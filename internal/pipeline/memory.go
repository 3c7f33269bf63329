package pipeline

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"

	"mef/internal/owner"
)

// A burst of attackers leaves memory behind that Go's collector would keep for the next one: many times what the daemon needs
// otherwise. So does a start. It is given back once that is over, or, if it goes on, now and then.
const (
	manyChanges = 1000             // in one save, that make a burst
	calm        = 3 * time.Second  // without a burst before memory is given back
	stormy      = 30 * time.Second // of burst after which it is given back all the same
)

// A Memory gives memory back after bursts.
type Memory struct {
	burst chan struct{} // holds one message
	give  func()
}

func newMemory() *Memory {
	m := &Memory{make(chan struct{}, 1), giveBack}
	m.Changed(manyChanges + 1) // the start
	return m
}

// Changed reports that so many things were changed at once.
func (m *Memory) Changed(n int) {
	if n <= manyChanges {
		return
	}
	owner.Wake(m.burst)
}

// Run gives memory back until ctx is done. A burst is not over while it is being saved.
func (m *Memory) Run(ctx context.Context, saving func() bool) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.burst:
		}
		limit := time.After(stormy)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-m.burst:
			case <-time.After(calm):
				waiting = saving()
			case <-limit:
				waiting = false
			}
		}
		m.give()
	}
}

// giveBack collects twice: the pages that bbolt has written are in a sync.Pool, which outlives one collection.
func giveBack() {
	runtime.GC()
	debug.FreeOSMemory()
}
