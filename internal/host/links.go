//go:build linux

package host

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/rtnl"
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
	c, err := rtnl.Dial(0)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	all, err := c.Links()
	if err != nil {
		return nil, err
	}
	addrs, err := c.Addrs()
	if err != nil {
		return nil, err
	}
	out, err := defaultLinks(c)
	if err != nil {
		return nil, err
	}
	var found []Link
	for _, l := range all {
		found = append(found, Link{Name: l.Name, Default: out[l.Index], Bridge: l.Kind == "bridge", Nets: netsOf(addrs, l.Index)})
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
func insideNets(c *rtnl.Conn, addrs []rtnl.Addr) (nets []netip.Prefix, err error) {
	all, err := c.Links()
	if err != nil {
		return nil, err
	}
	outside := map[int]bool{}
	bridges := 0
	for _, l := range all {
		if l.Kind == "bridge" {
			bridges++
		}
		if l.Kind != "veth" {
			outside[l.Master] = true
		}
	}
	if bridges == 0 {
		return nil, nil
	}
	defaults, err := defaultLinks(c)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if l.Kind != "bridge" || outside[l.Index] || defaults[l.Index] {
			continue
		}
		for _, p := range netsOf(addrs, l.Index) {
			if p.Addr().IsPrivate() {
				nets = append(nets, p)
			}
		}
	}
	return nets, nil
}

// netsOf returns the addresses of an interface, with the length of their networks.
func netsOf(addrs []rtnl.Addr, link int) (nets []netip.Prefix) {
	for _, a := range addrs {
		if a.Link == link {
			nets = append(nets, a.Prefix)
		}
	}
	return nets
}

// defaultLinks returns the interfaces that default routes of the main table lead out of, by their index.
func defaultLinks(c *rtnl.Conn) (map[int]bool, error) {
	links := map[int]bool{}
	err := c.EachRoute(func(r *rtnl.Route) {
		if r.Table != unix.RT_TABLE_MAIN || r.To.Bits() > 0 || r.Type != unix.RTN_UNICAST {
			return
		}
		for _, hop := range r.Hops {
			if hop.Link > 0 {
				links[hop.Link] = true
			}
		}
	})
	return links, err
}
