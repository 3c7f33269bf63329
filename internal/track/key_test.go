package track

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// A key is what net/netip makes of the address.
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
		k := keyOf(addr, bits)
		if got := k.prefix(); got != want {
			t.Fatalf("network of %d bits around %v is %v", bits, addr, got)
		}
		if k.is4() != addr.Is4() {
			t.Fatalf("%v is IPv4: %v", addr, k.is4())
		}
		around := int(k.bits)
		if around -= r.IntN(1 + bits); k.widen(around).prefix() != netip.PrefixFrom(addr, bits-(int(k.bits)-around)).Masked() {
			t.Fatalf("%v widened to %d bits is %v", k.prefix(), around, k.widen(around).prefix())
		}
		if !exact(addr).in(k) || !k.in(k) || bits < addr.BitLen() && k.in(exact(addr)) {
			t.Fatalf("%v is not in %v", addr, want)
		}
	}
	if k := keyOf(netip.MustParseAddr("fe80::1%eth0"), 128); k != keyOf(netip.MustParseAddr("fe80::1"), 128) {
		t.Error("a zone makes another key")
	}
	for _, bits := range []int{-1, 33} {
		if k := keyOf(netip.MustParseAddr("192.0.2.1"), bits); k != (key{}) {
			t.Errorf("%d bits of an IPv4 address are %v", bits, k)
		}
	}
}

func TestLengths(t *testing.T) {
	var l lengths
	k := func(p string) key { return keyOfPrefix(netip.MustParsePrefix(p)) }
	for _, p := range []string{"192.0.2.0/24", "192.0.2.1/32", "198.51.100.1/32", "2001:db8::/64"} {
		l.add(k(p))
	}
	want := func(of key, want ...uint8) {
		t.Helper()
		if got := l.of(of); string(got) != string(want) {
			t.Errorf("lengths %v, want %v", got, want)
		}
	}
	want(k("203.0.113.1/32"), 128, 120)
	l.remove(k("198.51.100.1/32"))
	want(k("203.0.113.1/32"), 128, 120)
	l.remove(k("192.0.2.1/32"))
	want(k("203.0.113.1/32"), 120)
	want(k("2001:db8:1::/48"), 64)
}
