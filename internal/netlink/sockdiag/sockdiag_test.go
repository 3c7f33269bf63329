//go:build integration

package sockdiag_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/sockdiag"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// A host is a server with a client that has many addresses.
type host struct {
	*testing.T
	server, client *netnstest.NS
	diag           *sockdiag.Conn
}

// clients are the addresses of the client. The server's end of an IPv4 connection to a dual-stack socket is IPv4-mapped.
var clients = []string{"192.0.2.7", "192.0.2.8", "192.0.2.70", "192.0.2.200", "2001:db8::7", "2001:db8::8", "2001:db8::7:0:0:7", "2001:db8::8000:0:0:7"}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{T: t, server: netnstest.New(t), client: netnstest.New(t)}
	var addrs []string
	for _, addr := range clients {
		addrs = append(addrs, netip.PrefixFrom(netip.MustParseAddr(addr), map[bool]int{true: 24, false: 64}[strings.Contains(addr, ".")]).String())
	}
	netnstest.Join(t, h.server, h.client, "192.0.2.1/24 2001:db8::1/64", strings.Join(addrs, " "))
	h.diag = netnstest.In(t, h.server, sockdiag.Dial)
	t.Cleanup(func() { h.diag.Close() })
	return h
}

// serverOf returns the server's address in the family of addr.
func serverOf(addr string) string {
	if strings.Contains(addr, ".") {
		return "192.0.2.1"
	}
	return "2001:db8::1"
}

// connect opens a connection from a client's address to a port of the server, and returns both ends.
func (h *host) connect(l net.Listener, from string) (theirs, ours net.Conn) {
	h.Helper()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	theirs, err := h.client.Dial("tcp", from, net.JoinHostPort(serverOf(from), port), netnstest.Patience)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { theirs.Close() })
	if ours, err = l.Accept(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { ours.Close() })
	return theirs, ours
}

func (h *host) listen(network, addr string) net.Listener {
	h.Helper()
	l := netnstest.In(h, h.server, func() (net.Listener, error) { return net.Listen(network, addr) })
	h.Cleanup(func() { l.Close() })
	return l
}

