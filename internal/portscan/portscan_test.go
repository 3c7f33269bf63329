package portscan

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
)

var usual = conf.Scan{Enabled: true, Limit: 5, Interval: 5 * time.Minute, BanTime: time.Hour}

// A probe is a packet of a source at a time since the start.
type probe struct {
	at   time.Duration
	from string // address, or the network that counts
	port uint16
}

// from returns n probes, one each step.
func from(source string, n int, step time.Duration) (all []probe) {
	for i := range n {
		all = append(all, probe{time.Duration(i) * step, source, uint16(1000 + i)})
	}
	return all
}

func spread(n, addrs int, step time.Duration) (all []probe) {
	for i := range n {
		all = append(all, probe{time.Duration(i) * step, fmt.Sprintf("192.0.2.%d", 1+i%addrs), uint16(1000 + i)})
	}
	return all
}

func TestScans(t *testing.T) {
	for name, tt := range map[string]struct {
		probes []probe
		want   string // the first scan: its source and a part of its text; "" if there is none
		after  int    // probes
	}{
		"as many ports as allowed":          {from("192.0.2.7", 5, time.Second), "", 0},
		"one more":                          {from("192.0.2.7", 6, time.Second), "192.0.2.7: 6 closed ports in 5s, 1.2 a second (limit 5 in 5m): tcp 1000, 1001", 6},
		"one port again and again":          {slices.Repeat([]probe{{0, "192.0.2.7", 22}}, 1000), "", 0},
		"a few ports again and again":       {slices.Repeat(from("192.0.2.7", 5, time.Second), 1000), "", 0},
		"as many as allowed, an interval":   {append(from("192.0.2.7", 5, time.Second), probe{6 * time.Minute, "192.0.2.7", 7}), "", 0},
		"one a minute":                      {from("192.0.2.7", 16, time.Minute), "192.0.2.7: 6 closed ports in 5m", 6},
		"one in a while":                    {from("192.0.2.7", 16, 10*time.Minute), "192.0.2.7: 16 closed ports in 2h30m", 16},
		"over the day":                      {from("192.0.2.7", 16, time.Hour), "", 0},
		"an IPv6 network":                   {from("2001:db8::/64", 6, time.Second), "2001:db8::: 6 closed ports", 6},
		"several addresses of a /24":        {spread(21, 7, time.Second), "192.0.2.7: several addresses of 192.0.2.0/24 scan together: 21 closed ports", 21},
		"one port of each address of a /24": {spread(250, 250, time.Second), "192.0.2.21: several addresses", 21},
		"neighbours with the same port":     {slices.Repeat([]probe{{0, "192.0.2.7", 80}, {0, "192.0.2.8", 80}}, 100), "", 0},
		"neighbours of a source that scans": {append(from("192.0.2.7", 600, time.Millisecond), probe{time.Second, "192.0.2.8", 80}),
			"192.0.2.7: 6 closed ports", 6},
	} {
		t.Run(name, func(t *testing.T) {
			s, start := New(usual), time.Unix(1_700_000_000, 0)
			for i, pr := range tt.probes {
				source, err := netip.ParsePrefix(pr.from)
				if err != nil {
					addr := netip.MustParseAddr(pr.from)
					source = netip.PrefixFrom(addr, addr.BitLen())
				}
				p := event.Packet{Time: start.Add(pr.at), From: source.Addr(), Protocol: event.TCP, Port: pr.port, Flags: 2}
				ep := s.Count(source, &p)
				if ep == nil {
					continue
				}
				if got := fmt.Sprintf("%s: %s", p.From, ep.Text); tt.want == "" || i+1 != tt.after || !strings.HasPrefix(got, tt.want) {
					t.Errorf("after %d probes: %q, want %q after %d", i+1, got, tt.want, tt.after)
				}
				return
			}
			if tt.want != "" {
				t.Errorf("no scan, want %q", tt.want)
			}
		})
	}
}

// A mail program that looks for the servers of an address is no scan, also at a host without any.
func TestMailProgramsDoNotScan(t *testing.T) {
	s, start := New(usual), time.Unix(1_700_000_000, 0)
	source := netip.MustParsePrefix("192.0.2.7/32")
	count := func(port uint16) *event.Episode {
		return s.Count(source, &event.Packet{Time: start, From: source.Addr(), Protocol: event.TCP, Port: port})
	}
	for _, port := range []uint16{143, 993, 110, 995, 587, 25, 465, 80, 443} {
		if ep := count(port); ep != nil {
			t.Fatalf("port %d: %s", port, ep.Text)
		}
	}
	count(21)
	count(22)
	if count(23) == nil {
		t.Error("six ports of a scan are none because mail ports are among them")
	}
}

