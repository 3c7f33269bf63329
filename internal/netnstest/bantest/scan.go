//go:build linux

package bantest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/netlink/nflog"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// Reports collect the packets that the kernel reports.
type Reports struct {
	mu   sync.Mutex
	seen []string
}

// Receive begins to collect the reports of a namespace.
func Receive(t *testing.T, server *netnstest.NS) *Reports {
	t.Helper()
	conn, err := nflog.Dial(server.Fd(), enforce.LogGroup)
	if err != nil {
		netnstest.Missing(t, err.Error())
	}
	r, done := new(Reports), make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		var packets []event.Packet
		for {
			if packets, _, err = conn.Receive(packets[:0]); err != nil {
				return
			}
			r.mu.Lock()
			for i := range packets {
				r.seen = append(r.seen, fmt.Sprintf("%s %s %d", packets[i].Protocol, packets[i].From, packets[i].Port))
			}
			r.mu.Unlock()
		}
	}()
	return r
}

// All returns the reports: "tcp 192.0.2.7 23".
func (r *Reports) All() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// Through waits until the last packet of a source is reported: those before it, if they are, were reported before.
func (r *Reports) Through(t *testing.T, last string) []string {
	t.Helper()
	if err := netnstest.Poll(func() error {
		if !slices.Contains(r.All(), last) {
			return fmt.Errorf("%q is not reported; these are: %q", last, r.All())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return r.All()
}

// Touch sends one packet that opens a connection.
func Touch(t *testing.T, from *netnstest.NS, network, local, to string) {
	t.Helper()
	conn, err := from.Dial(network, local, to, netnstest.Patience)
	if err == nil {
		if network == "udp" {
			_, err = conn.Write([]byte("?"))
		}
		conn.Close()
	}
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("%s from %q to %s: %v", network, local, to, err)
	}
}

func (f Filter) closedPortsAreReported(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 192.0.2.8/24 2001:db8:1::7/64")
	b := f.openWith(t, server, enforce.Settings{Scan: conf.Scan{Enabled: true, UDP: true, Exclude: "8000-8010"}})
	if d, err := b.Detection(); err != nil || d.Off != "" {
		netnstest.Missing(t, fmt.Sprint(err, d.Off))
	}
	allow := prefixset.New(netip.MustParsePrefix("192.0.2.8/32"))
	if _, err := b.Rebuild(t.Context(), enforce.Changes{Allow: &allow}); err != nil {
		t.Fatal(err)
	}
	r := Receive(t, server)
	server.Echo(t, "tcp", ":22")
	server.Echo(t, "udp4", "192.0.2.1:53")

	Touch(t, peer, "tcp", "192.0.2.7", "192.0.2.1:22")   // open
	Touch(t, peer, "udp", "192.0.2.7", "192.0.2.1:53")   // open
	Touch(t, peer, "tcp", "192.0.2.7", "192.0.2.1:8005") // excluded
	Touch(t, peer, "tcp", "192.0.2.8", "192.0.2.1:25")   // from an address that is allowed
	Touch(t, peer, "udp", "192.0.2.7", "192.0.2.1:40000")
	for range 3 {
		Touch(t, peer, "tcp", "192.0.2.7", "192.0.2.1:23") // once, however often
	}
	Touch(t, peer, "udp", "192.0.2.7", "192.0.2.1:161")
	Touch(t, peer, "tcp", "2001:db8:1::7", "[2001:db8:1::1]:22")
	Touch(t, peer, "tcp", "2001:db8:1::7", "[2001:db8:1::1]:23")
	want := []string{"tcp 192.0.2.7 23", "udp 192.0.2.7 161", "tcp 2001:db8:1::7 23"}
	if got := r.Through(t, want[2]); !slices.Equal(got, want) {
		t.Errorf("reported are %q, want %q", got, want)
	}
	if d, err := b.Detection(); err != nil || d != (enforce.Detection{}) {
		t.Errorf("Detection = %+v, %v, want that nothing was left out", d, err)
	}
}

// A late answer of a name server comes to a port that its client has closed, which may be any port.
func (f Filter) lateAnswersAreNotReported(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 2001:db8:1::7/64")
	b := f.openWith(t, server, enforce.Settings{Scan: conf.Scan{Enabled: true, UDP: true}})
	if d, err := b.Detection(); err != nil || d.Off != "" {
		netnstest.Missing(t, fmt.Sprint(err, d.Off))
	}
	if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
		t.Fatal(err)
	}
	r := Receive(t, server)
	server.Echo(t, "tcp", ":22")
	peer.Reaches(t, "tcp", "2001:db8:1::7", "[2001:db8:1::1]:22") // the kernel drops packets to an IPv6 address until the link is ready
	door := netnstest.In(t, server, func() (net.HardwareAddr, error) { return netnstest.HardwareAddr("veth0") })
	wire := netnstest.In(t, peer, func() (*netnstest.Wire, error) { return netnstest.OpenWire("veth0", door) })
	defer wire.Close()
	send := func(send func(from, to netip.AddrPort) error, from, to string) {
		t.Helper()
		if err := send(netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)); err != nil {
			t.Fatal(err)
		}
	}
	syn := func(from, to netip.AddrPort) error { return wire.TCP(from, to, 2) }
	for _, port := range []int{53, 123, 500, 1194, 4500} {
		for to := 2000; to < 2010; to++ {
			send(wire.UDP, fmt.Sprintf("192.0.2.7:%d", port), fmt.Sprintf("192.0.2.1:%d", to))
			send(wire.UDP, fmt.Sprintf("[2001:db8:1::7]:%d", port), fmt.Sprintf("[2001:db8:1::1]:%d", to))
		}
	}
	want := []string{"udp 192.0.2.7 161", "udp 2001:db8:1::7 161", "tcp 192.0.2.7 23"}
	send(wire.UDP, "192.0.2.7:54", "192.0.2.1:161")
	r.Through(t, want[0]) // packets that no answer separates may overtake each other
	send(wire.UDP, "[2001:db8:1::7]:1024", "[2001:db8:1::1]:161")
	r.Through(t, want[1])
	send(syn, "192.0.2.7:53", "192.0.2.1:23") // no answer
	if got := r.Through(t, want[2]); !slices.Equal(got, want) {
		t.Errorf("reported are %q, want %q", got, want)
	}
}

