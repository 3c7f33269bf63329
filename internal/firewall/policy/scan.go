package policy

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"mef/internal/conf"
	"mef/internal/conf/diag"
)

const (
	maxLine     = 64 << 10 // bytes of a line: a list of four thousand addresses
	maxMistakes = 100      // after which a file is not read on: it is something else
)

// A Field is one key=value of a statement.
type Field struct {
	Key, Value string
	At         conf.Pos // of the value, behind a quote that it begins with
	key        conf.Pos // of the key
}

// A Statement is one line of a file: "rule dir=in action=accept proto=tcp". What stands in it has not been checked.
type Statement struct {
	Kind    string // policy, rule, set, expect, include
	Fields  []Field
	Comment string // behind the statement, with its "#"; or the whole line if Kind is empty
	At      conf.Pos
}

// field returns the field of a key, nil if there is none.
func (s *Statement) field(key string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Key == key {
			return &s.Fields[i]
		}
	}
	return nil
}

// scan cuts the text of a file into statements, lines without one included.
func scan(file string, text []byte, longest int) ([]Statement, conf.Errors) {
	all := make([]Statement, 0, min(bytes.Count(text, []byte("\n"))+1, maxStatements))
	var errs conf.Errors
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // byte order mark of Windows editors
	number := 0
	for raw := range bytes.Lines(text) {
		number++
		at := conf.Pos{File: file, Line: number, Col: 1}
		if len(errs) == maxMistakes {
			errs = append(errs, tooMany(at))
			break
		}
		if len(raw) > longest {
			errs = append(errs, &conf.Error{Pos: at, Msg: fmt.Sprintf("the line is longer than %d bytes", longest), Hint: "keep long lists in a file: set name=NAME file=PATH"})
			continue
		}
		st, err := scanLine(at, string(bytes.TrimRight(raw, "\r\n")))
		if err != nil {
			errs = append(errs, err)
		} else {
			all = append(all, st)
		}
	}
	return all, errs
}

func tooMany(at conf.Pos) *conf.Error {
	return &conf.Error{Pos: at, Msg: "too many mistakes, the rest of the file is not read", Hint: "fix those before it first"}
}

// usualFields is how many fields a statement may have before more room is made.
const usualFields = 8

// scanLine cuts one line.
func scanLine(at conf.Pos, line string) (Statement, *conf.Error) {
	if i := strings.IndexFunc(line, forbidden); i >= 0 {
		at.Col = i + 1
		return Statement{}, &conf.Error{Pos: at, Msg: fmt.Sprintf("byte %#x is not text", line[i]), Hint: "save the file as UTF-8"}
	}
	st := Statement{At: at}
	if line != "" && line[0] != '#' {
		st.Fields = make([]Field, 0, usualFields)
	}
	for i := 0; ; {
		for i < len(line) && blank(line[i]) {
			i++
		}
		if i == len(line) {
			return st, nil
		}
		at.Col = i + 1
		if line[i] == '#' {
			st.Comment = strings.TrimRight(line[i:], " \t")
			return st, nil
		}
		f, n, err := scanField(at, line[i:])
		if err != nil {
			return st, err
		}
		i += n
		switch {
		case f.Key == "":
			return st, &conf.Error{Pos: at, Msg: "no key before =", Hint: "write fields as key=value, without blanks around ="}
		case st.Kind == "":
			st.At = at
			if st.Kind = f.Key; f.Value != "" || f.At.Line > 0 { // include=PATH has no word before it
				st.Fields = append(st.Fields, f)
			}
		case f.At.Line == 0 && kinds[st.Kind].keys == nil:
			return st, unknownStatement(st.At, st.Kind)
		case f.At.Line == 0 && st.Kind == "include":
			return st, &conf.Error{Pos: at, Msg: diag.Quote(f.Key) + " is not key=value", Hint: "write include=" + f.Key}
		case f.At.Line == 0:
			return st, &conf.Error{Pos: at, Msg: diag.Quote(f.Key) + " is not key=value", Hint: "write fields as key=value, and a comment after #"}
		default:
			st.Fields = append(st.Fields, f)
		}
	}
}

// scanField cuts the first word of s, which begins at a place, and returns how long it is. A word without "=" is a key without a
// place of its value.
func scanField(at conf.Pos, s string) (f Field, n int, err *conf.Error) {
	f.key = at
	for n < len(s) && !blank(s[n]) && s[n] != '=' {
		n++
	}
	f.Key = s[:n]
	if n == len(s) || s[n] != '=' {
		return f, n, nil
	}
	n++
	f.At = at
	f.At.Col += n
	if n < len(s) && s[n] == '"' {
		value, used, err := scanQuoted(f.At, s[n:])
		f.Value = value
		f.At.Col++
		return f, n + used, err
	}
	start := n
	for n < len(s) && !blank(s[n]) {
		n++
	}
	f.Value = s[start:n]
	return f, n, nil
}

// scanQuoted cuts a value in quotes, in which \" and \\ stand for a quote and a backslash.
func scanQuoted(at conf.Pos, s string) (value string, n int, err *conf.Error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] != '"':
			b.WriteByte(s[i])
		case i+1 < len(s) && !blank(s[i+1]):
			at.Col += i + 1
			return "", 0, &conf.Error{Pos: at, Msg: "text after the closing quote", Hint: `write \" for a quote inside, and a blank after the last one`}
		default:
			return b.String(), i + 1, nil
		}
	}
	return "", 0, &conf.Error{Pos: at, Msg: "the quote is not closed", Hint: `close it with " on the same line`}
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// forbidden reports whether r stands nowhere: control characters, and what is not UTF-8.
func forbidden(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError }
