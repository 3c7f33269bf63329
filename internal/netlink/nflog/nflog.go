//go:build linux

// Package nflog receives packets that rules of the packet filter log to a group: NFLOG, nfnetlink_log.
//
// The kernel copies the beginning of a packet, enough for its headers, into a message, and goes on with the packet; nothing waits for the
// receiver. What the receiver is too slow for is lost, and the next Receive reports that. A group has one receiver in a network namespace.
//
// Everything in a message that comes from the network is read with its length checked: a sender chooses it.
package nflog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/event"
	"mef/internal/netlink/nfnl"
)

// Snaplen is how many bytes of a packet its headers take: those of IPv6 with some extensions, and of TCP.
const Snaplen = 128

// The messages and attributes of include/uapi/linux/netfilter/nfnetlink_log.h.
const (
	msgPacket = unix.NFNL_SUBSYS_ULOG << 8
	msgConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1

	cfgCommand   = 1 // NFULA_CFG_CMD
	cfgMode      = 2 // NFULA_CFG_MODE
	cfgBuffer    = 3 // NFULA_CFG_NLBUFSIZ, of a message of many packets
	cfgTimeout   = 4 // NFULA_CFG_TIMEOUT, in 10 ms
	cfgThreshold = 5 // NFULA_CFG_QTHRESH

	commandBind = 1
	copyPacket  = 2

	attrHeader  = 1  // NFULA_PACKET_HDR: a protocol, and the hook
	attrPayload = 9  // NFULA_PAYLOAD
	attrPrefix  = 10 // NFULA_PREFIX
)

// receiveBuffer holds some seconds of messages at the pace at which rules log at most.
const receiveBuffer = 4 << 20

// How many packets the kernel collects before it sends them, and for how long, in 10 ms, after Collect.
const (
	collectMost = 64
	collectFor  = 5
)

// How many samples the kernel collects, in how many bytes, and for how long, in 10 ms.
const (
	sampleMost   = 1000
	sampleBuffer = 16 << 10
	sampleFor    = 100
)

// A Conn receives the packets of a group. It is for one goroutine; Close may be called from another, and ends Receive.
type Conn struct {
	nl      *netlink.Conn
	group   uint16
	samples bool
}

// Dial begins to receive the packets of a group, in the network namespace of a file descriptor, 0 for the caller's. The error says what is
// missing.
func Dial(netns int, group uint16) (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open nfnetlink_log: %w", err)
	}
	if err := bind(nl, group); err != nil {
		nl.Close()
		return nil, explain(fmt.Errorf("receive NFLOG group %d: %w", group, err))
	}
	return &Conn{nl: nl, group: group}, nil
}

// DialSamples is Dial for samples of packets, which the kernel collects for a second. They are received as they look to the peer: From is the
// peer's address, also of a packet to it, and Port is the one of this host. Packets of other protocols, and fragments, have no port.
func DialSamples(netns int, group uint16) (*Conn, error) {
	c, err := Dial(netns, group)
	if err != nil {
		return nil, err
	}
	c.samples = true
	var a nfnl.Attrs
	a.Uint32(cfgBuffer, sampleBuffer)
	a.Uint32(cfgThreshold, sampleMost)
	a.Uint32(cfgTimeout, sampleFor)
	if _, err := c.nl.Send(configure(group, a, netlink.Request)); err != nil {
		c.Close()
		return nil, fmt.Errorf("receive NFLOG group %d: %w", group, err)
	}
	return c, nil
}

func bind(nl *netlink.Conn, group uint16) error {
	if err := nl.SetReadBuffer(receiveBuffer); err != nil {
		return err
	}
	mode := binary.BigEndian.AppendUint32(nil, Snaplen)
	mode = append(mode, copyPacket, 0)
	// All at once: a packet of the group that came before the answer to a second request would be taken for that answer.
	var a nfnl.Attrs
	a.Bytes(cfgCommand, []byte{commandBind})
	a.Bytes(cfgMode, mode)
	// Each message at once. The kernel collects them for a second otherwise, in which a scan is over.
	a.Uint32(cfgThreshold, 1)
	a.Uint32(cfgTimeout, 0)
	_, err := nl.Execute(configure(group, a, netlink.Request|netlink.Acknowledge))
	return err
}

func configure(group uint16, a nfnl.Attrs, flags netlink.HeaderFlags) netlink.Message {
	header := append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, byte(group>>8), byte(group))
	return netlink.Message{Header: netlink.Header{Type: msgConfig, Flags: flags}, Data: append(header, a...)}
}

