package conf

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"mef/internal/conf/diag"
	"mef/internal/prefixset"
)

// ParseList reads a whitelist or blacklist file: an address, CIDR, IP/MASK, range a-b or DNS name a line, with comments. A line
// that is none of them is an error; the other entries are returned.
func ParseList(file string, text []byte) (entries []Entry, errs Errors) {
	errs = EachEntry(file, text, func(e Entry, _ []netip.Prefix) bool {
		entries = append(entries, e)
		return true
	})
	return entries, errs
}

// EachEntry is ParseList for a file that may be very long: it calls do for each entry, with the prefixes that make it up, none for a DNS name,
// until do returns false. The file may be in another format altogether, so only the first errors are returned, and the number of the others.
func EachEntry(file string, text []byte, do func(Entry, []netip.Prefix) bool) Errors {
	var errs Errors
	line, more := 0, 0
	for raw := range bytes.Lines(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))) {
		line++
		s := strings.ToValidUTF8(string(raw), "\uFFFD")
		entry, note, _ := cutListComment(s)
		word := strings.TrimSpace(entry)
		if word == "" {
			continue
		}
		at := Pos{File: file, Line: line, Col: 1 + strings.Index(s, word)}
		switch prefixes, err := parseEntry(word); {
		case err == nil:
			if !do(Entry{at, word, strings.TrimSpace(note)}, prefixes) {
				return errs
			}
		case len(errs) < maxErrors:
			errs = append(errs, placed(err, at))
		default:
			more++
		}
	}
	if more > 0 {
		errs = append(errs, &Error{Pos: Pos{File: file, Line: errs[maxErrors-1].Line + 1, Col: 0}, Msg: fmt.Sprintf("%d more lines from here on are not entries", more),
			Hint: "write one entry per line: " + entrySyntax})
	}
	return errs
}

// maxErrors bounds the errors that are returned one by one.
const maxErrors = 100

// placed returns err with its place.
func placed(err *Error, at Pos) *Error {
	err.Pos = at
	return err
}

// EntryPrefixes reads one entry of a list that stands at a place. It returns the fewest prefixes that make it up, none for a DNS
// name.
func EntryPrefixes(at Pos, word string) ([]netip.Prefix, *Error) {
	prefixes, err := parseEntry(word)
	if err != nil {
		return nil, placed(err, at)
	}
	return prefixes, nil
}

// cutListComment cuts s at its first "#" or ";", neither of which is part of any entry.
func cutListComment(s string) (entry, comment string, found bool) {
	i := strings.IndexAny(s, "#;")
	if i < 0 {
		return s, "", false
	}
	return s[:i], strings.TrimLeft(s[i:], "#; "), true
}

// Prefixes returns the fewest prefixes that make up the entry, or false for a DNS name.
func (e Entry) Prefixes() ([]netip.Prefix, bool) {
	prefixes, err := parseEntry(e.Text)
	return prefixes, err == nil && prefixes != nil
}

const entrySyntax = "an address, a prefix such as 192.0.2.0/24, a range a-b, or a host name with its domain"

// parseEntry returns the prefixes of an entry, none for a DNS name. Its error has no place.
func parseEntry(word string) ([]netip.Prefix, *Error) {
	if strings.ContainsAny(word, " \t") {
		return nil, &Error{Pos: Pos{}, Msg: diag.Quote(word) + " is more than one entry", Hint: "write one entry per line, and a comment after #"}
	}
	if addr, mask, ok := strings.Cut(word, "/"); ok && strings.Contains(mask, ".") {
		p, ok := maskedPrefix(addr, mask)
		if !ok {
			return nil, &Error{Pos: Pos{}, Msg: diag.Quote(word) + " is not an address with a mask", Hint: "write it as 192.0.2.0/24 or 192.0.2.0/255.255.255.0"}
		}
		return []netip.Prefix{p}, nil
	}
	if p, err := ParsePrefix(word); err == nil {
		return []netip.Prefix{p}, nil
	}
	if first, last, ok := strings.Cut(word, "-"); ok {
		a, errA := netip.ParseAddr(first)
		b, errB := netip.ParseAddr(last)
		if errA == nil || errB == nil {
			return rangePrefixes(word, a, b)
		}
	}
	if !IsHostName(word) {
		return nil, &Error{Pos: Pos{}, Msg: diag.Quote(word) + " is not an entry", Hint: "write " + entrySyntax}
	}
	return nil, nil
}

// rangePrefixes returns the prefixes from a to b, either of which may be invalid.
func rangePrefixes(word string, a, b netip.Addr) ([]netip.Prefix, *Error) {
	a, b = a.Unmap(), b.Unmap()
	switch {
	case !a.IsValid() || !b.IsValid() || a.BitLen() != b.BitLen() || a.Zone()+b.Zone() != "":
		return nil, &Error{Pos: Pos{}, Msg: diag.Quote(word) + " is not a range of addresses", Hint: "write two addresses of the same family, as in 192.0.2.7-192.0.2.99"}
	case b.Less(a):
		return nil, &Error{Pos: Pos{}, Msg: "range " + diag.Quote(word) + " ends before it begins", Hint: fmt.Sprintf("write %s-%s", b, a)}
	}
	return prefixset.FromRanges([]prefixset.Range{{First: a, Last: b}}).Prefixes(), nil
}

// maskedPrefix reads an IPv4 address and a mask such as 255.255.255.0, whose ones must come first.
func maskedPrefix(addr, mask string) (netip.Prefix, bool) {
	a, errA := netip.ParseAddr(addr)
	m, errM := netip.ParseAddr(mask)
	if errA != nil || errM != nil || !a.Is4() || !m.Is4() {
		return netip.Prefix{}, false
	}
	bits := 0
	ones := true
	for _, b := range m.As4() {
		for bit := byte(0x80); bit > 0; bit >>= 1 {
			if b&bit == 0 {
				ones = false
			} else if !ones {
				return netip.Prefix{}, false
			} else {
				bits++
			}
		}
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

// IsHostName reports whether s can be a full DNS name (RFC 1123): at least two labels, the last one not a number, which would be
// a mistyped address.
func IsHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	labels := strings.Split(s, ".")
	if len(s) > 253 || len(labels) < 2 || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.ContainsFunc(l, func(r rune) bool { return !isLabelRune(r) }) {
			return false
		}
	}
	return true
}

func isLabelRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-'
}

// Addrs returns the addresses of list entries. Names are not resolved.
func Addrs(list []Entry) prefixset.Set {
	var prefixes []netip.Prefix
	for _, entry := range list {
		if p, ok := entry.Prefixes(); ok {
			prefixes = append(prefixes, p...)
		}
	}
	return prefixset.New(prefixes...)
}

// ProxyAddrs returns the addresses of Proxies.
func (c *Config) ProxyAddrs() prefixset.Set { return addrsOf(c.Proxies) }

// SyslogSenders returns the addresses of Syslog.Senders.
func (c *Config) SyslogSenders() prefixset.Set { return addrsOf(c.Syslog.Senders) }

// NAT64Prefixes returns the prefixes of NAT64.
func (c *Config) NAT64Prefixes() prefixset.Set { return addrsOf(c.NAT64) }

func addrsOf(texts []string) prefixset.Set {
	list := make([]Entry, len(texts))
	for i, text := range texts {
		list[i].Text = text
	}
	return Addrs(list)
}

// ParsePrefix reads an address or a network as an operator writes it: "192.0.2.7", "2001:db8::/64". The result is masked and never
// IPv4-mapped. An address with a zone is an error.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return prefixset.Normalize(p), nil
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Prefix{}, err
	case a.Zone() != "":
		return netip.Prefix{}, fmt.Errorf("address %q has a zone", s)
	}
	return prefixset.Normalize(netip.PrefixFrom(a, a.BitLen())), nil
}
