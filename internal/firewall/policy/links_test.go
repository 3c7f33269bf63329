package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLinks compares sets of interfaces that are made of others with what each of those says of single names.
func TestLinks(t *testing.T) {
	universe := []string{"", "lo", "l", "lp", "e", "eth0", "eth1", "eth10", "ethx", "wg", "wg0", "wg1", "wg10", "wgz", "w", "x", "zz", "\xffa", "\xff\xff"}
	atoms := []string{"lo", "eth0", "eth1", "eth*", "eth1*", "e*", "wg*", "wg1*", "wg0", "w*", "\xff*", ""}
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(1, seed))
		set, has, said := AllLinks(), func(string) bool { return true }, "all"
		for range 1 + r.IntN(5) {
			var names []string
			for range 1 + r.IntN(3) {
				names = append(names, atoms[r.IntN(len(atoms))])
			}
			other, before := LinksOf(names...), has
			in := func(name string) bool {
				return slices.ContainsFunc(names, func(p string) bool { return fitsPattern(p, name) })
			}
			switch r.IntN(4) {
			case 0:
				set, has, said = set.Meet(other), func(s string) bool { return before(s) && in(s) }, fmt.Sprintf("(%s meet %q)", said, names)
			case 1:
				set, has, said = set.Minus(other), func(s string) bool { return before(s) && !in(s) }, fmt.Sprintf("(%s minus %q)", said, names)
			case 2:
				set, has, said = set.Others().Meet(other), func(s string) bool { return !before(s) && in(s) }, fmt.Sprintf("(%q minus %s)", names, said)
			default:
				set, has, said = set.Others().Minus(other).Others(), func(s string) bool { return before(s) || in(s) }, fmt.Sprintf("(%s or %q)", said, names)
			}
			if set.meets(other) == set.Meet(other).Empty() {
				t.Errorf("%s and %q: meets %v, meet empty %v", said, names, set.meets(other), set.Meet(other).Empty())
			}
		}
		for _, name := range universe {
			if set.Has(name) != has(name) {
				t.Fatalf("%s has %q: %v, want %v", said, name, set.Has(name), has(name))
			}
		}
		names, not, ok := set.Names()
		if same := LinksOf(names...); ok && (not && !same.Others().Equal(set) || !not && !same.Equal(set)) {
			t.Errorf("%s: written as %q, not %v, which is another set", said, names, not)
		}
		if s := set.sample(); !set.Empty() && s != "any" && !set.Has(s) {
			t.Errorf("%s: sample %q is not in it", said, s)
		}
		_ = set.Words()
	}
}

// TestLinksInWords shows what changes of a policy are called.
func TestLinksInWords(t *testing.T) {
	for want, l := range map[string]Links{
		"any":                    LinksOf("lo").Others(),
		"eth0,wg*":               LinksOf("wg*", "eth0"),
		"!eth0":                  LinksOf("eth0", "lo").Others(),
		"wg* without wg0":        LinksOf("wg*").Minus(LinksOf("wg0")),
		"eth0*,eth1":             LinksOf("eth0*", "eth1"),
		"!br-*,docker0":          LinksOf("br-*", "docker0", "lo").Others(),
		"eth* without eth0,eth1": LinksOf("eth*").Minus(LinksOf("eth1", "eth0")),
	} {
		if got := l.Words(); got != want {
			t.Errorf("%v: %q, want %q", l, got, want)
		}
	}
}