// Collect makes the kernel send many packets together, at most 50 ms late, which costs much less where many come. Without on, it sends each
// at once, as after Dial.
func (c *Conn) Collect(on bool) error {
	var a nfnl.Attrs
	if on {
		a.Uint32(cfgThreshold, collectMost)
		a.Uint32(cfgTimeout, collectFor)
	} else {
		a.Uint32(cfgThreshold, 1)
		a.Uint32(cfgTimeout, 0)
	}
	_, err := c.nl.Send(configure(c.group, a, netlink.Request)) // without an answer: see bind
	return err
}

// explain adds what an operator can do about an error.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: it needs CAP_NET_ADMIN, and no other program may receive this group", err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: another program receives this group", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w: this kernel lacks NFLOG; load the module nfnetlink_log", err)
	}
	return err
}

// Close ends Receive.
func (c *Conn) Close() error { return c.nl.Close() }

// Receive waits for packets and appends them to packets, each with the time of its arrival. lost reports that others before them were lost.
// After an error the Conn is of no more use.
func (c *Conn) Receive(packets []event.Packet) (_ []event.Packet, lost bool, err error) {
	msgs, err := c.nl.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return packets, true, nil
	}
	if err != nil {
		return packets, false, err
	}
	now := time.Now()
	for _, m := range msgs {
		if m.Header.Type != msgPacket {
			continue // the end of a batch
		}
		attrs := nfnl.Payload(m)
		payload := nfnl.Find(attrs, attrPayload)
		p, ok := parse(payload)
		if c.samples {
			header := nfnl.Find(attrs, attrHeader)
			p, ok = sample(payload, len(header) > 2 && header[2] != unix.NF_INET_PRE_ROUTING)
		}
		if ok {
			p.Time, p.Mark = now, nfnl.Text(nfnl.Find(attrs, attrPrefix))
			packets = append(packets, p)
		}
	}
	return packets, false, nil
}

// sample reads the headers of a sample. ok is false unless it has those of IP.
func sample(b []byte, outgoing bool) (p event.Packet, ok bool) {
	p, transport, ok := parseIP(b)
	if !ok {
		return p, false
	}
	if outgoing {
		p.From, p.To = p.To, p.From
	}
	if (p.Protocol == event.TCP || p.Protocol == event.UDP) && len(transport) >= 4 {
		at := 2
		if outgoing {
			at = 0
		}
		p.Port = binary.BigEndian.Uint16(transport[at:])
	}
	return p, true
}

const maxExtensions = 8 // headers between IPv6 and the transport protocol

// parse reads the headers of a packet. ok is false unless they are whole and of TCP or UDP.
func parse(b []byte) (p event.Packet, ok bool) {
	p, transport, ok := parseIP(b)
	switch {
	case !ok || transport == nil:
		return p, false
	case p.Protocol == event.TCP && len(transport) >= 14:
		p.Flags = transport[13] & 0x3f
	case p.Protocol == event.UDP && len(transport) >= 4:
	default:
		return p, false
	}
	p.Port = binary.BigEndian.Uint16(transport[2:])
	return p, true
}

// parseIP reads the headers of IP. transport is what is behind them, nil if it is not whole, or a later fragment, which has no ports.
func parseIP(b []byte) (p event.Packet, transport []byte, ok bool) {
	if len(b) == 0 {
		return p, nil, false
	}
	switch b[0] >> 4 {
	case 4:
		size := int(b[0]&15) * 4
		if size < 20 || len(b) < size {
			return p, nil, false
		}
		p.From, p.To = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		p.Protocol = event.Protocol(b[9])
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return p, nil, true
		}
		return p, b[size:], true
	case 6:
		if len(b) < 40 {
			return p, nil, false
		}
		p.From, p.To = netip.AddrFrom16([16]byte(b[8:])).Unmap(), netip.AddrFrom16([16]byte(b[24:])).Unmap()
		if p.Protocol, transport, ok = skipExtensions(b[6], b[40:]); !ok {
			return p, nil, true
		}
		return p, transport, true
	}
	return p, nil, false
}

// skipExtensions returns the transport header behind the extension headers of IPv6 (RFC 8200 section 4).
func skipExtensions(next byte, b []byte) (event.Protocol, []byte, bool) {
	const hopByHop, routing, fragment, destination = 0, 43, 44, 60
	for range maxExtensions {
		size := 0
		switch next {
		default:
			return event.Protocol(next), b, true
		case hopByHop, routing, destination:
			if len(b) < 8 {
				return 0, nil, false
			}
			size = (int(b[1]) + 1) * 8
		case fragment:
			if len(b) < 8 || binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				return 0, nil, false
			}
			size = 8
		}
		if len(b) < size {
			return 0, nil, false
		}
		next, b = b[0], b[size:]
	}
	return 0, nil, false
}
