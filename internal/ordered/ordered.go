// Package ordered sorts short slices with little code.
//
// The compiler makes a copy of slices.SortFunc for each type of element: 13 KB of machine code and tables that stay in memory. Sort is
// made once and is about half as fast, which matters only where a slice can have many thousands of elements: there use slices.SortFunc.
package ordered

import "sort"

// Sort sorts s by compare, which returns a negative number if a comes before b. Elements that compare as equal keep their order.
func Sort[E any](s []E, compare func(a, b E) int) {
	if len(s) < 2 {
		return // most are: it is called for each ban
	}
	sort.Stable(elements{
		len(s),
		func(i, j int) bool { return compare(s[i], s[j]) < 0 },
		func(i, j int) { s[i], s[j] = s[j], s[i] },
	})
}

// elements are a slice of any type, for package sort.
type elements struct {
	n    int
	less func(i, j int) bool
	swap func(i, j int)
}

func (e elements) Len() int           { return e.n }
func (e elements) Less(i, j int) bool { return e.less(i, j) }
func (e elements) Swap(i, j int)      { e.swap(i, j) }
