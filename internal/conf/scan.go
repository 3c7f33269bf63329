package conf

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A setting is one key=value line.
type setting struct {
	section    string
	key, value string
	keyPos     Pos
	pos        Pos // of the value
}

// A header is one [section] line.
type header struct {
	name string
	pos  Pos
}

// A scanner cuts the text of a file into settings. It knows no key.
type scanner struct {
	file     string
	section  string // where lines before the first header belong
	settings []setting
	headers  []header
	errs     Errors
}

// scan cuts text into settings and section headers. Lines before the first header are one error and belong to section, so that
// their own mistakes are found too.
func scan(file string, text []byte, section string) scanner {
	sc := scanner{file: file, section: section}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // byte order mark of Windows editors
	line := 0
	for raw := range bytes.Lines(text) {
		line++
		sc.line(line, string(bytes.TrimRight(raw, "\r\n")))
		if len(sc.errs) > maxMistakes || len(sc.headers) > maxMistakes {
			sc.errs = append(sc.errs, tooMany(Pos{File: file, Line: line}))
			break
		}
	}
	return sc
}

// maxMistakes is after how many a file is not read on: it is something else than a configuration.
const maxMistakes = 100

func tooMany(at Pos) *Error {
	return &Error{at, "too many mistakes, the rest of the file is not read", "fix those before it first"}
}

// line reads one line without its end.
func (sc *scanner) line(number int, text string) {
	word := strings.TrimSpace(text)
	at := Pos{sc.file, number, 1 + strings.Index(text, word)}
	switch {
	case word == "" || word[0] == '#':
	case word[0] == ';':
		sc.errs = append(sc.errs, &Error{at, `";" does not begin a comment here`, "begin comments with #"})
	case word[0] == '[':
		sc.header(at, word)
	default:
		sc.setting(at, word)
	}
}

func (sc *scanner) header(at Pos, word string) {
	word = cutComment(word)
	if !strings.HasSuffix(word, "]") {
		sc.errs = append(sc.errs, &Error{at, "section " + Quote(word) + " does not end with ]", "write [section] on a line of its own"})
		return
	}
	name := strings.TrimSpace(word[1 : len(word)-1])
	for _, h := range sc.headers {
		if h.name == name {
			sc.errs = append(sc.errs, &Error{at, "section " + Quote(word) + " occurs twice", "first at " + h.pos.String()})
		}
	}
	sc.headers = append(sc.headers, header{name, at})
	sc.section = name
}

func (sc *scanner) setting(at Pos, word string) {
	if len(sc.headers) == 0 {
		sc.headers = append(sc.headers, header{sc.section, at}) // said once
		sc.errs = append(sc.errs, &Error{at, "setting before the first section", fmt.Sprintf("write [%s] in front of it", sc.section)})
	}
	key, value, ok := strings.Cut(word, "=")
	key = strings.TrimSpace(key)
	if !ok || key == "" {
		sc.errs = append(sc.errs, &Error{at, Quote(word) + " is not a setting", "write key=value"})
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
		sc.errs = append(sc.errs, &Error{where, fmt.Sprintf("byte %#x is not text", (key + trimmed)[i]), "save the file as UTF-8"})
		return
	}
	sc.settings = append(sc.settings, setting{sc.section, key, trimmed, at, pos})
}

// verbatim reports whether the value of key goes on to the end of its line, whatever follows a "#".
func verbatim(key string) bool { return strings.HasSuffix(key, "regex") }

// cutComment returns s up to a "#" that begins a comment: one after white space.
func cutComment(s string) string {
	for i := 1; i < len(s); i++ {
		if s[i] == '#' && (s[i-1] == ' ' || s[i-1] == '\t') {
			return strings.TrimSpace(s[:i])
		}
	}
	return s
}

// forbidden reports whether r stands in no value: control characters, and what is not UTF-8.
func forbidden(r rune) bool {
	return r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError
}

// maxQuoted bounds what a message repeats of a file.
const maxQuoted = 80

// Quote returns s in quotes, cut where it is too long for a message.
func Quote(s string) string {
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "…"
	}
	return fmt.Sprintf("%q", s)
}
