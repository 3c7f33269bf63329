package engine

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"mef/internal/event"
)

func TestLastHour(t *testing.T) {
	start := time.Unix(1_700_000_000, 0).Truncate(time.Hour)
	source := func(n int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 32)
	}
	var c recent
	fail := func(at time.Duration, n int) {
		c.count(&event.Event{Time: start.Add(at), Kind: event.Failure}, source(n), 1)
	}
	want := func(at time.Duration, want LastHour) {
		t.Helper()
		got := c.last(start.Add(at))
		if got.Usual = math.Round(got.Usual*10) / 10; got != want {
			t.Errorf("after %v: %+v, want %+v", at, got, want)
		}
	}
	for i := range 6 {
		fail(time.Duration(i)*time.Minute, i%3)
	}
	c.count(&event.Event{Time: start.Add(7 * time.Minute), Kind: event.Success}, source(1), 0)
	want(10*time.Minute, LastHour{Failures: 6, Logins: 1, Sources: 3})
	fail(50*time.Minute, 9)
	want(59*time.Minute, LastHour{Failures: 7, Logins: 1, Sources: 4})
	want(70*time.Minute, LastHour{Failures: 1, Sources: 1})
	for i := range 10 {
		fail(80*time.Minute, i)
	}
	want(2*time.Hour+20*time.Minute, LastHour{Usual: 10, Hours: 1}) // the first hour is not whole
	want(5*time.Hour, LastHour{Usual: 10.0 / 4, Hours: 4})
	fail(time.Hour, 1) // read late
	want(5*time.Hour, LastHour{Usual: 10.0 / 4, Hours: 4})
	for i := range 2 * maxRecent {
		fail(5*time.Hour, i)
	}
	want(5*time.Hour, LastHour{Failures: 2 * maxRecent, Sources: maxRecent, More: true, Usual: 10.0 / 4, Hours: 4})
	want(24*365*time.Hour, LastHour{Hours: 1000})
}

// BenchmarkManySources counts a failure of a source for which there is no room, as each is in a storm.
func BenchmarkManySources(b *testing.B) {
	var c recent
	at := time.Now()
	ev := event.Event{Time: at, Kind: event.Failure}
	source := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	for i := range maxRecent {
		c.count(&ev, source(i), 1)
	}
	for i := maxRecent; b.Loop(); i++ {
		c.count(&ev, source(i), 1)
	}
}
