//go:build linux

package bantest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
)

// liveSessionsAreCutBothWays has both ends of a session send without waiting for each other: neither may receive anything that the
// other sends once the peer is banned.
func (f Filter) liveSessionsAreCutBothWays(t *testing.T) {
	const container = "container"
	for name, c := range map[string]struct{ at, network, listen, from, to, key string }{
		"TCP":                  {"", "tcp4", "192.0.2.1:2222", "192.0.2.7", "192.0.2.1:2222", "192.0.2.7"},
		"TCP of a network":     {"", "tcp4", "192.0.2.1:2222", "192.0.2.7", "192.0.2.1:2222", "192.0.2.0/25"},
		"TCP by port":          {"", "tcp4", "192.0.2.1:2222", "192.0.2.7", "192.0.2.1:2222", "192.0.2.7 ports 2222"},
		"TCP, v6":              {"", "tcp6", "[2001:db8:1::1]:2222", "2001:db8:a::7", "[2001:db8:1::1]:2222", "2001:db8:a::/64"},
		"TCP by ports, v6":     {"", "tcp6", "[2001:db8:1::1]:2222", "2001:db8:a::7", "[2001:db8:1::1]:2222", "2001:db8:a::/64 ports 22,2200-2300"},
		"UDP":                  {"", "udp4", "192.0.2.1:5353", "192.0.2.7", "192.0.2.1:5353", "192.0.2.7"},
		"UDP by port":          {"", "udp4", "192.0.2.1:5353", "192.0.2.7", "192.0.2.1:5353", "192.0.2.7 ports 5353"},
		"UDP, v6":              {"", "udp6", "[2001:db8:1::1]:5353", "2001:db8:a::7", "[2001:db8:1::1]:5353", "2001:db8:a::7"},
		"TCP to the container": {container, "tcp4", "172.17.0.2:81", "192.0.2.7", "192.0.2.1:8081", "192.0.2.7"},
		"UDP to the container": {container, "udp4", "172.17.0.2:81", "192.0.2.7", "192.0.2.1:8081", "192.0.2.7"},
	} {
		t.Run(name, func(t *testing.T) {
			w := f.NewWorld(t)
			ns := w.Server
			if c.at == container {
				ns = w.Container
			}
			peer, ours := w.Session(t, ns, c.network, c.listen, c.from, c.to)
			heardByPeer, heardByUs := talk(t, peer, ours), talk(t, ours, peer)
			asked := time.Now()
			enforcetest.Bans(t, w.E, enforcetest.For(c.key, time.Hour))
			held := time.Now()
			for who, last := range map[string]<-chan time.Time{"the peer": heardByPeer, "our end": heardByUs} {
				said := <-last
				t.Logf("the last word that %s heard was said %v after a ban was asked for, which took %v", who, said.Sub(asked), held.Sub(asked))
				if said.After(held) {
					t.Errorf("%s heard a word that was said %v after the ban held", who, said.Sub(held))
				}
			}
			if n := w.replies(t); n == 0 {
				t.Error("no reply was dropped")
			}
		})
	}
}

// Session opens a session from the attacker's address from to the address to, which leads to a listener of ns.
func (w World) Session(t *testing.T, ns *netnstest.NS, network, listen, from, to string) (peer, ours net.Conn) {
	t.Helper()
	accept := acceptStream
	if strings.HasPrefix(network, "udp") {
		accept = acceptPackets
	}
	accepted := accept(t, ns, network, listen)
	peer, err := w.Attacker.Dial(network, from, to, netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if _, err := peer.Write([]byte(hello)); err != nil {
		t.Fatal(err)
	}
	select {
	case ours = <-accepted:
	case <-time.After(netnstest.Patience):
		t.Fatalf("no session from %s to %s", from, to)
	}
	t.Cleanup(func() { ours.Close() })
	return peer, ours
}

// hello is the first message of a peer. Our end has received it when a session begins.
const hello = "hello"

func acceptStream(t *testing.T, ns *netnstest.NS, network, listen string) <-chan net.Conn {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(func() { l, err = net.Listen(network, listen) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if _, err := io.ReadFull(conn, make([]byte, len(hello))); err == nil {
			accepted <- conn
		}
	}()
	return accepted
}

// A packetEnd is our end of an exchange of datagrams with one peer. The socket is not connected, as a server's is not.
type packetEnd struct {
	*net.UDPConn
	peer netip.AddrPort
}

func (e packetEnd) Write(b []byte) (int, error) { return e.WriteToUDPAddrPort(b, e.peer) }

func acceptPackets(t *testing.T, ns *netnstest.NS, network, listen string) <-chan net.Conn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	ns.Do(func() { conn, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(listen))) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		if _, from, err := conn.ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
			accepted <- packetEnd{conn, from}
		}
	}()
	return accepted
}

