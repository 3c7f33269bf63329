package event

import (
	"fmt"
	"net/netip"
	"time"
)

// What a Packet may be reported for.
const (
	ClosedPort = "mef:scan" // it came to a port at which no socket was
	FloodSYN   = "mef:syn"  // its source opens too many connections in a second
	FloodNew   = "mef:new"  // the same, as connection tracking counts them
	FloodConns = "mef:conn" // its source has too many connections
	NewPeer    = "mef:peer" // it is the first for a while by which its source opens a connection to a watched port
)

// Why a Packet was dropped, if it is a sample of those: see enforce.SampleGroup.
const (
	DroppedBan        = "ban"            // it came from a banned address
	DroppedUnverified = "unverified_ban" // it came from an address with an unverified ban
	DroppedReply      = "reply"          // it was for a banned address
	DroppedList       = "list"           // it came from or was for an address of a list
)

// A Packet is one that the packet filter of this host reports.
type Packet struct {
	Mark     string // what for
	Time     time.Time
	From, To netip.Addr // never IPv4-mapped; From can be forged
	Protocol Protocol
	Port     uint16 // of To
	Flags    byte   // of TCP: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32
}

// A Protocol is a transport protocol, by its number in IP headers.
type Protocol uint8

// The protocols that have ports.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String returns "tcp", "udp", or the number.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// String returns the packet as evidence: "tcp SYN from 192.0.2.7 to port 23 of 203.0.113.1".
func (p *Packet) String() string {
	return fmt.Sprintf("%s from %s to port %d of %s", p.kind(), p.From, p.Port, p.To)
}

func (p *Packet) kind() string {
	if p.Protocol != TCP {
		return p.Protocol.String()
	}
	switch p.Flags & 0x3f {
	case 0:
		return "tcp without flags"
	case 1:
		return "tcp FIN"
	case 0x29:
		return "tcp FIN+PSH+URG"
	}
	return "tcp SYN"
}
