//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mef/internal/lab"
)

// A usage is what the daemon has of something that must not grow.
type usage struct{ memory, files, threads, bans, elements int }

// most returns the greatest of each.
func (u usage) most(o usage) usage {
	return usage{max(u.memory, o.memory), max(u.files, o.files), max(u.threads, o.threads), max(u.bans, o.bans), max(u.elements, o.elements)}
}

// elementsOf matches elements of sets as nft shows them: each has a timeout, that of bans, limits and of what was seen of scans.
var elementsOf = regexp.MustCompile(`expires \d`)

// usage measures the daemon.
func (s *scene) usage() (u usage) {
	s.Helper()
	status, err := s.mef.Status(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", status.PID)
	text, err := os.ReadFile(proc + "status")
	files, filesErr := os.ReadDir(proc + "fd")
	if err := errors.Join(err, filesErr); err != nil {
		s.Fatal(err)
	}
	number := func(field string) (n int) {
		_, rest, _ := strings.Cut(string(text), field)
		fmt.Sscan(rest, &n)
		return n
	}
	return usage{number("RssAnon:"), len(files), number("Threads:"), status.Bans.Total, len(elementsOf.FindAllString(s.table(), -1))}
}

// A load does something again and again, so many times a second, until ctx is done. It counts how often.
func load(ctx context.Context, perSecond int, did *atomic.Int64, do func() error) error {
	const ticks = 20 // a second
	tick := time.NewTicker(time.Second / ticks)
	defer tick.Stop()
	for owed := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for owed += perSecond; owed >= ticks; owed -= ticks {
			if err := do(); err != nil && ctx.Err() == nil {
				return err
			} else if err == nil {
				did.Add(1)
			}
		}
	}
}

