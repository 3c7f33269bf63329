//go:build linux

package netnstest

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A Wire sends packets with any source address, forged ones too.
type Wire struct {
	fd    int
	to    unix.SockaddrLinklayer
	frame []byte
}

// OpenWire opens an interface of the caller's namespace. Packets go to the hardware address to.
func OpenWire(name string, to net.HardwareAddr) (*Wire, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	w := &Wire{fd: fd, to: unix.SockaddrLinklayer{Ifindex: link.Index, Halen: 6}}
	copy(w.to.Addr[:], to)
	return w, nil
}

// Close closes the interface.
func (w *Wire) Close() error { return unix.Close(w.fd) }

// HardwareAddr returns the hardware address of an interface of the caller's namespace.
func HardwareAddr(name string) (net.HardwareAddr, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	return link.HardwareAddr, nil
}

// TCP sends a segment without data. Both addresses are of one family.
func (w *Wire) TCP(from, to netip.AddrPort, flags byte) error {
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment, from.Port())
	binary.BigEndian.PutUint16(segment[2:], to.Port())
	segment[12], segment[13] = 5<<4, flags
	binary.BigEndian.PutUint16(segment[14:], 1024)
	return w.send(from.Addr(), to.Addr(), unix.IPPROTO_TCP, segment, 16)
}

// UDP sends an empty datagram.
func (w *Wire) UDP(from, to netip.AddrPort) error {
	datagram := make([]byte, 8)
	binary.BigEndian.PutUint16(datagram, from.Port())
	binary.BigEndian.PutUint16(datagram[2:], to.Port())
	datagram[5] = 8
	return w.send(from.Addr(), to.Addr(), unix.IPPROTO_UDP, datagram, 6)
}

// send puts the headers before a transport header, whose checksum is at an offset.
func (w *Wire) send(from, to netip.Addr, protocol byte, transport []byte, checksum int) error {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = append(pseudo, 0, protocol, 0, byte(len(transport)))
	binary.BigEndian.PutUint16(transport[checksum:], sum(append(pseudo, transport...)))
	f := append(w.frame[:0], w.to.Addr[:6]...)
	f = append(f, 2, 0, 0, 0, 0, 1)
	if from.Is4() {
		f = append(f, 8, 0)
		header := []byte{0x45, 0, 0, byte(20 + len(transport)), 0, 0, 0, 0, 64, protocol, 0, 0}
		header = append(append(header, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(header[10:], sum(header))
		f = append(f, header...)
	} else {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(transport)), protocol, 64)
		f = append(append(f, from.AsSlice()...), to.AsSlice()...)
	}
	w.frame = append(f, transport...)
	for {
		err := unix.Sendto(w.fd, w.frame, 0, &w.to)
		if err != unix.ENOBUFS {
			return err
		}
	}
}

// sum is the checksum of the internet (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
