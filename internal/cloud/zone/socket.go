package zone

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"
)

// batchSize is how many packets are read at once, if so many wait.
const batchSize = 32

// A batch reads packets from a socket, as many as wait by one system call: clients are then answered in a row, which costs much less than to wake each
// one on its own. Packages net and syscall cannot do that.
type batch struct {
	conn    syscall.RawConn
	headers [batchSize]mmsghdr
	vectors [batchSize]syscall.Iovec
	names   [batchSize]syscall.RawSockaddrInet6 // the larger form of an address
	packets [batchSize][maxUDP + 1]byte
	n       int
	errno   syscall.Errno
	read    func(fd uintptr) bool
}

// An mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header syscall.Msghdr
	length uint32
}

func newBatch(c *net.UDPConn) (*batch, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &batch{conn: raw}
	for i := range b.headers {
		b.vectors[i].Base = &b.packets[i][0]
		b.vectors[i].SetLen(len(b.packets[i]))
		h := &b.headers[i].header
		h.Name, h.Iov, h.Iovlen = (*byte)(unsafe.Pointer(&b.names[i])), &b.vectors[i], 1
	}
	b.read = func(fd uintptr) bool {
		for i := range b.headers {
			b.headers[i].header.Namelen = uint32(unsafe.Sizeof(b.names[i]))
		}
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.headers[0])), batchSize, syscall.MSG_DONTWAIT, 0, 0)
		b.n, b.errno = int(n), errno
		return errno != syscall.EAGAIN && errno != syscall.EINTR
	}
	return b, nil
}

// wait returns how many packets were read, at least one.
func (b *batch) wait() (int, error) {
	if err := b.conn.Read(b.read); err != nil {
		return 0, err
	}
	if b.errno != 0 {
		return 0, b.errno
	}
	return b.n, nil
}

// packet returns a packet, and its sender.
func (b *batch) packet(i int) ([]byte, netip.AddrPort) {
	name := &b.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	var addr netip.Addr
	switch name.Family {
	case syscall.AF_INET:
		addr = netip.AddrFrom4((*syscall.RawSockaddrInet4)(unsafe.Pointer(name)).Addr)
	case syscall.AF_INET6:
		if addr = netip.AddrFrom16(name.Addr); name.Scope_id != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10))
		}
	}
	return b.packets[i][:b.headers[i].length], netip.AddrPortFrom(addr, port)
}