// Everything that a daemon has to do happens at once, a thousand times as often as usual: log lines in files that are rotated, scans, floods,
// lists that change, reloads and requests. Nothing grows. MEF_E2E_SOAK=600 makes it ten minutes.
func TestSoak(t *testing.T) {
	seconds := number(t, "MEF_E2E_SOAK", 16)
	s, d := beginFromFileWith(t, everyFailure+"ddos_enabled=true\nddos_ports=5001\nddos_connlimit=4\nddos_escalation_hits=1000\n")
	s.within(time.Duration(seconds)*time.Second + 2*time.Minute)
	s.watches()
	s.echo(s.w.Server, ":5001")
	wire := s.wire()
	before := s.usage()
	ctx, stop := context.WithTimeout(s.ctx, time.Duration(seconds)*time.Second)
	defer stop()
	pool := attackers(1000)
	list := "/etc/mef/blacklist/soak.conf"
	if err := os.MkdirAll(filepath.Dir(list), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(list) })
	syn := func(from [4]byte, port uint16) error {
		return wire.TCP(netip.AddrPortFrom(netip.AddrFrom4(from), uint16(1024+rand.IntN(60000))), netip.AddrPortFrom(lab.Server4, port), 2)
	}
	var writing sync.Mutex
	tasks := []struct {
		what      string
		perSecond int
		do        func() error
		did       atomic.Int64
	}{
		{what: "hundreds of lines", perSecond: 50, do: func() error {
			writing.Lock()
			defer writing.Unlock()
			return d.failed(pool[rand.IntN(len(pool)-100):][:100]...)
		}},
		{what: "rotations", perSecond: 1, do: func() error {
			writing.Lock()
			defer writing.Unlock()
			return d.rename([2]netip.Addr{pool[0], pool[1]})
		}},
		{what: "packets to closed ports", perSecond: 3000, do: func() error {
			r := rand.Uint32()
			return syn([4]byte{11 + byte(r)%80, byte(r >> 8), byte(r >> 16), byte(r >> 24)}, uint16(1024+rand.IntN(20000)))
		}},
		{what: "scans", perSecond: 20, do: func() error {
			from := [4]byte{203, 0, 113, byte(150 + rand.IntN(20))}
			for range 10 {
				if err := syn(from, uint16(6000+rand.IntN(1000))); err != nil {
					return err
				}
			}
			return nil
		}},
		{what: "flood episodes", perSecond: 20, do: func() error {
			from := [4]byte{203, 0, 113, byte(180 + rand.IntN(20))}
			for range 6 {
				if err := syn(from, 5001); err != nil {
					return err
				}
			}
			return nil
		}},
		{what: "changes of a list", perSecond: 2, do: func() error {
			var text strings.Builder
			for range 500 {
				fmt.Fprintf(&text, "198.18.%d.%d\n", rand.IntN(8), rand.IntN(256))
			}
			return os.WriteFile(list, []byte(text.String()), 0o644)
		}},
		{what: "reloads", perSecond: 1, do: func() error { _, err := s.mef.Reload(ctx); return err }},
		{what: "requests", perSecond: 20, do: func() error {
			_, err := s.mef.Why(ctx, pool[rand.IntN(len(pool))])
			return err
		}},
		{what: "lists of bans", perSecond: 4, do: func() error { _, err := s.mef.Bans(ctx); return err }},
		{what: "lists of services", perSecond: 2, do: func() error { _, err := s.mef.Services(ctx); return err }},
		{what: "abandoned requests", perSecond: 20, do: func() error {
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			s.mef.Status(short)
			return nil
		}},
	}
	ended := make(chan error, len(tasks))
	for i := range tasks {
		task := &tasks[i]
		go func() {
			if err := load(ctx, task.perSecond, &task.did, task.do); err != nil {
				ended <- fmt.Errorf("%s: %w", task.what, err)
				return
			}
			ended <- nil
		}()
	}
	// Two eighths of the time are compared; the first half fills what there is to fill.
	span := time.Duration(seconds) * time.Second / 8
	pause := time.NewTicker(span / 8)
	defer pause.Stop()
	began := time.Now()
	measure := func(until time.Duration) (most usage) {
		for first := true; first || time.Since(began) < until; first = false {
			most = most.most(s.usage())
			<-pause.C
		}
		return most
	}
	measure(4 * span)
	early := measure(5 * span)
	measure(7 * span)
	late := measure(8*span - span/8)
	stop()
	for range tasks {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for i := range tasks {
		t.Logf("%s: %d", tasks[i].what, tasks[i].did.Load())
	}
	t.Logf("early %+v, late %+v", early, late)
	// The heap goes up and down by half between collections of garbage. Requests under way have descriptors and threads; of those that stay,
	// see below.
	limit := usage{early.memory*105/100 + 8<<10, early.files*105/100 + 60, early.threads*105/100 + 20, early.bans*105/100 + 20, early.elements*105/100 + 3000}
	if late.most(limit) != limit {
		t.Errorf("the daemon has grown from %+v to %+v", early, late)
	}
	if early.bans < len(pool)/2 {
		t.Errorf("only %d bans were made", early.bans)
	}
	s.until("the descriptors of requests to be closed", func() error {
		if u := s.usage(); u.files > before.files+8 {
			return fmt.Errorf("%d descriptors, %d at the start", u.files, before.files)
		}
		return nil
	})
	if n := s.goroutines(); n > mostGoroutines {
		t.Errorf("%d goroutines afterwards, want at most %d", n, mostGoroutines)
	}
}

// mostGoroutines is how many goroutines a daemon has at most that has nothing to do.
const mostGoroutines = 120

// goroutines ends the daemon and returns how many goroutines it had.
func (s *scene) goroutines() (n int) {
	s.Helper()
	before := len(s.mef.Process.Output())
	if err := s.mef.Process.Stop(syscall.SIGQUIT); err != nil { // which prints all stacks
		s.Fatal(err)
	}
	n = len(regexp.MustCompile(`(?m)^goroutine \d+ `).FindAllString(s.mef.Process.Output()[before:], -1))
	s.Log("goroutines: " + strconv.Itoa(n))
	return n
}
