//go:build linux

// Package sockdiag lists and destroys the TCP and UDP sockets of this network namespace: sock_diag(7), as ss(8) does.
//
// The peers of a dual-stack socket are IPv4-mapped and found among the IPv6 sockets only, so that both families are always read, and
// addresses are returned unmapped. The kernel applies a Filter, so that a host with very many sockets answers a narrow question fast.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages of include/uapi/linux/inet_diag.h. Addresses and ports are in network byte order, all other numbers in the host's.
const (
	sockDestroy = 21 // SOCK_DESTROY

	requestLen = 56 // struct inet_diag_req_v2
	messageLen = 72 // struct inet_diag_msg
	idLen      = 48 // struct inet_diag_sockid

	reqBytecode  = 1  // INET_DIAG_REQ_BYTECODE
	attrCgroupID = 21 // INET_DIAG_CGROUP_ID, kernel 5.8 and later
	bcJump       = 1  // INET_DIAG_BC_JMP
	bcLocal      = 7  // INET_DIAG_BC_S_COND
	bcRemote     = 8  // INET_DIAG_BC_D_COND
)

// States is a set of socket states. A UDP socket without a peer is in the state Close.
type States uint32

// The states of include/net/tcp_states.h that matter here.
const (
	Established States = 1 << 1
	TimeWait    States = 1 << 6
	Close       States = 1 << 7
	Listen      States = 1 << 10
	All         States = 0xfff
)

// A Socket is what the kernel reports of one.
type Socket struct {
	Local, Remote netip.AddrPort // never IPv4-mapped; the port of a socket without a peer is 0
	UID, Inode    uint32
	Cgroup        uint64 // 0 if the kernel does not report it

	family, protocol byte
	id               [idLen]byte
}

// A Filter is a program by which the kernel chooses sockets. Nil chooses all.
type Filter []byte

// A Conn is a connection to sock_diag. It is for one goroutine at a time.
type Conn struct{ nl *netlink.Conn }

// Dial connects to sock_diag in the caller's network namespace.
func Dial() (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return &Conn{nl}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.nl.Close() }

// Each calls fn for each socket of a protocol (unix.IPPROTO_TCP or UDP) that is in one of the states and that the filter chooses. A
// protocol that the kernel does not have has no sockets.
func (c *Conn) Each(protocol byte, states States, filter Filter, fn func(Socket)) error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := c.each(family, protocol, states, filter, fn); err != nil {
			return fmt.Errorf("list sockets: %w", err)
		}
	}
	return nil
}

func (c *Conn) each(family, protocol byte, states States, filter Filter, fn func(Socket)) error {
	request := make([]byte, requestLen)
	request[0], request[1] = family, protocol
	binary.NativeEndian.PutUint32(request[4:], uint32(states))
	if filter != nil {
		attr, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: reqBytecode, Data: filter}})
		if err != nil {
			return err
		}
		request = append(request, attr...)
	}
	_, err := c.nl.Send(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if err != nil {
		return err
	}
	for m, err := range c.nl.ReceiveIter() {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		if s, ok := parse(m.Data); ok {
			s.protocol = protocol
			fn(s)
		}
	}
	return nil
}

// Destroy closes a socket. Its owner sees ECONNABORTED. The error wraps ENOENT if the socket does not exist any more, and EOPNOTSUPP if
// the kernel cannot do this (CONFIG_INET_DIAG_DESTROY).
func (c *Conn) Destroy(s Socket) error {
	request := make([]byte, 8, requestLen)
	request[0], request[1] = s.family, s.protocol
	binary.NativeEndian.PutUint32(request[4:], uint32(All))
	_, err := c.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(request, s.id[:]...),
	})
	if err != nil {
		return fmt.Errorf("destroy socket of %s: %w", s.Remote.Addr(), err)
	}
	return nil
}

// parse reads a struct inet_diag_msg and the attributes behind it.
func parse(b []byte) (s Socket, ok bool) {
	if len(b) < messageLen {
		return s, false
	}
	s.family = b[0]
	s.id = [idLen]byte(b[4:])
	s.Local = netip.AddrPortFrom(address(s.id[4:20], s.family), binary.BigEndian.Uint16(s.id[:]))
	s.Remote = netip.AddrPortFrom(address(s.id[20:36], s.family), binary.BigEndian.Uint16(s.id[2:]))
	s.UID, s.Inode = binary.NativeEndian.Uint32(b[64:]), binary.NativeEndian.Uint32(b[68:])
	attrs, err := netlink.UnmarshalAttributes(b[messageLen:])
	if err != nil {
		return s, true
	}
	for _, a := range attrs {
		if a.Type == attrCgroupID && len(a.Data) == 8 {
			s.Cgroup = binary.NativeEndian.Uint64(a.Data)
		}
	}
	return s, true
}

func address(b []byte, family byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16])).Unmap()
}

// LocalPort chooses the sockets that are bound to a port.
func LocalPort(port uint16) Filter {
	return anyOf([][]byte{condition(bcLocal, unix.AF_UNSPEC, 0, uint32(port), nil)})
}

// maxPrefixes is up to how many prefixes a filter of RemoteIn has: the kernel tries one after the other for each socket, so that beyond
// it is cheaper to read all sockets.
const maxPrefixes = 500

// RemoteIn chooses the sockets whose peer is in one of the prefixes. It may choose more, so the caller must compare each socket again: for
// more than 500 prefixes it chooses all, and an IPv6 prefix that contains ::ffff:0:0/96 chooses the IPv4 peers of dual-stack sockets.
func RemoteIn(prefixes []netip.Prefix) Filter {
	if len(prefixes) == 0 || len(prefixes) > maxPrefixes {
		return nil
	}
	conditions := make([][]byte, len(prefixes))
	for i, p := range prefixes {
		family := byte(unix.AF_INET) // which the kernel applies to mapped addresses too
		if p.Addr().Is6() {
			family = unix.AF_INET6
		}
		conditions[i] = condition(bcRemote, family, p.Bits(), 1<<32-1, p.Addr().AsSlice()) // any port
	}
	return anyOf(conditions)
}

// condition returns a struct inet_diag_bc_op and a struct inet_diag_hostcond, without the jumps of the former.
func condition(code, family byte, bits int, port uint32, addr []byte) []byte {
	c := []byte{code, 0, 0, 0, family, byte(bits), 0, 0}
	c = binary.NativeEndian.AppendUint32(c, port)
	return append(c, addr...)
}

const jumpLen = 4 // struct inet_diag_bc_op

// anyOf returns a program that accepts what meets one of the conditions: behind each stands a jump to the end, which accepts; beyond
// the end is a refusal.
func anyOf(conditions [][]byte) Filter {
	left := 0 // bytes from the present condition to the end
	for _, c := range conditions {
		left += len(c) + jumpLen
	}
	var code Filter
	for i, c := range conditions {
		no := len(c) + jumpLen // to the next condition
		if i == len(conditions)-1 {
			no = left + 4
		}
		c[1] = byte(len(c))
		binary.NativeEndian.PutUint16(c[2:], uint16(no))
		left -= len(c)
		code = append(code, c...)
		code = binary.NativeEndian.AppendUint16(append(code, bcJump, jumpLen), uint16(left))
		left -= jumpLen
	}
	return code
}
