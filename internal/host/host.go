//go:build linux

// Package host reads facts about this host: its addresses and networks, its gateways, resolvers and DHCP servers, its users, and
// which other programs ban addresses here.
//
// A ban that cut the host off from its gateway or resolver would be worse than the attack. These facts are therefore read at
// the start, followed while they change, and become part of the addresses that are never banned.
package host

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/rtnl"
	"mef/internal/ordered"
	"mef/internal/sleep"
)

// Facts are what Read found. All lists are sorted, without doubles, loopback and link-local addresses.
type Facts struct {
	Addrs       []netip.Addr   // the host's own addresses
	OnLink      []netip.Prefix // networks reached without a gateway
	Gateways    []netip.Addr   // of any routing table
	Resolvers   []netip.Addr   // the real ones, where systemd-resolved stands before them
	DHCPServers []netip.Addr   // that gave us leases, as far as DHCP clients keep note
	Inside      []netip.Prefix // own addresses in networks of containers on this host, each with the length of the network
	Accounts    []Account      // users in the host's files, ordered by name
}

// Equal reports whether both are the same.
func (f Facts) Equal(o Facts) bool {
	return slices.Equal(f.Addrs, o.Addrs) && slices.Equal(f.OnLink, o.OnLink) && slices.Equal(f.Gateways, o.Gateways) &&
		slices.Equal(f.Resolvers, o.Resolvers) && slices.Equal(f.DHCPServers, o.DHCPServers) &&
		slices.Equal(f.Inside, o.Inside) && slices.Equal(f.Accounts, o.Accounts)
}

// dumpTries is how often addresses or routes are read again because they changed meanwhile.
const dumpTries = 10

// Read returns the facts as they are now, in the network namespace of the caller. Missing files are no error.
func Read(ctx context.Context) (Facts, error) {
	var err error
	for range dumpTries {
		if ctx.Err() != nil {
			return Facts{}, ctx.Err()
		}
		var f Facts
		if f, err = read(); err == nil {
			return f, nil
		}
		sleep.For(ctx, 10*time.Millisecond)
	}
	return Facts{}, err
}

func read() (f Facts, err error) {
	c, err := rtnl.Dial(0)
	if err != nil {
		return Facts{}, err
	}
	defer c.Close()
	addrs, err := c.Addrs()
	if err != nil {
		return Facts{}, err
	}
	f.readAddrs(addrs)
	if err := f.readRoutes(c); err != nil {
		return Facts{}, err
	}
	if f.Inside, err = insideNets(c, addrs); err != nil {
		return Facts{}, err
	}
	f.Resolvers = resolvers("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
	f.DHCPServers = dhcpServers(leaseFiles)
	f.Accounts = Accounts()
	f.normalize()
	return f, nil
}

// readAddrs takes in the addresses of the interfaces.
func (f *Facts) readAddrs(addrs []rtnl.Addr) {
	for _, a := range addrs {
		if !usual(a.Prefix.Addr()) {
			continue
		}
		f.Addrs = append(f.Addrs, a.Prefix.Addr())
		network := a.Prefix
		if a.Peer.IsValid() && usual(a.Peer.Addr()) { // the network beyond a point-to-point link
			network = a.Peer
		}
		f.OnLink = append(f.OnLink, network.Masked())
	}
}

// readRoutes walks all routing tables without keeping them: a router's may have a million entries.
func (f *Facts) readRoutes(c *rtnl.Conn) error {
	gateways := map[netip.Addr]bool{}
	err := c.EachRoute(func(r *rtnl.Route) {
		for _, hop := range r.Hops {
			if usual(hop.Gateway) {
				gateways[hop.Gateway] = true
			}
		}
		if connected(r) {
			f.OnLink = append(f.OnLink, r.To.Masked())
		}
	})
	for a := range gateways {
		f.Gateways = append(f.Gateways, a)
	}
	return err
}

// connected reports whether the kernel made a route for an interface, or learned it from a router's advertisement of the link's own prefix.
func connected(r *rtnl.Route) bool {
	ofLink := r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA
	return ofLink && r.Type == unix.RTN_UNICAST && len(r.Hops) == 1 && !r.Hops[0].Gateway.IsValid() && r.To.Bits() > 0 && usual(r.To.Addr())
}

// usual reports whether an address is neither loopback, link-local nor multicast, which are never banned anyway.
func usual(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

func (f *Facts) normalize() {
	f.Addrs = unique(f.Addrs, netip.Addr.Compare)
	f.OnLink = unique(f.OnLink, netip.Prefix.Compare)
	f.Gateways = unique(f.Gateways, netip.Addr.Compare)
	f.Resolvers = unique(f.Resolvers, netip.Addr.Compare)
	f.DHCPServers = unique(f.DHCPServers, netip.Addr.Compare)
	f.Inside = unique(f.Inside, netip.Prefix.Compare)
}

func unique[T comparable](list []T, compare func(a, b T) int) []T {
	ordered.Sort(list, compare)
	return slices.Compact(list)
}

// Terminal reports whether f is a terminal, at which somebody may answer a question. Other character devices, such as /dev/null,
// are not.
func Terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
