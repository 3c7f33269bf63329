package prefixset_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"mef/internal/prefixset"
)

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestPrefixesMergesNestedAndAdjacent(t *testing.T) {
	for name, tt := range map[string]struct{ in, want []netip.Prefix }{
		"empty":         {nil, nil},
		"nested":        {prefixes("192.0.2.0/24", "192.0.2.7/32"), prefixes("192.0.2.0/24")},
		"adjacent":      {prefixes("192.0.2.0/25", "192.0.2.128/25"), prefixes("192.0.2.0/24")},
		"not aligned":   {prefixes("192.0.2.1/32", "192.0.2.2/31"), prefixes("192.0.2.1/32", "192.0.2.2/31")},
		"both families": {prefixes("2001:db8::/32", "192.0.2.7/32"), prefixes("192.0.2.7/32", "2001:db8::/32")},
		"v4-mapped":     {prefixes("::ffff:192.0.2.0/120"), prefixes("192.0.2.0/24")},
		"host bits":     {prefixes("192.0.2.7/24"), prefixes("192.0.2.0/24")},
		"everything":    {prefixes("0.0.0.0/1", "128.0.0.0/1", "::/0"), prefixes("0.0.0.0/0", "::/0")},
	} {
		t.Run(name, func(t *testing.T) {
			if got := prefixset.New(tt.in...).Prefixes(); !slices.Equal(got, tt.want) {
				t.Errorf("Prefixes = %v, want %v", got, tt.want)
			}
		})
	}
}

// addr returns one of few addresses, so that random prefixes meet.
func addr(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{192, 0, byte(r.IntN(4)), byte(r.UintN(256))})
	}
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 7: byte(r.IntN(3)), 15: byte(r.UintN(256))})
}

func randomPrefixes(r *rand.Rand) []netip.Prefix {
	out := make([]netip.Prefix, r.IntN(20))
	for i := range out {
		a := addr(r)
		out[i] = netip.PrefixFrom(a, a.BitLen()-r.IntN(14))
	}
	return out
}

func contains(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// TestSetEqualsPlainModel compares every operation with a list of prefixes that is searched one by one.
func TestSetEqualsPlainModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		p, q := randomPrefixes(r), randomPrefixes(r)
		a, b := prefixset.New(p...), prefixset.New(q...)
		union, rest, both := a.Union(b), a.Subtract(b), a.Intersect(b)
		if got := a.Meets(b); got != (both.Len() > 0) {
			t.Fatalf("%v meets %v = %v", p, q, got)
		}
		again := prefixset.New(a.Prefixes()...)
		if !again.Equal(a) {
			t.Fatalf("New(Prefixes) of %v = %v", p, again.Prefixes())
		}
		for range 50 {
			x := addr(r)
			inA, inB := contains(p, x), contains(q, x)
			if got := a.Contains(x); got != inA {
				t.Fatalf("%v contains %v = %v", p, x, got)
			}
			if got := union.Contains(x); got != (inA || inB) {
				t.Fatalf("union of %v and %v contains %v = %v", p, q, x, got)
			}
			if got := rest.Contains(x); got != (inA && !inB) {
				t.Fatalf("%v without %v contains %v = %v", p, q, x, got)
			}
			if got := both.Contains(x); got != (inA && inB) {
				t.Fatalf("what %v and %v share contains %v = %v", p, q, x, got)
			}
			wide := netip.PrefixFrom(x, x.BitLen()-r.IntN(12)).Masked()
			want := slices.ContainsFunc(p, wide.Overlaps)
			if got := a.Overlaps(wide); got != want {
				t.Fatalf("%v overlaps %v = %v", p, wide, got)
			}
		}
	}
}
