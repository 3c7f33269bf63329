//go:build linux

package bantest

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// many returns a list of n addresses and n/100 networks, all different from those of another seed in a share of them.
func many(n, from int) *prefixset.Packed {
	var b prefixset.Packer
	for i := range n {
		x := uint32(from+i) * 2654435761 // spread over the address space
		b.Add(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}), 32))
		if i%100 == 0 {
			b.Add(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}), 48))
		}
	}
	return b.Pack()
}

// with returns the entries of p and those of a text.
func with(p *prefixset.Packed, text string) *prefixset.Packed {
	var b prefixset.Packer
	for _, p := range []*prefixset.Packed{p, enforcetest.Packed(text)} {
		for _, v6 := range []bool{false, true} {
			for a := range p.Hosts(v6) {
				b.AddRange(prefixset.Range{First: a, Last: a})
			}
			for n := range p.Nets(v6) {
				b.AddRange(n)
			}
		}
	}
	return b.Pack()
}

// noGapWhileAListIsReplaced sends a packet every millisecond from listed addresses while their list is replaced by new generations
// and changed in place, and while their entry changes from a host to a network and back.
func (f Filter) noGapWhileAListIsReplaced(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/16 2001:db8::1/32", "192.0.2.7/16 192.0.9.9/16 2001:db8:a::7/32")
	b := f.open(t, server)
	e := enforcetest.Start(t, b, enforce.Options{})
	server.Echo(t, "udp4", "192.0.2.1:53")
	server.Echo(t, "udp6", "[2001:db8::1]:53")
	set := func(p *prefixset.Packed) {
		t.Helper()
		if err := e.SetLists(t.Context(), []enforce.List{{Name: "long", Addrs: p}}); err != nil {
			t.Fatal(err)
		}
	}
	const n = 50_000
	done := make(chan struct{})
	var senders sync.WaitGroup
	var sent, answered [2]atomic.Int64
	probers := []prober{newProber(t, peer, "192.0.2.7", 53), newProber(t, peer, "2001:db8:a::7", 53)} // answered before the list is there
	set(with(many(n, 0), "192.0.2.7 2001:db8:a::7"))
	for i, p := range probers {
		p.conn.SetDeadline(time.Time{})
		go func() {
			buf := make([]byte, 100)
			for {
				got, err := p.conn.Read(buf)
				if err != nil {
					return
				}
				if string(buf[:got]) == "listed" { // otherwise it is a late answer to an earlier word
					answered[i].Add(1)
				}
			}
		}()
		senders.Go(func() {
			for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
				select {
				case <-done:
					return
				default:
					p.conn.Write([]byte("listed"))
					sent[i].Add(1)
				}
			}
		})
	}
	for i := range 3 {
		set(with(many(n, (i+1)*n), "192.0.2.7 2001:db8:a::/64")) // all others are new
		set(with(many(n, (i+1)*n), "192.0.2.0/28 2001:db8:a::7"))
		set(with(many(n-100, (i+1)*n), "192.0.2.0/29 192.0.2.200 2001:db8:a::/63"))
	}
	if err := e.Renew(t.Context(), func() error { return nil }); err != nil {
		t.Error(err)
	}
	close(done)
	senders.Wait()
	control := newProber(t, peer, "192.0.9.9", 53)
	if err := netnstest.Say(control.conn, netnstest.Patience); err != nil {
		t.Error("an address that is not listed is not answered: ", err)
	}
	for i := range answered {
		if sent, answered := sent[i].Load(), answered[i].Load(); answered > 0 || sent < 50 {
			t.Errorf("%d of %d packets of a listed address were answered", answered, sent)
		}
	}
	held, err := e.Lists(t.Context())
	if err != nil || len(held) != 1 || held[0].Packets == 0 {
		t.Errorf("lists %+v, %v: want one that has dropped packets", held, err)
	}
}

// listsDropWhatOpensConnections sends packets of both kinds: those that open a connection to the server, and answers to the
// server's own.
func (f Filter) listsDropWhatOpensConnections(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/16 2001:db8::1/32", "192.0.2.7/16 2001:db8:a::7/32")
	e := enforcetest.Start(t, f.open(t, server), enforce.Options{})
	for _, ns := range []*netnstest.NS{server, peer} {
		for _, port := range []string{"80", "22"} {
			ns.Echo(t, "tcp", ":"+port)
		}
	}
	type reach bool
	const works, blocked reach = true, false
	for _, tt := range []struct {
		list       enforce.List
		in80, in22 reach // connections to the server
		out        reach // from it
	}{
		{enforce.List{Addrs: enforcetest.Packed("198.51.100.1")}, works, works, works},
		{enforce.List{Addrs: enforcetest.Packed("192.0.2.7 2001:db8:a::7")}, blocked, blocked, works},
		{enforce.List{Addrs: enforcetest.Packed("192.0.2.7 2001:db8:a::7"), Ports: "22"}, works, blocked, works},
		{enforce.List{Addrs: enforcetest.Packed("192.0.2.0/28 2001:db8:a::/64"), Both: true}, blocked, blocked, blocked},
		{enforce.List{Addrs: enforcetest.Packed("192.0.2.0/28 2001:db8:a::/64"), Both: true, Ports: "22"}, works, blocked, works},
		// All addresses but those of a country.
		{enforce.List{Addrs: enforcetest.Packed("198.51.100.0/24 2001:db8:b::/48").Complement(), Ports: "22"}, works, blocked, works},
		{enforce.List{Addrs: enforcetest.Packed("192.0.2.0/28 2001:db8:a::/48").Complement()}, works, works, works},
	} {
		tt.list.Name = "x"
		if err := e.SetLists(t.Context(), []enforce.List{tt.list}); err != nil {
			t.Fatal(err)
		}
		for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
			for port, want := range map[string]reach{"80": tt.in80, "22": tt.in22} {
				if to := net.JoinHostPort(to, port); want == works {
					peer.Reaches(t, "tcp", "", to)
				} else {
					peer.Blocked(t, "tcp", "", to)
				}
			}
		}
		for _, to := range []string{"192.0.2.7:80", "[2001:db8:a::7]:80"} {
			if tt.out == works {
				server.Reaches(t, "tcp", "", to)
			} else if server.Try("tcp", "", to) == nil {
				t.Errorf("the server reaches %s, which is listed for both directions", to)
			}
		}
	}
}
