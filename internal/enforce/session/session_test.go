//go:build integration

package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/session"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// A world is a server that tracks connections and ends sessions, a container behind it, and a peer with several addresses.
type world struct {
	server, peer, container *netnstest.NS
	ender                   *session.Ender
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{netnstest.New(t), netnstest.New(t), netnstest.New(t), nil}
	netnstest.Join(t, w.server, w.peer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 192.0.2.8/24 2001:db8:1::7/64 2001:db8:1::8/64")
	netnstest.Join(t, w.server, w.container, "172.17.0.1/16 fd00:17::1/64", "172.17.0.2/16 fd00:17::2/64")
	w.container.Route(t, "0.0.0.0/0", "172.17.0.1")
	w.container.Route(t, "::/0", "fd00:17::1")
	w.server.Sysctl(t, "net.ipv4.ip_forward", "1")
	w.server.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	w.server.Run(t, `
		table ip nat {
			chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 172.17.0.2:80; }
			chain post { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 masquerade; }
		}
		table ip6 nat { chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to [fd00:17::2]:80; }; }
		table ip6 track { chain in { type filter hook input priority 0; ct state established accept; }; }
		`, "nft", "-f", "-")
	w.container.Echo(t, "tcp", ":80")
	w.ender = session.New(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		var err error
		w.server.Do(func() { err = w.ender.Run(ctx) })
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	return w
}

// accept opens a connection from an address of the peer and returns the server's end.
func (w world) accept(t *testing.T, network, listen, from, to string) net.Conn {
	t.Helper()
	var l net.Listener
	var err error
	w.server.Do(func() { l, err = net.Listen(network, listen) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := w.peer.Dial("tcp", from, to, netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { got.Close() })
	return got
}

// ended waits until a connection is aborted.
func ended(conn net.Conn) error {
	conn.SetReadDeadline(time.Now().Add(netnstest.Patience))
	_, err := conn.Read(make([]byte, 1))
	return err
}

// alive reports that a connection is still there: reading waits.
func alive(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(netnstest.Silence))
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func keys(names ...string) (out []ban.Key) {
	for _, n := range names {
		out = append(out, enforcetest.Key(n))
	}
	return out
}

// Who is not banned any more when his turn comes may have connected again.
func TestSessionsOfLiftedBansStay(t *testing.T) {
	w := newWorld(t)
	banned := func() {
		conn := w.accept(t, "tcp4", ":22", "192.0.2.8", "192.0.2.1:22")
		w.ender.Add(keys("192.0.2.8"), prefixset.Set{})
		if err := ended(conn); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("the banned peer's connection: %v, want ECONNABORTED", err)
		}
	}
	again := w.accept(t, "tcp4", ":22", "192.0.2.7", "192.0.2.1:22")
	banned() // the next pass is a second away
	w.ender.Add(keys("192.0.2.7"), prefixset.Set{})
	w.ender.Forget(keys("192.0.2.7"))
	banned()
	if !alive(again) {
		t.Error("a peer whose ban was lifted lost his connection")
	}
}

func TestSocketsOfBannedPeersEnd(t *testing.T) {
	many := keys("192.0.2.7")
	for i := range 2000 {
		many = append(many, enforcetest.Key(fmt.Sprintf("203.0.%d.%d", i/250, i%250)))
	}
	for name, tt := range map[string]struct {
		network, listen, from, to string
		keys                      []ban.Key
		spared                    string
		ends                      bool
	}{
		"IPv4":                 {"tcp4", "192.0.2.1:22", "192.0.2.7", "192.0.2.1:22", keys("192.0.2.7"), "", true},
		"IPv4 network":         {"tcp4", "192.0.2.1:22", "192.0.2.7", "192.0.2.1:22", keys("198.51.100.0/24", "192.0.2.0/28"), "", true},
		"another address":      {"tcp4", "192.0.2.1:22", "192.0.2.7", "192.0.2.1:22", keys("192.0.2.8", "198.51.100.0/24"), "", false},
		"dual-stack socket":    {"tcp", "[::]:22", "192.0.2.7", "192.0.2.1:22", keys("192.0.2.7"), "", true},
		"IPv6":                 {"tcp", "[::]:22", "2001:db8:1::7", "[2001:db8:1::1]:22", keys("192.0.2.7", "2001:db8:1::/64"), "", true},
		"IPv6 neighbour":       {"tcp", "[::]:22", "2001:db8:1::8", "[2001:db8:1::1]:22", keys("2001:db8:1::7"), "", false},
		"the port":             {"tcp", "[::]:22", "192.0.2.7", "192.0.2.1:22", keys("192.0.2.7 ports 20-22,25"), "", true},
		"another port":         {"tcp", "[::]:22", "192.0.2.7", "192.0.2.1:22", keys("192.0.2.7 ports 25,465"), "", false},
		"spared":               {"tcp", "[::]:22", "192.0.2.7", "192.0.2.1:22", keys("192.0.2.0/24"), "192.0.2.7/32", false},
		"more than the filter": {"tcp", "[::]:22", "192.0.2.7", "192.0.2.1:22", many, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			conn := w.accept(t, tt.network, tt.listen, tt.from, tt.to)
			var spared prefixset.Set
			if tt.spared != "" {
				spared = prefixset.New(netip.MustParsePrefix(tt.spared))
			}
			w.ender.Add(tt.keys, spared)
			if !tt.ends {
				if !alive(conn) {
					t.Error("the session ended")
				}
				return
			}
			if err := ended(conn); !errors.Is(err, syscall.ECONNABORTED) {
				t.Errorf("read from the session: %v, want ECONNABORTED", err)
			}
		})
	}
}

func TestConnectedUDPSocketsEnd(t *testing.T) {
	w := newWorld(t)
	w.peer.Echo(t, "udp4", "192.0.2.7:53")
	conn, err := w.server.Dial("udp", "", "192.0.2.7:53", netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w.ender.Add(keys("192.0.2.7"), prefixset.Set{})
	if err := ended(conn); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("read from the socket: %v, want ECONNABORTED", err)
	}
}

// entries returns the connection tracking entries that name an address.
func (w world) entries(t *testing.T, addr string) int {
	t.Helper()
	n := 0
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(w.server.Run(t, "", "conntrack", "-L", "-f", family)) {
			if strings.Contains(line, "="+addr+" ") {
				n++
			}
		}
	}
	return n
}

func TestConntrackEntriesOfBannedPeersGo(t *testing.T) {
	w := newWorld(t)
	w.server.Echo(t, "tcp", ":22")
	w.peer.Echo(t, "tcp", ":443")
	for _, dial := range []struct {
		ns       *netnstest.NS
		from, to string
	}{
		{w.peer, "192.0.2.7", "192.0.2.1:22"},              // to the host
		{w.peer, "192.0.2.7", "192.0.2.1:8080"},            // to the container, translated
		{w.container, "", "192.0.2.7:443"},                 // from the container, translated
		{w.peer, "192.0.2.8", "192.0.2.1:22"},              // of another
		{w.peer, "192.0.2.8", "192.0.2.1:8080"},            // of another, by a port
		{w.peer, "2001:db8:1::7", "[2001:db8:1::1]:22"},    // IPv6
		{w.peer, "2001:db8:1::8", "[2001:db8:1::1]:22"},    // IPv6, of another
		{w.server, "2001:db8:1::1", "[2001:db8:1::7]:443"}, // IPv6, from the host
	} {
		conn, err := dial.ns.Dial("tcp", dial.from, dial.to, netnstest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for addr, want := range map[string]int{"192.0.2.7": 3, "192.0.2.8": 2, "2001:db8:1::7": 2, "2001:db8:1::8": 1} {
		if got := w.entries(t, addr); got != want {
			t.Fatalf("%d entries of %s before the ban, want %d", got, addr, want)
		}
	}
	w.ender.Add(keys("192.0.2.7", "2001:db8:1::7", "192.0.2.8 ports 8000-8080"), prefixset.Set{})
	if err := netnstest.Poll(func() error {
		for addr, want := range map[string]int{"192.0.2.7": 0, "192.0.2.8": 1, "2001:db8:1::7": 0, "2001:db8:1::8": 1} {
			if got := w.entries(t, addr); got != want {
				return fmt.Errorf("%d entries of %s after the ban, want %d", got, addr, want)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestNothingToEndIsNoError(t *testing.T) {
	ns := netnstest.New(t)
	var said strings.Builder
	e := session.New(slog.New(slog.NewTextHandler(io.Writer(&said), nil)))
	e.Add(keys("192.0.2.7", "2001:db8::/48", "192.0.2.9 ports 25"), prefixset.Set{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	ns.Do(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	if said.Len() > 0 {
		t.Errorf("logged:\n%s", said.String())
	}
}

// TestConnected asks for the peers of open connections of both families, by narrow and by wide prefixes, and by very many.
func TestConnected(t *testing.T) {
	w := newWorld(t)
	w.accept(t, "tcp4", "192.0.2.1:22", "192.0.2.7", "192.0.2.1:22")
	w.accept(t, "tcp", ":23", "192.0.2.8", "192.0.2.1:23") // IPv4-mapped on our side
	w.accept(t, "tcp6", "[2001:db8:1::1]:22", "2001:db8:1::7", "[2001:db8:1::1]:22")
	var many []netip.Prefix
	for a := netip.MustParseAddr("10.0.0.1"); len(many) < 600; a = a.Next() {
		many = append(many, netip.PrefixFrom(a, 32))
	}
	for name, tt := range map[string]struct {
		ask  []string
		more []netip.Prefix
		want string
	}{
		"one":             {ask: []string{"192.0.2.7/32"}, want: "192.0.2.7"},
		"one, mapped":     {ask: []string{"192.0.2.8/32"}, want: "192.0.2.8"},
		"a stranger":      {ask: []string{"192.0.2.9/32", "2001:db8:1::8/128"}},
		"networks":        {ask: []string{"192.0.2.0/24", "2001:db8:1::/64"}, want: "192.0.2.7 192.0.2.8 2001:db8:1::7"},
		"among very many": {ask: []string{"192.0.2.8/32"}, more: many, want: "192.0.2.8"},
	} {
		prefixes := tt.more
		for _, p := range tt.ask {
			prefixes = append(prefixes, netip.MustParsePrefix(p))
		}
		if got, err := w.connected(prefixes...); err != nil || got != tt.want {
			t.Errorf("%s: connected are %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

// connected returns who of some prefixes is connected with the server, in order.
func (w world) connected(prefixes ...netip.Prefix) (string, error) {
	var addrs []netip.Addr
	var err error
	w.server.Do(func() { addrs, err = session.Connected(prefixes) })
	slices.SortFunc(addrs, netip.Addr.Compare)
	return strings.Trim(fmt.Sprint(addrs), "[]"), err
}

// A connection to a published port has no socket on the host.
func TestConnectedThroughPublishedPort(t *testing.T) {
	one4, one6 := netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8:1::7/128")
	net4, net6 := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")
	var many []netip.Prefix
	for a := netip.MustParseAddr("10.0.0.1"); len(many) < 600; a = a.Next() {
		many = append(many, netip.PrefixFrom(a, 32))
	}
	w := newWorld(t)
	conns := map[string]net.Conn{}
	for from, to := range map[string]string{"192.0.2.7": "192.0.2.1:8080", "2001:db8:1::7": "[2001:db8:1::1]:8080"} {
		conn, err := w.peer.Dial("tcp", from, to, netnstest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := netnstest.Say(conn, netnstest.Patience); err != nil {
			t.Fatal(err)
		}
		conns[from] = conn
	}
	for _, tt := range []struct {
		ask  []netip.Prefix
		want string
	}{
		{[]netip.Prefix{one4}, "192.0.2.7"},
		{[]netip.Prefix{one6}, "2001:db8:1::7"},
		{[]netip.Prefix{one4, one6, netip.MustParsePrefix("192.0.2.8/32")}, "192.0.2.7 2001:db8:1::7"},
		{[]netip.Prefix{net4, net6}, "192.0.2.7 2001:db8:1::7"},
		{append(many[:len(many):len(many)], one4), "192.0.2.7"},
		{[]netip.Prefix{netip.MustParsePrefix("192.0.2.8/32"), netip.MustParsePrefix("2001:db8:1::8/128"), netip.MustParsePrefix("198.51.100.0/24")}, ""},
	} {
		if got, err := w.connected(tt.ask...); err != nil || got != tt.want {
			t.Errorf("of %v connected are %q, %v, want %q", tt.ask[max(0, len(tt.ask)-3):], got, err, tt.want)
		}
	}
	conns["192.0.2.7"].Close()
	if err := netnstest.Poll(func() error {
		if got, err := w.connected(net4, net6); err != nil || got != "2001:db8:1::7" {
			return fmt.Errorf("connected are %q, %v", got, err)
		}
		return nil
	}); err != nil {
		t.Errorf("after one closed its connection: %v", err)
	}
}

// Connection tracking takes a forged ACK for an established connection, but no answer ever assured it.
func TestForgedSegmentIsNoConnection(t *testing.T) {
	w := newWorld(t)
	w.container.Run(t, "table ip silent { chain in { type filter hook input priority 0; ip saddr 192.0.2.9 drop; }; }", "nft", "-f", "-")
	door := netnstest.In(t, w.server, func() (net.HardwareAddr, error) { return netnstest.HardwareAddr("veth0") })
	wire := netnstest.In(t, w.peer, func() (*netnstest.Wire, error) { return netnstest.OpenWire("veth0", door) })
	defer wire.Close()
	const ack = 16
	if err := netnstest.Poll(func() error {
		if err := wire.TCP(netip.MustParseAddrPort("192.0.2.9:4711"), netip.MustParseAddrPort("192.0.2.1:8080"), ack); err != nil {
			return err
		}
		if list := w.server.Run(t, "", "conntrack", "-L", "-s", "192.0.2.9"); !strings.Contains(list, " ESTABLISHED ") {
			return fmt.Errorf("the entries are %q", list)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"192.0.2.9/32", "192.0.2.0/24"} {
		if got, err := w.connected(netip.MustParsePrefix(p)); err != nil || got != "" {
			t.Errorf("of %s connected are %q, %v, want none", p, got, err)
		}
	}
}

// Packets that went both ways for some seconds make a UDP peer, whichever end began and whether or not a socket is connected. A forged
// packet, or a single answered one, does not.
func TestUDPPeersAreConnected(t *testing.T) {
	w := newWorld(t)
	w.server.Run(t, "", "nft", "add chain ip nat track { type filter hook input priority 1; }; add rule ip nat track ct state established accept")
	w.server.Echo(t, "udp4", "192.0.2.1:5060")
	w.peer.Echo(t, "udp4", "192.0.2.8:5060")
	came, err := w.peer.Dial("udp", "192.0.2.7", "192.0.2.1:5060", netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer came.Close()
	went := netnstest.In(t, w.server, func() (net.PacketConn, error) { return net.ListenPacket("udp4", "192.0.2.1:5070") })
	defer went.Close()
	both := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("192.0.2.8/32")}
	exchange := func() error {
		if err := netnstest.Say(came, netnstest.Patience); err != nil {
			return err
		}
		if _, err := went.WriteTo([]byte("word"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.8:5060"))); err != nil {
			return err
		}
		_, _, err := went.ReadFrom(make([]byte, 100))
		return err
	}
	if err := netnstest.Poll(exchange); err != nil {
		t.Fatal(err)
	}
	if got, err := w.connected(both...); err != nil || got != "" {
		t.Errorf("after one exchange, connected are %q, %v, want none", got, err)
	}
	if err := netnstest.Poll(func() error {
		if err := exchange(); err != nil {
			return err
		}
		if got, err := w.connected(both...); err != nil || got != "192.0.2.7 192.0.2.8" {
			return fmt.Errorf("connected are %q, %v", got, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
