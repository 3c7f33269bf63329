//go:build linux

// Package host reads facts about this host: its addresses and networks, its gateways, resolvers and DHCP servers, its users, and
// which other programs ban addresses here.
//
// A ban that cut the host off from its gateway or resolver would be worse than the attack. These facts are therefore read at
// the start, followed while they change, and become part of the addresses that are never banned.
package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	if err := f.readAddrs(); err != nil {
		return Facts{}, fmt.Errorf("read own addresses: %w", err)
	}
	if err := f.readRoutes(); err != nil {
		return Facts{}, fmt.Errorf("read routes: %w", err)
	}
	if f.Inside, err = insideNets(); err != nil {
		return Facts{}, err
	}
	f.Resolvers = resolvers("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
	f.DHCPServers = dhcpServers(leaseFiles)
	f.Accounts = Accounts()
	f.normalize()
	return f, nil
}

func (f *Facts) readAddrs() error {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		f.Addrs = append(f.Addrs, p.Addr())
		if a.Peer != nil { // the network beyond a point-to-point link
			if peer, ok := prefixOf(a.Peer); ok {
				p = peer
			}
		}
		f.OnLink = append(f.OnLink, p.Masked())
	}
	return nil
}

// readRoutes walks all routing tables without keeping them: a router's may have a million entries.
func (f *Facts) readRoutes() error {
	gateways := map[netip.Addr]bool{}
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	err := netlink.RouteListFilteredIter(netlink.FAMILY_ALL, all, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		for _, gw := range nextHops(r) {
			if a, ok := addrOf(gw); ok {
				gateways[a] = true
			}
		}
		if p, ok := connected(r); ok {
			f.OnLink = append(f.OnLink, p)
		}
		return true
	})
	for a := range gateways {
		f.Gateways = append(f.Gateways, a)
	}
	return err
}

func nextHops(r netlink.Route) []net.IP {
	hops := []net.IP{r.Gw}
	if via, ok := r.Via.(*netlink.Via); ok {
		hops = append(hops, via.Addr)
	}
	for _, h := range r.MultiPath {
		hops = append(hops, h.Gw)
		if via, ok := h.Via.(*netlink.Via); ok {
			hops = append(hops, via.Addr)
		}
	}
	return hops
}

// connected returns the network of a route that the kernel made for an interface, or learned from a router's advertisement of
// the link's own prefix.
func connected(r netlink.Route) (netip.Prefix, bool) {
	ofLink := r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA
	if !ofLink || r.Type != unix.RTN_UNICAST || r.Gw != nil || len(r.MultiPath) > 0 || r.Dst == nil {
		return netip.Prefix{}, false
	}
	p, ok := prefixOf(r.Dst)
	return p.Masked(), ok && p.Bits() > 0
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := addrOf(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits), ok
}

// addrOf returns ip unless it is loopback, link-local or multicast, which are never banned anyway.
func addrOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return a, ok && usual(a)
}

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
