//go:build linux

package bantest

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
)

// The connections that tests try: from an address of the attacker to a service.
const (
	ssh4, ssh6   = "tcp 192.0.2.1:22", "tcp [2001:db8:1::1]:22"
	mail4, mail6 = "tcp 192.0.2.1:25", "tcp [2001:db8:1::1]:25"
	dns4, dns6   = "udp 192.0.2.1:53", "udp [2001:db8:1::1]:53"
	published    = "tcp 192.0.2.1:8080"
)

func try(t *testing.T, ns *netnstest.NS, connections []string, check func(testing.TB, string, string, string)) {
	t.Helper()
	for _, c := range connections {
		from, to, _ := strings.Cut(c, " ")
		network, addr, _ := strings.Cut(to, " ")
		check(t, network, from, addr)
	}
}

func (f Filter) whatABanDrops(t *testing.T) {
	for name, tt := range map[string]struct {
		allow, grace  string
		bans          []string
		except        []string // of every ban, those in its network
		blocked, open []string
	}{
		"IPv4 host": {
			bans:    []string{"192.0.2.7"},
			blocked: []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + dns4, "192.0.2.7 " + published},
			open:    []string{"192.0.2.8 " + ssh4, "192.0.2.8 " + dns4, "192.0.2.8 " + published, "2001:db8:a::7 " + ssh6},
		},
		"IPv4 networks of three widths": {
			bans:    []string{"192.0.2.8/31"},
			blocked: []string{"192.0.2.8 " + ssh4, "192.0.2.9 " + ssh4},
			open:    []string{"192.0.2.7 " + ssh4},
		},
		"IPv6 host": {
			bans:    []string{"2001:db8:a::7"},
			blocked: []string{"2001:db8:a::7 " + ssh6, "2001:db8:a::7 " + dns6},
			open:    []string{"2001:db8:a::8 " + ssh6, "2001:db8:a::8 " + dns6},
		},
		"IPv6 /64": {
			bans:    []string{"2001:db8:a::/64"},
			blocked: []string{"2001:db8:a::7 " + ssh6, "2001:db8:a::8 " + dns6},
			open:    []string{"2001:db8:b::7 " + ssh6, "2001:db8:1::7 " + ssh6},
		},
		"IPv6 /47, an unusual width": {
			bans:    []string{"2001:db8:a::/47"},
			blocked: []string{"2001:db8:a::7 " + ssh6, "2001:db8:b::7 " + ssh6},
			open:    []string{"2001:db8:1::7 " + ssh6},
		},
		"ports": {
			bans:    []string{"192.0.2.7 ports 25,465,587", "2001:db8:a::/64 ports 20-22"},
			blocked: []string{"192.0.2.7 " + mail4, "2001:db8:a::7 " + ssh6},
			open:    []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + dns4, "192.0.2.8 " + mail4, "2001:db8:a::7 " + mail6},
		},
		"allow beats every ban": {
			allow:   "192.0.2.7/32",
			bans:    []string{"192.0.2.7", "192.0.2.0/24", "192.0.2.7 ports 22", "192.0.2.7 unverified"},
			blocked: []string{"192.0.2.8 " + ssh4},
			open:    []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + published},
		},
		"grace beats wider bans": {
			grace:   "2001:db8:a::7",
			bans:    []string{"2001:db8:a::/47"},
			blocked: []string{"2001:db8:b::7 " + ssh6},
			open:    []string{"2001:db8:a::7 " + ssh6},
		},
		"excepted from an unverified network": {
			bans:    []string{"192.0.2.0/28 unverified"},
			except:  []string{"192.0.2.7"},
			blocked: []string{"192.0.2.8 " + ssh4, "192.0.2.9 " + dns4},
			open:    []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + dns4},
		},
		"excepted from networks of both families and of ports": {
			bans:    []string{"192.0.2.0/24", "2001:db8:a::/64", "2001:db8:a::/47 ports 22"},
			except:  []string{"192.0.2.7", "2001:db8:a::7"},
			blocked: []string{"192.0.2.8 " + ssh4, "192.0.2.8 " + published, "2001:db8:a::8 " + dns6, "2001:db8:b::7 " + ssh6},
			open:    []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + dns4, "192.0.2.7 " + published, "2001:db8:a::7 " + ssh6, "2001:db8:b::7 " + dns6},
		},
		"excepted from the network, but banned themselves": {
			bans:    []string{"192.0.2.0/24", "192.0.2.7 ports 25", "192.0.2.9", "2001:db8:a::/47", "2001:db8:a::7", "2001:db8:a::8 ports 53 unverified"},
			except:  []string{"192.0.2.7", "192.0.2.9", "2001:db8:a::7", "2001:db8:a::8"},
			blocked: []string{"192.0.2.8 " + ssh4, "192.0.2.7 " + mail4, "192.0.2.9 " + ssh4, "2001:db8:a::7 " + ssh6, "2001:db8:a::8 " + dns6, "2001:db8:b::7 " + ssh6},
			open:    []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + dns4, "2001:db8:a::8 " + ssh6},
		},
		"unverified": {
			bans:    []string{"192.0.2.7 unverified", "2001:db8:a::/64 unverified", "192.0.2.8 ports 53 unverified"},
			blocked: []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + dns4, "192.0.2.7 " + published, "2001:db8:a::8 " + ssh6, "192.0.2.8 " + dns4},
			open:    []string{"192.0.2.8 " + ssh4, "2001:db8:b::7 " + ssh6},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var allow []string
			if tt.allow != "" {
				allow = append(allow, tt.allow)
			}
			w := f.NewWorld(t, allow...)
			try(t, w.Attacker, append(tt.blocked, tt.open...), w.Attacker.Reaches)
			for _, key := range tt.bans {
				b := enforcetest.For(key, time.Hour)
				for _, a := range tt.except {
					b.Except = append(b.Except, netip.MustParseAddr(a))
				}
				enforcetest.Bans(t, w.E, b)
			}
			if tt.grace != "" {
				if err := w.E.Grace(t.Context(), time.Hour, netip.MustParseAddr(tt.grace)); err != nil {
					t.Fatal(err)
				}
			}
			try(t, w.Attacker, tt.blocked, w.Attacker.Blocked)
			try(t, w.Attacker, tt.open, w.Attacker.Reaches)
			s, err := w.E.Held(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range s.Bans {
				if h.Packets == 0 && tt.allow == "" {
					t.Errorf("ban %v shows no dropped packets", h.Key)
				}
			}
			if err := w.E.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			try(t, w.Attacker, tt.blocked, w.Attacker.Reaches)
		})
	}
}

