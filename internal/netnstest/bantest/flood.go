//go:build linux

package bantest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// A guarded is a server with a flood guard, and a peer with several addresses.
type guarded struct {
	server, peer *netnstest.NS
	b            Backend
	reports      *Reports
}

func (f Filter) guard(t *testing.T, flood conf.Flood) guarded {
	t.Helper()
	return f.guardWith(t, enforce.Settings{Flood: flood})
}

func (f Filter) guardWith(t *testing.T, settings enforce.Settings) guarded {
	t.Helper()
	g := guarded{server: netnstest.New(t), peer: netnstest.New(t)}
	netnstest.Join(t, g.server, g.peer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 192.0.2.8/24 192.0.2.9/24 2001:db8:1::7/64")
	settings.Flood.Enabled = true
	g.b = f.openWith(t, g.server, settings)
	if d, err := g.b.Detection(); err != nil || d.FloodOff != "" {
		netnstest.Missing(t, fmt.Sprint(err, d.FloodOff))
	}
	allow := prefixset.New(netip.MustParsePrefix("192.0.2.9/32"))
	if _, err := g.b.Rebuild(t.Context(), enforce.Changes{Allow: &allow}); err != nil {
		t.Fatal(err)
	}
	g.reports = Receive(t, g.server)
	for _, port := range []string{":80", ":81", ":25"} {
		g.server.Echo(t, "tcp", port)
	}
	return g
}

// open connects a number of times.
func (g guarded) open(t *testing.T, from, to string, times int) (open []net.Conn) {
	t.Helper()
	for i := range times {
		conn, err := g.peer.Dial("tcp", from, to, netnstest.Patience)
		if err != nil {
			t.Fatalf("connection %d from %s: %v", i+1, from, err)
		}
		t.Cleanup(func() { conn.Close() })
		open = append(open, conn)
	}
	return open
}

// try tries to connect a number of times, and returns the number of successes.
func (g guarded) try(t *testing.T, from, to string, times int) (succeeded int) {
	t.Helper()
	for range times {
		if conn, err := g.peer.Dial("tcp", from, to, netnstest.Silence); err == nil {
			t.Cleanup(func() { conn.Close() })
			succeeded++
		}
	}
	return succeeded
}

func (f Filter) floodGuard(t *testing.T) {
	if f.Slow {
		t.Skip("done over the other form")
	}
	t.Parallel()
	const many = 1_000_000
	wide := conf.FloodLimits{SYNRate: many, SYNBurst: many, NewRate: many, NewBurst: many, Conns: many}
	for name, tt := range map[string]struct {
		flood conf.Flood
		port  string
		open  int // connections that succeed; one more is beyond the limit
	}{
		"SYN packets":        {conf.Flood{Ports: "80", FloodLimits: conf.FloodLimits{SYNRate: 1, SYNBurst: 4}.Or(wide)}, "80", 4},
		"new connections":    {conf.Flood{Ports: "80", FloodLimits: conf.FloodLimits{NewRate: 1, NewBurst: 4}.Or(wide)}, "80", 4},
		"connections":        {conf.Flood{Ports: "80", FloodLimits: conf.FloodLimits{Conns: 4}.Or(wide)}, "80", 4},
		"drop":               {conf.Flood{Ports: "80", FloodLimits: conf.FloodLimits{Conns: 4}.Or(wide), Mode: conf.FloodDrop, Stage1: time.Minute}, "80", 4},
		"detect":             {conf.Flood{Ports: "80", FloodLimits: conf.FloodLimits{Conns: 4}.Or(wide), Mode: conf.FloodDetect}, "80", 12},
		"a port of its own":  {conf.Flood{Ports: "80", FloodLimits: wide, Of: map[uint16]conf.FloodLimits{25: {Conns: 4}}}, "25", 4},
		"new, all ports":     {conf.Flood{FloodLimits: conf.FloodLimits{NewRate: 1, NewBurst: 4}.Or(wide), Of: map[uint16]conf.FloodLimits{25: {Conns: 6}}}, "81", 4},
		"all ports":          {conf.Flood{FloodLimits: conf.FloodLimits{Conns: 4}.Or(wide), Of: map[uint16]conf.FloodLimits{25: {Conns: 6}}}, "81", 4},
		"another port":       {conf.Flood{Ports: "80", FloodLimits: conf.FloodLimits{Conns: 4}.Or(wide)}, "81", 12},
		"below all limits":   {conf.Flood{Ports: "80", FloodLimits: wide}, "80", 12},
		"a higher own limit": {conf.Flood{Ports: "25", FloodLimits: conf.FloodLimits{Conns: 4}.Or(wide), Of: map[uint16]conf.FloodLimits{25: {Conns: 6}}}, "25", 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			g := f.guard(t, tt.flood)
			if name == "all ports" && slices.ContainsFunc(g.b.Names().Lacks, func(s string) bool {
				return strings.HasPrefix(s, "ddos_connlimit has no effect at ports 1-24,26-65535: ")
			}) {
				tt.open = 12
			}
			to := "192.0.2.1:" + tt.port
			open := g.open(t, "192.0.2.7", to, tt.open)
			limited := tt.open < 12
			if limited {
				byRate := strings.Contains(name, "SYN") || strings.Contains(name, "new")
				if n := g.try(t, "192.0.2.7", to, 6); n == 6 || n > 0 && !byRate {
					t.Errorf("%d of 6 further connections, want none, or few where a rate is limited", n)
				}
				if !byRate && tt.flood.Mode == conf.FloodThrottle {
					open[0].Close() // which makes room for another
					open = append(open[1:], g.open(t, "192.0.2.7", to, 1)...)
				}
			}
			for _, conn := range open {
				if err := netnstest.Say(conn, netnstest.Patience); err != nil {
					t.Errorf("an established connection: %v", err)
				}
			}
			g.open(t, "192.0.2.9", to, 12) // from an address that is allowed
			g.open(t, "192.0.2.8", to, 1)
			got := g.reports.All()
			if limited || tt.flood.Mode == conf.FloodDetect {
				got = g.reports.Through(t, "tcp 192.0.2.7 "+tt.port)
			}
			if n := len(got); limited != (n > 0) && tt.flood.Mode != conf.FloodDetect || n > 1 {
				t.Errorf("reported are %q, want one report an episode", got)
			}
		})
	}
}

