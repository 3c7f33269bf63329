package conf

import "strings"

// HostPattern is what <HOST> and <ADDR> stand for: an IPv4 or IPv6 address, IPv4-mapped ones too, with or without brackets
// and zone. It only finds where an address stands, so that its automaton stays small; netip.ParseAddr decides what is one.
const HostPattern = `\[?(?P<ip>[0-9A-Fa-f:.]+(?:%[0-9A-Za-z_.-]+)?)\]?`

// UserPattern is what <USER> stands for: a user name as the client sent it, which may be empty and contain anything.
const UserPattern = `(?P<user>.*)`

// Expand returns text with <HOST>, <ADDR> and <USER> replaced by what they stand for.
func Expand(text string) string { return expander.Replace(text) }

var expander = strings.NewReplacer("<HOST>", HostPattern, "<ADDR>", HostPattern, "<USER>", UserPattern)

// WholeLine reports whether the pattern begins with a date, so that it is about whole lines and not about messages.
func (p Pattern) WholeLine() bool {
	return strings.HasPrefix(p.Text, `^\d{4}`) || strings.HasPrefix(p.Text, `^[0-9]{4}`) ||
		strings.HasPrefix(p.Text, `^\[?\d{4}-`)
}