// A forged packet can have any address banned. So answers of a banned host to our own requests must arrive, whatever ports the ban covers,
// and its open connections must stay open.
func (f Filter) answersToOurOwnConnectionsPassUnverifiedBans(t *testing.T) {
	for name, bans := range map[string][]string{
		"all ports":   {"192.0.2.7 unverified", "2001:db8:a::/64 unverified"},
		"all but one": {"192.0.2.7 ports 1-21,23-65535 unverified", "2001:db8:a::/64 ports 1-21,23-65535 unverified"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := f.NewWorld(t)
			peer, ours := w.Session(t, w.Server, "tcp4", "192.0.2.1:2222", "192.0.2.7", "192.0.2.1:2222")
			for _, key := range bans {
				enforcetest.Bans(t, w.E, enforcetest.For(key, time.Hour))
			}
			w.Server.Reaches(t, "tcp", "", "192.0.2.7:443")
			w.Server.Reaches(t, "udp", "", "192.0.2.7:53")
			w.Server.Reaches(t, "tcp", "", "[2001:db8:a::7]:443")
			w.Server.Reaches(t, "udp", "", "[2001:db8:a::7]:53")
			w.Container.Reaches(t, "tcp", "", "192.0.2.7:443")
			w.Container.Reaches(t, "udp", "", "192.0.2.7:53")
			w.resolves(t, "192.0.2.1:2000", "192.0.2.7:53")
			w.resolves(t, "[2001:db8:1::1]:2000", "[2001:db8:a::7]:53")
			w.resolves(t, "192.0.2.1:5060", "192.0.2.7:5060")   // telephony: the same port at both ends,
			w.resolves(t, "192.0.2.1:12000", "192.0.2.7:40000") // and any for voices
			w.resolves(t, "192.0.2.1:514", "192.0.2.7:514")
			w.resolves(t, "192.0.2.1:25000", "192.0.2.7:443") // a client, with another ip_local_port_range
			Hears(t, ours, peer)
			Hears(t, peer, ours)
			w.Attacker.Blocked(t, "tcp", "192.0.2.7", "192.0.2.1:25")
			w.Attacker.Blocked(t, "udp", "192.0.2.7", "192.0.2.1:53")
			w.Attacker.Blocked(t, "tcp", "2001:db8:a::7", "[2001:db8:1::1]:25")
			w.Attacker.Blocked(t, "udp", "2001:db8:a::8", "[2001:db8:1::1]:53")
		})
	}
}

