package limit

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct{ one, same, other string }{
		"IPv4": {"192.0.2.7", "192.0.2.200", "192.0.3.7"},
		"IPv6": {"2001:db8::7", "2001:db8:0:ff::1", "2001:db8:0:100::1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRate(10, 20, now)
			one, same, other := netip.MustParseAddr(tt.one), netip.MustParseAddr(tt.same), netip.MustParseAddr(tt.other)
			for i := range 20 {
				if !r.Allow(one, now) {
					t.Fatalf("request %d of the burst is refused", i)
				}
			}
			if r.Allow(same, now) {
				t.Error("the network has more than its burst")
			}
			if !r.Allow(other, now) {
				t.Error("another network is refused")
			}
			allowed := 0
			for range 100 {
				if r.Allow(one, now.Add(time.Second)) {
					allowed++
				}
			}
			if allowed != 10 {
				t.Errorf("%d requests after a second, want 10", allowed)
			}
			if allowed := testing.AllocsPerRun(100, func() { r.Allow(one, now) }); allowed != 0 {
				t.Errorf("%v allocations", allowed)
			}
		})
	}
}

// TestRateOfManyNetworks checks that a network keeps its limit while very many others ask.
func TestRateOfManyNetworks(t *testing.T) {
	now := time.Now()
	r := NewRate(10, 20, now)
	victim := netip.MustParseAddr("198.51.100.1")
	allowed := 0
	for i := range 200_000 {
		r.Allow(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}), now)
		if i%1000 == 0 && r.Allow(victim, now) {
			allowed++
		}
	}
	if allowed > 20 {
		t.Errorf("%d requests were allowed, want at most 20", allowed)
	}
}

func TestRateIsSharedByGoroutines(t *testing.T) {
	now := time.Now()
	r := NewRate(10, 500, now)
	var allowed atomic.Int64
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			for range 200 {
				if r.Allow(netip.MustParseAddr("192.0.2.1"), now) {
					allowed.Add(1)
				}
			}
		})
	}
	asking.Wait()
	if allowed.Load() != 500 {
		t.Errorf("%d were allowed, want 500", allowed.Load())
	}
}

func TestListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listener(inner, 10, 2)
	defer l.Close()
	served := make(chan net.Conn, 10)
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	dial()
	first := <-served
	<-served
	third := dial()
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Fatal("the third connection of the network is read from")
	} else if err != io.EOF {
		t.Logf("the third connection ends with %v", err)
	}
	first.Close()
	first.Close() // counts once
	dial()
	(<-served).Close()
}
