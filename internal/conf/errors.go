package conf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Pos is a place in a configuration file.
type Pos struct {
	File      string
	Line, Col int // from 1; Col counts bytes. Line 0 means the whole file, Col 0 the whole line
}

// String returns the place as FILE:LINE:COL, without what is not known.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// compare orders places by file, line and column.
func (p Pos) compare(o Pos) int {
	return cmp.Or(cmp.Compare(p.File, o.File), cmp.Compare(p.Line, o.Line), cmp.Compare(p.Col, o.Col))
}

// An Error is a mistake in a rules or configuration file that its author can repair.
type Error struct {
	Pos
	Msg  string // what is wrong, quoting the word at fault
	Hint string // what to write instead; empty if unknown
}

// Error returns "FILE:LINE:COL: message; hint".
func (e *Error) Error() string {
	s := e.Pos.String() + ": " + e.Msg
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Errors are all mistakes of a configuration, so that its author repairs them in one go.
type Errors []*Error

// Error returns a line for each mistake.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Err returns es in order of place, or nil if there are none.
func (es Errors) Err() error {
	if len(es) == 0 {
		return nil
	}
	slices.SortStableFunc(es, func(a, b *Error) int { return a.Pos.compare(b.Pos) })
	return es
}

// DidYouMean returns the question that names the candidate nearest to word, or "" if none is near.
func DidYouMean(word string, candidates []string) string {
	best, distance := "", 2+len(word)/5
	for _, c := range candidates {
		if max(len(word)-len(c), len(c)-len(word)) >= distance {
			continue
		}
		if d := editDistance(word, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// maxCompared bounds the words whose distance is computed: no key is as long.
const maxCompared = 64

// editDistance counts the bytes to insert, delete, replace or swap with their neighbour to turn a into b.
func editDistance(a, b string) int {
	if len(a) > maxCompared || len(b) > maxCompared {
		return maxCompared
	}
	var before, last, row [maxCompared + 1]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
