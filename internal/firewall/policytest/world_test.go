//go:build integration

package policytest_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/firewall/policy"
	"mef/internal/netnstest"
)

// A host is a namespace whose interfaces are ours: what is written to one arrives there. It has the addresses that rulestest's
// policies and packets name, publishes ports by NAT, and takes note of what becomes of packets:
//
//	before_in, before_fwd, before_out  what came to a hook, by which interfaces and in which state of connection tracking
//	after                              what the policy let pass. It goes no further.
//	resets, unreachables               what was answered so by the host, to which packet
//
// Packets are known again by their mark, which holds the tag of a frame, and which the kernel copies to its answers.
type host struct {
	ns    *netnstest.NS
	taps  map[string]*os.File // by name of the interface
	loop  int                 // socket for packets that arrive by loopback
	raw   map[string]int      // sockets for packets of the host's, by owner, family and the interface that they are bound to
	index map[uint32]string   // names of interfaces
	nft   *nftables.Conn
}

// A link is an interface, with its addresses and those that are reached by it.
type link struct{ name, addrs, nets string }

// The host's interfaces, with their addresses and those that are reached by them. 192.0.2.3 and 2001:db8::3 stand for the container.
var interfaces = []link{
	{"eth0", "192.0.2.1/24 2001:db8::1/64", "192.0.2.0/24 2001:db8::/64"},
	{"eth1", "198.51.100.1/24 192.0.2.3/32 2001:db8:1::1/64 2001:db8::3/128", "198.51.100.0/24 2001:db8:1::/64"},
	{"eth2", "203.0.113.1/24 2001:db8:2::1/64", "203.0.113.0/24 2001:db8:2::/64"},
}

// The container, to which ports are forwarded, and the addresses that stand for all of it.
var (
	container4, container6 = netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:1::2")
	standsFor4, standsFor6 = netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")
)

// The ports that are published: those of the host, and what they become in the container or in the host itself.
const (
	published, inside   = 8080, 80
	redirected, service = 8000, 22
)

// isOwn reports whether the host has an address.
func isOwn(a netip.Addr) bool {
	return a.IsLoopback() || slices.ContainsFunc(interfaces, func(i link) bool {
		return slices.ContainsFunc(strings.Fields(i.addrs), func(s string) bool { return netip.MustParsePrefix(s).Addr() == a })
	})
}

// linkTo returns the interface by which an address is reached.
func linkTo(a netip.Addr) string {
	if isOwn(a) {
		return policy.Loopback
	}
	i := slices.IndexFunc(interfaces, func(i link) bool {
		return slices.ContainsFunc(strings.Fields(i.nets), func(s string) bool { return netip.MustParsePrefix(s).Contains(a) })
	})
	return interfaces[i].name
}

// translated returns where the host sends what somebody addressed to an address and port.
func translated(proto policy.Proto, dst netip.Addr, port uint16) (netip.Addr, uint16) {
	container, own := container4, netip.MustParseAddr("192.0.2.1")
	if dst.Is6() {
		container, own = container6, netip.MustParseAddr("2001:db8::1")
	}
	switch {
	case dst == standsFor4 || dst == standsFor6:
		return container, port
	case proto != tcp && proto != udp || !isOwn(dst):
		return dst, port
	case port == published:
		return container, inside
	case port == redirected:
		return own, service
	}
	return dst, port
}