// Forged sources do not keep others from connecting, and a source that goes on is limited again soon.
func (f Filter) floodGuardDuringForgedFlood(t *testing.T) {
	t.Parallel()
	limits := conf.FloodLimits{SYNRate: 5, SYNBurst: 5, NewRate: 1000, NewBurst: 1000, Conns: 1000}
	g := f.guard(t, conf.Flood{Ports: "80", FloodLimits: limits})
	g.server.Sysctl(t, "net.ipv4.conf.all.rp_filter", "0")
	to := netnstest.In(t, g.server, func() (net.HardwareAddr, error) { return netnstest.HardwareAddr("veth0") })
	wire := netnstest.In(t, g.peer, func() (*netnstest.Wire, error) { return netnstest.OpenWire("veth0", to) })
	defer wire.Close()
	for i := range 70_000 {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if err := wire.TCP(netip.AddrPortFrom(from, 4000), netip.MustParseAddrPort("192.0.2.1:80"), 2); err != nil {
			t.Fatal(err)
		}
	}
	const soon = 3 * time.Second // before what counts forgets the forged sources
	if conn, err := g.peer.Dial("tcp", "192.0.2.8", "192.0.2.1:80", soon); err == nil {
		conn.Close()
	} else {
		t.Errorf("a connection from another address: %v", err)
	}
	if err := netnstest.Poll(func() error {
		if conn, err := g.peer.Dial("tcp", "192.0.2.7", "192.0.2.1:80", netnstest.Silence); err == nil {
			conn.Close()
			return errors.New("no connection is dropped")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// Proxies have many clients behind each address, and so do content delivery networks at web ports. The guard limits neither.
func (f Filter) floodGuardExemptsSharedAddresses(t *testing.T) {
	t.Parallel()
	for _, mode := range []conf.FloodMode{conf.FloodThrottle, conf.FloodDrop} {
		limits := conf.FloodLimits{SYNRate: 1000, SYNBurst: 1000, NewRate: 1000, NewBurst: 1000, Conns: 3}
		g := f.guardWith(t, enforce.Settings{
			Flood:   conf.Flood{Ports: "80,25", FloodLimits: limits, Mode: mode, Stage1: time.Minute},
			Proxies: prefixset.New(netip.MustParsePrefix("192.0.2.7/32")),
			CDNs:    prefixset.New(netip.MustParsePrefix("192.0.2.8/32"), netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:5::/64")),
		})
		g.open(t, "192.0.2.7", "192.0.2.1:80", 8)
		g.open(t, "192.0.2.7", "192.0.2.1:25", 8)
		g.open(t, "192.0.2.8", "192.0.2.1:80", 8)
		g.open(t, "2001:db8:1::7", "[2001:db8:1::1]:80", 8)
		for from, to := range map[string]string{"192.0.2.8": "192.0.2.1:25", "2001:db8:1::7": "[2001:db8:1::1]:25"} {
			g.open(t, from, to, 3)
			if n := g.try(t, from, to, 2); n != 0 {
				t.Errorf("%s, of a content delivery network, has %d further connections at port 25", from, n)
			}
		}
		g.open(t, "2001:db8:1::7", "[2001:db8:1::1]:80", 8) // whatever it did at another port
	}
}

// A source that goes on gets its burst once: its count is forgotten only when it is silent.
func (f Filter) floodGuardRemembersSources(t *testing.T) {
	if f.Slow {
		t.Skip("done over the other form")
	}
	t.Parallel()
	const many = 1_000_000
	g := f.guard(t, conf.Flood{Ports: "80", FloodLimits: conf.FloodLimits{SYNRate: 1, SYNBurst: 20, NewRate: many, NewBurst: many, Conns: many}})
	began := time.Now()
	g.open(t, "192.0.2.7", "192.0.2.1:80", 20)
	for time.Since(began) < 6*time.Second {
		g.try(t, "192.0.2.7", "192.0.2.1:80", 1)
		time.Sleep(100 * time.Millisecond)
	}
	if n := g.try(t, "192.0.2.7", "192.0.2.1:80", 15); n > 10 {
		t.Errorf("%d of 15 connections after a burst and a connection a second, want few", n)
	}
}

// IPv6 counts by /64, and a source is dropped at every guarded port.
func (f Filter) floodGuardDropsTheSource(t *testing.T) {
	t.Parallel()
	limits := conf.FloodLimits{SYNRate: 1000, SYNBurst: 1000, NewRate: 1000, NewBurst: 1000, Conns: 3}
	g := f.guard(t, conf.Flood{Ports: "80,25", FloodLimits: limits, Mode: conf.FloodDrop, Stage1: time.Minute})
	for from, to := range map[string]string{"192.0.2.7": "192.0.2.1:", "2001:db8:1::7": "[2001:db8:1::1]:"} {
		g.open(t, from, to+"80", 3)
		if n := g.try(t, from, to+"80", 3); n != 0 {
			t.Errorf("%s has %d further connections", from, n)
		}
		g.peer.Blocked(t, "tcp", from, to+"25")
		g.peer.Reaches(t, "tcp", from, to+"81")
	}
	g.peer.Reaches(t, "tcp", "192.0.2.8", "192.0.2.1:80")
	if got := g.reports.All(); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "2001:db8:1::7 80") }) {
		t.Errorf("reported are %q, want one about IPv6", got)
	}
}
