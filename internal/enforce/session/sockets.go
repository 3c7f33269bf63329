//go:build linux

package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/ban"
)

// The messages of sock_diag(7) and include/uapi/linux/inet_diag.h. Addresses and ports are in network byte order, all other
// numbers in the host's.
const (
	sockDestroy = 21 // SOCK_DESTROY

	requestLen  = 56 // struct inet_diag_req_v2
	messageLen  = 72 // struct inet_diag_msg
	socketIDLen = 48 // struct inet_diag_sockid

	reqBytecode = 1 // INET_DIAG_REQ_BYTECODE
	bcJump      = 1 // INET_DIAG_BC_JMP
	bcDestCond  = 8 // INET_DIAG_BC_D_COND

	// All states but TIME_WAIT (6), whose sockets end by themselves, CLOSE (7), which unconnected UDP sockets have, and
	// LISTEN (10).
	states = 0xfff &^ (1<<6 | 1<<7 | 1<<10)
)

// maxFiltered is for how many bans the kernel is given a filter. It tries one prefix after the other for each socket, so for
// more it is cheaper to read all sockets.
const maxFiltered = 500

// destroySockets destroys the local sockets of banned peers and returns how many there were.
func destroySockets(p peers) (n int, err error) {
	nl, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return 0, fmt.Errorf("open sock_diag: %w", err)
	}
	defer nl.Close()
	var errs []error
	// The peers of a dual-stack socket are IPv4-mapped, and found among the IPv6 sockets only.
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			ids, err := findSockets(nl, family, protocol, p)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			destroyed, err := endEach(ids, func(id []byte) error { return destroy(nl, family, protocol, id) })
			n += destroyed
			errs = append(errs, err)
			if lasting(err) {
				return n, errors.Join(errs...)
			}
		}
	}
	return n, errors.Join(errs...)
}

// findSockets returns the identities of the sockets whose peers are banned.
func findSockets(nl *netlink.Conn, family, protocol byte, p peers) (ids [][]byte, err error) {
	request := make([]byte, requestLen)
	request[0], request[1] = family, protocol
	binary.NativeEndian.PutUint32(request[4:], states)
	if code := filter(p.keys); code != nil {
		attr, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: reqBytecode, Data: code}})
		if err != nil {
			return nil, err
		}
		request = append(request, attr...)
	}
	replies, err := nl.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // no such sockets in this kernel
	}
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	for _, r := range replies {
		if len(r.Data) < messageLen {
			continue
		}
		id := r.Data[4 : 4+socketIDLen]
		if p.banned(remote(id, family), binary.BigEndian.Uint16(id)) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// remote returns the peer's address in a socket's identity: ports, then our address, then the peer's.
func remote(id []byte, family byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(id[20:24]))
	}
	return netip.AddrFrom16([16]byte(id[20:36]))
}

// destroy ends one socket. Its owner sees ECONNABORTED.
func destroy(nl *netlink.Conn, family, protocol byte, id []byte) error {
	request := make([]byte, 8, requestLen)
	request[0], request[1] = family, protocol
	binary.NativeEndian.PutUint32(request[4:], states)
	_, err := nl.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(request, id...),
	})
	if err != nil {
		return fmt.Errorf("destroy socket of %s: %w", remote(id, family).Unmap(), err)
	}
	return nil
}

// filter returns a program by which the kernel picks the sockets of the banned prefixes: for each prefix a condition, and behind
// it a jump to the end, which accepts, for those that meet it. It returns nil for too many prefixes.
func filter(keys []ban.Key) []byte {
	if len(keys) > maxFiltered {
		return nil
	}
	var conditions [][]byte
	left := 0 // bytes from the present condition to the end
	for _, k := range keys {
		c := condition(k.Prefix)
		conditions = append(conditions, c)
		left += len(c) + jumpLen
	}
	var code []byte
	for i, c := range conditions {
		no := len(c) + jumpLen // to the next condition
		if i == len(conditions)-1 {
			no = left + 4 // beyond the end: refuse
		}
		c[1] = byte(len(c))
		binary.NativeEndian.PutUint16(c[2:], uint16(no))
		left -= len(c)
		code = append(append(code, c...), jump(left)...)
		left -= jumpLen
	}
	return code
}

const jumpLen = 4 // struct inet_diag_bc_op

func jump(length int) []byte {
	return binary.NativeEndian.AppendUint16([]byte{bcJump, jumpLen}, uint16(length))
}

// condition asks whether the peer is in a prefix. The kernel applies IPv4 conditions to mapped addresses too.
func condition(p netip.Prefix) []byte {
	family := byte(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	c := []byte{bcDestCond, 0, 0, 0, family, byte(p.Bits()), 0, 0}
	c = binary.NativeEndian.AppendUint32(c, 1<<32-1) // any port
	return append(c, p.Addr().AsSlice()...)
}
