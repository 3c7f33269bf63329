//go:build linux

package bantest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/netlink/nflog"
	"mef/internal/netnstest"
)

// samples are those that the kernel reports of dropped packets.
type samples struct {
	mu     sync.Mutex
	causes map[string]uint64
	seen   map[string]int // "ban 192.0.2.7 22": of a cause, peer and port
}

// sample begins to collect samples.
func sample(t *testing.T, server *netnstest.NS) *samples {
	t.Helper()
	conn, err := nflog.DialSamples(server.Fd(), enforce.SampleGroup)
	if err != nil {
		netnstest.Missing(t, err.Error())
	}
	s, done := &samples{causes: map[string]uint64{}, seen: map[string]int{}}, make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for {
			packets, _, err := conn.Receive(nil)
			if err != nil {
				return
			}
			s.mu.Lock()
			for _, p := range packets {
				s.causes[p.Mark]++
				s.seen[fmt.Sprintf("%s %s %d", p.Mark, p.From, p.Port)]++
			}
			s.mu.Unlock()
		}
	}()
	return s
}

// dropsAreSampled compares samples with the counters: below the limit they are all there, with their peers and ports; a flood has few.
func (w World) dropsAreSampled(t *testing.T, s *samples) {
	t.Helper()
	counted := func() map[string]uint64 {
		d, err := w.E.Drops(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return map[string]uint64{event.DroppedBan: d.Verified, event.DroppedUnverified: d.Unverified, event.DroppedReply: d.Replies, event.DroppedList: d.Lists}
	}
	if err := netnstest.Poll(func() error {
		kernel := counted()
		s.mu.Lock()
		defer s.mu.Unlock()
		if fmt.Sprint(kernel) != fmt.Sprint(s.causes) {
			return fmt.Errorf("the kernel counts %v, and there are samples of %v: %v", kernel, s.causes, s.seen)
		}
		for _, one := range []string{"ban 192.0.2.7 22", "ban 192.0.2.8 22", "ban 2001:db8:a::7 22", "unverified_ban 192.0.2.9 22"} {
			if s.seen[one] == 0 {
				return fmt.Errorf("no sample of %s: %v", one, s.seen)
			}
		}
		// The port of packets to others is the one that this host chose.
		for _, one := range []string{"reply 192.0.2.7 ", "list 172.17.0.2 "} {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(s.seen)), func(label string) bool { return strings.HasPrefix(label, one) }) {
				return fmt.Errorf("no sample of %s: %v", one, s.seen)
			}
		}
		if s.seen["reply 192.0.2.7 443"]+s.seen["list 172.17.0.2 81"] > 0 {
			return fmt.Errorf("samples have the port of others: %v", s.seen)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	const packets = 3000
	before, began := counted()[event.DroppedBan], time.Now()
	flood, err := w.Attacker.Dial("udp", "192.0.2.7", "192.0.2.1:53", netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	for range packets {
		if _, err := flood.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	if err := netnstest.Poll(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := s.seen["ban 192.0.2.7 53"]; n == 0 || counted()[event.DroppedBan]-before < packets {
			return fmt.Errorf("%d samples of %d packets", n, packets)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	most := enforce.SampleBurst + enforce.SampleRate*int(time.Since(began)/time.Second+1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.seen["ban 192.0.2.7 53"]; n > most {
		t.Errorf("%d samples of %d packets, want at most %d", n, packets, most)
	}
	if check, err := w.B.Check(t.Context()); err != nil || len(check.Damaged) > 0 {
		t.Errorf("Check = %+v, %v, want no damage", check, err)
	}
}
