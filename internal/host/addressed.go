//go:build linux

package host

import (
	"encoding/binary"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// The messages of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctGet = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaProtoNum   = 1
	ctaProtoSrc   = 2
	ctaProtoDst   = 3
)

// patience is how long the kernel may take to answer.
const patience = 2 * time.Second

// tracking exists, in the namespace of the thread that reads it, if connection tracking does. It is not loaded by asking.
const tracking = "/proc/sys/net/netfilter/nf_conntrack_count"

// Addressed returns the address and port to which the peer of a TCP connection sends its packets: those of the local end, unless NAT
// translates them. What connection tracking does not know is not translated.
func Addressed(c Connection) netip.AddrPort {
	if _, err := os.Stat(tracking); err != nil || c.Local.Addr().BitLen() != c.Remote.Addr().BitLen() {
		return c.Local
	}
	family, src := byte(unix.AF_INET), uint16(1) // CTA_IP_V4_SRC, before CTA_IP_V4_DST
	if c.Local.Addr().Is6() {
		family, src = unix.AF_INET6, 3
	}
	var a nfnl.Attrs
	reply := a.Begin(ctaTupleReply)
	ip := a.Begin(ctaTupleIP)
	a.Bytes(src, c.Local.Addr().AsSlice())
	a.Bytes(src+1, c.Remote.Addr().AsSlice())
	a.End(ip)
	proto := a.Begin(ctaTupleProto)
	a.Bytes(ctaProtoNum, []byte{unix.IPPROTO_TCP})
	a.Bytes(ctaProtoSrc, binary.BigEndian.AppendUint16(nil, c.Local.Port()))
	a.Bytes(ctaProtoDst, binary.BigEndian.AppendUint16(nil, c.Remote.Port()))
	a.End(proto)
	a.End(reply)
	entry, err := nfnl.Entry(nfnl.Query{Type: ctGet, Family: family, Attrs: a}, patience)
	if err != nil {
		return c.Local
	}
	first := nfnl.Find(entry, ctaTupleOrig)
	addr, ok := netip.AddrFromSlice(nfnl.Find(nfnl.Find(first, ctaTupleIP), src+1))
	port := nfnl.Find(nfnl.Find(first, ctaTupleProto), ctaProtoDst)
	if !ok || len(port) != 2 {
		return c.Local
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
}
