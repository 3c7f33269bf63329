package history_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/control"
	"mef/internal/history"
)

// A host is what pictures are made of besides records.
type host struct {
	mu       sync.Mutex
	status   control.Status
	counters control.Counters
	asked    int // for counters
	looked   int // at the status
}

func (h *host) Status(context.Context) (control.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looked++
	return h.status, nil
}

func (h *host) Counters(_ context.Context, addrs []netip.Addr) (control.Counters, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if addrs != nil { // for a picture
		h.asked++
	}
	return h.counters, nil
}

func (h *host) Dropped(context.Context) (control.Drops, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counters.Dropped, nil
}

func start(t *testing.T, h *host) *history.Recorder {
	t.Helper()
	r := history.New("test", t.TempDir(), slog.New(slog.DiscardHandler))
	r.Use(h.Status, h.Counters, h.Dropped)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func failure(addr string, score float64) control.Attempt {
	return control.Attempt{Event: "failure", Addr: netip.MustParseAddr(addr), Rule: "sshd", Service: "sshd", New: 1, Score: score}
}

func login(addr, service string) control.Attempt {
	return control.Attempt{Event: "success", Addr: netip.MustParseAddr(addr), Service: service}
}

// attempt counts attempts that come now.
func attempt(r *history.Recorder, all ...control.Attempt) {
	for i := range all {
		r.Attempt(&all[i], time.Now())
	}
}

func ban(r *history.Recorder, rec control.Record) {
	rec.Event = "ban"
	_ = r.Write([]control.Record{rec})
}

func picture(t *testing.T, r *history.Recorder) control.Picture {
	t.Helper()
	p, err := r.Picture(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPictureIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{status: control.Status{Warnings: []string{"disk full"}}}
		r := start(t, h)
		for range 10 {
			for range 5 { // viewers
				if p := picture(t, r); p.Level != control.Yellow || p.Text != "disk full" {
					t.Fatalf("level %s: %s", p.Level, p.Text)
				}
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if h.asked != 10 || h.looked != 2 {
			t.Errorf("5 viewers for 10 s: counters were asked for %d times, want 10; the status %d times, want 2", h.asked, h.looked)
		}
		h.mu.Lock()
		h.status = control.Status{}
		h.mu.Unlock()
		time.Sleep(5 * time.Second)
		picture(t, r)
		synctest.Wait()
		time.Sleep(time.Second)
		if p := picture(t, r); p.Level != control.Green || p.Text == "" {
			t.Errorf("level %s (%s) after the disk has room again", p.Level, p.Text)
		}
	})
}

func TestSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, new(host))
		picture(t, r)
		attempt(r, failure("192.0.2.1", 1), failure("192.0.2.1", 2))
		time.Sleep(2 * time.Second)
		attempt(r, failure("192.0.2.2", 1))
		ban(r, control.Record{Prefix: "192.0.2.2/32"})
		time.Sleep(time.Second)
		p := picture(t, r)
		if n := len(p.Seconds); n != 60 || p.Seconds[57] != (control.Second{Attempts: 2}) || p.Seconds[58] != (control.Second{}) || p.Seconds[59] != (control.Second{Attempts: 1, Bans: 1}) {
			t.Errorf("%d seconds, the last %v", n, p.Seconds[max(0, n-3):])
		}
		time.Sleep(time.Minute)
		for i, s := range picture(t, r).Seconds {
			if s != (control.Second{}) {
				t.Errorf("second %d after a minute without attacks: %v", i, s)
			}
		}
	})
}

func TestDropsOfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{counters: control.Counters{Dropped: control.Drops{Known: true, Total: 100}}}
		r := start(t, h)
		last := func(total uint64, known bool) uint64 {
			h.mu.Lock()
			h.counters.Dropped = control.Drops{Known: known, Total: total}
			h.mu.Unlock()
			time.Sleep(time.Second)
			return picture(t, r).Seconds[59].Drops
		}
		picture(t, r)
		for i, c := range []struct {
			total uint64
			known bool
			want  uint64
		}{{110, true, 10}, {0, false, 0}, {115, true, 5}, {7, true, 7}, {7, true, 0}} {
			if got := last(c.total, c.known); got != c.want {
				t.Errorf("second %d: %d drops, want %d", i, got, c.want)
			}
		}
		time.Sleep(time.Minute) // nobody looks
		if got := last(1000, true); got != 0 {
			t.Errorf("%d drops of a minute are shown as those of a second", got)
		}
	})
}

func TestAttackers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		later := time.Now().Add(48 * time.Hour)
		h := &host{counters: control.Counters{ScoreLimit: 30, HalfLife: time.Hour, InForce: map[netip.Addr]time.Time{
			netip.MustParseAddr("192.0.2.1"): later, netip.MustParseAddr("2001:db8::7"): {}}}}
		r := start(t, h)
		attempt(r, failure("192.0.2.1", 8), failure("192.0.2.2", 4), failure("2001:db8::7", 2))
		ban(r, control.Record{Prefix: "2001:db8::/64", Rule: "score"})
		attempt(r, login("192.0.2.9", ""))
		for i := range 10_000 { // others, with lower scores
			attempt(r, failure(fmt.Sprintf("203.0.%d.%d", i/250, i%250), 1))
		}
		p := picture(t, r)
		if len(p.Attackers) != control.MaxAttackers {
			t.Fatalf("%d attackers", len(p.Attackers))
		}
		first, second, third := p.Attackers[0], p.Attackers[1], p.Attackers[2]
		if first.Addr != "192.0.2.1" || first.Score != 8 || first.Limit != 30 || !first.Banned || !first.Until.Equal(later) {
			t.Errorf("first: %+v", first)
		}
		if second.Addr != "192.0.2.2" || second.Banned || second.Attempts != 1 || second.Rule != "sshd" {
			t.Errorf("second: %+v", second)
		}
		if third.Addr != "2001:db8::7" || !third.Banned || third.Until != nil || third.Rule != "score" {
			t.Errorf("third: %+v", third)
		}
		time.Sleep(time.Hour)
		if got := picture(t, r).Attackers[0].Score; got != 4 {
			t.Errorf("score of 8 after its half-life: %v", got)
		}
		time.Sleep(24 * time.Hour)
		if all := picture(t, r).Attackers; len(all) != 2 {
			t.Errorf("a day later: %+v; want those that are banned", all)
		}
	})
}
