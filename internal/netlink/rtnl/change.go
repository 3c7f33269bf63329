//go:build linux

package rtnl

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An End is an end of a virtual cable.
type End struct {
	Name      string // of its interface
	MAC       net.HardwareAddr
	Namespace int // as of Dial; 0: that of the connection
}

// AddVeth lays a virtual cable from this namespace to peer. Both ends are down.
func (c *Conn) AddVeth(name string, mac net.HardwareAddr, peer End) error {
	const infoPeer = 1 // VETH_INFO_PEER
	end := func(name string, mac net.HardwareAddr) *netlink.AttributeEncoder {
		attrs := netlink.NewAttributeEncoder()
		attrs.String(unix.IFLA_IFNAME, name)
		attrs.Bytes(unix.IFLA_ADDRESS, mac)
		return attrs
	}
	there := end(peer.Name, peer.MAC)
	if peer.Namespace != 0 {
		there.Uint32(unix.IFLA_NET_NS_FD, uint32(peer.Namespace))
	}
	far, err := there.Encode()
	if err != nil {
		return err
	}
	here := end(name, mac)
	here.Nested(unix.IFLA_LINKINFO, func(info *netlink.AttributeEncoder) error {
		info.String(unix.IFLA_INFO_KIND, "veth")
		info.Nested(unix.IFLA_INFO_DATA, func(data *netlink.AttributeEncoder) error {
			data.Bytes(infoPeer, append(make([]byte, linkLen), far...))
			return nil
		})
		return nil
	})
	return c.change(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, make([]byte, linkLen), here)
}

// SetUp brings an interface up.
func (c *Conn) SetUp(link int) error {
	header := make([]byte, linkLen)
	binary.NativeEndian.PutUint32(header[4:], uint32(link))
	binary.NativeEndian.PutUint32(header[8:], unix.IFF_UP)
	binary.NativeEndian.PutUint32(header[12:], unix.IFF_UP) // what changes
	return c.change(unix.RTM_NEWLINK, 0, header, nil)
}

// AddAddr gives an interface an address, with the length of its network, that can be used at once: it is not tested whether others have it.
func (c *Conn) AddAddr(link int, p netip.Prefix) error {
	header := make([]byte, addrLen)
	header[0], header[1] = familyOf(p.Addr()), byte(p.Bits())
	binary.NativeEndian.PutUint32(header[4:], uint32(link))
	attrs := netlink.NewAttributeEncoder()
	attrs.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
	attrs.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
	attrs.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	return c.change(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, header, attrs)
}

// AddNeighbor says for ever which hardware address a neighbor has.
func (c *Conn) AddNeighbor(link int, addr netip.Addr, mac net.HardwareAddr) error {
	header := make([]byte, neighborLen)
	header[0] = familyOf(addr)
	binary.NativeEndian.PutUint32(header[4:], uint32(link))
	binary.NativeEndian.PutUint16(header[8:], unix.NUD_PERMANENT)
	attrs := netlink.NewAttributeEncoder()
	attrs.Bytes(unix.NDA_DST, addr.AsSlice())
	attrs.Bytes(unix.NDA_LLADDR, mac)
	return c.change(unix.RTM_NEWNEIGH, netlink.Create|netlink.Excl, header, attrs)
}

// change sends a request and waits until the kernel has carried it out.
func (c *Conn) change(request uint16, flags netlink.HeaderFlags, header []byte, attrs *netlink.AttributeEncoder) error {
	if attrs != nil {
		data, err := attrs.Encode()
		if err != nil {
			return err
		}
		header = append(header, data...)
	}
	_, err := c.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(request), Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   header,
	})
	return err
}

func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
