//go:build linux

package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

const (
	// trackedPatience is how long reading the conntrack table may take: new bans wait for it.
	trackedPatience = time.Second

	// maxAsked is for how many IPv4 addresses the kernel looks through its table, once for each. For more it is cheaper to read all
	// connections.
	maxAsked = 8
)

// eachClient calls fn for the source of each established TCP connection in the conntrack table, in the caller's network namespace, that came
// from one of the prefixes; it may call it for others too, and more than once. Only there are connections that this host forwards, such
// as those to published ports of containers. Without connection tracking there are none. The error wraps os.ErrDeadlineExceeded if the
// table could not be read in time.
func eachClient(prefixes []netip.Prefix, fn func(netip.Addr)) error {
	if len(prefixes) == 0 || !tracks() {
		return nil
	}
	c, err := nfnl.Dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(trackedPatience)); err != nil {
		return err
	}
	for _, q := range clientQueries(prefixes) {
		_, err := c.DumpOnce(q, func(_ byte, entry []byte) {
			if addr, ok := client(entry); ok {
				fn(addr)
			}
		})
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // the answer of a kernel without nf_conntrack_netlink
		}
		if err != nil {
			return fmt.Errorf("list conntrack entries: %w", err)
		}
	}
	return nil
}

// clientQueries returns the queries that find the connections from some prefixes. The kernel chooses those of single IPv4 addresses; it
// cannot choose those of a network, and of IPv6 addresses it chooses all but the wanted one (seen with Linux 6.18).
func clientQueries(prefixes []netip.Prefix) (queries []nfnl.Query) {
	var single []netip.Addr // IPv4 only
	var all4, all6 bool
	for _, p := range prefixes {
		switch {
		case p.Addr().Is6():
			all6 = true
		case p.IsSingleIP() && len(single) < maxAsked:
			single = append(single, p.Addr())
		default:
			all4 = true
		}
	}
	if all4 {
		single = []netip.Addr{{}}
	}
	for _, addr := range single {
		queries = append(queries, nfnl.Query{Type: ctGet, Family: unix.AF_INET, Attrs: clientFilter(addr)})
	}
	if all6 {
		queries = append(queries, nfnl.Query{Type: ctGet, Family: unix.AF_INET6, Attrs: clientFilter(netip.Addr{})})
	}
	return queries
}

// clientFilter returns the attributes by which the kernel chooses assured TCP connections from an IPv4 address, or from any address of the
// family if it is the zero Addr. Kernels before 5.15 return those that are not assured as well.
func clientFilter(from netip.Addr) (a nfnl.Attrs) {
	flags := uint32(filterProtocol)
	tuple := a.Begin(ctaTupleOrig)
	if from.IsValid() {
		flags |= filterSource
		ip := a.Begin(ctaTupleIP)
		a.Bytes(ctaIPv4Src, from.AsSlice())
		a.End(ip)
	}
	proto := a.Begin(ctaTupleProto)
	a.Bytes(ctaProtoNum, []byte{unix.IPPROTO_TCP})
	a.End(proto)
	a.End(tuple)
	filter := a.Begin(ctaFilter)
	a.Bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags)) // not in network byte order
	a.End(filter)
	a.Uint32(ctaStatus, statusAssured)
	a.Uint32(ctaStatusMask, statusAssured)
	return a
}

// client returns the source of an entry, if it is a TCP connection that both ends confirmed and that is established. The kernel does not
// report the state of one that it forwards by a flowtable: that is established.
func client(entry []byte) (addr netip.Addr, ok bool) {
	orig := nfnl.Find(entry, ctaTupleOrig)
	protocol := nfnl.Find(nfnl.Find(orig, ctaTupleProto), ctaProtoNum)
	if len(protocol) != 1 || protocol[0] != unix.IPPROTO_TCP {
		return addr, false
	}
	status := nfnl.Uint32(nfnl.Find(entry, ctaStatus))
	state := nfnl.Find(nfnl.Find(nfnl.Find(entry, ctaProtoInfo), ctaProtoInfoTCP), ctaProtoInfoTCPState)
	established := len(state) == 1 && state[0] == tcpEstablished || status&statusOffload != 0
	return parseTuple(orig).src, established && status&statusAssured != 0
}