// While a service is restarted, its clients are not scanning.
func (f Filter) serviceThatRestarts(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/24", "192.0.2.7/24")
	b := f.openWith(t, server, enforce.Settings{Scan: conf.Scan{Enabled: true}})
	if d, err := b.Detection(); err != nil || d.Off != "" {
		netnstest.Missing(t, fmt.Sprint(err, d.Off))
	}
	if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
		t.Fatal(err)
	}
	r := Receive(t, server)
	for range 10 {
		l := netnstest.In(t, server, func() (net.Listener, error) {
			return new(net.ListenConfig).Listen(context.Background(), "tcp", ":5269")
		})
		for range 20 {
			Touch(t, peer, "tcp", "", "192.0.2.1:5269")
		}
		l.Close()
		for range 20 {
			Touch(t, peer, "tcp", "", "192.0.2.1:5269")
		}
	}
	Touch(t, peer, "tcp", "", "192.0.2.1:23")
	if got, want := r.Through(t, "tcp 192.0.2.7 23"), []string{"tcp 192.0.2.7 23"}; !slices.Equal(got, want) {
		t.Errorf("reported are %q, want %q", got, want)
	}
}

// Forged packets fill no set, and those that are not reported are counted.
func (f Filter) floodOfClosedPorts(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	door, link := netnstest.Join(t, server, peer, "192.0.2.1/24", "192.0.2.7/24")
	b := f.openWith(t, server, enforce.Settings{Scan: conf.Scan{Enabled: true}})
	if d, err := b.Detection(); err != nil || d.Off != "" {
		netnstest.Missing(t, fmt.Sprint(err, d.Off))
	}
	if _, err := b.Rebuild(t.Context(), enforce.Changes{}); err != nil {
		t.Fatal(err)
	}
	r := Receive(t, server)
	server.Sysctl(t, "net.ipv4.conf.all.rp_filter", "0")
	Flood(t, server, door, peer, link, 60_000)
	d, err := b.Detection()
	if err != nil || d.Unadmitted == 0 || d.Full != 0 {
		t.Errorf("Detection = %+v, %v, want packets that were not admitted, and none that found a full set", d, err)
	}
	if n := len(r.All()); n == 0 || n > 20_000 {
		t.Errorf("%d packets are reported", n)
	}
}