// resolves fails the test unless an answer reaches the server at a port that a resolver may have chosen.
func (w World) resolves(t *testing.T, from, to string) {
	t.Helper()
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	var conn net.Conn
	var err error
	w.Server.Do(func() { conn, err = d.Dial("udp", to) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := netnstest.Poll(func() error { return netnstest.Say(conn, netnstest.Silence) }); err != nil {
		t.Errorf("udp from %s to %s: %v, want an answer", from, to, err)
	}
}

// Hears fails the test unless a message of one end arrives at the other.
func Hears(t *testing.T, listener, speaker net.Conn) {
	t.Helper()
	if _, err := speaker.Write([]byte("word")); err != nil {
		t.Fatal(err)
	}
	listener.SetReadDeadline(time.Now().Add(netnstest.Patience))
	if _, err := listener.Read(make([]byte, 100)); err != nil {
		t.Errorf("on an open session: %v, want a word", err)
	}
}

func (w World) replies(t *testing.T) uint64 {
	t.Helper()
	s, err := w.E.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Replies
}

func (f Filter) aBanOfOurOwnNetworkLeavesNeighbourDiscovery(t *testing.T) {
	w := f.NewWorld(t) // not even our own address is allowed
	enforcetest.Bans(t, w.E, enforcetest.For("2001:db8:1::/64", 0), enforcetest.For("2001:db8:1::/48", 0))
	for range 2 {
		w.Server.Run(t, "", "ip", "-6", "neigh", "flush", "all")
		w.Attacker.Run(t, "", "ip", "-6", "neigh", "flush", "all")
		w.Attacker.Reaches(t, "tcp", "2001:db8:a::7", "[2001:db8:1::1]:22") // by way of neighbours in the banned network
		w.Server.Reaches(t, "tcp", "", "[2001:db8:a::7]:443")
	}
}

// Packets of a host to itself never leave it, and no ban applies to them.
func (f Filter) loopbackIsNeverTouched(t *testing.T) {
	w := f.NewWorld(t) // not even our own addresses are allowed
	enforcetest.Bans(t, w.E, enforcetest.For("2001:db8:1::/48", 0), enforcetest.For("192.0.2.0/24", 0), enforcetest.For("192.0.2.1", 0))
	try(t, w.Server, []string{" " + ssh4, " " + ssh6, " " + dns4, " " + dns6, " tcp 127.0.0.1:22", " tcp [::1]:22"}, w.Server.Reaches)
	try(t, w.Attacker, []string{"192.0.2.8 " + ssh4, "2001:db8:1::7 " + ssh6}, w.Attacker.Blocked)
}

func (f Filter) linkLocalIsNeverTouched(t *testing.T) {
	w := f.NewWorld(t)
	enforcetest.Bans(t, w.E, enforcetest.For("2001:db8:1::/64", 0), enforcetest.For("192.0.2.0/24", 0))
	for _, line := range strings.Fields(w.Server.Run(t, "", "ip", "-6", "-o", "addr", "show", "dev", "veth0", "scope", "link")) {
		if addr, _, ok := strings.Cut(line, "/"); ok {
			if err := netnstest.Poll(func() error { return w.Attacker.Ping(addr+"%veth0", netnstest.Silence) }); err != nil {
				t.Errorf("ping %s: %v", addr, err)
			}
			return
		}
	}
	t.Fatal("the server has no link-local address")
}
