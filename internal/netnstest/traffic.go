//go:build linux

package netnstest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// Patience is how long a test waits for something that should happen. It is long because a test that succeeds does not wait for it.
const Patience = time.Minute

// Silence is how long a test waits to see that no packet arrives. Over veth a round trip takes well under a millisecond.
const Silence = 250 * time.Millisecond

// Echo listens inside the namespace until the test ends, and sends back what it receives. network is tcp, tcp4, tcp6, udp, udp4 or udp6;
// addr is an address such as ":22" or "192.0.2.1:53".
func (n *NS) Echo(t testing.TB, network, addr string) {
	t.Helper()
	var err error
	n.Do(func() {
		if network[:3] == "udp" {
			err = echoPackets(t, network, addr)
		} else {
			err = echoStreams(t, network, addr)
		}
	})
	if err != nil {
		t.Fatalf("listen on %s %s: %v", network, addr, err)
	}
}

func echoPackets(t testing.TB, network, addr string) error {
	conn, err := net.ListenPacket(network, addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			size, peer, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				conn.WriteTo(buf[:size], peer) // fails for a banned peer, as it should
			}
		}
	}()
	return nil
}

func echoStreams(t testing.TB, network, addr string) error {
	l, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return nil
}

// Dial connects from inside the namespace to the address "to" within the given time. A non-empty "from" is the local address,
// without port.
func (n *NS) Dial(network, from, to string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	if from != "" {
		addr, err := netip.ParseAddr(from)
		if err != nil {
			return nil, err
		}
		d.LocalAddr = localAddr(network, addr)
	}
	var conn net.Conn
	var err error
	n.Do(func() { conn, err = d.DialContext(context.Background(), network, to) })
	return conn, err
}

func localAddr(network string, addr netip.Addr) net.Addr {
	if network[:3] == "udp" {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))
}

// Say sends a word over a connection to an Echo and waits for the answer.
func Say(conn net.Conn, timeout time.Duration) error {
	word := fmt.Sprintf("word %d", time.Now().UnixNano())
	conn.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	// Late or repeated answers to earlier words may come first.
	buf := make([]byte, 2048)
	for got := ""; ; {
		size, err := conn.Read(buf)
		if err != nil {
			return err
		}
		got += string(buf[:size])
		if len(got) >= len(word) && got[len(got)-len(word):] == word {
			return nil
		}
	}
}

// Try connects to an Echo and exchanges a word. It returns nil as soon as that works, and the error if it does not within
// Silence.
func (n *NS) Try(network, from, to string) error {
	conn, err := n.Dial(network, from, to, Silence)
	if err != nil {
		return err
	}
	defer conn.Close()
	return Say(conn, Silence)
}

// Reaches fails the test unless an Echo at "to" answers within Patience.
func (n *NS) Reaches(t testing.TB, network, from, to string) {
	t.Helper()
	if err := Poll(func() error { return n.Try(network, from, to) }); err != nil {
		t.Errorf("%s from %q to %s: %v, want an answer", network, from, to, err)
	}
}

// Blocked fails the test if an Echo at "to" answers, or if it is refused rather than silent: a ban drops.
func (n *NS) Blocked(t testing.TB, network, from, to string) {
	t.Helper()
	err := n.Try(network, from, to)
	if err == nil {
		t.Errorf("%s from %q to %s: answered, want silence", network, from, to)
	} else if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s from %q to %s: %v, want a timeout", network, from, to, err)
	}
}

// Tick is the precision of the kernel's timeouts: it counts them in ticks of its clock, 10 ms at HZ=100, and a tick that has begun counts as
// whole. An element of a set may end up to a tick before its timeout, or after it.
const Tick = 10 * time.Millisecond

// Poll calls try every few milliseconds until it returns nil, for Patience at most, and returns its last error.
func Poll(try func() error) error {
	end := time.Now().Add(Patience)
	for {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Ping sends one ICMP echo request from inside the namespace and waits for the reply. A link-local address needs its zone.
func (n *NS) Ping(to string, timeout time.Duration) error {
	addr, err := netip.ParseAddr(to)
	if err != nil {
		return err
	}
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := n.Dial(network, "", to, timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	id := uint16(time.Now().UnixNano())
	packet := binary.BigEndian.AppendUint16([]byte{request, 0, 0, 0}, id)
	packet = append(packet, 0, 1)
	binary.BigEndian.PutUint16(packet[2:], Checksum(packet)) // the kernel fills in that of ICMPv6
	conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write(packet); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		size, _, err := conn.(*net.IPConn).ReadFrom(buf) // Read would leave the IPv4 header before it
		if err != nil {
			return err
		}
		if size >= 8 && buf[0] == reply && binary.BigEndian.Uint16(buf[4:]) == id {
			return nil
		}
	}
}

// Checksum returns that of RFC 1071.
func Checksum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
