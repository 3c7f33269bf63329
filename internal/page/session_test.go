package page

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestSessions checks that sessions end, and that there is a bounded number of them.
func TestSessions(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := sessions{byToken: make(map[string]*session)}
	idle := s.begin("alice", "read", now)
	if got, ok := s.find(idle, now.Add(idleTime-1)); !ok || got.user != "alice" || got.role != "read" {
		t.Fatalf("session %+v, %v", got, ok)
	}
	if _, ok := s.find(idle, now.Add(2*idleTime)); ok {
		t.Error("an idle session goes on")
	}
	used := s.begin("alice", "read", now)
	for at := time.Duration(0); at < sessionTime; at += idleTime / 2 {
		if _, ok := s.find(used, now.Add(at)); !ok {
			t.Fatalf("a session that is used ends after %v", at)
		}
	}
	if _, ok := s.find(used, now.Add(sessionTime)); ok {
		t.Error("a session that is used goes on for ever")
	}
	first := s.begin("bob", "read", now)
	for i := range maxPerUser {
		s.begin("bob", "read", now.Add(time.Duration(i+1)))
	}
	if _, ok := s.find(first, now); ok || len(s.byToken) != maxPerUser {
		t.Errorf("%d sessions of a user; the first goes on: %v", len(s.byToken), ok)
	}
	for i := range 2 * maxSessions {
		s.begin(fmt.Sprint("user", i), "read", now)
	}
	if len(s.byToken) > maxSessions {
		t.Errorf("%d sessions", len(s.byToken))
	}
	if _, ok := s.find("", now); ok {
		t.Error("an empty cookie has a session")
	}
}

// TestThrottled checks that attempts are limited for each network, in bounded memory.
func TestThrottled(t *testing.T) {
	d, now := newDoorman(nil), time.Unix(1e9, 0)
	allowed := func(addr string, at time.Time) (n int) {
		for range 20 {
			if d.limiter(netip.MustParseAddr(addr)).AllowN(at, 1) {
				n++
			}
		}
		return n
	}
	if n := allowed("2001:db8::1", now); n != loginBurst {
		t.Errorf("%d attempts at once", n)
	}
	if n := allowed("2001:db8::2", now); n != 0 {
		t.Errorf("%d attempts of another address of its network", n)
	}
	if n := allowed("192.0.2.1", now); n != loginBurst {
		t.Errorf("%d attempts of another network", n)
	}
	if n := allowed("2001:db8::1", now.Add(3*loginPause)); n != 3 {
		t.Errorf("%d attempts after a pause", n)
	}
	for i := range 2 * maxThrottled {
		d.limiter(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(d.tries) > maxThrottled {
		t.Errorf("%d networks are remembered", len(d.tries))
	}
}
