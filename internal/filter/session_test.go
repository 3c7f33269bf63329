package filter

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The table of sessions finds what a map would, also where keys share their places, and drops the oldest when it is full.
func TestSessionsAreFound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	table := newSessions()
	want := make(map[uint64]int) // what the session's count is
	var order []uint64
	now := time.Unix(1_000_000, 0)
	for n := range 200_000 {
		key := uint64(r.IntN(40))*2*maxSessions + uint64(r.IntN(300))*uint64(1+r.IntN(30)) // many with the same low bits
		if r.IntN(4) == 0 {
			s := table.find(key, now)
			if count, known := want[key]; known != (s != nil) || known && int(s.count) != count {
				t.Fatalf("step %d: session %v, want it known: %v, with %d", n, s, known, count)
			}
			continue
		}
		s := table.open(key, now)
		if count, known := want[key]; int(s.count) != count {
			t.Fatalf("step %d: session %v, want it known: %v, with %d", n, s, known, count)
		} else if !known {
			if order = append(order, key); len(order) > maxSessions {
				delete(want, order[0])
				order = order[1:]
			}
		}
		s.count = int32(n + 1)
		want[key] = n + 1
	}
	if len(order) < maxSessions {
		t.Errorf("the table was never full: %d sessions", len(order))
	}
}

func TestOldSessionIsAnother(t *testing.T) {
	table := newSessions()
	now := time.Unix(1_000_000, 0)
	table.open(7, now).count = 3
	if table.find(7, now.Add(sessionLife)) == nil || table.find(7, now.Add(sessionLife+1)) != nil {
		t.Error("a session does not last as long as it should")
	}
	if s := table.open(7, now.Add(sessionLife+1)); s.count != 0 || len(table.ring) != 1 {
		t.Errorf("opened again it is %+v, of %d", s, len(table.ring))
	}
}