// list returns the sockets that the kernel lists, each as local and remote address, sorted.
func (h *host) list(protocol byte, states sockdiag.States, filter sockdiag.Filter) (all []string) {
	h.Helper()
	err := h.diag.Each(protocol, states, filter, func(s sockdiag.Socket) {
		all = append(all, fmt.Sprintf("%s %s", s.Local, s.Remote))
		if s.Inode == 0 && states&sockdiag.TimeWait == 0 || s.UID != uint32(os.Getuid()) {
			h.Errorf("%s %s: inode %d, user %d; want one, and the test's user", s.Local, s.Remote, s.Inode, s.UID)
		}
	})
	if err != nil {
		h.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// Both families are listed, IPv4-mapped addresses as IPv4, by state and by port.
func TestEach(t *testing.T) {
	h := newHost(t)
	dual, four := h.listen("tcp", ":22"), h.listen("tcp4", "192.0.2.1:80")
	var ends []string
	for _, l := range []net.Listener{dual, four} {
		for _, from := range []string{"192.0.2.7", "2001:db8::7"} {
			if l == four && strings.Contains(from, ":") {
				continue
			}
			_, ours := h.connect(l, from)
			ends = append(ends, fmt.Sprintf("%s %s", unmapped(ours.LocalAddr()), unmapped(ours.RemoteAddr())))
		}
	}
	slices.Sort(ends)
	if got := h.list(unix.IPPROTO_TCP, sockdiag.Established, nil); !slices.Equal(got, ends) {
		t.Errorf("established are %q, want %q", got, ends)
	}
	if got, want := h.list(unix.IPPROTO_TCP, sockdiag.Listen, nil), []string{"192.0.2.1:80 0.0.0.0:0", "[::]:22 [::]:0"}; !slices.Equal(got, want) {
		t.Errorf("listening are %q, want %q", got, want)
	}
	web := slices.DeleteFunc(slices.Clone(ends), func(end string) bool { return !strings.HasPrefix(end, "192.0.2.1:80 ") })
	if got := h.list(unix.IPPROTO_TCP, sockdiag.Established, sockdiag.LocalPort(80)); !slices.Equal(got, web) || len(web) != 1 {
		t.Errorf("established at port 80 are %q, want %q", got, web)
	}
	if got := h.list(unix.IPPROTO_TCP, sockdiag.Established, sockdiag.LocalPort(81)); got != nil {
		t.Errorf("established at port 81 are %q, want none", got)
	}

	packets := netnstest.In(t, h.server, func() (net.PacketConn, error) { return net.ListenPacket("udp4", "192.0.2.1:53") })
	defer packets.Close()
	if got, want := h.list(unix.IPPROTO_UDP, sockdiag.Close, nil), []string{"192.0.2.1:53 0.0.0.0:0"}; !slices.Equal(got, want) {
		t.Errorf("UDP sockets without a peer are %q, want %q", got, want)
	}
}

func unmapped(addr net.Addr) netip.AddrPort {
	a := addr.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// The kernel chooses by RemoteIn as netip does, for prefixes of any length around the clients' addresses.
func TestRemoteIn(t *testing.T) {
	h := newHost(t)
	l := h.listen("tcp", ":22")
	for _, from := range clients {
		h.connect(l, from)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var prefixes []netip.Prefix
		for range 1 + r.IntN(8) {
			addr := netip.MustParseAddr(clients[r.IntN(len(clients))])
			if r.IntN(3) == 0 {
				addr = addr.Next()
			}
			prefix, err := addr.Prefix(r.IntN(addr.BitLen() + 1))
			if err != nil {
				t.Fatal(err)
			}
			prefixes = append(prefixes, prefix)
		}
		var want []string
		for _, from := range clients {
			addr := netip.MustParseAddr(from)
			mapped := netip.AddrFrom16(addr.As16()) // as the dual-stack socket has it
			if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) || p.Contains(mapped) }) {
				want = append(want, from)
			}
		}
		var got []string
		err := h.diag.Each(unix.IPPROTO_TCP, sockdiag.Established, sockdiag.RemoteIn(prefixes), func(s sockdiag.Socket) {
			got = append(got, s.Remote.Addr().String())
		})
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("peers in %v are %q, %v; want %q", prefixes, got, err, want)
		}
	}
	many := slices.Repeat([]netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, 501)
	if sockdiag.RemoteIn(many) != nil || sockdiag.RemoteIn(nil) != nil {
		t.Error("501 prefixes, or none, make a filter; want all sockets")
	}
	if got := h.list(unix.IPPROTO_TCP, sockdiag.Established, sockdiag.RemoteIn(many[:500])); got != nil {
		t.Errorf("500 prefixes without a client choose %q", got)
	}
}

// Destroy ends one connection: both ends learn of it, and the others stay.
func TestDestroy(t *testing.T) {
	h := newHost(t)
	l := h.listen("tcp", ":22")
	theirs, ours := h.connect(l, "192.0.2.7")
	kept, keptOurs := h.connect(l, "2001:db8::7")
	var found []sockdiag.Socket
	filter := sockdiag.RemoteIn([]netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")})
	if err := h.diag.Each(unix.IPPROTO_TCP, sockdiag.Established, filter, func(s sockdiag.Socket) { found = append(found, s) }); err != nil || len(found) != 1 {
		t.Fatalf("%d sockets of the peer, %v", len(found), err)
	}
	if err := h.diag.Destroy(found[0]); errors.Is(err, unix.EOPNOTSUPP) {
		netnstest.Missing(t, err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		conn net.Conn
		want error
	}{"our end": {ours, syscall.ECONNABORTED}, "the peer's": {theirs, syscall.ECONNRESET}} {
		tt.conn.SetReadDeadline(time.Now().Add(netnstest.Patience))
		if _, err := tt.conn.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", what, err, tt.want)
		}
	}
	if err := h.diag.Destroy(found[0]); !errors.Is(err, unix.ENOENT) {
		t.Errorf("destroyed again: %v, want that there is none", err)
	}
	if _, err := keptOurs.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	kept.SetReadDeadline(time.Now().Add(netnstest.Patience))
	if _, err := kept.Read(make([]byte, 1)); err != nil {
		t.Errorf("another connection: %v", err)
	}
}
