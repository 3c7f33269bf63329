//go:build integration

package host_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"mef/internal/host"
	"mef/internal/netnstest"
)

func TestListeners(t *testing.T) {
	ns := netnstest.New(t)
	for _, at := range []struct{ network, addr string }{{"tcp4", "127.0.0.1:2001"}, {"tcp6", "[::]:2002"}, {"tcp4", "0.0.0.0:2003"}} {
		defer netnstest.In(t, ns, func() (net.Listener, error) { return net.Listen(at.network, at.addr) }).Close()
	}
	defer netnstest.In(t, ns, func() (net.PacketConn, error) { return net.ListenPacket("udp6", "[::1]:2004") }).Close()
	// A UDP socket that asks somebody waits for nobody else.
	defer netnstest.In(t, ns, func() (net.Conn, error) { return net.Dial("udp4", "127.0.0.1:53") }).Close()
	var got []string
	for _, l := range netnstest.In(t, ns, host.Listeners) {
		if l.UID != uint32(os.Getuid()) || l.Program == "" {
			t.Errorf("%+v: want our user ID, %d, and the name of the program", l, os.Getuid())
		}
		got = append(got, fmt.Sprintf("%s %s %v", l.Protocol, netip.AddrPortFrom(l.Addr, l.Port), l.Local()))
	}
	want := []string{"tcp 127.0.0.1:2001 true", "tcp [::]:2002 false", "tcp 0.0.0.0:2003 false", "udp [::1]:2004 true"}
	if !slices.Equal(got, want) {
		t.Errorf("listeners are %q, want %q", got, want)
	}
}

func TestPeersOfPorts(t *testing.T) {
	server, client := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, client, "192.0.2.1/24 2001:db8::1/64", "192.0.2.7/24 192.0.2.8/24 2001:db8::7/64")
	for _, port := range []string{":22", ":80"} {
		l := netnstest.In(t, server, func() (net.Listener, error) { return net.Listen("tcp", port) }) // dual-stack: IPv4 peers are mapped
		defer l.Close()
	}
	dial := func(from, to string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		return netnstest.In(t, client, func() (net.Conn, error) { return d.Dial("tcp", to) })
	}
	ended := dial("192.0.2.7", "192.0.2.1:22")
	defer dial("2001:db8::7", "[2001:db8::1]:22").Close()
	defer dial("192.0.2.8", "192.0.2.1:80").Close() // another port
	peers := func() map[netip.Addr]bool {
		return netnstest.In(t, server, func() (map[netip.Addr]bool, error) { return host.Peers([]uint16{22, 2222}) })
	}
	v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	// Whoever connects may be through before the other end has noticed.
	if err := netnstest.Poll(func() error {
		if got := peers(); len(got) != 2 || !got[v4] || !got[v6] {
			return fmt.Errorf("peers of port 22 are %v, want %s and %s", got, v4, v6)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	ended.Close()
	for end := time.Now().Add(netnstest.Patience); peers()[v4]; {
		if time.Now().After(end) {
			t.Fatal("a connection that was closed still counts")
		}
	}
}
