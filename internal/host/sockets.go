//go:build linux

package host

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/sockdiag"
)

// sockets calls fn for the sockets of a protocol and a set of states; with a port other than 0, only for those bound to it.
func sockets(protocol byte, states sockdiag.States, port uint16, fn func(sockdiag.Socket)) error {
	c, err := sockdiag.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	var filter sockdiag.Filter
	if port != 0 {
		filter = sockdiag.LocalPort(port)
	}
	return c.Each(protocol, states, filter, fn)
}

// A Connection is a TCP connection of this host.
type Connection struct{ Local, Remote netip.AddrPort }

// Connections returns the TCP connections that are open to one of these local ports.
func Connections(ports []uint16) (found []Connection, err error) {
	for _, port := range ports {
		err := sockets(unix.IPPROTO_TCP, sockdiag.Established, port, func(s sockdiag.Socket) {
			found = append(found, Connection{s.Local, s.Remote})
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Peers returns the addresses that have a TCP connection open to one of these local ports.
func Peers(ports []uint16) (map[netip.Addr]bool, error) {
	open, err := Connections(ports)
	if err != nil {
		return nil, err
	}
	peers := map[netip.Addr]bool{}
	for _, c := range open {
		peers[c.Remote.Addr()] = true
	}
	return peers, nil
}
