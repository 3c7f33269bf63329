package netkey_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"mef/internal/track/netkey"
)

func key(p string) netkey.Key { return netkey.OfPrefix(netip.MustParsePrefix(p)) }

// A key is what net/netip makes of the address, also after it was written and read.
func TestKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var a [16]byte
		for i := range a {
			a[i] = byte(r.Uint32())
		}
		addr := netip.AddrFrom16(a)
		if r.IntN(2) == 0 {
			addr = netip.AddrFrom4([4]byte(a[:4]))
		}
		bits := r.IntN(addr.BitLen() + 1)
		want := netip.PrefixFrom(addr, bits).Masked()
		k := netkey.Of(addr, bits)
		if got := k.Prefix(); got != want {
			t.Fatalf("network of %d bits around %v is %v", bits, addr, got)
		}
		if k.Is4() != addr.Is4() {
			t.Fatalf("%v is IPv4: %v", addr, k.Is4())
		}
		around := int(k.Bits)
		if around -= r.IntN(1 + bits); k.Widen(around).Prefix() != netip.PrefixFrom(addr, bits-(int(k.Bits)-around)).Masked() {
			t.Fatalf("%v widened to %d bits is %v", k.Prefix(), around, k.Widen(around).Prefix())
		}
		if exact := netkey.Exact(addr); !exact.In(k) || !k.In(k) || bits < addr.BitLen() && k.In(exact) {
			t.Fatalf("%v is not in %v", addr, want)
		}
		if back, ok := netkey.Parse(k.AppendTo(nil)); k.Bits > 0 && (!ok || back != k) {
			t.Fatalf("%v is read as %v", want, back.Prefix())
		}
	}
	if k := netkey.Of(netip.MustParseAddr("fe80::1%eth0"), 128); k != netkey.Of(netip.MustParseAddr("fe80::1"), 128) {
		t.Error("a zone makes another key")
	}
	for _, bits := range []int{-1, 33} {
		if k := netkey.Of(netip.MustParseAddr("192.0.2.1"), bits); k != (netkey.Key{}) {
			t.Errorf("%d bits of an IPv4 address are %v", bits, k)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	whole := key("192.0.2.0/24").AppendTo(nil)
	edit := func(i int, v byte) []byte {
		b := append([]byte(nil), whole...)
		b[i] = v
		return b
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "too short": whole[:16], "too long": append(edit(0, 120), 0), "no length": edit(0, 0), "an impossible length": edit(0, 129),
		"not masked": edit(16, 1), "an IPv4 network wider than all": edit(0, 90),
	} {
		if k, ok := netkey.Parse(b); ok {
			t.Errorf("%s is read as %v", name, k.Prefix())
		}
	}
}

func TestLengths(t *testing.T) {
	var l netkey.Lengths
	for _, p := range []string{"192.0.2.0/24", "192.0.2.1/32", "198.51.100.1/32", "2001:db8::/64"} {
		l.Add(key(p))
	}
	want := func(of netkey.Key, want ...uint8) {
		t.Helper()
		if got := l.Of(of); string(got) != string(want) {
			t.Errorf("lengths %v, want %v", got, want)
		}
	}
	want(key("203.0.113.1/32"), 128, 120)
	l.Remove(key("198.51.100.1/32"))
	want(key("203.0.113.1/32"), 128, 120)
	l.Remove(key("192.0.2.1/32"))
	want(key("203.0.113.1/32"), 120)
	want(key("2001:db8:1::/48"), 64)
}

func TestAround(t *testing.T) {
	for addr, want := range map[string]string{
		"203.0.113.7/32": "203.0.113.0/24", "2001:db8:1:2::/64": "2001:db8:1::/48", "2001:db8:1:200::/56": "2001:db8:1::/48",
		"2001:db8:1::/48": "2001:db8:1::/48", "64:ff9b::cb00:7107/128": "64:ff9b::cb00:7100/120",
	} {
		k := key(addr)
		if got := k.Around(); got.Prefix().String() != want || !k.In(got) || got.In(key("198.51.100.0/24")) {
			t.Errorf("around %s is %s, want %s", addr, got.Prefix(), want)
		}
	}
	if k, net := key("2001:db8:1:2ff::/64"), key("2001:db8:1:100::/57"); k.In(net) {
		t.Errorf("%s is in %s", k.Prefix(), net.Prefix())
	}
}
