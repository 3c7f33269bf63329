package enforcetest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/prefixset"
)

// Packed returns the set of prefixes and addresses in a text: "192.0.2.7 198.51.100.0/24 2001:db8::/32".
func Packed(text string) *prefixset.Packed {
	var b prefixset.Packer
	for word := range strings.FieldsSeq(text) {
		if !strings.Contains(word, "/") {
			a := netip.MustParseAddr(word)
			b.Add(netip.PrefixFrom(a, a.BitLen()))
		} else {
			b.Add(netip.MustParsePrefix(word))
		}
	}
	return b.Pack()
}

// lists sets random lists, over nested prefixes and of a few thousand entries now and then, and looks up addresses in the kernel after each.
func lists(t *testing.T, b enforce.Backend) {
	e := Start(t, b, enforce.Options{})
	r := rand.New(rand.NewPCG(5, 6))
	Bans(t, e, For("192.0.2.7", 0))
	names := []string{"a", "drop-v4", "net.one"}
	var want []enforce.List
	for step := range 60 {
		switch r.IntN(12) {
		case 0:
			if err := e.Renew(t.Context(), func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		case 1, 2:
			want = slices.DeleteFunc(slices.Clone(want), func(l enforce.List) bool { return l.Name == names[0] })
		default:
			l := enforce.List{Name: names[r.IntN(len(names))], Both: r.IntN(4) == 0}
			if r.IntN(4) == 0 {
				l.Ports = "22,80-90"
			}
			i := slices.IndexFunc(want, func(w enforce.List) bool { return w.Name == l.Name })
			var before *prefixset.Packed
			if i >= 0 {
				before = want[i].Addrs
				if r.IntN(3) > 0 {
					l.Ports, l.Both = want[i].Ports, want[i].Both
				}
				want = slices.Delete(slices.Clone(want), i, i+1)
			}
			if l.Addrs = randomList(r, before); l.Addrs.Len() > 0 {
				want = append(want, l)
			}
		}
		if err := e.SetLists(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		checkLists(t, fmt.Sprintf("step %d", step), e, r, want)
	}
	if got := Lists(t, e); got != "192.0.2.7\n" {
		t.Errorf("bans beside lists: %q", got)
	}
}

// randomList returns a list that differs from before in little or in much.
func randomList(r *rand.Rand, before *prefixset.Packed) *prefixset.Packed {
	var b prefixset.Packer
	if r.IntN(3) > 0 {
		for _, v6 := range []bool{false, true} {
			for a := range before.Hosts(v6) {
				if r.IntN(50) > 0 {
					b.AddRange(prefixset.Range{First: a, Last: a})
				}
			}
			for n := range before.Nets(v6) {
				if r.IntN(10) > 0 {
					b.AddRange(n)
				}
			}
		}
	}
	n := []int{0, 3, 20, 20, 6000}[r.IntN(5)]
	for range n {
		b.Add(randomEntry(r))
	}
	return b.Pack()
}

// randomEntry returns a prefix among few, so that entries nest and touch, at the ends of the address space too.
func randomEntry(r *rand.Rand) netip.Prefix {
	if r.IntN(3) > 0 {
		a := netip.AddrFrom4([4]byte{[]byte{0, 198, 203, 255}[r.IntN(4)], []byte{0, 255}[r.IntN(2)], byte(r.IntN(256)), byte(r.IntN(256))})
		return netip.PrefixFrom(a, []int{24, 27, 30, 31, 32, 32, 32, 32, 32, 32, 32, 32}[r.IntN(12)]).Masked()
	}
	b := [16]byte{0x20, 1, 0xd, 0xb8, 7: byte(r.IntN(4)), 15: byte(r.IntN(256))}
	if r.IntN(8) == 0 {
		for i := range 15 {
			b[i] = 255
		}
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), []int{48, 64, 120, 127, 128, 128, 128, 128, 128}[r.IntN(9)]).Masked()
}

// checkLists compares the lists in the kernel with those that should be there: by name, by number, and by looking up addresses in
// and beside their entries.
func checkLists(t *testing.T, when string, e *enforce.Enforcer, r *rand.Rand, want []enforce.List) {
	t.Helper()
	held, err := e.Lists(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names, wantNames []string
	for _, h := range held {
		names = append(names, h.Name)
	}
	for _, l := range want {
		wantNames = append(wantNames, l.Name)
		i := slices.IndexFunc(held, func(h enforce.HeldList) bool { return h.Name == l.Name })
		least := l.Addrs.Len()
		for _, last := range []string{"255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
			if l.Addrs.Contains(netip.MustParseAddr(last)) {
				least--
			}
		}
		if i >= 0 && held[i].Entries >= 0 && (held[i].Entries < least || held[i].Entries > l.Addrs.Len()) {
			t.Fatalf("%s: list %s has %d entries in the kernel, want %d", when, l.Name, held[i].Entries, l.Addrs.Len())
		}
	}
	slices.Sort(wantNames)
	if !slices.Equal(names, wantNames) {
		t.Fatalf("%s: lists %q, want %q", when, names, wantNames)
	}
	addrs := []netip.Addr{randomEntry(r).Addr(), randomEntry(r).Addr(), randomEntry(r).Addr()}
	for _, l := range want {
		for _, v6 := range []bool{false, true} {
			for n := range l.Addrs.Nets(v6) {
				addrs = append(addrs, n.First, n.Last, n.Last.Next(), n.First.Prev())
				if len(addrs) > 40 {
					break
				}
			}
			for a := range l.Addrs.Hosts(v6) {
				addrs = append(addrs, a, a.Next())
				if len(addrs) > 60 {
					break
				}
			}
		}
	}
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		var listed []string
		for _, l := range want {
			if l.Addrs.Contains(a) {
				listed = append(listed, l.Name)
			}
		}
		slices.Sort(listed)
		if got, err := e.Listed(t.Context(), a); err != nil || !slices.Equal(got, listed) {
			t.Fatalf("%s: %s is in lists %q (%v), want %q", when, a, got, err, listed)
		}
	}
}

// listsOutlive starts an enforcer over the lists of another one.
func listsOutlive(t *testing.T, b enforce.Backend) {
	listed := func(e *enforce.Enforcer, want ...string) {
		t.Helper()
		if err := e.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := e.Listed(t.Context(), netip.MustParseAddr("203.0.113.7")); err != nil || !slices.Equal(got, want) {
			t.Errorf("an address is in lists %q (%v), want %q", got, err, want)
		}
	}
	long := enforce.List{Name: "long", Addrs: Packed("203.0.113.0/24 192.0.2.1"), Ports: "25", Both: true}
	other := enforce.List{Name: "other", Addrs: Packed("203.0.113.7")}
	t.Run("first", func(t *testing.T) {
		e := Start(t, b, enforce.Options{})
		if err := e.SetLists(t.Context(), []enforce.List{long, other}); err != nil {
			t.Fatal(err)
		}
		listed(e, "long", "other")
	})
	e := Start(t, b, enforce.Options{})
	listed(e, "long", "other")
	if err := e.Renew(t.Context(), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	listed(e, "long", "other")
	if err := e.SetLists(t.Context(), []enforce.List{long}); err != nil {
		t.Fatal(err)
	}
	listed(e, "long")
	for _, name := range []string{"", "A", "a b", "a_b", strings.Repeat("a", enforce.MaxListName+1)} {
		if err := e.SetLists(t.Context(), []enforce.List{{Name: name, Addrs: other.Addrs}}); err == nil {
			t.Errorf("a list named %q was accepted", name)
		}
	}
	if err := e.SetLists(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	listed(e)
	Bans(t, e, ban.Ban{Key: Key("203.0.113.7"), Rule: "test"})
	if err := e.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}
