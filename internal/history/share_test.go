package history_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/control"
	"mef/internal/event"
	"mef/internal/history"
)

// served are a host's services: apache does not run.
func served() *host {
	return &host{counters: control.Counters{Dropped: control.Drops{Known: true}, Ports: map[string]string{"sshd": "22", "nginx": "80,443", "apache": "80", "portscan": "all"},
		Services: []control.ServiceCounter{{Name: "sshd", State: "journal", Rules: []string{"sshd"}}, {Name: "nginx", State: "files", Rules: []string{"nginx"}},
			{Name: "apache", State: "none", Rules: []string{"apache"}}, {Name: "portscan", State: "files", Rules: []string{"portscan"}}}}}
}

// drop moves the counter of a cause.
func (h *host) drop(cause string, n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := &h.counters.Dropped
	*map[string]*uint64{event.DroppedBan: &d.Verified, event.DroppedUnverified: &d.Unverified, event.DroppedReply: &d.Replies, event.DroppedList: &d.Lists}[cause] += n
	d.Total += n
}

// samples returns samples of a cause: an address and a port, and how many.
func samples(cause, peer string, port uint16, n int) (all []event.Packet) {
	for range n {
		all = append(all, event.Packet{Mark: cause, From: netip.MustParseAddr(peer), Protocol: event.TCP, Port: port})
	}
	return all
}

// run runs a recorder until stop is called.
func run(t *testing.T, dir string, h *host) (r *history.Recorder, stop func()) {
	t.Helper()
	r = openIn(t, dir, h)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	r.Sampling(t.Context(), true)
	return r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func dropsOf(t *testing.T, r *history.Recorder, by string) map[string]uint64 {
	t.Helper()
	s, err := r.Stats(t.Context(), "day", by, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]uint64)
	for _, row := range s.Rows {
		all[row.Label] = row.Drops
	}
	return all
}

func TestDropsAreSharedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h := t.TempDir(), served()
		h.drop(event.DroppedList, 7) // before the daemon runs
		r, stop := run(t, dir, h)
		at := failure("192.0.2.7", 1)
		r.Attempt(&at, time.Now())
		// 1001 packets for 4 samples: 250.25 for each of two, 500.5 for the third.
		h.drop(event.DroppedBan, 1001)
		h.drop(event.DroppedReply, 5)
		packets := append(samples(event.DroppedBan, "192.0.2.7", 22, 1), samples(event.DroppedBan, "192.0.2.200", 443, 2)...)
		packets = append(packets, samples(event.DroppedBan, "2001:db8:1:2::3", 8080, 1)...)
		packets = append(packets, samples(event.DroppedReply, "192.0.2.7", 22, 3)...)
		r.Dropped(t.Context(), append(packets, samples("of others", "192.0.2.9", 22, 3)...))
		h.drop(event.DroppedUnverified, 3) // without samples
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		same(t, "series", sums(t, r, "hour"), map[string]uint64{"attempts service sshd": 1, "attempts family ipv4": 1,
			"drops cause ban": 1001, "drops cause reply": 5, "drops cause unverified_ban": 3, "drops cause list": 7,
			"drops service sshd": 255, "drops service nginx": 501, "drops service other": 260, "drops family ipv4": 756, "drops family ipv6": 250})
		want := map[string]map[string]uint64{
			"ports":    {"22": 255, "80,443": 501, "8080": 250},
			"services": {"sshd": 255, "nginx": 501, "other": 260},
			"sources":  {"192.0.2.7": 255, "192.0.2.200": 501, "2001:db8:1:2::3": 250},
			"networks": {"192.0.2.0/24": 756, "2001:db8:1::/48": 250},
			"names":    {}}
		for by, want := range want {
			same(t, by, dropsOf(t, r, by), want)
		}
		s, err := r.Stats(t.Context(), "day", "sources", 2)
		if err != nil || len(s.Rows) != 2 || s.Rows[0].Label != "192.0.2.7" || s.Rows[0].Attempts != 1 || s.Rows[0].Drops != 255 || s.Rows[1].Label != "192.0.2.200" {
			t.Errorf("the first two sources: %+v, %v; want the one with an attempt, and the one with most drops", s.Rows, err)
		}
		stop()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r = openIn(t, dir, h)
		for by, want := range want {
			same(t, "saved "+by, dropsOf(t, r, by), want)
		}
	})
}

