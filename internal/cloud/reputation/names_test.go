package reputation

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

const (
	hadoop = 0x1111 // hashes
	alice  = 0xa11ce
)

// namesBook returns a Book with so many anchors, each in a system of its own.
func namesBook(anchors int) *Book {
	b := New(Options{})
	b.Advance(480_000)
	for i := range anchors {
		b.Enrol(Reporter{ID: fmt.Sprintf("a%d", i), Role: Anchor, System: fmt.Sprintf("as%d", i), Net: "n", Since: b.Now()})
	}
	return b
}

func reportNames(t *testing.T, b *Book, id string, names ...uint64) {
	t.Helper()
	if err := b.Names(id, weekOf(b.now), names, nil); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
}

func isHot(b *Book, hash uint64) bool {
	return slices.Contains(b.HotNames(weekOf(b.now), 2048, false), hash)
}

// A name is hot once three unrelated systems with trust see it attacked, not before; a name that only some see is never shown.
func TestNameNeedsUnrelatedNetworks(t *testing.T) {
	b := namesBook(4)
	b.Enrol(Reporter{ID: "neighbor", Role: Anchor, System: "as0", Net: "other", Since: b.Now()})
	for i, id := range []string{"a0", "neighbor", "a1"} {
		reportNames(t, b, id, hadoop, uint64(7+i))
		if all := b.HotNames(weekOf(b.now), 2048, true); len(all) > 0 {
			t.Fatalf("after %s, %x are shown", id, all)
		}
	}
	reportNames(t, b, "a2", hadoop)
	reportNames(t, b, "a2", hadoop) // twice is once
	if all := b.HotNames(weekOf(b.now), 2048, true); !slices.Equal(all, []uint64{hadoop}) {
		t.Errorf("%x are shown, want the one that three systems see", all)
	}
}

// A name that exists at many hosts is not reported there, and so it is not hot for any.
func TestNameThatManyHave(t *testing.T) {
	b := namesBook(12)
	for i := range 12 {
		names := []uint64{hadoop}
		if i < 4 { // alice exists on the other eight
			names = append(names, alice)
		}
		reportNames(t, b, fmt.Sprintf("a%d", i), names...)
	}
	if !isHot(b, hadoop) || isHot(b, alice) {
		t.Errorf("hot: hadoop %v, alice %v; want only the first", isHot(b, hadoop), isHot(b, alice))
	}
}

// Own hosts veto what exists there; names wait for that. What a member says to exist changes nothing.
func TestVeto(t *testing.T) {
	b := namesBook(4)
	b.Enrol(Reporter{ID: "own", Role: Own, System: "as9", Net: "n", Since: b.Now()})
	b.Enrol(Reporter{ID: "member", System: "as8", Net: "n", Since: b.Now()})
	reportNames(t, b, "own", 1)
	for i := range 4 {
		reportNames(t, b, fmt.Sprintf("a%d", i), hadoop, alice)
	}
	if shown := b.HotNames(weekOf(b.now), 2048, true); isHot(b, alice) || len(shown) != 2 {
		t.Errorf("names do not wait for the own host: %x", shown)
	}
	for id, name := range map[string]uint64{"own": alice, "member": hadoop} {
		if err := b.Names(id, weekOf(b.now), nil, []uint64{name}); err != nil {
			t.Fatal(err)
		}
	}
	b.Advance(b.now + vetoTime)
	if !isHot(b, hadoop) || isHot(b, alice) {
		t.Errorf("hot: hadoop %v, alice %v; want only the first", isHot(b, hadoop), isHot(b, alice))
	}
	if err := b.Revoke("own"); err != nil {
		t.Fatal(err)
	}
	if !isHot(b, alice) {
		t.Error("the veto of a host that was revoked still counts")
	}
}

