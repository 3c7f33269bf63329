//go:build integration

package rtnl_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/rtnl"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// connect returns a connection to rtnetlink in a namespace.
func connect(t *testing.T, n *netnstest.NS) (c *rtnl.Conn) {
	t.Helper()
	var err error
	n.Do(func() { c, err = rtnl.Dial(0) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestReadsWhatIPMade(t *testing.T) {
	n := netnstest.New(t)
	for _, command := range []string{
		"link add br0 type bridge",
		"link add v0 type veth peer v1",
		"link set v0 master br0 up",
		"link set br0 up",
		"link set v1 up",
		"addr add 192.0.2.2/24 dev br0",
		"addr add 198.51.100.1 peer 198.51.100.9/30 dev br0",
		"addr add 2001:db8::2/64 dev br0 nodad",
		"route add default via 192.0.2.1",
		"route add 203.0.113.0/25 table 1000 nexthop via 192.0.2.3 nexthop via 192.0.2.4",
		"route add 203.0.113.128/25 via inet6 2001:db8::1 dev br0",
		"route add blackhole 10.0.0.0/8",
	} {
		n.Run(t, "", "sh", "-c", "ip "+command)
	}
	c := connect(t, n)
	links, err := c.Links()
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]rtnl.Link{}
	for _, l := range links {
		of[l.Name] = l
	}
	br0 := of["br0"].Index
	if of["br0"].Kind != "bridge" || of["v0"].Kind != "veth" || of["v0"].Master != br0 || of["v1"].Master != 0 || of["lo"].Index != 1 {
		t.Errorf("the interfaces are %+v", links)
	}
	addrs, err := c.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []rtnl.Addr{
		{Link: br0, Prefix: netip.MustParsePrefix("192.0.2.2/24")},
		{Link: br0, Prefix: netip.MustParsePrefix("198.51.100.1/32"), Peer: netip.MustParsePrefix("198.51.100.9/30")},
		{Link: br0, Prefix: netip.MustParsePrefix("2001:db8::2/64")},
		{Link: 1, Prefix: netip.MustParsePrefix("127.0.0.1/8")},
	} {
		if !slices.Contains(addrs, want) {
			t.Errorf("no %+v among %+v", want, addrs)
		}
	}
	routes := map[netip.Prefix]rtnl.Route{}
	err = c.EachRoute(func(r *rtnl.Route) {
		kept := *r
		kept.Hops = slices.Clone(r.Hops)
		routes[r.To] = kept
	})
	if err != nil {
		t.Fatal(err)
	}
	hop := func(gateway string) rtnl.Hop { return rtnl.Hop{Link: br0, Gateway: netip.MustParseAddr(gateway)} }
	for to, want := range map[string]rtnl.Route{
		"0.0.0.0/0":        {Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Hops: []rtnl.Hop{hop("192.0.2.1")}},
		"192.0.2.0/24":     {Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Hops: []rtnl.Hop{{Link: br0}}},
		"203.0.113.0/25":   {Table: 1000, Type: unix.RTN_UNICAST, Hops: []rtnl.Hop{hop("192.0.2.3"), hop("192.0.2.4")}},
		"203.0.113.128/25": {Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Hops: []rtnl.Hop{hop("2001:db8::1")}},
		"10.0.0.0/8":       {Table: unix.RT_TABLE_MAIN, Type: unix.RTN_BLACKHOLE, Hops: []rtnl.Hop{{}}},
		"2001:db8::/64":    {Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Hops: []rtnl.Hop{{Link: br0}}},
	} {
		got := routes[netip.MustParsePrefix(to)]
		if got.Table != want.Table || got.Type != want.Type || !slices.Equal(got.Hops, want.Hops) {
			t.Errorf("the route to %s is %+v, want %+v", to, got, want)
		}
	}
	if p := routes[netip.MustParsePrefix("192.0.2.0/24")].Protocol; p != unix.RTPROT_KERNEL {
		t.Errorf("the protocol of the network of an address is %d", p)
	}
}

// What is made by AddVeth, SetUp, AddAddr and AddNeighbor is what ip shows.
func TestIPReadsWhatWasMade(t *testing.T) {
	here, there := netnstest.New(t), netnstest.New(t)
	c := connect(t, here)
	mine, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	if err := c.AddVeth("near", mine, rtnl.End{Name: "far", MAC: other, Namespace: there.Fd()}); err != nil {
		t.Fatal(err)
	}
	far, err := rtnl.Dial(there.Fd())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	for _, end := range []struct {
		c    *rtnl.Conn
		n    *netnstest.NS
		name string
		addr string
		mac  net.HardwareAddr
	}{{c, here, "near", "192.0.2.1/24", mine}, {far, there, "far", "2001:db8::2/64", other}} {
		links, err := end.c.Links()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == end.name && l.Kind == "veth" })
		if i < 0 {
			t.Fatalf("no %s among %+v", end.name, links)
		}
		p := netip.MustParsePrefix(end.addr)
		for _, err := range []error{end.c.SetUp(links[i].Index), end.c.AddAddr(links[i].Index, p), end.c.AddNeighbor(links[i].Index, p.Addr().Next(), other)} {
			if err != nil {
				t.Error(err)
			}
		}
		if err := end.c.AddAddr(links[i].Index, p); err == nil {
			t.Errorf("%s was added twice", p)
		}
		end.n.Run(t, "", "sh", "-c", "set -e; ip addr show dev "+end.name+" | grep -q 'inet.* "+end.addr+"'; ip link show dev "+end.name+
			" | grep -q '[<,]UP[,>]'; ip link show dev "+end.name+" | grep -q "+end.mac.String()+"; ip neigh show dev "+end.name+" | grep -q '"+
			p.Addr().Next().String()+" lladdr "+other.String()+" PERMANENT'")
	}
}