// The sums by service are those by cause, and those of the kernel, whatever comes, and whenever the daemon is killed.
func TestSharedSumsAreExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h, rnd := t.TempDir(), served(), rand.New(rand.NewPCG(5, 6))
		total := uint64(0)
		for range 5 {
			r, stop := run(t, dir, h)
			for range rnd.IntN(300) {
				var packets []event.Packet
				for _, cause := range []string{event.DroppedBan, event.DroppedUnverified, event.DroppedReply, event.DroppedList} {
					n := uint64(rnd.IntN(3)) * rnd.Uint64N(1<<uint(rnd.IntN(30)))
					h.drop(cause, n)
					total += n
					for range rnd.IntN(4) {
						packets = append(packets, samples(cause, fmt.Sprintf("192.0.2.%d", rnd.IntN(9)), []uint16{0, 22, 80, 443, 25}[rnd.IntN(5)], rnd.IntN(20))...)
					}
				}
				if len(packets) > 0 {
					r.Dropped(t.Context(), packets)
				}
				if rnd.IntN(40) == 0 { // the table is made anew
					h.mu.Lock()
					h.counters.Dropped = control.Drops{Known: true}
					h.mu.Unlock()
					time.Sleep(2 * time.Minute)
				}
				time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			byCause, byService := uint64(0), uint64(0)
			got := sums(t, r, "day")
			for _, cause := range []string{event.DroppedBan, event.DroppedUnverified, event.DroppedReply, event.DroppedList} {
				byCause += got["drops cause "+cause]
			}
			for _, service := range []string{"sshd", "nginx", "other"} {
				byService += got["drops service "+service]
			}
			if byCause != byService {
				t.Errorf("%d drops by cause, %d by service", byCause, byService)
			}
			h.mu.Lock()
			if kernel := h.counters.Dropped.Total; byCause < kernel || byCause > total {
				t.Errorf("%d drops, of which the kernel counts %d of the latest table; there were %d", byCause, kernel, total)
			}
			h.mu.Unlock()
			stop() // as if it were killed: it is not closed
		}
	})
}

// A file that an earlier version made keeps what is in it.
func TestFileWithoutDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h := t.TempDir(), served()
		packed, err := os.Open("testdata/without-drops.gz")
		if err != nil {
			t.Fatal(err)
		}
		defer packed.Close()
		unpacked, err := gzip.NewReader(packed)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(unpacked)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "history"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		h.drop(event.DroppedBan, 100) // that file has counted them
		time.Sleep(2 * time.Minute)   // since it was made
		r, stop := run(t, dir, h)
		defer stop()
		h.drop(event.DroppedBan, 20)
		r.Dropped(t.Context(), samples(event.DroppedBan, "192.0.2.7", 22, 1))
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, window := range []string{"hour", "day", "month", "year"} {
			same(t, window, sums(t, r, window), map[string]uint64{"attempts service sshd": 2, "attempts family ipv4": 1, "attempts family ipv6": 1, "targeted service sshd": 1,
				"targeted family ipv4": 1, "bans service sshd": 1, "bans family ipv4": 1, "drops cause ban": 120, "drops service sshd": 20, "drops family ipv4": 20})
			same(t, window, labels(t, r, window, "sources"), map[string]uint64{"192.0.2.7": 1, "2001:db8::7": 1})
		}
		if past, err := r.PastBans(t.Context(), "192.0.2.7", 0); err != nil || len(past) != 1 {
			t.Errorf("past bans: %+v, %v", past, err)
		}
	})
}
