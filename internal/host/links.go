//go:build linux

package host

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/ordered"
)

// A Link is a network interface.
type Link struct {
	Name    string
	Default bool           // a default route leads out of it
	Bridge  bool           // it joins others, as those of containers and virtual machines do
	Nets    []netip.Prefix // its addresses, with the length of their networks
}

// Links returns the interfaces of the caller's network namespace, by name.
func Links() ([]Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out, err := defaultLinks()
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	var found []Link
	for _, l := range all {
		link := Link{Name: l.Attrs().Name, Default: out[l.Attrs().Index], Bridge: l.Type() == "bridge"}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("read addresses of %s: %w", link.Name, err)
		}
		for _, a := range addrs {
			if p, ok := wholePrefix(a.IPNet); ok {
				link.Nets = append(link.Nets, p)
			}
		}
		found = append(found, link)
	}
	ordered.Sort(found, func(a, b Link) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return found, nil
}

// insideNets returns the own private addresses in networks of containers: those of bridges that join only veth interfaces, and that no default
// route leads out of. Docker, its swarms and internal networks, Podman and LXC have such bridges.
func insideNets() (nets []netip.Prefix, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	outside := map[int]bool{}
	bridges := 0
	for _, l := range all {
		if l.Type() == "bridge" {
			bridges++
		}
		if l.Type() != "veth" {
			outside[l.Attrs().MasterIndex] = true
		}
	}
	if bridges == 0 {
		return nil, nil
	}
	defaults, err := defaultLinks()
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	for _, l := range all {
		index := l.Attrs().Index
		if l.Type() != "bridge" || outside[index] || defaults[index] {
			continue
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("read addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range addrs {
			if p, ok := wholePrefix(a.IPNet); ok && p.Addr().IsPrivate() {
				nets = append(nets, p)
			}
		}
	}
	return nets, nil
}

// wholePrefix returns an address with the length of its network, whatever address it is.
func wholePrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

// defaultLinks returns the interfaces that default routes of the main table lead out of, by their index.
func defaultLinks() (map[int]bool, error) {
	links := map[int]bool{}
	main := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	err := netlink.RouteListFilteredIter(netlink.FAMILY_ALL, main, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		if r.Dst != nil {
			if bits, _ := r.Dst.Mask.Size(); bits > 0 {
				return true
			}
		}
		if r.Type != unix.RTN_UNICAST {
			return true
		}
		if r.LinkIndex > 0 {
			links[r.LinkIndex] = true
		}
		for _, hop := range r.MultiPath {
			links[hop.LinkIndex] = true
		}
		return true
	})
	return links, err
}