// TestSybilNames checks that cheap hosts make no name hot, whatever their number and however they are spread, and that they cannot keep one from being hot.
func TestSybilNames(t *testing.T) {
	for what, g := range map[string]struct {
		size, nets, systems int
		role                Role
	}{
		"10 new hosts in 10 systems":                 {10, 10, 10, Member},
		"1,000 new hosts in one network":             {1000, 1, 1, Member},
		"1,000 new hosts in 50 systems":              {1000, 1000, 50, Member},
		"1,000 trusted hosts in one network":         {1000, 1, 1, Anchor},
		"1,000 trusted hosts in 2 systems":           {1000, 1000, 2, Anchor},
		"10 trusted hosts in 10 systems, beside 100": {10, 10, 10, Anchor},
	} {
		t.Run(what, func(t *testing.T) {
			b := namesBook(100)
			for i := range 100 {
				reportNames(t, b, fmt.Sprintf("a%d", i), hadoop)
			}
			for i := range g.size {
				id := fmt.Sprintf("s%d", i)
				b.Enrol(Reporter{ID: id, Role: g.role, System: fmt.Sprintf("s%d", i%g.systems), Net: fmt.Sprintf("s%d", i%g.nets), Since: b.Now()})
				if err := b.Names(id, weekOf(b.now), []uint64{alice}, []uint64{hadoop}); err != nil {
					t.Fatal(err)
				}
			}
			if isHot(b, alice) {
				t.Error("they have made a name hot")
			}
			if !isHot(b, hadoop) {
				t.Error("a name that all others see is no longer hot")
			}
		})
	}
}

// TestPoisonedNames has hosts of all ages report for 60 days, a few trusted ones among them for an attacker: what the honest see is shared, and the names of the
// attacker are not, in twenty worlds.
func TestPoisonedNames(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		b := New(Options{})
		b.Advance(480_000)
		var ids []string
		for i := range 60 {
			role := Member
			if i < 5 {
				role = Anchor
			}
			id := fmt.Sprintf("h%d", i)
			ids = append(ids, id)
			b.Enrol(Reporter{ID: id, Role: role, System: fmt.Sprintf("as%d", rng.IntN(30)), Net: id, Since: b.Now()})
		}
		for d := range 30 {
			for hour := range Hour(24) {
				b.Advance(480_000 + Hour(d)*day + hour)
				for range 5 { // addresses attack, so that members earn trust
					a := addr(100, rng.IntN(40)+40*d)
					for range 4 {
						_ = b.Report(ids[rng.IntN(len(ids))], a, 1, b.Now())
					}
				}
			}
			for j := range ids {
				i := (j + 5) % len(ids) // those of the attacker come first, each day and each week
				id := ids[i]
				var names []uint64
				for n := range uint64(100) { // name n is seen by a host the less likely the larger n is
					if rng.Uint64N(100) >= n {
						names = append(names, n)
					}
				}
				if i >= 5 && i < 10 { // five honest-looking hosts of an attacker, who says so in each week
					names = append(names, alice)
				}
				if err := b.Names(id, weekOf(b.now), names[:min(len(names), 200)], nil); err != nil && !errors.Is(err, ErrQuota) {
					t.Fatal(err)
				}
				if j == 4 && slices.Contains(b.HotNames(weekOf(b.now), 2048, false), alice) {
					t.Errorf("world %d, day %d: a name is hot that only an attacker's hosts have reported", seed, d)
				}
			}
		}
		hot := b.HotNames(weekOf(b.now), 2048, false)
		if slices.Contains(hot, alice) || !slices.Contains(hot, 0) || !slices.Contains(hot, 20) {
			t.Errorf("world %d: hot are %v", seed, hot)
		}
	}
}

// Names are those of a week: others are refused, and after two weeks nothing is left.
func TestNamesExpire(t *testing.T) {
	b := namesBook(3)
	begin := weekOf(b.now)
	for _, w := range []int64{begin - 2, begin + 2, -1, 1 << 60} {
		if err := b.Names("a0", w, []uint64{hadoop}, nil); !errors.Is(err, ErrWeek) {
			t.Errorf("week %d: %v", w-begin, err)
		}
	}
	for i := range 3 {
		reportNames(t, b, fmt.Sprintf("a%d", i), hadoop)
	}
	b.Advance(Hour(begin+1)*week + 1)
	if !slices.Contains(b.HotNames(begin, 2048, false), hadoop) || isHot(b, hadoop) {
		t.Error("in the next week, the name is hot with the salt of the week before only")
	}
	b.Advance(Hour(begin+2) * week)
	if b.HotNames(begin, 2048, false) != nil || len(b.userNames) > 1 {
		t.Error("after two weeks, names are kept")
	}
}