// While addresses of a /24 scan together, or are forged to, their neighbours are no scanners for trying what others try too.
func TestNeighboursOfThoseWhoScanTogether(t *testing.T) {
	s, start := New(usual), time.Unix(1_700_000_000, 0)
	reported := 0
	count := func(last int, port uint16) {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(last)})
		if s.Count(netip.PrefixFrom(addr, 32), &event.Packet{Time: start, From: addr, Protocol: event.TCP, Port: port}) != nil {
			reported++
		}
	}
	for i := range 21 {
		count(100+i/4, uint16(1000+i))
	}
	if reported != 1 {
		t.Errorf("%d scans, want that of the last address", reported)
	}
	for i := range 90 {
		count(1+i, 80)
	}
	if reported > 2 {
		t.Errorf("%d of 90 neighbours who tried the web are reported, want the first at most", reported-1)
	}
}

// A source that scans on is reported once a minute, and the neighbour of one that scans alone is not.
func TestReportsOnceAMinute(t *testing.T) {
	s, start := New(usual), time.Unix(1_700_000_000, 0)
	source := netip.MustParsePrefix("192.0.2.7/32")
	var at []time.Duration
	for i := range 600 {
		p := event.Packet{Time: start.Add(time.Duration(i) * time.Second / 4), From: source.Addr(), Protocol: event.TCP, Port: uint16(1 + i)}
		if s.Count(source, &p) != nil {
			at = append(at, p.Time.Sub(start))
		}
		neighbour := event.Packet{Time: p.Time, From: netip.MustParseAddr("192.0.2.8"), Protocol: event.TCP, Port: 80}
		if s.Count(netip.MustParsePrefix("192.0.2.8/32"), &neighbour) != nil {
			t.Fatalf("after %d probes of another address, one of a neighbour is a scan", i)
		}
	}
	if want := []time.Duration{1250 * time.Millisecond, 61250 * time.Millisecond, 121250 * time.Millisecond}; !slices.Equal(at, want) {
		t.Errorf("reported at %v, want %v", at, want)
	}
	if got := s.Explain(source, start.Add(150*time.Second)); len(got) != 2 || !strings.HasPrefix(got[0], "16 closed ports within 5m (limit 5)") {
		t.Errorf("Explain = %q", got)
	}
}

// Forged sources push out each other, and neither a slow scan nor one in their midst.
func TestMemoryIsBounded(t *testing.T) {
	s, start := New(usual), time.Unix(1_700_000_000, 0)
	scanner := netip.MustParsePrefix("203.0.113.7/32")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	found := 0
	for i := range 100_000 {
		now := start.Add(time.Duration(i) * time.Millisecond)
		forged := event.Packet{Time: now, From: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Protocol: event.TCP, Port: uint16(i)}
		s.Count(netip.PrefixFrom(forged.From, 32), &forged)
		if i%1_000 == 0 {
			p := event.Packet{Time: now, From: scanner.Addr(), Protocol: event.TCP, Port: uint16(i / 1_000)}
			if s.Count(scanner, &p) != nil {
				found++
			}
		}
	}
	if found == 0 {
		t.Error("the scan among the forged packets was not found")
	}
	if st := s.Stats(start); st.Sources > maxSources || s.ports > maxPorts {
		t.Errorf("%d sources and %d ports, want at most %d and %d", st.Sources, s.ports, maxSources, maxPorts)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	runtime.KeepAlive(s)
}

// Forged sources that each scan must not fill the packet filter.
func TestScansAreBounded(t *testing.T) {
	s, start := New(usual), time.Unix(1_700_000_000, 0)
	found := 0
	for i := range 2 * maxReports {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		for port := range uint16(6) {
			if s.Count(netip.PrefixFrom(addr, 32), &event.Packet{Time: start, From: addr, Protocol: event.TCP, Port: port}) != nil {
				found++
			}
		}
	}
	if found != maxReports {
		t.Errorf("%d scans, want %d", found, maxReports)
	}
	if st := s.Stats(start); !st.Full || st.Suppressed != maxReports {
		t.Errorf("Stats = %+v, want full, with %d scans suppressed", st, maxReports)
	}
	if st := s.Stats(start.Add(pace)); st.Full {
		t.Error("it is full for ever")
	}
}
