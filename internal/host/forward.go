//go:build linux

package host

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
	"mef/internal/ordered"
)

const (
	// forwardRules is how many rules are read: there may be tens of thousands where containers run. forwardWithin is how long that may take.
	forwardRules  = 10_000
	forwardWithin = 200 * time.Millisecond
	// maxForwards is how many ports are returned.
	maxForwards = 1024
)

// A Forward is a port of this host whose connections DNAT leads to another address: a published port of a container, as a rule.
type Forward struct {
	Protocol string // "tcp" or "udp"
	Port     uint16
	To       netip.AddrPort // port 0: the same
}

// Forwards returns the ports that DNAT rules of nf_tables forward, by nft and by iptables-nft, in the caller's network namespace, by protocol
// and port. Rules of the old iptables, and those that choose the address by a map, are not read. There are none where nf_tables is missing or
// may not be read; the error reports what else was wrong, and comes with what was found so far.
func Forwards() (found []Forward, err error) {
	c, err := nfnl.Dial(0)
	if err != nil {
		return nil, fmt.Errorf("read nf_tables: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(forwardWithin)); err != nil {
		return nil, fmt.Errorf("read nf_tables: %w", err)
	}
	rules := 0
	_, err = c.DumpOnce(nfnl.Tables(unix.NFT_MSG_GETRULE, unix.NFPROTO_UNSPEC, nil), func(_ byte, rule []byte) {
		if rules++; rules > forwardRules {
			return
		}
		for _, f := range readForwards(nfnl.Find(rule, unix.NFTA_RULE_EXPRESSIONS)) {
			if len(found) < maxForwards && !slices.Contains(found, f) {
				found = append(found, f)
			}
		}
	})
	ordered.Sort(found, func(a, b Forward) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.To.Compare(b.To))
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		err = fmt.Errorf("read nf_tables: %w", err)
	}
	return found, err
}

// widest is how many ports of a range are returned.
const widest = 64

// readForwards returns the ports that a rule forwards. The kernel loads a field of the packet into a register and compares it; nft and iptables
// load each right before.
func readForwards(expressions []byte) (found []Forward) {
	const protocolKey, protocolAt, portAt = unix.NFT_META_L4PROTO, 9, 2
	var loaded string // what was loaded last: "protocol", "port", or ""
	var protocol string
	var first, last uint16
	values := make(map[uint32][]byte) // constants by register
	for _, e := range nfnl.Each(expressions) {
		data := nfnl.Find(e, unix.NFTA_EXPR_DATA)
		number := func(attr uint16) uint32 { return bigEndian(nfnl.Find(data, attr)) }
		value := func(attr uint16) []byte { return nfnl.Find(nfnl.Find(data, attr), unix.NFTA_DATA_VALUE) }
		switch name := nfnl.Text(nfnl.Find(e, unix.NFTA_EXPR_NAME)); name {
		case "meta":
			loaded = ""
			if number(unix.NFTA_META_KEY) == protocolKey {
				loaded = "protocol"
			}
		case "payload":
			loaded = ""
			base, offset, length := number(unix.NFTA_PAYLOAD_BASE), number(unix.NFTA_PAYLOAD_OFFSET), number(unix.NFTA_PAYLOAD_LEN)
			switch {
			case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && offset == portAt && length == 2:
				loaded = "port"
			case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == protocolAt && length == 1:
				loaded = "protocol"
			}
		case "cmp":
			v, op := value(unix.NFTA_CMP_DATA), number(unix.NFTA_CMP_OP)
			switch {
			case loaded == "protocol" && len(v) == 1 && op == unix.NFT_CMP_EQ:
				protocol = protocolName(v[0])
			case loaded != "port" || len(v) != 2:
			case op == unix.NFT_CMP_EQ:
				first, last = binary.BigEndian.Uint16(v), binary.BigEndian.Uint16(v)
			case op == unix.NFT_CMP_GTE:
				first = binary.BigEndian.Uint16(v)
			case op == unix.NFT_CMP_LTE:
				last = binary.BigEndian.Uint16(v)
			}
		case "range":
			from, to := value(unix.NFTA_RANGE_FROM_DATA), value(unix.NFTA_RANGE_TO_DATA)
			if loaded == "port" && number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_EQ && len(from) == 2 && len(to) == 2 {
				first, last = binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to)
			}
		case "match": // of iptables: struct xt_tcp and xt_udp begin with the ports of both ends
			info := nfnl.Find(data, unix.NFTA_MATCH_INFO)
			if kind := nfnl.Text(nfnl.Find(data, unix.NFTA_MATCH_NAME)); (kind == "tcp" || kind == "udp") && len(info) >= 8 {
				protocol, first, last = kind, binary.NativeEndian.Uint16(info[4:]), binary.NativeEndian.Uint16(info[6:])
			}
		case "immediate":
			values[number(unix.NFTA_IMMEDIATE_DREG)] = value(unix.NFTA_IMMEDIATE_DATA)
		case "nat":
			if number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT {
				found = forwards(protocol, first, last, values[number(unix.NFTA_NAT_REG_ADDR_MIN)], values[number(unix.NFTA_NAT_REG_PROTO_MIN)])
			}
		case "target":
			if nfnl.Text(nfnl.Find(data, unix.NFTA_TARGET_NAME)) == "DNAT" {
				addr, port := targetOf(nfnl.Find(data, unix.NFTA_TARGET_INFO))
				found = forwards(protocol, first, last, addr, port)
			}
		}
	}
	return found
}

// targetOf returns the address and port of the target DNAT of iptables: struct nf_nat_range2 has an address of 16 bytes, of which IPv4 uses
// the first 4.
func targetOf(info []byte) (addr, port []byte) {
	const withPort, addrAt, portAt = 1 << 1, 4, 36
	if len(info) < portAt+2 {
		return nil, nil
	}
	addr = info[addrAt : addrAt+16]
	if binary.BigEndian.Uint64(addr[4:]) == 0 && binary.BigEndian.Uint32(addr[12:]) == 0 {
		addr = addr[:4]
	}
	if binary.NativeEndian.Uint32(info)&withPort != 0 {
		port = info[portAt : portAt+2]
	}
	return addr, port
}

func forwards(protocol string, first, last uint16, addr, port []byte) (all []Forward) {
	to, ok := netip.AddrFromSlice(addr)
	if !ok || protocol == "" || first == 0 || last < first || to.IsLoopback() {
		return nil
	}
	var toPort uint16
	if len(port) >= 2 {
		toPort = binary.BigEndian.Uint16(port)
	}
	for p := uint32(first); p <= uint32(min(last, first+min(widest-1, 65535-first))); p++ {
		all = append(all, Forward{protocol, uint16(p), netip.AddrPortFrom(to, toPort)})
	}
	return all
}

func protocolName(number byte) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return ""
}

// bigEndian is a number of four bytes as nf_tables has them; 0 if it is missing.
func bigEndian(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
