package pipeline

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// A burst of attackers leaves memory behind that Go's collector would keep for the next one: many times what the daemon needs
// otherwise. So does a start, which also uses most of the program, of which little is used later. It is given back once that is over, or,
// if it goes on, now and then.
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
	select {
	case m.burst <- struct{}{}:
	default: // one that waits stands for all
	}
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
	adviseProgram(syscall.MADV_DONTNEED)
}

// adviseProgram advises the kernel about the pages of the program's file: with MADV_DONTNEED they are unmapped. The kernel maps 64 KB around
// each page that is used, so nearly all of the program is resident after a start. What is used again is mapped again, from the page
// cache: 64 KB in about a microsecond.
func adviseProgram(advice uintptr) {
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return // it stays resident
	}
	defer maps.Close()
	self, _ := os.Readlink("/proc/self/exe")
	var first, end uint64 // of a mapping of the program that nothing has changed, by a relocation or a breakpoint
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"): // a mapping, whose properties follow
			first, end = 0, 0
			if len(f) == 6 && f[5] == self && !strings.Contains(f[1], "w") {
				fmt.Sscanf(f[0], "%x-%x", &first, &end)
			}
		case len(f) == 3 && (f[0] == "Anonymous:" || f[0] == "Swap:") && f[1] != "0":
			first, end = 0, 0
		case len(f) > 0 && f[0] == "VmFlags:" && end > first: // the last of its properties
			syscall.Syscall(syscall.SYS_MADVISE, uintptr(first), uintptr(end-first), advice)
		}
	}
}
