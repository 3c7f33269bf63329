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

	// Restoring more than manyRestored bans makes much garbage. Meanwhile the collector works harder, so that no more than restoreLimit bytes are in use.
	manyRestored = 10_000
	restoreLimit = 80 << 20
)

// A Memory gives memory back after bursts.
type Memory struct {
	burst chan struct{} // holds one message
	give  func()
	limit int64 // of the program, while many bans are restored; otherwise 0
}

func newMemory() *Memory {
	m := &Memory{burst: make(chan struct{}, 1), give: giveBack}
	m.Changed(manyChanges + 1) // the start
	return m
}

// Restoring reports that so many bans are about to be restored. It is for the time before Run.
func (m *Memory) Restoring(bans int) {
	if bans > manyRestored {
		m.limit = debug.SetMemoryLimit(-1)
		debug.SetMemoryLimit(min(m.limit, restoreLimit))
	}
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
		if m.limit != 0 {
			debug.SetMemoryLimit(m.limit)
			m.limit = 0
		}
	}
}

// giveBack collects twice: the pages that bbolt has written are in a sync.Pool, which outlives one collection.
func giveBack() {
	runtime.GC()
	debug.FreeOSMemory()
}
