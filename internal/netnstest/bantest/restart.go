//go:build linux

package bantest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
)

// A Knocker sends a datagram every millisecond and notes when the last answer came.
type Knocker struct {
	from string
	last atomic.Int64 // Unix time in ns; 0: none
}

// Knock begins to knock, and returns once there was an answer.
func (w World) Knock(t *testing.T, from, to string) *Knocker {
	t.Helper()
	conn, err := w.Attacker.Dial("udp", from, to, netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	k := &Knocker{from: from}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); conn.Close(); wg.Wait() })
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			conn.Write([]byte("knock"))
		}
	})
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			k.last.Store(time.Now().UnixNano())
		}
	})
	if err := netnstest.Poll(func() error {
		if k.last.Load() == 0 {
			return fmt.Errorf("no answer to %s", from)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return k
}

// Silent waits until no answer has come for a while, and returns the time of the last one.
func (k *Knocker) Silent(t *testing.T) time.Time {
	t.Helper()
	if err := netnstest.Poll(func() error {
		if quiet := time.Since(time.Unix(0, k.last.Load())); quiet < netnstest.Silence {
			return fmt.Errorf("%s was answered %v ago", k.from, quiet)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	return time.Unix(0, k.last.Load())
}

// bulkLoadIsComplete restores many bans while another program changes its own tables.
func (f Filter) bulkLoadIsComplete(t *testing.T) {
	ns := netnstest.New(t)
	e := enforcetest.Start(t, f.open(t, ns), enforce.Options{})
	var bans []ban.Ban
	for i := range 20_000 {
		bans = append(bans, enforcetest.For(fmt.Sprintf("10.%d.%d.%d", i/40_000, i/200%200, i%200), time.Hour))
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				ns.Run(t, "", "nft", fmt.Sprintf("add table ip t%d; delete table ip t%d", i, i))
			}
		}
	}()
	for chunk := bans; len(chunk) > 0; chunk = chunk[4000:] {
		enforcetest.Bans(t, e, chunk[:4000]...)
	}
	close(stop)
	<-done
	s, err := e.Held(t.Context())
	if err != nil || len(s.Bans) != len(bans) {
		t.Errorf("%d bans are held (%v), want %d", len(s.Bans), err, len(bans))
	}
	if s := e.Status(); s.Repairs != 0 || s.Problem != "" {
		t.Errorf("status %+v, want no repair", s)
	}
}

// mendedWithin is the time within which damage by others must be repaired. A busy machine may take longer once, but not
// repeatedly: there are several attempts.
const (
	mendedWithin = time.Second
	chances      = 4
)

// bannedPeersAreBackOutWithinASecond has banned addresses send all the time while others remove what keeps them out, as firewalls do that
// replace the whole ruleset.
func (f Filter) bannedPeersAreBackOutWithinASecond(t *testing.T) {
	for name, commands := range f.Undo {
		t.Run(name, func(t *testing.T) {
			w := f.NewWorld(t)
			knocks := []*Knocker{w.Knock(t, "192.0.2.7", "192.0.2.1:53"), w.Knock(t, "2001:db8:a::7", "[2001:db8:1::1]:53")}
			enforcetest.Bans(t, w.E, enforcetest.For("192.0.2.7", 0), enforcetest.For("2001:db8:a::/64", 0))
			if err := netnstest.Poll(func() error { return f.Watched(t, w.Server) }); err != nil {
				t.Fatal(err)
			}
			undo := func() { run(t, w.Server, commands) }
			err := w.backOut(t, knocks, undo)
			for again := 1; again < chances && err != nil; again++ {
				t.Log(err)
				if err := w.E.Repair(t.Context()); err != nil { // so that repairs do not slow down
					t.Fatal(err)
				}
				err = w.backOut(t, knocks, undo)
			}
			if err != nil {
				t.Error(err)
			}
			w.Attacker.Reaches(t, "udp", "192.0.2.8", "192.0.2.1:53")
		})
	}
}

// backOut removes the rules that keep knockers out. It returns nil if they were answered after that, but not for long.
func (w World) backOut(t *testing.T, knocks []*Knocker, undo func()) error {
	t.Helper()
	repairs, began := w.E.Status().Repairs, time.Now()
	undo()
	if err := netnstest.Poll(func() error {
		if s := w.E.Status(); s.Repairs == repairs {
			return fmt.Errorf("status: %+v", s)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var errs []error
	for _, k := range knocks {
		gap := k.Silent(t).Sub(began)
		t.Logf("%s was answered until %v after nft began", k.from, gap)
		if gap < 0 || gap > mendedWithin {
			errs = append(errs, fmt.Errorf("%s was answered until %v after nft began, want for a while, but not for more than %v", k.from, gap, mendedWithin))
		}
	}
	return errors.Join(errs...)
}

// aRestartLeavesNoGap sends a packet every millisecond from a banned address while daemons come and go, over a table that
// fits and over one of another shape. The counters of dropped packets go on.
func (f Filter) aRestartLeavesNoGap(t *testing.T) {
	server, attacker := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, attacker, "192.0.2.1/24", "192.0.2.7/24 192.0.2.8/24")
	server.Echo(t, "udp4", "192.0.2.1:53")
	log := drops
	var dropped uint64
	generation := func(first bool, change ...Command) {
		b, err := f.Open(server, slog.New(slog.DiscardHandler), enforce.Settings{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		e := enforce.New(b, enforce.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.8 ports 99", 0)) // something to do
		if got := enforcetest.Lists(t, e); !strings.Contains(got, "192.0.2.7 for 1h0m0s") && !first {
			t.Errorf("the new daemon does not hold the old ban:\n%s", got)
		}
		if first {
			enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour))
		}
		d, err := e.Drops(t.Context())
		if err != nil || d.Verified < dropped {
			t.Errorf("%d packets were dropped (%v), and %d before the restart", d.Verified, err, dropped)
		}
		dropped = d.Verified
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		run(t, server, change)
	}
	generation(true)
	conn, err := attacker.Dial("udp", "192.0.2.7", "192.0.2.1:53", netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var sent, answered atomic.Int64
	go func() {
		for {
			if _, err := conn.Write([]byte("hello")); err != nil {
				return
			}
			sent.Add(1)
			time.Sleep(time.Millisecond)
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			answered.Add(1)
		}
	}()
	for range 5 {
		generation(false) // what is in the kernel fits
		for _, change := range f.Alter {
			generation(false, change)
		}
		log.Enabled = !log.Enabled // the configuration was changed
	}
	attacker.Reaches(t, "udp", "192.0.2.8", "192.0.2.1:53") // the service answers others
	t.Logf("%d packets sent, %d dropped", sent.Load(), dropped)
	if dropped == 0 {
		t.Error("no packet is counted as dropped")
	}
	if n := answered.Load(); n > 0 {
		t.Errorf("%d of %d packets of a banned address were answered", n, sent.Load())
	}
}

func (f Filter) deleteNeedsNoDaemon(t *testing.T) {
	ns := netnstest.New(t)
	run(t, ns, f.Foreign)
	before := run(t, ns, f.Show)
	bans := enforce.Changes{Bans: []enforce.Change{{Key: enforcetest.Key("192.0.2.7"), Timeout: enforce.Permanent}}}
	if _, err := f.open(t, ns).Rebuild(t.Context(), bans); err != nil {
		t.Fatal(err)
	}
	var deleted []bool
	ns.Do(func() {
		for range 2 {
			d, err := f.Delete()
			if err != nil {
				t.Error(err)
			}
			deleted = append(deleted, d)
		}
	})
	if len(deleted) != 2 || !deleted[0] || deleted[1] {
		t.Errorf("Delete twice = %v, want true, then false", deleted)
	}
	if after := run(t, ns, f.Show); after != before {
		t.Errorf("what others have in the kernel was\n%s\nand is\n%s", before, after)
	}
}

// setsAreBounded makes bans of more lists of ports than there is room for, at once, in a saved state, and one after the other.
func (f Filter) setsAreBounded(t *testing.T) {
	const lists, room = 300, 248 // 256 sets, eight of them for the usual bans
	t.Run("at once", func(t *testing.T) {
		e := enforcetest.Start(t, f.open(t, netnstest.New(t)), enforce.Options{})
		var bans []ban.Ban
		for port := 1; port <= lists; port++ {
			bans = append(bans, enforcetest.For(fmt.Sprintf("192.0.2.7 ports %d", port), 0), enforcetest.For(fmt.Sprintf("203.0.113.%d", port%250), 0))
		}
		results, err := e.BanNow(t.Context(), false, bans...)
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for _, r := range results {
			if r.Err != nil {
				failed++
				if r.Ban.Ports == "" {
					t.Errorf("%v, which needs no new set", r.Err)
				}
			}
		}
		if failed != lists-room {
			t.Errorf("%d bans were refused, want %d", failed, lists-room)
		}
		if s := e.Status(); s.Problem != "" || s.Evicted != 0 {
			t.Errorf("status %+v, want no problem", s)
		}
	})
	// A saved state may have bans of too many kinds; the others are restored nevertheless.
	t.Run("a saved state", func(t *testing.T) {
		b := f.open(t, netnstest.New(t))
		c := enforce.Changes{Bans: []enforce.Change{{Key: enforcetest.Key("203.0.113.1"), Timeout: enforce.Permanent}}}
		for port := 1; port <= lists; port++ {
			c.Bans = append(c.Bans, enforce.Change{Key: enforcetest.Key(fmt.Sprintf("192.0.2.7 ports %d", port)), Timeout: enforce.Permanent})
		}
		failed, err := b.Rebuild(t.Context(), c)
		if err != nil || len(failed) != lists-room {
			t.Errorf("%d bans were refused (%v), want %d", len(failed), err, lists-room)
		}
		if s, err := b.Held(t.Context()); err != nil || len(s.Bans) != 1+room {
			t.Errorf("%d bans are held (%v), want %d", len(s.Bans), err, 1+room)
		}
	})
	// Sets without bans make room for those of other kinds.
	t.Run("one after the other", func(t *testing.T) {
		if f.Slow {
			t.Skip("it would take too long")
		}
		e := enforcetest.Start(t, f.open(t, netnstest.New(t)), enforce.Options{})
		enforcetest.Bans(t, e, enforcetest.For("203.0.113.1", 0))
		for port := 1; port <= lists; port++ {
			b := enforcetest.For(fmt.Sprintf("192.0.2.7 ports %d", port), 0)
			enforcetest.Bans(t, e, b)
			if err := e.Unban(t.Context(), 0, b.Key); err != nil {
				t.Fatal(err)
			}
		}
		if got := enforcetest.Lists(t, e); got != "203.0.113.1\n" {
			t.Errorf("bans:\n%s", got)
		}
		if s := e.Status(); s.Problem != "" || s.Repairs != 0 {
			t.Errorf("status %+v, want no problem", s)
		}
	})
}
