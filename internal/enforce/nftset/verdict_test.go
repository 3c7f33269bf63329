//go:build integration

package nftset_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// A prober sends a datagram from one address to one port of the server and hears whether it is answered.
type prober struct {
	from netip.Addr
	port uint16
	conn net.Conn
}

// TestRandomBansAgreeWithAModel makes random changes over nested prefixes of both families, classes and ports, and after each
// asks the kernel with real packets who is let through.
func TestRandomBansAgreeWithAModel(t *testing.T) {
	server, peer := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, peer, "192.0.2.1/16 2001:db8::1/32",
		"192.0.2.7/16 192.0.2.8/16 192.0.2.201/16 192.0.3.7/16 192.0.9.9/16 2001:db8:a::7/32 2001:db8:a::8/32 2001:db8:a:1::7/32 2001:db8:b::7/32")
	allowed := prefixset.New(netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128"))
	e := enforcetest.Start(t, open(t, server), enforce.Options{Allow: allowed})
	for _, port := range []uint16{53, 123} {
		server.Echo(t, "udp4", fmt.Sprintf("192.0.2.1:%d", port))
		server.Echo(t, "udp6", fmt.Sprintf("[2001:db8::1]:%d", port))
	}
	var probers []prober
	for _, from := range []string{"192.0.2.7", "192.0.2.8", "192.0.2.201", "192.0.3.7", "2001:db8:a::7", "2001:db8:a::8", "2001:db8:a:1::7", "2001:db8:b::7"} {
		for _, port := range []uint16{53, 123} {
			probers = append(probers, newProber(t, peer, from, port))
		}
	}
	control := newProber(t, peer, "192.0.9.9", 53) // never banned
	r := rand.New(rand.NewPCG(3, 4))
	model := map[ban.Key]bool{}
	for step := range 150 {
		k := randomKey(r, probers)
		var did string
		switch r.IntN(5) {
		case 0, 1, 2:
			did = "ban " + k.String()
			b := ban.Ban{Key: k, Rule: "test", Until: time.Now().Add(time.Hour)}
			enforcetest.Bans(t, e, b)
			model[k] = true
		case 3:
			keys := []ban.Key{k}
			for held := range model {
				keys = append(keys, held)
				break
			}
			did = fmt.Sprint("unban ", keys)
			if err := e.Unban(t.Context(), 0, keys...); err != nil {
				t.Fatal(err)
			}
			maps.DeleteFunc(model, func(k ban.Key, _ bool) bool { return slices.Contains(keys, k) })
		case 4:
			did = "allow " + k.Prefix.String()
			allowed = prefixset.New(k.Prefix)
			if err := e.Allow(t.Context(), allowed); err != nil {
				t.Fatal(err)
			}
		}
		got, want := heard(t, probers, control), map[string]bool{}
		for _, p := range probers {
			want[p.String()] = passes(model, allowed, p)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("step %d, %s: who is answered (-model +kernel):\n%s", step, did, diff)
		}
	}
}

func newProber(t *testing.T, ns *netnstest.NS, from string, port uint16) prober {
	t.Helper()
	p := prober{from: netip.MustParseAddr(from), port: port}
	to := netip.MustParseAddr("192.0.2.1")
	if p.from.Is6() {
		to = netip.MustParseAddr("2001:db8::1")
	}
	var err error
	if p.conn, err = ns.Dial("udp", from, netip.AddrPortFrom(to, port).String(), netnstest.Patience); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	if err := netnstest.Poll(func() error { return netnstest.Say(p.conn, netnstest.Silence) }); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p prober) String() string { return netip.AddrPortFrom(p.from, p.port).String() }

// heard sends from all probers and then, once, from the control. Packets overtake each other by microseconds at most: whoever has
// not been answered a few milliseconds after the control will not be.
func heard(t *testing.T, probers []prober, control prober) map[string]bool {
	t.Helper()
	for _, p := range probers {
		p.conn.SetDeadline(time.Time{})
		if _, err := p.conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	if err := netnstest.Say(control.conn, netnstest.Patience); err != nil {
		t.Fatalf("the control: %v", err)
	}
	out := map[string]bool{}
	end := time.Now().Add(20 * time.Millisecond)
	buf := make([]byte, 100)
	for _, p := range probers {
		deadline := end
		if soon := time.Now().Add(time.Millisecond); soon.After(end) {
			deadline = soon // a deadline that is over would hide what has arrived
		}
		p.conn.SetReadDeadline(deadline)
		_, err := p.conn.Read(buf)
		out[p.String()] = err == nil
	}
	return out
}

func randomKey(r *rand.Rand, probers []prober) ban.Key {
	from := probers[r.IntN(len(probers))].from
	bits := []int{32, 32, 31, 25, 24, 23}[r.IntN(6)]
	if from.Is6() {
		bits = []int{128, 64, 64, 63, 56, 48, 47}[r.IntN(7)]
	}
	return ban.Key{
		Prefix: netip.PrefixFrom(from, bits).Masked(),
		Ports:  []ban.Ports{"", "", "53", "100-200", "22,53,123"}[r.IntN(5)],
		Class:  []ban.Class{ban.Verified, ban.Verified, ban.Unverified}[r.IntN(3)],
	}
}

// passes is the model: an allowed address passes, a banned one does not.
func passes(bans map[ban.Key]bool, allowed prefixset.Set, p prober) bool {
	if allowed.Contains(p.from) {
		return true
	}
	for k := range bans {
		if k.Prefix.Contains(p.from) && k.Ports.Covers(ban.Ports(fmt.Sprint(p.port))) {
			return false
		}
	}
	return true
}
