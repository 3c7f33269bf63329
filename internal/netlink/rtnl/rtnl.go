//go:build linux

// Package rtnl reads the interfaces, addresses and routes of a network namespace, and makes those that a test of the packet filter needs:
// rtnetlink(7), as ip(8) does.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Conn is a connection to rtnetlink. It is for one goroutine at a time.
type Conn struct{ nl *netlink.Conn }

// Dial connects to rtnetlink in the network namespace that is open as a file descriptor; 0: in the caller's.
func Dial(namespace int) (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: namespace})
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &Conn{nl}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.nl.Close() }

// The lengths of the headers of messages.
const (
	linkLen     = unix.SizeofIfInfomsg
	addrLen     = unix.SizeofIfAddrmsg
	routeLen    = unix.SizeofRtMsg
	nextHopLen  = unix.SizeofRtNexthop
	neighborLen = unix.SizeofNdMsg
)

// ErrChanged is the error of a list that changed while it was read, so that entries may be missing. It can be read again.
var ErrChanged = errors.New("the list changed while it was read")

// dump passes the messages of a list to fn: each header, of so many bytes, and the attributes behind it.
func (c *Conn) dump(request uint16, header int, fn func(header []byte, attrs *netlink.AttributeDecoder) error) error {
	_, err := c.nl.Send(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(request), Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, header),
	})
	if err != nil {
		return err
	}
	var failed error // the messages behind it must be received all the same
	changed := false
	for m, err := range c.nl.ReceiveIter() {
		if err != nil {
			return err
		}
		changed = changed || m.Header.Flags&netlink.DumpInterrupted != 0
		if failed != nil || len(m.Data) < header {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(m.Data[header:])
		if err == nil {
			err = errors.Join(fn(m.Data[:header], attrs), attrs.Err())
		}
		failed = err
	}
	if failed == nil && changed {
		return ErrChanged
	}
	return failed
}

// A Link is a network interface.
type Link struct {
	Index, Master int // Master is the index of the bridge or bond that it belongs to; 0: none
	Name          string
	Kind          string // "bridge", "veth" or another; empty for hardware
}

// Links returns the interfaces.
func (c *Conn) Links() (links []Link, err error) {
	err = c.dump(unix.RTM_GETLINK, linkLen, func(header []byte, attrs *netlink.AttributeDecoder) error {
		l := Link{Index: int(int32(binary.NativeEndian.Uint32(header[4:])))}
		for attrs.Next() {
			switch attrs.Type() {
			case unix.IFLA_IFNAME:
				l.Name = attrs.String()
			case unix.IFLA_MASTER:
				l.Master = int(attrs.Uint32())
			case unix.IFLA_LINKINFO:
				attrs.Nested(func(info *netlink.AttributeDecoder) error {
					for info.Next() {
						if info.Type() == unix.IFLA_INFO_KIND {
							l.Kind = info.String()
						}
					}
					return nil
				})
			}
		}
		links = append(links, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return links, nil
}

// An Addr is an address of an interface.
type Addr struct {
	Link   int          // index of the interface
	Prefix netip.Prefix // the address, with the length of its network; that of the whole address where there is a Peer
	Peer   netip.Prefix // what is at the other end of a point-to-point link; not valid elsewhere
}

// Addrs returns the addresses of all interfaces.
func (c *Conn) Addrs() (addrs []Addr, err error) {
	err = c.dump(unix.RTM_GETADDR, addrLen, func(header []byte, attrs *netlink.AttributeDecoder) error {
		var local, network netip.Addr // equal, or no local one, unless the link is point-to-point
		for attrs.Next() {
			switch attrs.Type() {
			case unix.IFA_ADDRESS:
				network, _ = netip.AddrFromSlice(attrs.Bytes())
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(attrs.Bytes())
			}
		}
		a := Addr{Link: int(binary.NativeEndian.Uint32(header[4:])), Prefix: netip.PrefixFrom(network, int(header[1]))}
		if local.IsValid() && local != network {
			a.Prefix, a.Peer = netip.PrefixFrom(local, local.BitLen()), a.Prefix
		}
		if a.Prefix.IsValid() {
			addrs = append(addrs, a)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return addrs, nil
}

// A Route is one of IPv4 or IPv6.
type Route struct {
	Table          int
	Type, Protocol byte         // unix.RTN_UNICAST, unix.RTPROT_KERNEL and others
	To             netip.Prefix // a default route's has no bits
	Hops           []Hop        // several: a multipath route
}

// A Hop is where a route leads.
type Hop struct {
	Link    int        // index of the interface, 0 if there is none
	Gateway netip.Addr // not valid: the network is on the link
}

// EachRoute calls fn for the routes of all tables; r is valid during the call only. A router may have a million of them.
func (c *Conn) EachRoute(fn func(r *Route)) error {
	var r Route
	err := c.dump(unix.RTM_GETROUTE, routeLen, func(header []byte, attrs *netlink.AttributeDecoder) error {
		var to netip.Addr
		switch header[0] {
		case unix.AF_INET:
			to = netip.IPv4Unspecified()
		case unix.AF_INET6:
			to = netip.IPv6Unspecified()
		default:
			return nil
		}
		if binary.NativeEndian.Uint32(header[8:])&unix.RTM_F_CLONED != 0 {
			return nil
		}
		r = Route{Table: int(header[4]), Protocol: header[5], Type: header[7], Hops: r.Hops[:0]}
		var one Hop
		for attrs.Next() {
			switch attrs.Type() {
			case unix.RTA_DST:
				to, _ = netip.AddrFromSlice(attrs.Bytes())
			case unix.RTA_TABLE:
				r.Table = int(attrs.Uint32())
			case unix.RTA_MULTIPATH:
				hops, err := nextHops(r.Hops, attrs.Bytes())
				if r.Hops = hops; err != nil {
					return err
				}
			default:
				one.read(attrs)
			}
		}
		if len(r.Hops) == 0 {
			r.Hops = append(r.Hops, one)
		}
		r.To = netip.PrefixFrom(to, int(header[1]))
		fn(&r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	return nil
}

// read notes what an attribute of a route says of a hop.
func (h *Hop) read(attr *netlink.AttributeDecoder) {
	switch attr.Type() {
	case unix.RTA_OIF:
		h.Link = int(attr.Uint32())
	case unix.RTA_GATEWAY:
		h.Gateway, _ = netip.AddrFromSlice(attr.Bytes())
	case unix.RTA_VIA: // a gateway of the other family
		if via := attr.Bytes(); len(via) > 2 {
			h.Gateway, _ = netip.AddrFromSlice(via[2:])
		}
	}
}

// nextHops appends the hops of a multipath route to hops.
func nextHops(hops []Hop, b []byte) ([]Hop, error) {
	for len(b) > 0 {
		if len(b) < nextHopLen {
			return hops, errors.New("a hop is cut off")
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < nextHopLen || n > len(b) {
			return hops, errors.New("a hop has a wrong length")
		}
		h := Hop{Link: int(int32(binary.NativeEndian.Uint32(b[4:])))}
		attrs, err := netlink.NewAttributeDecoder(b[nextHopLen:n])
		if err != nil {
			return hops, err
		}
		for attrs.Next() {
			h.read(attrs)
		}
		if err := attrs.Err(); err != nil {
			return hops, err
		}
		hops, b = append(hops, h), b[min((n+3)&^3, len(b)):]
	}
	return hops, nil
}
