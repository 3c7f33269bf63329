//go:build linux

package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaID         = 12
	ctaZone       = 18

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Src    = 1
	ctaIPv6Src    = 3
	ctaProtoDst   = 3
)

// tracking is there, in the namespace of the thread that reads it, once connection tracking is. It is not loaded for our sake.
const tracking = "/proc/sys/net/netfilter/nf_conntrack_count"

// deleteEntries deletes the connection tracking entries of banned peers and returns how many there were.
func deleteEntries(p peers) (n int, err error) {
	if count, err := os.ReadFile(tracking); err != nil || string(count) == "0\n" {
		return 0, nil
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: 64 << 10})
	if err != nil {
		return 0, fmt.Errorf("open conntrack: %w", err)
	}
	defer nl.Close()
	var errs []error
	for i, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if len(p.bits[i]) == 0 {
			continue
		}
		found, err := findEntries(nl, family, p)
		if err != nil {
			return n, errors.Join(append(errs, err)...)
		}
		deleted, err := endEach(found, func(entry []byte) error {
			if _, err := nl.Execute(ctMessage(ctDelete, family, netlink.Acknowledge, entry)); err != nil {
				return fmt.Errorf("delete conntrack entry: %w", err)
			}
			return nil
		})
		n += deleted
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

func ctMessage(typ netlink.HeaderType, family byte, flags netlink.HeaderFlags, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// findEntries returns the attributes that name the banned peers' entries.
func findEntries(nl *netlink.Conn, family byte, p peers) (found [][]byte, err error) {
	if _, err := nl.SendMessages([]netlink.Message{ctMessage(ctGet, family, netlink.Dump, nil)}); err != nil {
		return nil, fmt.Errorf("list conntrack entries: %w", err)
	}
	for m, err := range nl.ReceiveIter() { // one by one: there may be a million
		if err != nil {
			return nil, fmt.Errorf("list conntrack entries: %w", err)
		}
		if len(m.Data) < 4 {
			continue
		}
		if names, ok := match(m.Data[4:], p); ok {
			found = append(found, names)
		}
	}
	return found, nil
}

// match returns the attributes that name an entry, if it is of a banned peer: one that came to us, by the port that it asked
// for, or one that we or a container went to.
func match(entry []byte, p peers) (names []byte, ok bool) {
	ad, err := netlink.NewAttributeDecoder(entry)
	if err != nil {
		return nil, false
	}
	var keep []netlink.Attribute
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			t := parseTuple(ad.Bytes())
			ok = ok || p.banned(t.src, t.dport)
			keep = append(keep, netlink.Attribute{Type: ctaTupleOrig | unix.NLA_F_NESTED, Data: ad.Bytes()})
		case ctaTupleReply:
			// The source of answers is the peer that we asked; the port that is ours is where they go.
			t := parseTuple(ad.Bytes())
			ok = ok || p.banned(t.src, t.dport)
		case ctaID, ctaZone:
			keep = append(keep, netlink.Attribute{Type: ad.Type(), Data: ad.Bytes()})
		}
	}
	if !ok || ad.Err() != nil {
		return nil, false
	}
	names, err = netlink.MarshalAttributes(keep)
	return names, err == nil
}

type tuple struct {
	src   netip.Addr
	dport uint16
}

func parseTuple(b []byte) (t tuple) {
	nested(b, func(typ uint16, b []byte) {
		switch typ {
		case ctaTupleIP:
			nested(b, func(typ uint16, b []byte) {
				if typ == ctaIPv4Src || typ == ctaIPv6Src {
					t.src, _ = netip.AddrFromSlice(b)
				}
			})
		case ctaTupleProto:
			nested(b, func(typ uint16, b []byte) {
				if typ == ctaProtoDst && len(b) == 2 {
					t.dport = binary.BigEndian.Uint16(b)
				}
			})
		}
	})
	return t
}

func nested(b []byte, fn func(uint16, []byte)) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return
	}
	for ad.Next() {
		fn(ad.Type(), ad.Bytes())
	}
}
