//go:build linux

package bantest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
)

// A host would lose its address if the answers of a DHCP server in a banned network did not pass. Its other packets are dropped.
func (f Filter) dhcpRepliesPass(t *testing.T) {
	w := f.NewWorld(t)
	enforcetest.Bans(t, w.E, enforcetest.For("192.0.2.0/24", time.Hour), enforcetest.For("2001:db8:1::/64", time.Hour))
	for way, passes := range map[[2]string]bool{
		{"192.0.2.7:67", "192.0.2.1:68"}:               true,
		{"192.0.2.7:67", "192.0.2.1:69"}:               false,
		{"192.0.2.7:66", "192.0.2.1:68"}:               false,
		{"[2001:db8:1::7]:547", "[2001:db8:1::1]:546"}: true,
		{"[2001:db8:1::7]:547", "[2001:db8:1::1]:545"}: false,
		{"[2001:db8:1::7]:546", "[2001:db8:1::1]:546"}: false,
		{"[2001:db8:1::7]:67", "[2001:db8:1::1]:68"}:   false,
	} {
		from, to := netip.MustParseAddrPort(way[0]), netip.MustParseAddrPort(way[1])
		if got := w.arrives(t, from, to, passes); got != passes {
			t.Errorf("a datagram from %s to %s arrives: %v, want %v", from, to, got, passes)
		}
	}
}

// arrives sends datagrams from the attacker to the server, and reports whether one arrives.
func (w World) arrives(t *testing.T, from, to netip.AddrPort, expected bool) bool {
	t.Helper()
	var there, here *net.UDPConn
	var err error
	w.Server.Do(func() { there, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(to)) })
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	w.Attacker.Do(func() { here, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to)) })
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if _, err := here.Write([]byte("offer")); err != nil {
		t.Fatal(err)
	}
	there.SetReadDeadline(time.Now().Add(netnstest.Silence))
	if expected {
		there.SetReadDeadline(time.Now().Add(netnstest.Patience))
	}
	_, err = there.Read(make([]byte, 100))
	return err == nil
}

// Neighbour discovery of the link passes. It has hop limit 255, which no host beyond the link can send. Other messages from or to
// a banned neighbour are dropped.
func (f Filter) onlyNeighbourDiscoveryOfTheLinkPasses(t *testing.T) {
	w := f.NewWorld(t)
	enforcetest.Bans(t, w.E, enforcetest.For("2001:db8:1::/64", time.Hour))
	const link = 255
	var incoming, outgoing []string
	for _, way := range []struct {
		ns       *netnstest.NS
		from, to string
		got      *[]string
	}{
		{w.Attacker, "2001:db8:1::7", "2001:db8:1::1", &incoming},
		{w.Server, "2001:db8:1::1", "2001:db8:1::7", &outgoing},
	} {
		there := w.Attacker
		if way.ns == w.Attacker {
			there = w.Server
		}
		conn := icmp6(t, there, "::")
		for typ := byte(128); typ <= 137; typ++ {
			for _, hops := range []int{1, 64, 254, link} {
				sendICMP6(t, way.ns, way.from, way.to, typ, hops)
			}
		}
		// These are not banned, and one of them comes last.
		sendICMP6(t, w.Attacker, "2001:db8:a::7", "2001:db8:1::1", 200, 200)
		sendICMP6(t, w.Server, "2001:db8:1::1", "2001:db8:a::7", 200, 200)
		*way.got = received(t, conn)
	}
	want := []string{"133 of 255", "134 of 255", "135 of 255", "136 of 255"}
	for name, got := range map[string][]string{"from a banned neighbour": incoming, "to a banned neighbour": outgoing} {
		if !slices.Equal(got, want) {
			t.Errorf("%s pass %q, want %q", name, got, want)
		}
	}
}

// icmp6 opens a socket for ICMPv6 messages from and to an address, or to any: "::".
func icmp6(t *testing.T, ns *netnstest.NS, addr string) *net.IPConn {
	t.Helper()
	var conn *net.IPConn
	var err error
	ns.Do(func() {
		conn, err = net.ListenIP("ip6:ipv6-icmp", &net.IPAddr{IP: netip.MustParseAddr(addr).AsSlice()})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// sendICMP6 sends a message that contains its type. A refusal by the sender's kernel, on output, is not an error.
func sendICMP6(t *testing.T, ns *netnstest.NS, from, to string, typ byte, hops int) {
	t.Helper()
	conn := icmp6(t, ns, from)
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops) })
	if err != nil {
		t.Fatal(err)
	}
	message := append([]byte{typ, 0, 0, 0}, fmt.Sprintf("mef: %d of %d", typ, hops)...) // the kernel fills in the checksum
	if _, err := conn.WriteToIP(message, &net.IPAddr{IP: netip.MustParseAddr(to).AsSlice()}); err != nil && !isRefusal(err) {
		t.Fatal(err)
	}
}

func isRefusal(err error) bool { return errors.Is(err, syscall.EPERM) }

// received returns the texts of the messages that sendICMP6 sent, up to the last.
func received(t *testing.T, conn *net.IPConn) (said []string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(netnstest.Patience))
	buf := make([]byte, 200)
	for {
		n, _, err := conn.ReadFromIP(buf)
		if err != nil {
			t.Fatal(err)
		}
		text, ok := strings.CutPrefix(string(buf[min(n, 4):n]), "mef: ")
		if text == "200 of 200" {
			return said
		}
		if ok {
			said = append(said, text)
		}
	}
}
