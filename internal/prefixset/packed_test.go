package prefixset_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"mef/internal/prefixset"
)

// small returns a random prefix among few addresses at both ends of a family, so that prefixes nest, touch and reach the last address.
func small(r *rand.Rand) netip.Prefix {
	if r.IntN(2) == 0 {
		b := [4]byte{byte(255 * r.IntN(2)), byte(255 * r.IntN(2)), byte(255 * r.IntN(2)), byte(r.Uint32())}
		return netip.PrefixFrom(netip.AddrFrom4(b), []int{24, 26, 28, 30, 31, 32, 32, 32, 32}[r.IntN(9)]).Masked()
	}
	var b [16]byte
	if r.IntN(2) == 0 {
		for i := range b {
			b[i] = 255
		}
	}
	b[7], b[15] = byte(255*r.IntN(2)), byte(r.Uint32())
	return netip.PrefixFrom(netip.AddrFrom16(b), []int{64, 120, 124, 126, 127, 128, 128, 128, 128}[r.IntN(9)]).Masked()
}

func few(r *rand.Rand, n int) (all []netip.Prefix) {
	for range r.IntN(n) {
		all = append(all, small(r))
	}
	return all
}

func pack(prefixes []netip.Prefix) *prefixset.Packed {
	var b prefixset.Packer
	for _, p := range prefixes {
		b.Add(p)
	}
	return b.Pack()
}

// A Packed is compared with a Set of the same prefixes, for random ones.
func TestPackedAgreesWithSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	everything := prefixset.New(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	for range 3000 {
		a, b := few(r, 12), few(r, 12)
		packed, plain, cut := pack(a), prefixset.New(a...), prefixset.New(b...)
		if got := packed.Set(); !got.Equal(plain) {
			t.Fatalf("packed %v: %v", a, got.Ranges())
		}
		rest := packed.Subtract(cut)
		if got, want := rest.Set(), plain.Subtract(cut); !got.Equal(want) {
			t.Fatalf("%v without %v: %v, want %v", a, b, got.Ranges(), want.Ranges())
		}
		if !plain.Meets(cut) && rest != packed {
			t.Fatalf("%v without %v is another value", a, b)
		}
		for range 20 {
			addr := small(r).Addr()
			if packed.Contains(addr) != plain.Contains(addr) {
				t.Fatalf("%v contains %s: %v", a, addr, packed.Contains(addr))
			}
		}
		if got, want := prefixset.Join(nil, packed, pack(b)).Set(), plain.Union(cut); !got.Equal(want) {
			t.Fatalf("%v and %v: %v, want %v", a, b, got.Ranges(), want.Ranges())
		}
		if got, want := packed.Complement().Set(), everything.Subtract(plain); !got.Equal(want) {
			t.Fatalf("all but %v: %v, want %v", a, got.Ranges(), want.Ranges())
		}
		canonical(t, packed.Complement())
		canonical(t, prefixset.Join(packed, pack(b), packed))
		canonical(t, packed)
		canonical(t, rest)
		applied(t, packed, pack(b))
		for _, n := range []int{1, 3, 1000} {
			chunked(t, packed, n)
		}
	}
}

// canonical fails the test unless p is as its documentation says.
func canonical(t *testing.T, p *prefixset.Packed) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		nets := slices.Collect(p.Nets(v6))
		for i, n := range nets {
			if n.First.Compare(n.Last) >= 0 || i > 0 && nets[i-1].Last.Next().Compare(n.First) >= 0 {
				t.Fatalf("nets %v", nets)
			}
		}
		hosts := slices.Collect(p.Hosts(v6))
		for i, h := range hosts {
			if i > 0 && hosts[i-1].Compare(h) >= 0 || prefixset.FromRanges(slices.Clone(nets)).Contains(h) {
				t.Fatalf("hosts %v beside nets %v", hosts, nets)
			}
		}
		if h, n := p.Counts(v6); h != len(hosts) || n != len(nets) {
			t.Fatalf("%d hosts and %d nets counted, want %d and %d", h, n, len(hosts), len(nets))
		}
	}
}

// entries returns the entries of p.
func entries(p *prefixset.Packed) map[prefixset.Range]bool {
	all := make(map[prefixset.Range]bool)
	for _, v6 := range []bool{false, true} {
		for a := range p.Hosts(v6) {
			all[prefixset.Range{First: a, Last: a}] = true
		}
		for n := range p.Nets(v6) {
			all[n] = true
		}
	}
	return all
}

// applied fails the test unless the changes from before to after make one into the other.
func applied(t *testing.T, before, after *prefixset.Packed) {
	t.Helper()
	gone, came := prefixset.Changes(before, after)
	now := entries(before)
	for e := range entries(gone) {
		if !now[e] {
			t.Fatalf("%v is gone and never was there", e)
		}
		delete(now, e)
	}
	for e := range entries(came) {
		if now[e] {
			t.Fatalf("%v came and was there", e)
		}
		now[e] = true
	}
	want := entries(after)
	if len(now) != len(want) {
		t.Fatalf("%d entries after the changes, want %d", len(now), len(want))
	}
	for e := range want {
		if !now[e] {
			t.Fatalf("%v is missing after the changes", e)
		}
	}
	if equal := before.Equal(after); equal != (gone.Len()+came.Len() == 0) {
		t.Fatalf("equal: %v, with %d entries gone and %d new", equal, gone.Len(), came.Len())
	}
}

func chunked(t *testing.T, p *prefixset.Packed, n int) {
	t.Helper()
	sum := 0
	for c := range p.Chunks(n) {
		if c.Len() == 0 || c.Len() > n {
			t.Fatalf("a chunk of %d, want at most %d", c.Len(), n)
		}
		for e := range entries(c) {
			if !entries(p)[e] {
				t.Fatalf("a chunk has %v", e)
			}
			sum++
		}
	}
	if sum != p.Len() {
		t.Fatalf("%d entries in chunks, want %d", sum, p.Len())
	}
}

func TestPackedAddresses(t *testing.T) {
	p := pack([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("::ffff:198.51.100.0/120"), {}})
	if v4, v6 := p.Addresses(false), p.Addresses(true); v4 != 1<<24+256+1 || v6 != 1<<96 {
		t.Errorf("%v IPv4 and %v IPv6 addresses", v4, v6)
	}
	var none *prefixset.Packed
	if none.Len() != 0 || none.Contains(netip.MustParseAddr("192.0.2.1")) || none.Subtract(prefixset.Set{}) != nil || !none.Equal(pack(nil)) {
		t.Error("nil is not empty")
	}
}

func BenchmarkPack(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	addrs := make([]netip.Addr, 1_000_000)
	for i := range addrs {
		x := r.Uint32()
		addrs[i] = netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)})
	}
	b.ReportAllocs()
	for b.Loop() {
		var p prefixset.Packer
		for _, a := range addrs {
			p.AddRange(prefixset.Range{First: a, Last: a})
		}
		p.Pack()
	}
}
