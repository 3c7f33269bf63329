package ordered_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"mef/internal/ordered"
)

func TestSort(t *testing.T) {
	type element struct{ key, place int }
	for _, n := range []int{0, 1, 2, 19, 20, 21, 1000} {
		s := make([]element, n)
		for i := range s {
			s[i] = element{rand.IntN(n/3 + 1), i}
		}
		byKey := func(a, b element) int { return a.key - b.key }
		want := slices.Clone(s)
		slices.SortStableFunc(want, byKey)
		ordered.Sort(s, byKey)
		if !slices.Equal(s, want) {
			t.Errorf("%d elements: got %v, want %v", n, s, want)
		}
	}
}
