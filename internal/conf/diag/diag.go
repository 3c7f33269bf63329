// Package diag has mistakes in the operator's files: where they are, what is wrong, and what to write instead.
package diag

import (
	"cmp"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
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
		return Name(p.File)
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", Name(p.File), p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", Name(p.File), p.Line, p.Col)
}

// InLine returns the place as FILE:LINE.
func (p Pos) InLine() string { return Pos{File: p.File, Line: p.Line}.String() }

// Name returns the name of a file for messages: in quotes if a terminal would obey a part of it, or show it in two lines.
func Name(path string) string {
	if utf8.ValidString(path) && !strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return path
	}
	return strconv.Quote(path)
}

// compare orders places by file, line and column.
func (p Pos) Compare(o Pos) int {
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
	sort.SliceStable(es, func(i, j int) bool { return es[i].Pos.Compare(es[j].Pos) < 0 })
	return es
}

// A Notice is a sentence about an accepted key that does not do what its author may expect.
type Notice struct {
	Pos  Pos
	Text string
}

// maxQuoted bounds what a message repeats of a file.
const maxQuoted = 80

// Printable returns a text of which others may have written a part, with a question mark for each character that a terminal could obey.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// Quote returns s in quotes, cut where it is too long for a message.
func Quote(s string) string {
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "…"
	}
	return fmt.Sprintf("%q", s)
}
