package feeds

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/prefixset"
)

const (
	maxLine = 64 << 10 // bytes of a line

	// maxWrong lines, or one in a hundred of all, may be no entries: publishers make mistakes. With more, a feed is something else.
	maxWrong      = 10
	wrongFraction = 100
)

// Parsed is a feed that was read to its end.
type Parsed struct {
	List    *prefixset.Packed
	Entries int // lines with an address or network
	Wrong   int // lines that have none and should
}

// Parse reads a feed of a format. The error names the line at which the text is no such feed; nothing of it counts then.
func Parse(r io.Reader, f conf.Feed) (Parsed, error) {
	var out Parsed
	var b prefixset.Packer
	var first error // about the first line that is no entry
	err := each(r, f, func(line int, entry []prefixset.Range, text []byte) error {
		if entry == nil {
			if out.Wrong++; first == nil {
				first = fmt.Errorf("line %d: %s is no address or network", line, diag.Quote(string(text)))
			}
			if out.Wrong > maxWrong && out.Entries < out.Wrong*wrongFraction {
				return first
			}
			return nil
		}
		out.Entries++
		for _, r := range entry {
			b.AddRange(r)
		}
		return nil
	})
	switch {
	case err != nil:
		return Parsed{}, err
	case out.Wrong > maxWrong && out.Entries < out.Wrong*wrongFraction, out.Entries == 0 && first != nil:
		return Parsed{}, first
	case out.Entries == 0:
		return Parsed{}, errors.New("it has no entry")
	}
	out.List = b.Pack()
	return out, nil
}

// Line returns the first line of a feed whose entry has an address, 0 if there is none.
func Line(r io.Reader, f conf.Feed, addr netip.Addr) (number int, text string, err error) {
	found := errors.New("found")
	err = each(r, f, func(line int, entry []prefixset.Range, all []byte) error {
		for _, r := range entry {
			if r.First.BitLen() == addr.BitLen() && r.First.Compare(addr) <= 0 && addr.Compare(r.Last) <= 0 {
				number, text = line, string(all)
				return found
			}
		}
		return nil
	})
	if err == found {
		err = nil
	}
	return number, text, err
}

// each calls do for every line of a feed that is no comment, with the addresses of its entry, nil if it has none, until do returns
// an error. The slices are valid until do returns.
func each(r io.Reader, f conf.Feed, do func(line int, entry []prefixset.Range, text []byte) error) error {
	in := bufio.NewReaderSize(r, maxLine)
	var room [1]prefixset.Range
	for line := 1; ; line++ {
		text, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("line %d is longer than %d bytes", line, maxLine)
		}
		if err != nil && err != io.EOF {
			return err
		}
		if line == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
		}
		text = bytes.TrimSpace(text)
		if len(text) > 0 && text[0] == '<' {
			return fmt.Errorf("line %d: %s is the beginning of a web page, not of a list", line, diag.Quote(string(text)))
		}
		if i := bytes.IndexByte(text, 0); i >= 0 {
			return fmt.Errorf("line %d: byte 0 is not text", line)
		}
		if word, counts := entryOf(text, f); counts {
			if err := do(line, addresses(word, &room), text); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// entryOf returns the word of a line that should be an address or network. counts is false for comments and lines that only describe the
// list.
func entryOf(text []byte, f conf.Feed) (word string, counts bool) {
	if len(text) == 0 || text[0] == '#' || text[0] == ';' || bytes.HasPrefix(text, []byte("//")) {
		return "", false
	}
	switch f.Format {
	case conf.FeedCSV:
		return column(string(text), f.Column), true
	case conf.FeedJSON:
		var object map[string]json.RawMessage
		if json.Unmarshal(text, &object) != nil {
			return "", true
		}
		value, has := object[f.Member]
		if !has {
			return "", object["type"] == nil // such as the metadata of Spamhaus
		}
		if json.Unmarshal(value, &word) != nil {
			return "", true
		}
		return word, true
	}
	if i := bytes.IndexAny(text, " \t;#,"); i >= 0 {
		// A range may have spaces around its hyphen.
		if rest := bytes.TrimLeft(text[i:], " \t"); len(rest) > 1 && rest[0] == '-' {
			last, _, _ := strings.Cut(strings.TrimSpace(string(rest[1:])), " ")
			return string(text[:i]) + "-" + last, true
		}
		text = text[:i]
	}
	return string(text), true
}

// column returns a column of a line of a table: words between commas, or semicolons or tabs if there is no comma, with or without quotes.
func column(text string, n int) string {
	separator := ","
	for _, s := range []string{",", ";", "\t"} {
		if strings.Contains(text, s) {
			separator = s
			break
		}
	}
	for i := 1; ; i++ {
		word, rest, more := strings.Cut(text, separator)
		if i == n {
			return strings.Trim(strings.TrimSpace(word), `"'`)
		}
		if !more {
			return ""
		}
		text = rest
	}
}

// addresses returns the addresses of an entry; nil if it is none. Hosts, which are by far the most, take no memory.
func addresses(word string, room *[1]prefixset.Range) []prefixset.Range {
	if a, err := netip.ParseAddr(word); err == nil {
		if a = a.Unmap(); a.Zone() != "" {
			return nil
		}
		room[0] = prefixset.Range{First: a, Last: a}
		return room[:]
	}
	if p, err := netip.ParsePrefix(word); err == nil {
		room[0] = prefixset.RangeOf(p)
		return room[:]
	}
	e := conf.Entry{Text: word}
	prefixes, ok := e.Prefixes()
	if !ok {
		return nil
	}
	var all []prefixset.Range
	for _, p := range prefixes {
		all = append(all, prefixset.RangeOf(p))
	}
	return all
}
