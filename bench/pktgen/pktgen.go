//go:build linux

// Package pktgen sends TCP SYN packets of any source as fast as the machine can: from every core, through packet sockets (packet(7)) without
// queues, by sendmmsg(2), from frames of which only the source, the ports and the checksums change.
//
// Over a veth pair the receiving end does its work in the sender's context, so the rate is that of sending and receiving together. What
// receiving costs is the difference to packets for another hardware address, which the receiving end drops at once.
package pktgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
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
type Generator struct{ senders []*sender }

// A sender sends from one core.
type sender struct {
	fd      int
	frames  [batch][frameSize]byte
	vectors [batch]unix.Iovec
	headers [batch]header
	ip, tcp uint32 // sums of what all frames have in common
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
	g := new(Generator)
	for range runtime.NumCPU() {
		s, err := openSender(link, door, to)
		if err != nil {
			return nil, errors.Join(err, g.Close())
		}
		g.senders = append(g.senders, s)
	}
	return g, nil
}

func openSender(link *net.Interface, door net.HardwareAddr, to netip.Addr) (*sender, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	s := &sender{fd: fd}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind to %s: %w", link.Name, err), unix.Close(fd))
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return nil, errors.Join(fmt.Errorf("bypass queues of %s: %w", link.Name, err), unix.Close(fd))
	}
	for i := range s.frames {
		f := &s.frames[i]
		copy(f[:], door)
		copy(f[6:], link.HardwareAddr)
		copy(f[12:], []byte{8, 0, 0x45, 0, 0, frameSize - 14, 0, 0, 0, 0, 64, unix.IPPROTO_TCP})
		copy(f[30:], to.AsSlice())
		f[46], f[47] = 5<<4, 2 // SYN
		binary.BigEndian.PutUint16(f[48:], 1024)
		s.vectors[i] = unix.Iovec{Base: &f[0], Len: frameSize}
		s.headers[i].message.Iov = &s.vectors[i]
		s.headers[i].message.Iovlen = 1
	}
	s.ip, s.tcp = add(0, s.frames[0][14:34]), add(unix.IPPROTO_TCP+20, s.frames[0][30:54])
	return s, nil
}

// Close closes the interface.
func (g *Generator) Close() (err error) {
	for _, s := range g.senders {
		err = errors.Join(err, unix.Close(s.fd))
	}
	return err
}

// Send sends n packets, at most perSecond a second, or as fast as it goes if that is 0. next makes the i-th packet; goroutines call it.
func (g *Generator) Send(n, perSecond int, next func(i int) Packet) error {
	begun := time.Now()
	var claimed atomic.Int64
	send := func(s *sender) error {
		for {
			from := int(claimed.Add(batch)) - batch
			if from >= n {
				return nil
			}
			m := min(batch, n-from)
			for i := range m {
				s.write(i, next(from+i), uint16(from+i))
			}
			if err := s.send(m); err != nil {
				return err
			}
			if perSecond > 0 {
				if ahead := time.Duration(from+m)*time.Second/time.Duration(perSecond) - time.Since(begun); ahead > time.Millisecond {
					time.Sleep(ahead)
				}
			}
		}
	}
	var all errgroup.Group
	for _, s := range g.senders[:min(len(g.senders), (n+batch-1)/batch)] {
		all.Go(func() error { return send(s) })
	}
	return all.Wait()
}

// send sends the first m frames.
func (s *sender) send(m int) error {
	for done := 0; done < m; {
		k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.headers[done])), uintptr(m-done), 0, 0, 0)
		switch errno {
		case 0:
			done += int(k)
		case unix.EINTR, unix.EAGAIN, unix.ENOBUFS:
		default:
			return fmt.Errorf("send: %w", errno)
		}
	}
	return nil
}

// write puts a packet into a frame, with its checksums.
func (s *sender) write(i int, p Packet, n uint16) {
	f, port := &s.frames[i], 1024+n%60_000
	copy(f[26:30], p.From[:])
	binary.BigEndian.PutUint16(f[34:], port)
	binary.BigEndian.PutUint16(f[36:], p.Port)
	from := add(0, p.From[:])
	binary.BigEndian.PutUint16(f[24:], ^fold(s.ip+from))
	binary.BigEndian.PutUint16(f[50:], ^fold(s.tcp+from+uint32(port)+uint32(p.Port)))
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
