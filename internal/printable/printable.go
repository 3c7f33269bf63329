// Package printable keeps text of strangers from steering what shows it.
//
// Names of processes and files, user names of login attempts and answers of servers can hold anything: escape sequences that move
// a terminal's cursor, C1 control characters that do the same in one byte, marks that reverse the direction of writing, bytes that are
// no UTF-8. Everything that a program of mef prints, logs or answers goes through a Writer of this package, so that no place which prints has to
// think of it. Text shows what is not printable as Go does in a string: \x1b, \u202e. JSON writes it as JSON does: \u001b.
package printable

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// A Writer passes on what is printable, line ends and tabs, and escapes everything else. A character may arrive in several pieces; Flush
// at the end writes what is left of one that never became whole. It is not safe for concurrent use.
type Writer struct {
	w      io.Writer
	escape func(dst []byte, r rune) []byte
	broken func(dst []byte, b byte) []byte // for a byte that is no UTF-8
	rest   []byte                          // the beginning of a character, at most three bytes
	buf    []byte
}

// Text returns a Writer for people: terminals, and the files that are shown on one later.
func Text(w io.Writer) *Writer { return &Writer{w: w, escape: escapeText, broken: brokenText} }

// JSON returns a Writer for JSON text, which is still JSON afterwards, of the same meaning.
func JSON(w io.Writer) *Writer {
	return &Writer{w: w, escape: escapeJSON, broken: func(dst []byte, _ byte) []byte { return append(dst, `\ufffd`...) }}
}

// Marshal is json.Marshal with everything escaped that is not printable.
func Marshal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil || plain(text) {
		return text, err
	}
	var out bytes.Buffer
	_, err = JSON(&out).Write(text)
	return out.Bytes(), err
}

// Exact returns the writer below, for text that must arrive byte by byte.
func (w *Writer) Exact() io.Writer { return w.w }

// Write writes all of p. The error is that of the writer below.
func (w *Writer) Write(p []byte) (int, error) {
	if len(w.rest) == 0 && plain(p) {
		return w.w.Write(p)
	}
	text := append(w.rest, p...)
	w.buf = w.buf[:0]
	for len(text) > 0 {
		if n := plainLen(text); n > 0 {
			w.buf, text = append(w.buf, text[:n]...), text[n:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 && !utf8.FullRune(text) {
			break
		}
		w.put(r, n, text[0], text[:n])
		text = text[n:]
	}
	w.rest = append(w.rest[:0:0], text...)
	if _, err := w.w.Write(w.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what is left of a character that never became whole.
func (w *Writer) Flush() error {
	if len(w.rest) == 0 {
		return nil
	}
	w.buf = w.buf[:0]
	for _, b := range w.rest {
		w.buf = w.broken(w.buf, b)
	}
	w.rest = nil
	_, err := w.w.Write(w.buf)
	return err
}

// put adds one character of n bytes to the buffer.
func (w *Writer) put(r rune, n int, first byte, raw []byte) {
	switch {
	case r == utf8.RuneError && n == 1:
		w.buf = w.broken(w.buf, first)
	case r == '\n' || r == '\t' || unicode.IsPrint(r):
		w.buf = append(w.buf, raw...)
	default:
		w.buf = w.escape(w.buf, r)
	}
}

// plain reports whether p is printable ASCII and line ends, as nearly everything is.
func plain(p []byte) bool { return plainLen(p) == len(p) }

// plainLen returns how many bytes p begins with that are printable ASCII or line ends.
func plainLen(p []byte) int {
	for i, b := range p {
		if (b < ' ' || b > '~') && b != '\n' && b != '\t' {
			return i
		}
	}
	return len(p)
}

func escapeText(dst []byte, r rune) []byte {
	switch {
	case r < utf8.RuneSelf:
		return fmt.Appendf(dst, `\x%02x`, r)
	case r <= 0xffff:
		return fmt.Appendf(dst, `\u%04x`, r)
	}
	return fmt.Appendf(dst, `\U%08x`, r)
}

func brokenText(dst []byte, b byte) []byte { return fmt.Appendf(dst, `\x%02x`, b) }

func escapeJSON(dst []byte, r rune) []byte {
	if r <= 0xffff {
		return fmt.Appendf(dst, `\u%04x`, r)
	}
	high, low := utf16.EncodeRune(r)
	return fmt.Appendf(dst, `\u%04x\u%04x`, high, low)
}
