//go:build linux

package session

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/sockdiag"
	"mef/internal/prefixset"
)

// connected are all states but TIME_WAIT, whose sockets end by themselves, CLOSE, which unconnected UDP sockets have, and LISTEN.
const connected = sockdiag.All &^ (sockdiag.TimeWait | sockdiag.Close | sockdiag.Listen)

// destroySockets destroys the local sockets of banned peers and returns how many there were.
func destroySockets(p peers) (n int, err error) {
	c, err := sockdiag.Dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	prefixes := make([]netip.Prefix, len(p.keys))
	for i, k := range p.keys {
		prefixes[i] = k.Prefix
	}
	var errs []error
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		var found []sockdiag.Socket
		err := c.Each(protocol, connected, sockdiag.RemoteIn(prefixes), func(s sockdiag.Socket) {
			if p.banned(s.Remote.Addr(), s.Local.Port()) {
				found = append(found, s)
			}
		})
		errs = append(errs, err)
		destroyed, err := endEach(found, c.Destroy)
		n += destroyed
		errs = append(errs, err)
		if lasting(err) {
			break
		}
	}
	return n, errors.Join(errs...)
}

// Connected returns the addresses in the prefixes that have an established TCP connection with this host or through it, such as to a
// published port of a container, or exchange UDP packets with either, in the caller's network namespace, in any order. Connections through
// the host, and UDP but for connected sockets, are known where it tracks connections. The error wraps os.ErrDeadlineExceeded if there are
// too many to be read in a second.
func Connected(prefixes []netip.Prefix) (addrs []netip.Addr, err error) {
	c, err := sockdiag.Dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	wanted := prefixset.New(prefixes...)
	seen := map[netip.Addr]bool{}
	add := func(a netip.Addr) {
		if !seen[a] && wanted.Contains(a) {
			seen[a] = true
			addrs = append(addrs, a)
		}
	}
	var errs []error
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		errs = append(errs, c.Each(protocol, sockdiag.Established, sockdiag.RemoteIn(prefixes), func(s sockdiag.Socket) { add(s.Remote.Addr()) }))
	}
	return addrs, errors.Join(append(errs, eachPeer(prefixes, add))...)
}
