//go:build integration

package policytest_test

import (
	"encoding/binary"
	"net/netip"

	"mef/internal/firewall/policy"
	"mef/internal/netnstest"
)

// Numbers of protocols that differ by family.
const (
	tcp   = 6
	udp   = 17
	icmp  = 1
	icmp6 = 58
)

// A frame is an IP packet to be.
type frame struct {
	proto        policy.Proto
	src, dst     netip.Addr
	sport, dport uint16
	tag          uint16 // by which it is known again: the identification of IPv4, in the flow label of IPv6
	payload      []byte // what follows the IP header
	owner        int    // which of the owners sends it, if the host does
}

// Flags of TCP.
const (
	fin = 1 << iota
	syn
	rst
	_
	ack
)

// tcpSegment returns a frame's segment with these flags. All of one direction have one sequence number, so that they are in window.
func (f frame) tcpSegment(flags byte) frame {
	seq, acked := uint32(1000), uint32(0)
	if flags&ack != 0 {
		acked = 1001
		if flags&syn == 0 {
			seq++
		}
	}
	b := binary.BigEndian.AppendUint16(nil, f.sport)
	b = binary.BigEndian.AppendUint16(b, f.dport)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, acked)
	b = append(b, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	f.payload = b
	return f.summed(16)
}

// udpDatagram returns a frame's datagram. One that lies of its length is invalid to conntrack, though its checksum is right.
func (f frame) udpDatagram(lie bool) frame {
	length := uint16(12)
	if lie {
		length = 4
	}
	b := binary.BigEndian.AppendUint16(nil, f.sport)
	b = binary.BigEndian.AppendUint16(b, f.dport)
	b = binary.BigEndian.AppendUint16(b, length)
	f.payload = append(b, 0, 0, 'm', 'e', 'f', '.')
	return f.summed(6)
}

// icmpMessage returns a frame's message of ICMP or ICMPv6, whose second word is given, with what follows it.
func (f frame) icmpMessage(typ, code byte, word uint32, rest []byte) frame {
	b := append([]byte{typ, code, 0, 0}, binary.BigEndian.AppendUint32(nil, word)...)
	f.payload = append(b, rest...)
	return f.summed(2)
}

// summed fills in the checksum of the payload at an offset.
func (f frame) summed(at int) frame {
	var pseudo []byte
	if f.proto != icmp {
		pseudo = append(append(pseudo, f.src.AsSlice()...), f.dst.AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(f.payload)))
		pseudo = append(pseudo, 0, 0, 0, byte(f.proto))
	}
	binary.BigEndian.PutUint16(f.payload[at:], netnstest.Checksum(append(pseudo, f.payload...)))
	return f
}

// dontFragment is the flag of IPv4, beside which the identification means nothing but what we put there.
const dontFragment = 0x4000

// bytes returns the packet.
func (f frame) bytes() []byte {
	if f.src.Is4() {
		b := []byte{4<<4 | 5, 0}
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(f.payload)))
		b = binary.BigEndian.AppendUint16(b, f.tag)
		b = binary.BigEndian.AppendUint16(b, dontFragment)
		b = append(b, 64, byte(f.proto), 0, 0)
		b = append(append(b, f.src.AsSlice()...), f.dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], netnstest.Checksum(b))
		return append(b, f.payload...)
	}
	b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(f.tag))
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.payload)))
	b = append(b, byte(f.proto), 255) // the hop limit that neighbour discovery must have
	b = append(append(b, f.src.AsSlice()...), f.dst.AsSlice()...)
	return append(b, f.payload...)
}

// tagOf returns the tag of a packet by the mark that the worlds give it: its second word if it is IPv4, its first if it is IPv6. Tags
// are small enough for them not to be taken for each other.
func tagOf(mark []byte) uint16 {
	if mark[0] == 6<<4 {
		return binary.BigEndian.Uint16(mark[2:])
	}
	return binary.BigEndian.Uint16(mark)
}