// talk has one end send a word every millisecond, whether or not it arrives, and the other receive. It returns once words arrive; the
// channel yields the time at which the last word that arrived was sent, after no more have come for a while.
func talk(t *testing.T, listener, speaker net.Conn) <-chan time.Time {
	t.Helper()
	ctx, hush := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { hush(); wg.Wait() })
	began := time.Now()
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			word := binary.BigEndian.AppendUint64(nil, uint64(time.Since(began)))
			speaker.SetWriteDeadline(time.Now().Add(time.Millisecond)) // a stream that is cut fills its buffer
			speaker.Write(word)
		}
	})
	const wordLen = 8
	buf := make([]byte, 64<<10)
	var last time.Time
	rest := 0 // of a word in the buffer whose end has not come yet
	hear := func(patience time.Duration) error {
		listener.SetReadDeadline(time.Now().Add(patience))
		n, err := listener.Read(buf[rest:])
		if n += rest; n >= wordLen {
			whole := n - n%wordLen
			last = began.Add(time.Duration(binary.BigEndian.Uint64(buf[whole-wordLen:])))
			copy(buf, buf[whole:n])
		}
		rest = n % wordLen
		return err
	}
	for last.IsZero() {
		if err := hear(netnstest.Patience); err != nil {
			t.Fatalf("before the ban: %v", err)
		}
	}
	heard := make(chan time.Time, 1)
	limit := time.Now().Add(netnstest.Patience)
	wg.Go(func() {
		for time.Now().Before(limit) && hear(netnstest.Silence) == nil {
		}
		heard <- last
	})
	return heard
}

// A banned packet is dropped before connection tracking, so that a flood of them does not fill its table.
func (f Filter) aBannedSourceCostsNoConntrackEntry(t *testing.T) {
	w := f.NewWorld(t) // whose server translates addresses, and so tracks connections
	enforcetest.Bans(t, w.E, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("2001:db8:a::/64", time.Hour),
		enforcetest.For("192.0.2.9 unverified", time.Hour))
	w.Server.Run(t, "table ip6 track { chain in { type filter hook input priority 0; ct state established accept; }\n}", "nft", "-f", "-")
	for _, c := range []string{"192.0.2.7 " + ssh4, "192.0.2.7 " + dns4, "192.0.2.7 " + published, "2001:db8:a::7 " + ssh6, "192.0.2.9 " + ssh4} {
		try(t, w.Attacker, []string{c}, w.Attacker.Blocked)
	}
	try(t, w.Attacker, []string{"192.0.2.8 " + ssh4, "2001:db8:b::7 " + ssh6}, w.Attacker.Reaches)
	for addr, want := range map[string]bool{"192.0.2.7": false, "2001:db8:a::7": false, "192.0.2.9": false, "192.0.2.8": true, "2001:db8:b::7": true} {
		family := "ipv4"
		if strings.Contains(addr, ":") {
			family = "ipv6"
		}
		got := strings.Contains(w.Server.Run(t, "", "conntrack", "-L", "-f", family), fmt.Sprintf("src=%s ", addr))
		if got != want {
			t.Errorf("an entry of %s: %v, want %v", addr, got, want)
		}
	}
}

// dropsAreCounted compares the counters of dropped packets with those of the bans and lists, and with samples.
func (f Filter) dropsAreCounted(t *testing.T) {
	w := f.NewWorld(t)
	samples := sample(t, w.Server)
	enforcetest.Bans(t, w.E, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("2001:db8:a::/64", time.Hour),
		enforcetest.For("192.0.2.8 ports 22", time.Hour), enforcetest.For("192.0.2.9 unverified", time.Hour))
	if err := w.E.SetLists(t.Context(), []enforce.List{{Name: "x", Addrs: enforcetest.Packed("172.17.0.2"), Both: true}}); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"192.0.2.7", "2001:db8:a::7", "192.0.2.8", "192.0.2.9"} {
		to := ssh4
		if strings.Contains(from, ":") {
			to = ssh6
		}
		try(t, w.Attacker, []string{from + " " + to}, w.Attacker.Blocked)
	}
	// The SYN of this host is a packet to a banned address, or to a listed one.
	try(t, w.Server, []string{" tcp 192.0.2.7:443", " tcp 172.17.0.2:81"}, w.Server.Blocked)
	// A segment that was sent again may arrive between two looks.
	if err := netnstest.Poll(func() error {
		d, err := w.E.Drops(t.Context())
		s, err2 := w.E.Held(t.Context())
		lists, err3 := w.E.Lists(t.Context())
		var want enforce.Drops
		for _, h := range s.Bans {
			if h.Class == ban.Unverified {
				want.Unverified += h.Packets
			} else {
				want.Verified += h.Packets
			}
		}
		want.Replies = s.Replies
		want.Verified -= s.Replies
		for _, l := range lists {
			want.Lists += l.Packets
		}
		switch {
		case errors.Join(err, err2, err3) != nil:
			return errors.Join(err, err2, err3)
		case d != want || min(d.Verified, d.Unverified, d.Replies, d.Lists) == 0:
			return fmt.Errorf("drops: %+v; bans and lists have counted %+v", d, want)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	w.dropsAreSampled(t, samples)
}