// newPeersAreReported opens connections to watched ports and others, and floods a watched port from forged sources.
func (f Filter) newPeersAreReported(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	door, link := netnstest.Join(t, server, peer, "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.7/24 192.0.2.8/24 192.0.2.9/24 2001:db8:1::7/64 2001:db8:1::8/64")
	b := f.openWith(t, server, enforce.Settings{Peers: "22,100-200"})
	if d, err := b.Detection(); err != nil || d.PeersOff != "" {
		netnstest.Missing(t, fmt.Sprint(err, d.PeersOff))
	}
	allow := prefixset.New(netip.MustParsePrefix("192.0.2.8/32"))
	if _, err := b.Rebuild(t.Context(), enforce.Changes{Allow: &allow}); err != nil {
		t.Fatal(err)
	}
	if c, err := b.Check(t.Context()); err != nil || len(c.Damaged) > 0 {
		t.Errorf("Check = %+v, %v", c, err)
	}
	r := Receive(t, server)
	server.Echo(t, "tcp", ":22")
	server.Echo(t, "udp4", "192.0.2.1:150")
	Touch(t, peer, "tcp", "192.0.2.9", "192.0.2.1:25")  // not watched
	Touch(t, peer, "udp", "192.0.2.9", "192.0.2.1:150") // forged too easily
	Touch(t, peer, "tcp", "192.0.2.8", "192.0.2.1:22")  // allowed
	Touch(t, peer, "tcp", "192.0.2.7", "192.0.2.1:22")
	Touch(t, peer, "tcp", "192.0.2.7", "192.0.2.1:22")  // again
	Touch(t, peer, "tcp", "192.0.2.7", "192.0.2.1:150") // again, elsewhere
	Touch(t, peer, "tcp", "2001:db8:1::7", "[2001:db8:1::1]:22")
	Touch(t, peer, "tcp", "2001:db8:1::8", "[2001:db8:1::1]:22") // of the same /64
	Touch(t, peer, "tcp", "192.0.2.9", "192.0.2.1:150")
	want := []string{"tcp 192.0.2.7 22", "tcp 2001:db8:1::7 22", "tcp 192.0.2.9 150"}
	if got := r.Through(t, want[2]); !slices.Equal(got, want) {
		t.Errorf("reported are %q, want %q", got, want)
	}
	server.Sysctl(t, "net.ipv4.conf.all.rp_filter", "0")
	began := time.Now()
	Flood(t, server, door, peer, link, 60_000)
	if most := enforce.PeerBurst + int(time.Since(began).Seconds()+1)*enforce.PeerRate; len(r.All()) > most+len(want) {
		t.Errorf("%d sources are reported of a forged flood, want %d at most", len(r.All()), most)
	}
}

// Flood sends SYN segments from as many sources to as many ports.
func Flood(t *testing.T, server *netnstest.NS, door string, peer *netnstest.NS, link string, n int) {
	t.Helper()
	to := netnstest.In(t, server, func() (net.HardwareAddr, error) { return netnstest.HardwareAddr(door) })
	wire := netnstest.In(t, peer, func() (*netnstest.Wire, error) { return netnstest.OpenWire(link, to) })
	defer wire.Close()
	for i := range n {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if err := wire.TCP(netip.AddrPortFrom(from, 4000), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i%30000)), 2); err != nil {
			t.Fatal(err)
		}
	}
}
