package reputation

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestSavedBookGoesOnAlike feeds two books the same, one of which is saved and loaded now and then: after each hour both have the same lists and
// reporters. Servers of one log rely on it, of which each is restarted at another time.
func TestSavedBookGoesOnAlike(t *testing.T) {
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 7))
		one := New(Options{})
		one.Advance(480_000)
		for i := range 30 {
			role := Member
			if i < 6 {
				role = []Role{Anchor, Own}[i%2]
			}
			one.Enrol(Reporter{ID: fmt.Sprint(i), Role: role, System: fmt.Sprint("as", i%12), Net: fmt.Sprint("n", i), Since: one.Now() - 10*day})
		}
		two := reload(t, one)
		for hour := range 24 * 10 {
			for _, b := range []*Book{one, two} {
				b.Advance(Hour(480_001 + hour))
			}
			for range 8 {
				id, addr, what := fmt.Sprint(rng.IntN(30)), addr(100, rng.IntN(40)), rng.IntN(100)
				for _, b := range []*Book{one, two} {
					switch {
					case what < 90:
						_ = b.Report(id, addr, 1<<(what%4), b.Now())
					case what < 97:
						_ = b.Benign(id, addr)
					case what < 99:
						_ = b.Appeal(addr)
					case hour%50 == 0:
						_ = b.Clear(addr)
					}
					b.Settle()
				}
				if rng.IntN(100) == 0 {
					two = reload(t, two)
				}
			}
			if a, b := summary(one), summary(two); a != b {
				t.Fatalf("seed %d, hour %d:\n%s\nand after being loaded\n%s", seed, hour, a, b)
			}
		}
	}
}

func reload(t *testing.T, b *Book) *Book {
	t.Helper()
	var buf bytes.Buffer
	if err := b.Save(&buf); err != nil {
		t.Fatal(err)
	}
	next, err := Load(&buf, b.opt)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func summary(b *Book) string {
	out := fmt.Sprintln(b.Reporters())
	for _, list := range []List{Public, OwnHosts} {
		var all []string
		b.Each(list, func(p netip.Prefix, c uint16) { all = append(all, fmt.Sprint(p, c)) })
		slices.Sort(all)
		out += fmt.Sprintln(list, all)
	}
	return out
}
