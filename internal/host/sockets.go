//go:build linux

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages of sock_diag(7) and include/uapi/linux/inet_diag.h. Addresses and ports are in network byte order, all other
// numbers in the host's.
const (
	diagRequestLen = 56 // struct inet_diag_req_v2
	diagMessageLen = 72 // struct inet_diag_msg

	diagBytecode = 1  // INET_DIAG_REQ_BYTECODE
	diagCgroupID = 21 // INET_DIAG_CGROUP_ID, kernel 5.8 and later

	diagSourceCond = 7 // INET_DIAG_BC_S_COND
)

// Sets of socket states, as bits. A UDP socket that waits for anybody is in the state CLOSE.
const (
	stateEstablished = 1 << 1
	stateClose       = 1 << 7
	stateListen      = 1 << 10
)

// A socket is what the kernel tells of one.
type socket struct {
	local, remote netip.AddrPort
	uid, inode    uint32
	cgroup        uint64 // 0 if the kernel does not tell
}

// sockets calls fn for the sockets of a family, a protocol and a set of states; with a port other than 0, only for those bound to
// it, which the kernel picks.
func sockets(family, protocol byte, states uint32, port uint16, fn func(socket)) error {
	nl, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	defer nl.Close()
	request := make([]byte, diagRequestLen)
	request[0], request[1] = family, protocol
	binary.NativeEndian.PutUint32(request[4:], states)
	if port != 0 {
		attr, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: diagBytecode, Data: boundTo(port)}})
		if err != nil {
			return err
		}
		request = append(request, attr...)
	}
	_, err = nl.Send(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	for m, err := range nl.ReceiveIter() {
		if errors.Is(err, unix.ENOENT) {
			return nil // no such sockets in this kernel
		}
		if err != nil {
			return fmt.Errorf("list sockets: %w", err)
		}
		if s, ok := parseSocket(m.Data); ok {
			fn(s)
		}
	}
	return nil
}

// boundTo returns a program that accepts the sockets bound to a port, of either family: one condition without an address.
func boundTo(port uint16) []byte {
	const length = 12
	code := []byte{diagSourceCond, length, 0, 0, unix.AF_UNSPEC, 0, 0, 0}
	binary.NativeEndian.PutUint16(code[2:], length+4) // beyond the end: refuse
	return binary.NativeEndian.AppendUint32(code, uint32(port))
}

// parseSocket reads a struct inet_diag_msg and the attributes behind it.
func parseSocket(b []byte) (s socket, ok bool) {
	if len(b) < diagMessageLen {
		return s, false
	}
	id := b[4:]
	s.local = netip.AddrPortFrom(diagAddr(id[4:20], b[0]), binary.BigEndian.Uint16(id))
	s.remote = netip.AddrPortFrom(diagAddr(id[20:36], b[0]), binary.BigEndian.Uint16(id[2:]))
	s.uid, s.inode = binary.NativeEndian.Uint32(b[64:]), binary.NativeEndian.Uint32(b[68:])
	attrs, err := netlink.UnmarshalAttributes(b[diagMessageLen:])
	if err != nil {
		return s, true
	}
	for _, a := range attrs {
		if a.Type == diagCgroupID && len(a.Data) == 8 {
			s.cgroup = binary.NativeEndian.Uint64(a.Data)
		}
	}
	return s, true
}

// diagAddr reads an address. The peers of a dual-stack socket come IPv4-mapped.
func diagAddr(b []byte, family byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16])).Unmap()
}

// A Connection is a TCP connection of this host.
type Connection struct{ Local, Remote netip.AddrPort }

// Connections returns the TCP connections that are open to one of these local ports.
func Connections(ports []uint16) (found []Connection, err error) {
	for _, port := range ports {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			err := sockets(family, unix.IPPROTO_TCP, stateEstablished, port, func(s socket) {
				found = append(found, Connection{s.local, s.remote})
			})
			if err != nil {
				return nil, err
			}
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
