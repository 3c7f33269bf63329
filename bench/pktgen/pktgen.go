//go:build linux

// Package pktgen sends TCP SYN packets of any source as fast as one core can, through a packet socket (packet(7)) and sendmmsg(2).
//
// Over a veth pair the receiving end does its work in the sender's context, so the rate is that of sending and receiving together.
package pktgen

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batch     = 64
	frameSize = 14 + 20 + 20
)

// A Packet is what varies between the packets.
type Packet struct {
	From [4]byte
	Port uint16 // of the destination
}

// A Generator sends to one host over one interface. It belongs to one goroutine.
type Generator struct {
	fd      int
	frames  [batch][frameSize]byte
	vectors [batch]unix.Iovec
	headers [batch]header
}

// A header is struct mmsghdr.
type header struct {
	message unix.Msghdr
	sent    uint32
	_       uint32
}

// Open opens an interface of the caller's namespace. Packets go to an address, by way of the hardware address door.
func Open(name string, door net.HardwareAddr, to netip.Addr) (*Generator, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	g := &Generator{fd: fd}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
		g.Close()
		return nil, fmt.Errorf("bind to %s: %w", name, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		g.Close()
		return nil, fmt.Errorf("bypass queues of %s: %w", name, err)
	}
	for i := range g.frames {
		f := &g.frames[i]
		copy(f[:], door)
		copy(f[6:], link.HardwareAddr)
		copy(f[12:], []byte{8, 0, 0x45, 0, 0, frameSize - 14, 0, 0, 0, 0, 64, unix.IPPROTO_TCP})
		copy(f[30:], to.AsSlice())
		f[46], f[47] = 5<<4, 2 // SYN
		binary.BigEndian.PutUint16(f[48:], 1024)
		g.vectors[i] = unix.Iovec{Base: &f[0], Len: frameSize}
		g.headers[i].message.Iov = &g.vectors[i]
		g.headers[i].message.Iovlen = 1
	}
	return g, nil
}

// Close closes the interface.
func (g *Generator) Close() error { return unix.Close(g.fd) }

// Send sends n packets, at most perSecond a second, or as fast as it goes if that is 0. next makes the i-th packet.
func (g *Generator) Send(n, perSecond int, next func(i int) Packet) error {
	begun := time.Now()
	for sent := 0; sent < n; {
		m := min(batch, n-sent)
		for i := range m {
			g.write(i, next(sent+i), uint16(sent+i))
		}
		for done := 0; done < m; {
			k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.headers[done])), uintptr(m-done), 0, 0, 0)
			switch errno {
			case 0:
				done += int(k)
			case unix.EINTR, unix.EAGAIN, unix.ENOBUFS:
			default:
				return fmt.Errorf("send: %w", errno)
			}
		}
		sent += m
		if perSecond > 0 {
			if ahead := time.Duration(sent)*time.Second/time.Duration(perSecond) - time.Since(begun); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
		}
	}
	return nil
}

// write puts a packet into a frame, with its checksums.
func (g *Generator) write(i int, p Packet, n uint16) {
	f := &g.frames[i]
	copy(f[26:30], p.From[:])
	binary.BigEndian.PutUint16(f[34:], 1024+n%60_000)
	binary.BigEndian.PutUint16(f[36:], p.Port)
	f[24], f[25], f[50], f[51] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(f[24:], ^fold(add(0, f[14:34])))
	binary.BigEndian.PutUint16(f[50:], ^fold(add(unix.IPPROTO_TCP+20, f[26:54])))
}

// add and fold are the checksum of the internet (RFC 1071).
func add(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
