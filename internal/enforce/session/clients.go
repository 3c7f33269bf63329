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

// eachPeer calls fn for each peer in the conntrack table, in the caller's network namespace, that has opened an established TCP connection
// from one of the prefixes, or exchanges UDP packets with this host or through it; it may call it for others too, and more than once. Only
// there are connections that this host forwards, such as those to published ports of containers, and UDP traffic of sockets that are not
// connected. Without connection tracking there are none. The error wraps os.ErrDeadlineExceeded if the table could not be read in time.
func eachPeer(prefixes []netip.Prefix, fn func(netip.Addr)) error {
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
	for _, q := range peerQueries(prefixes) {
		_, err := c.DumpOnce(q, func(_ byte, entry []byte) {
			for _, addr := range entryPeers(entry) {
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

// peerQueries returns the queries that find the entries of some prefixes. The kernel chooses TCP connections from single IPv4 addresses; it
// cannot choose those of a network, and of IPv6 addresses it chooses all but the wanted one (seen with Linux 6.18). Of UDP, either end may
// have begun, so all entries are read.
func peerQueries(prefixes []netip.Prefix) (queries []nfnl.Query) {
	var single []netip.Addr // IPv4 only
	var any4, all4, any6 bool
	for _, p := range prefixes {
		switch {
		case p.Addr().Is6():
			any6 = true
		case p.IsSingleIP() && len(single) < maxAsked:
			single, any4 = append(single, p.Addr()), true
		default:
			all4, any4 = true, true
		}
	}
	if all4 {
		single = []netip.Addr{{}}
	}
	for _, addr := range single {
		queries = append(queries, nfnl.Query{Type: ctGet, Family: unix.AF_INET, Attrs: assured(unix.IPPROTO_TCP, addr)})
	}
	if any4 {
		queries = append(queries, nfnl.Query{Type: ctGet, Family: unix.AF_INET, Attrs: assured(unix.IPPROTO_UDP, netip.Addr{})})
	}
	if any6 {
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			queries = append(queries, nfnl.Query{Type: ctGet, Family: unix.AF_INET6, Attrs: assured(protocol, netip.Addr{})})
		}
	}
	return queries
}

// assured returns the attributes by which the kernel chooses assured entries of a protocol from an IPv4 address, or from any address of the
// family if it is the zero Addr. Kernels before 5.15 return those that are not assured as well.
func assured(protocol byte, from netip.Addr) (a nfnl.Attrs) {
	flags := uint32(filterProtocol)
	tuple := a.Begin(ctaTupleOrig)
	if from.IsValid() {
		flags |= filterSource
		ip := a.Begin(ctaTupleIP)
		a.Bytes(ctaIPv4Src, from.AsSlice())
		a.End(ip)
	}
	proto := a.Begin(ctaTupleProto)
	a.Bytes(ctaProtoNum, []byte{protocol})
	a.End(proto)
	a.End(tuple)
	filter := a.Begin(ctaFilter)
	a.Bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags)) // not in network byte order
	a.End(filter)
	a.Uint32(ctaStatus, statusAssured)
	a.Uint32(ctaStatusMask, statusAssured)
	return a
}

// entryPeers returns the peers of an entry that an unverified ban must spare. A TCP connection counts if both ends confirmed it and it is
// established, for the one that opened it: the ban does not drop the packets of the other. The kernel does not report the state of one that
// it forwards by a flowtable: that is established. UDP counts for both ends once packets went both ways for some seconds.
func entryPeers(entry []byte) (peers []netip.Addr) {
	if nfnl.Uint32(nfnl.Find(entry, ctaStatus))&statusAssured == 0 {
		return nil
	}
	orig := nfnl.Find(entry, ctaTupleOrig)
	protocol := nfnl.Find(nfnl.Find(orig, ctaTupleProto), ctaProtoNum)
	switch {
	case len(protocol) != 1:
		return nil
	case protocol[0] == unix.IPPROTO_UDP:
		return []netip.Addr{parseTuple(orig).src, parseTuple(nfnl.Find(entry, ctaTupleReply)).src}
	case protocol[0] != unix.IPPROTO_TCP:
		return nil
	}
	state := nfnl.Find(nfnl.Find(nfnl.Find(entry, ctaProtoInfo), ctaProtoInfoTCP), ctaProtoInfoTCPState)
	if len(state) == 1 && state[0] == tcpEstablished || nfnl.Uint32(nfnl.Find(entry, ctaStatus))&statusOffload != 0 {
		return []netip.Addr{parseTuple(orig).src}
	}
	return nil
}