// A host can report so many new names in a day, and new hosts together so many in a week; those with trust still can then.
func TestNamesAreBounded(t *testing.T) {
	b := namesBook(1)
	var last error
	hash := uint64(0)
	next := func() (all []uint64) {
		for range 200 {
			hash++
			all = append(all, hash)
		}
		return all
	}
	for i := range 200 {
		id := fmt.Sprintf("s%d", i)
		b.Enrol(Reporter{ID: id, System: id, Net: id, Since: b.Now()})
		for range 3 {
			last = b.Names(id, weekOf(b.now), next(), nil)
		}
		if i == 0 && !errors.Is(last, ErrQuota) {
			t.Errorf("600 new names in a day: %v", last)
		}
	}
	if n := len(b.userNames[weekOf(b.now)].names); n != maxNames/2 {
		t.Errorf("%d names are kept of new hosts, want %d", n, maxNames/2)
	}
	b.Enrol(Reporter{ID: "late", System: "late", Net: "late", Since: b.Now()})
	if err := b.Names("late", weekOf(b.now), next(), nil); !errors.Is(err, ErrFull) {
		t.Errorf("a new host when the table is full: %v", err)
	}
	if err := b.Names("a0", weekOf(b.now), next(), nil); err != nil {
		t.Errorf("an anchor when new hosts have filled their half: %v", err)
	}
	if all := b.HotNames(weekOf(b.now), 3, true); len(all) != 0 {
		t.Errorf("%x are shown", all)
	}
	if all := namesBook(3); true { // the list is bounded too
		for i := range 3 {
			reportNames(t, all, fmt.Sprintf("a%d", i), 5, 4, 3, 2, 1)
		}
		if got := all.HotNames(weekOf(all.now), 3, false); !slices.Equal(got, []uint64{1, 2, 3}) {
			t.Errorf("three of five: %v", got)
		}
	}
}

// Unknown and revoked reporters have no effect, and what was reported before is gone with the revocation.
func TestRevokedNames(t *testing.T) {
	b := namesBook(3)
	for i := range 3 {
		reportNames(t, b, fmt.Sprintf("a%d", i), hadoop)
	}
	if !isHot(b, hadoop) {
		t.Fatal("the name is not hot")
	}
	if err := b.Revoke("a2"); err != nil {
		t.Fatal(err)
	}
	if isHot(b, hadoop) {
		t.Error("the report of a host that was revoked counts")
	}
	if err := b.Names("a2", weekOf(b.now), []uint64{hadoop}, nil); !errors.Is(err, ErrRevoked) {
		t.Error(err)
	}
	if err := b.Names("stranger", weekOf(b.now), []uint64{hadoop}, nil); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// Names are saved with the Book; damage is refused, never read as less.
func TestNamesAreSaved(t *testing.T) {
	b := namesBook(70)
	b.Enrol(Reporter{ID: "own", Role: Own, System: "as99", Net: "n", Since: b.Now()})
	for i := range 70 {
		reportNames(t, b, fmt.Sprintf("a%d", i), hadoop, alice)
	}
	if err := b.Names("own", weekOf(b.now), []uint64{hadoop}, []uint64{alice}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := b.Save(&out); err != nil {
		t.Fatal(err)
	}
	again, err := Load(bytes.NewReader(out.Bytes()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []bool{true, false} {
		if x, y := b.HotNames(weekOf(b.now), 2048, w), again.HotNames(weekOf(b.now), 2048, w); !slices.Equal(x, y) {
			t.Errorf("before %x, after %x", x, y)
		}
	}
	again.Advance(again.Now() + vetoTime)
	if !isHot(again, hadoop) || isHot(again, alice) {
		t.Error("a veto or a report was lost")
	}
	for n := 0; n < out.Len(); n += 13 {
		if _, err := Load(bytes.NewReader(out.Bytes()[:n]), Options{}); err == nil {
			t.Fatalf("the first %d of %d bytes are read", n, out.Len())
		}
	}
}
