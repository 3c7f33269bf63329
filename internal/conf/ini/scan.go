// Package ini reads the format of the operator's files: text with [section] headers and key=value lines, described in docs/.
//
// Scan cuts a file into settings. A Table has every key of a section with its form, default and documentation; Decode puts settings into
// a value as the table says. Reading is strict: an unknown key, a value out of range or a key that is set twice is a mistake with its
// place, and all of them are reported at once.
package ini

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"mef/internal/conf/diag"
)

// A Setting is one key=value line.
type Setting struct {
	Section    string
	Key, Value string
	KeyPos     diag.Pos
	Pos        diag.Pos // of the value
}

// A Header is one [section] line.
type Header struct {
	Name string
	Pos  diag.Pos
}

// A File cuts the text of a file into settings. It knows no key.
type File struct {
	file     string
	section  string // where lines before the first header belong
	Settings []Setting
	Headers  []Header
	Errs     diag.Errors
}

// Scan cuts text into settings and section headers. Lines before the first header are one error and belong to section, so that
// their own mistakes are found too.
func Scan(file string, text []byte, section string) File {
	sc := File{file: file, section: section}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // byte order mark of Windows editors
	line := 0
	for raw := range bytes.Lines(text) {
		line++
		sc.line(line, string(bytes.TrimRight(raw, "\r\n")))
		if len(sc.Errs) > maxMistakes || len(sc.Headers) > maxMistakes {
			sc.Errs = append(sc.Errs, tooMany(diag.Pos{File: file, Line: line}))
			break
		}
	}
	return sc
}

// maxMistakes is after how many a file is not read on: it is something else than a configuration.
const maxMistakes = 100

func tooMany(at diag.Pos) *diag.Error {
	return &diag.Error{Pos: at, Msg: "too many mistakes, the rest of the file is not read", Hint: "fix those before it first"}
}

// line reads one line without its end.
func (sc *File) line(number int, text string) {
	word := strings.TrimSpace(text)
	at := diag.Pos{File: sc.file, Line: number, Col: 1 + strings.Index(text, word)}
	switch {
	case word == "" || word[0] == '#':
	case word[0] == ';':
		sc.Errs = append(sc.Errs, &diag.Error{Pos: at, Msg: `";" does not begin a comment here`, Hint: "begin comments with #"})
	case word[0] == '[':
		sc.header(at, word)
	default:
		sc.setting(at, word)
	}
}

func (sc *File) header(at diag.Pos, word string) {
	word = cutComment(word)
	if !strings.HasSuffix(word, "]") {
		sc.Errs = append(sc.Errs, &diag.Error{Pos: at, Msg: "section " + diag.Quote(word) + " does not end with ]", Hint: "write [section] on a line of its own"})
		return
	}
	name := strings.TrimSpace(word[1 : len(word)-1])
	for _, h := range sc.Headers {
		if h.Name == name {
			sc.Errs = append(sc.Errs, &diag.Error{Pos: at, Msg: "section " + diag.Quote(word) + " occurs twice", Hint: "first at " + h.Pos.String()})
		}
	}
	sc.Headers = append(sc.Headers, Header{name, at})
	sc.section = name
}

func (sc *File) setting(at diag.Pos, word string) {
	if len(sc.Headers) == 0 {
		sc.Headers = append(sc.Headers, Header{sc.section, at}) // reported once
		sc.Errs = append(sc.Errs, &diag.Error{Pos: at, Msg: "setting before the first section", Hint: fmt.Sprintf("write [%s] in front of it", sc.section)})
	}
	key, value, ok := strings.Cut(word, "=")
	key = strings.TrimSpace(key)
	if !ok || key == "" {
		sc.Errs = append(sc.Errs, &diag.Error{Pos: at, Msg: diag.Quote(word) + " is not a setting", Hint: "write key=value"})
		return
	}
	offset := len(word) - len(value)
	if !verbatim(key) {
		value = cutComment(value)
	}
	trimmed := strings.TrimSpace(value)
	pos := at
	pos.Col += offset + strings.Index(value, trimmed)
	if i := strings.IndexFunc(key+trimmed, forbidden); i >= 0 {
		where := at
		if i >= len(key) {
			where = pos
			where.Col += i - len(key)
		}
		sc.Errs = append(sc.Errs, &diag.Error{Pos: where, Msg: fmt.Sprintf("byte %#x is not text", (key + trimmed)[i]), Hint: "save the file as UTF-8"})
		return
	}
	sc.Settings = append(sc.Settings, Setting{sc.section, key, trimmed, at, pos})
}

// verbatim reports whether the value of key goes on to the end of its line, whatever follows a "#".
func verbatim(key string) bool { return strings.HasSuffix(key, "regex") }

// cutComment returns s up to a "#" that begins a comment: one after white space.
func cutComment(s string) string {
	for i := 1; i < len(s); i++ {
		if s[i] == '#' && (s[i-1] == ' ' || s[i-1] == '\t') {
			return strings.TrimRight(s[:i], " \t")
		}
	}
	return s
}

// forbidden reports whether r stands in no value: control characters, and what is not UTF-8.
func forbidden(r rune) bool {
	return r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError
}

// UnknownSection is the error for h, which is none of known.
func UnknownSection(h Header, known []string) *diag.Error {
	hint := diag.DidYouMean(h.Name, known)
	if hint == "" {
		hint = "there is [" + strings.Join(known, "], [") + "]"
	}
	return &diag.Error{Pos: h.Pos, Msg: "unknown section " + diag.Quote(h.Name), Hint: hint}
}