// before is the part of the host's own table that makes the world: marks, published ports, and the note of answers.
const before = `
table inet world {
	set resets { type mark; flags dynamic; size 65535; }
	set unreachables { type mark; flags dynamic; size 65535; }
	chain tag {
		meta nfproto ipv4 meta mark set @nh,32,32
		meta nfproto ipv6 meta mark set @nh,0,32
	}
	chain arrival {
		type filter hook prerouting priority -400
		jump tag
	}
	chain departure {
		type filter hook output priority -400
		meta mark != 0 jump answer
		jump tag
	}
	chain answer {
		tcp flags & rst == rst add @resets { meta mark } drop
		icmp type destination-unreachable icmp code port-unreachable add @unreachables { meta mark }
		icmpv6 type destination-unreachable icmpv6 code port-unreachable add @unreachables { meta mark }
		drop
	}
	chain untracked {
		ip id & 0x8000 != 0 notrack
		ip6 flowlabel & 0x8000 != 0 notrack
	}
	chain arrival_raw { type filter hook prerouting priority -300; jump untracked; }
	chain departure_raw { type filter hook output priority -300; jump untracked; }
	chain publish {
		ip daddr 192.0.2.3 dnat ip to 198.51.100.2
		ip6 daddr 2001:db8::3 dnat ip6 to 2001:db8:1::2
		ip daddr { 192.0.2.1, 198.51.100.1 } tcp dport 8080 dnat ip to 198.51.100.2:80
		ip daddr { 192.0.2.1, 198.51.100.1 } udp dport 8080 dnat ip to 198.51.100.2:80
		ip6 daddr { 2001:db8::1, 2001:db8:1::1 } tcp dport 8080 dnat ip6 to [2001:db8:1::2]:80
		ip6 daddr { 2001:db8::1, 2001:db8:1::1 } udp dport 8080 dnat ip6 to [2001:db8:1::2]:80
		ip daddr { 192.0.2.1, 198.51.100.1 } tcp dport 8000 dnat ip to 192.0.2.1:22
		ip daddr { 192.0.2.1, 198.51.100.1 } udp dport 8000 dnat ip to 192.0.2.1:22
		ip6 daddr { 2001:db8::1, 2001:db8:1::1 } tcp dport 8000 dnat ip6 to [2001:db8::1]:22
		ip6 daddr { 2001:db8::1, 2001:db8:1::1 } udp dport 8000 dnat ip6 to [2001:db8::1]:22
	}
	chain to_self {
		ip daddr { 192.0.2.1, 198.51.100.1 } udp dport 8000 redirect to :22
		ip6 daddr { 2001:db8::1, 2001:db8:1::1 } udp dport 8000 redirect to :22
	}
	chain arrival_nat {
		type nat hook prerouting priority -100
		iif != lo jump to_self
		jump publish
	}
	chain departure_nat { type nat hook output priority -100; jump publish; }
}
`

// around are the hooks before and behind the policy. Nothing gets further.
const around = `
table inet world {
	set before_in { typeof meta mark . iif . ct state; flags dynamic; size 65535; }
	set before_fwd { typeof meta mark . iif . oif . ct state; flags dynamic; size 65535; }
	set before_out { typeof meta mark . oif . ct state; flags dynamic; size 65535; }
	set after { type mark; flags dynamic; size 65535; }
	chain in_before { type filter hook input priority -1; add @before_in { meta mark . iif . ct state }; }
	chain fwd_before { type filter hook forward priority -1; add @before_fwd { meta mark . iif . oif . ct state }; }
	chain out_before { type filter hook output priority -1; add @before_out { meta mark . oif . ct state }; }
	chain in_after { type filter hook input priority 10; add @after { meta mark } drop; }
	chain fwd_after { type filter hook forward priority 10; add @after { meta mark } drop; }
	chain out_after { type filter hook output priority 10; add @after { meta mark } drop; }
}
`

var notes = []string{"before_in", "before_fwd", "before_out", "after", "resets", "unreachables"}

// newHost makes a host without a policy.
func newHost(t *testing.T) *host {
	t.Helper()
	return newHostWith(t, interfaces)
}

// newHostWith makes a host that has some interfaces.
func newHostWith(t *testing.T, links []link) *host {
	t.Helper()
	h := &host{ns: netnstest.New(t), taps: map[string]*os.File{}, raw: map[string]int{}, index: map[uint32]string{}}
	for key, value := range map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1",
		"net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0",
		"net.ipv4.conf.all.accept_local": "1", "net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0",
		"net.ipv4.fwmark_reflect": "1", "net.ipv6.fwmark_reflect": "1",
		"net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_ratemask": "0", "net.ipv6.icmp.ratelimit": "0", "net.ipv6.icmp.ratemask": "0",
		"net.ipv6.conf.default.addr_gen_mode": "1", "net.ipv6.conf.default.router_solicitations": "0", "net.ipv6.auto_flowlabels": "0",
	} {
		h.ns.Sysctl(t, key, value)
	}
	names := []string{""}
	for i, link := range links {
		h.plug(t, link.name, link.addrs, i)
		names = append(names, link.name)
	}
	h.ns.Do(func() { h.open(t, names) })
	h.ns.Run(t, before, "nft", "-f", "-")
	for _, name := range []string{"udp_timeout", "udp_timeout_stream", "icmp_timeout", "icmpv6_timeout", "generic_timeout", "gre_timeout",
		"gre_timeout_stream", "tcp_timeout_close", "tcp_timeout_unacknowledged", "tcp_timeout_max_retrans"} {
		h.ns.Sysctl(t, "net.netfilter.nf_conntrack_"+name, "86400")
	}
	h.ns.Sysctl(t, "net.netfilter.nf_conntrack_tcp_be_liberal", "1")
	return h
}

// plug makes an interface, whose packets are ours to write, and a route to everywhere by it.
func (h *host) plug(t *testing.T, name, addrs string, metric int) {
	t.Helper()
	h.ns.Do(func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			netnstest.Missing(t, fmt.Sprintf("open /dev/net/tun: %v", err))
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			t.Fatalf("make %s: %v", name, err)
		}
		h.taps[name] = os.NewFile(uintptr(fd), name)
		t.Cleanup(func() { h.taps[name].Close() })
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("find %s: %v", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatalf("bring up %s: %v", name, err)
		}
	})
	h.ns.Addr(t, name, addrs)
	h.ns.Do(func() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatalf("find %s: %v", name, err)
		}
		for _, everywhere := range []string{"0.0.0.0/0", "::/0"} {
			_, dst, _ := net.ParseCIDR(everywhere)
			if err := netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: link.Attrs().Index, Priority: 10 + metric}); err != nil {
				t.Fatalf("route %s by %s: %v", everywhere, name, err)
			}
		}
	})
}

// open opens what packets are sent with and notes are read by, inside the namespace.
func (h *host) open(t *testing.T, names []string) {
	t.Helper()
	socket := func(domain, typ, proto int) int {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			t.Fatalf("socket: %v", err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	h.loop = socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	for _, link := range names {
		for i, o := range owners {
			become(t, o)
			for family, domain := range map[string]int{"4": unix.AF_INET, "6": unix.AF_INET6} {
				fd := socket(domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
				if h.raw[rawKey(i, family, link)] = fd; link == "" {
					continue
				}
				if err := unix.BindToDevice(fd, link); err != nil {
					t.Fatalf("bind to %s: %v", link, err)
				}
			}
		}
		become(t, owners[0])
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		h.index[uint32(link.Index)] = link.Name
	}
	if h.nft, err = nftables.New(nftables.AsLasting()); err != nil {
		t.Fatalf("open nftables: %v", err)
	}
	t.Cleanup(func() { h.nft.CloseLasting() })
}

// owners are those of the processes that send packets of the host.
var owners = []policy.Owner{{Process: true}, {Process: true, User: 33, Group: 8}, {Process: true, User: 8, Group: 8}}

// become makes the thread open sockets as an owner.
func become(t *testing.T, o policy.Owner) {
	t.Helper()
	_ = unix.Setfsuid(int(o.User)) // which report nothing
	_ = unix.Setfsgid(int(o.Group))
	if uid, _ := unix.SetfsuidRetUid(-1); uid != int(o.User) {
		netnstest.Missing(t, fmt.Sprintf("the namespace has no user %d", o.User))
	}
}

// rawKey names the socket of an owner for packets of a family by an interface.
func rawKey(owner int, family, link string) string { return fmt.Sprint(owner, family, link) }

// awaken waits until packets to addresses of the host arrive by an interface, which takes a moment from when it is up and has them. The world must
// translate nothing, and take note.
func (h *host) awaken(t *testing.T, link string, addrs ...netip.Addr) {
	t.Helper()
	const tag = 30_000
	for _, addr := range addrs {
		from := netip.MustParseAddr("198.19.0.3")
		if addr.Is6() {
			from = netip.MustParseAddr("2001:db8:98::3")
		}
		err := netnstest.Poll(func() error {
			h.arrives(t, link, frame{proto: udp, src: from, dst: addr, sport: 1, dport: 1, tag: tag}.udpDatagram(false))
			seen := map[uint16]*outcome{tag: {}}
			h.meetings(t, seen)
			if !slices.ContainsFunc(seen[tag].met, func(m meeting) bool { return m.dir == policy.In }) {
				return fmt.Errorf("no packet to %s arrives by %s", addr, link)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		h.forget(t)
	}
}

// arrives lets a packet arrive by an interface.
func (h *host) arrives(t *testing.T, link string, f frame) {
	t.Helper()
	var err error
	if link == policy.Loopback {
		ether := append(make([]byte, 12), 0x08, 0x00)
		if f.src.Is6() {
			ether = append(make([]byte, 12), 0x86, 0xdd)
		}
		err = unix.Sendto(h.loop, append(ether, f.bytes()...), 0, &unix.SockaddrLinklayer{Ifindex: 1})
	} else {
		_, err = h.taps[link].Write(f.bytes())
	}
	if err != nil {
		t.Fatalf("packet arrives by %s: %v", link, err)
	}
}

// sends has the host send a packet by an interface, or where routes lead.
func (h *host) sends(t *testing.T, link string, f frame) {
	t.Helper()
	var err error
	if f.dst.Is4() {
		err = unix.Sendto(h.raw[rawKey(f.owner, "4", link)], f.bytes(), 0, &unix.SockaddrInet4{Addr: f.dst.As4()})
	} else {
		err = unix.Sendto(h.raw[rawKey(f.owner, "6", link)], f.bytes(), 0, &unix.SockaddrInet6{Addr: f.dst.As16()})
	}
	if err != nil && err != unix.EPERM { // which says that it was dropped
		t.Fatalf("send %v from %s to %s: %v", f.proto, f.src, f.dst, err)
	}
}

// A meeting is a packet's arrival at the policy.
type meeting struct {
	dir     policy.Dir
	in, out string
	state   policy.States
}

// An outcome is what was seen of a packet.
type outcome struct {
	met                        []meeting
	passed, reset, unreachable bool
}

// outcomes returns what was seen of packets, by tag, once all of them have come to the policy, and forgets it.
func (h *host) outcomes(t *testing.T, tags []uint16) map[uint16]*outcome {
	t.Helper()
	all := map[uint16]*outcome{}
	for deadline := time.Now().Add(netnstest.Patience); ; time.Sleep(time.Millisecond) {
		for _, tag := range tags {
			all[tag] = &outcome{}
		}
		h.meetings(t, all)
		if time.Now().After(deadline) || !slices.ContainsFunc(tags, func(tag uint16) bool { return len(all[tag].met) == 0 }) {
			break
		}
	}
	for set, note := range map[string]func(*outcome){
		"after":        func(o *outcome) { o.passed = true },
		"resets":       func(o *outcome) { o.reset = true },
		"unreachables": func(o *outcome) { o.unreachable = true },
	} {
		for _, key := range h.noted(t, set) {
			if o := all[tagOf(key)]; o != nil {
				note(o)
			}
		}
	}
	h.forget(t)
	return all
}

// ctStates are the bits of ct state in nftables, in the order of ours.
var ctStates = []uint32{8, 2, 4, 1, 64}

// meetings notes which packets came to the policy.
func (h *host) meetings(t *testing.T, all map[uint16]*outcome) {
	t.Helper()
	for d, set := range []string{"before_in", "before_out", "before_fwd"} {
		for _, key := range h.noted(t, set) {
			o := all[tagOf(key)]
			if o == nil {
				continue
			}
			m := meeting{dir: policy.Dir(d)}
			words := make([]uint32, 0, 3)
			for b := key[4:]; len(b) > 0; b = b[4:] {
				words = append(words, binary.NativeEndian.Uint32(b))
			}
			if m.dir != policy.Out {
				m.in, words = h.index[words[0]], words[1:]
			}
			if m.dir != policy.In {
				m.out, words = h.index[words[0]], words[1:]
			}
			m.state = 1 << slices.Index(ctStates, words[0])
			if !slices.Contains(o.met, m) { // a set that grows may be read twice in part
				o.met = append(o.met, m)
			}
		}
	}
}

// noted returns the keys of a set.
func (h *host) noted(t *testing.T, set string) [][]byte {
	t.Helper()
	elements, err := h.nft.GetSetElements(h.set(set))
	if err != nil {
		t.Fatalf("read set %s: %v", set, err)
	}
	keys := make([][]byte, len(elements))
	for i, e := range elements {
		keys[i] = e.Key
	}
	return keys
}

func (h *host) set(name string) *nftables.Set {
	return &nftables.Set{Table: &nftables.Table{Name: "world", Family: nftables.TableFamilyINet}, Name: name}
}

// forget empties the notes.
func (h *host) forget(t *testing.T) {
	t.Helper()
	for _, set := range notes {
		h.nft.FlushSet(h.set(set))
	}
	if err := h.nft.Flush(); err != nil {
		t.Fatalf("empty the notes: %v", err)
	}
}
