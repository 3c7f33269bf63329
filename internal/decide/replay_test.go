package decide_test

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
	"mef/internal/track"
)

// stored returns all that a tracker would have stored.
func stored(t *track.Tracker) iter.Seq2[[]byte, []byte] {
	records := t.Changes()
	return func(yield func(k, v []byte) bool) {
		for _, r := range records {
			if r.Value != nil && !yield(r.Key, r.Value) {
				return
			}
		}
	}
}

// A store keeps records as the daemon's does.
type store map[string][]byte

func (s store) save(t *track.Tracker) {
	for _, r := range t.Changes() {
		if r.Value == nil {
			delete(s, string(r.Key))
		} else {
			s[string(r.Key)] = r.Value
		}
	}
}

func (s store) entries(yield func(k, v []byte) bool) {
	for k, v := range s {
		if !yield([]byte(k), v) {
			return
		}
	}
}

// stream makes random events: some attackers of either family, some users, echoes, probes and forgeries.
func stream(seed uint64, n int) []event.Event {
	r := rand.New(rand.NewPCG(seed, 1))
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	events := make([]event.Event, n)
	for i := range events {
		now = now.Add(time.Duration(r.ExpFloat64() * float64(7*time.Second)))
		rule := rules()[r.IntN(5)].Name
		addr := netip.AddrFrom4([4]byte{203, 0, byte(r.IntN(2)), byte(r.IntN(40))})
		if r.IntN(3) == 0 {
			addr = netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%x::%x", r.IntN(2), r.IntN(600), r.IntN(9)))
		}
		ev := event.Event{
			Time: now, Rule: rule, Service: rule, Addr: addr, Kind: event.Failure, Count: 1 + r.IntN(8)/7,
			User: strings.Repeat(string(rune('a'+r.IntN(12))), 6), Verified: rule != "dns", Echo: r.IntN(5) == 0,
			Session:  []string{"", "1", "2", "3"}[r.IntN(4)],
			Position: event.Position{Stream: "log", Offset: uint64(i)}, Line: fmt.Sprintf("line %d", i),
		}
		switch r.IntN(120) {
		case 0:
			ev.Kind, ev.Echo = event.Success, false
		case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10:
			ev.Kind, ev.Echo = event.Probe, false
		}
		events[i] = ev
	}
	return events
}

// play decides about all events and returns every verdict. After each event it calls between, which may replace the tracker.
func play(w *world, events []event.Event, between func(i int)) []string {
	var out []string
	for i := range events {
		w.now = events[i].Time
		d := w.decide(&events[i])
		out = append(out, fmt.Sprintf("%d: %s %+v", i, d.Verdict, d.Ban))
		between(i)
	}
	return out
}

func diff(t *testing.T, got, want []string) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("decisions part at\n\t%s\nwant\n\t%s", got[i], want[i])
		}
	}
}

// The same events make the same decisions, also when the state goes to the store and back in the middle.
func TestReplay(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			begin := func() *world {
				w := newWorld(t)
				w.defend()
				return w
			}
			events := stream(seed, 10_000)
			want := play(begin(), events, func(int) {})
			diff(t, play(begin(), events, func(int) {}), want)

			w, disk := begin(), store{}
			var bans []ban.Ban
			w.banned = func(b ban.Ban) { bans = append(bans, b) }
			got := play(w, events, func(i int) {
				if i%53 == 0 { // saved in parts, as time goes by
					disk.save(w.tracker)
				}
				if i%1000 != 999 {
					return
				}
				disk.save(w.tracker)
				again := track.New(defended())
				if err := again.Import(disk.entries); err != nil {
					t.Fatal(err)
				}
				for _, b := range bans {
					again.Restore(b)
				}
				w.tracker = again
			})
			diff(t, got, want)
			if len(bans) < 40 {
				t.Errorf("only %d bans: the stream shows little", len(bans))
			}
		})
	}
}
