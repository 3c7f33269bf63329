//go:build linux

package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// The messages of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25 // since Linux 5.8
	ctaStatusMask = 26 // since Linux 5.15

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Src    = 1
	ctaIPv6Src    = 3
	ctaProtoNum   = 1
	ctaProtoDst   = 3

	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1

	ctaFilterOrigFlags = 1
	filterSource       = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterProtocol     = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM

	statusAssured  = 1 << 2  // IPS_ASSURED
	statusOffload  = 1 << 14 // IPS_OFFLOAD
	tcpEstablished = 3       // TCP_CONNTRACK_ESTABLISHED
)

// tracking is there, in the namespace of the thread that reads it, once connection tracking is. It is not loaded for our sake.
const tracking = "/proc/sys/net/netfilter/nf_conntrack_count"

// tracks reports whether there are entries in the namespace of the calling thread.
func tracks() bool {
	count, err := os.ReadFile(tracking)
	return err == nil && string(count) != "0\n"
}

// deleteEntries deletes the connection tracking entries of banned peers and returns how many there were.
func deleteEntries(p peers) (n int, err error) {
	if !tracks() {
		return 0, nil
	}
	c, err := nfnl.Dial(0)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var errs []error
	for i, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if len(p.bits[i]) == 0 {
			continue
		}
		found, err := findEntries(c, family, p)
		if err != nil {
			return n, errors.Join(append(errs, err)...)
		}
		deleted, err := endEach(found, func(entry nfnl.Attrs) error {
			if err := c.Do(nfnl.Query{Type: ctDelete, Family: family, Attrs: entry}); err != nil {
				return fmt.Errorf("delete conntrack entry: %w", err)
			}
			return nil
		})
		n += deleted
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

// findEntries returns the attributes that name the banned peers' entries.
func findEntries(c *nfnl.Conn, family byte, p peers) (found []nfnl.Attrs, err error) {
	_, err = c.DumpOnce(nfnl.Query{Type: ctGet, Family: family}, func(_ byte, entry []byte) { // one by one: there may be a million
		if names, ok := match(entry, p); ok {
			found = append(found, names)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list conntrack entries: %w", err)
	}
	return found, nil
}

// match returns the attributes that name an entry, if it is of a banned peer: one that came to us, by the port that it asked
// for, or one that we or a container went to.
func match(entry []byte, p peers) (names nfnl.Attrs, ok bool) {
	for typ, value := range nfnl.Each(entry) {
		switch typ {
		case ctaTupleOrig:
			t := parseTuple(value)
			ok = ok || p.banned(t.src, t.dport)
			names.Bytes(ctaTupleOrig|unix.NLA_F_NESTED, value)
		case ctaTupleReply:
			// The source of answers is the peer that we asked; the port that is ours is where they go.
			t := parseTuple(value)
			ok = ok || p.banned(t.src, t.dport)
		case ctaID, ctaZone:
			names.Bytes(typ, value)
		}
	}
	return names, ok
}

type tuple struct {
	src   netip.Addr
	dport uint16
}

func parseTuple(b []byte) (t tuple) {
	ip := nfnl.Find(b, ctaTupleIP)
	for _, typ := range []uint16{ctaIPv4Src, ctaIPv6Src} {
		if addr, ok := netip.AddrFromSlice(nfnl.Find(ip, typ)); ok {
			t.src = addr
		}
	}
	if port := nfnl.Find(nfnl.Find(b, ctaTupleProto), ctaProtoDst); len(port) == 2 {
		t.dport = binary.BigEndian.Uint16(port)
	}
	return t
}
