package conf

import (
	"net/netip"
	"strconv"
	"strings"
)

// IsAnswer reports whether s describes answers of a block list: an IPv4 address, of which numbers at the end may be one "*" and the last number
// a range: "127.0.0.2", "127.0.0.4-7", "127.0.0.*", "127.*".
func IsAnswer(s string) bool {
	_, ok := parseAnswer(s)
	return ok
}

// MatchAnswer reports whether an answer of a block list is among those that s describes. Neither addresses outside of 127.0.0.0/8 nor those in
// 127.255.255.0/24 ever are: these are errors.
func MatchAnswer(s string, answer netip.Addr) bool {
	if s == "*" {
		s = "127.*"
	}
	bounds, ok := parseAnswer(s)
	if !ok || !answer.Is4() || IsErrorAnswer(answer) {
		return false
	}
	for i, n := range answer.As4() {
		if n < bounds[i].lo || n > bounds[i].hi {
			return false
		}
	}
	return true
}

// IsErrorAnswer reports whether an answer never means that an address is listed: one outside of 127.0.0.0/8 comes from something else than a
// block list, and one in 127.255.255.0/24 says why the list does not answer.
func IsErrorAnswer(answer netip.Addr) bool {
	a := answer.As4()
	return a[0] != 127 || a[1] == 255 && a[2] == 255
}

// parseAnswer returns the bounds of each number.
func parseAnswer(s string) (bounds [4]struct{ lo, hi byte }, ok bool) {
	words := strings.Split(s, ".")
	if len(words) > 4 {
		return bounds, false
	}
	for i := range bounds {
		bounds[i].hi = 255
	}
	for i, word := range words {
		last := i == len(words)-1
		if word == "*" && last && i > 0 {
			return bounds, true
		}
		first, end, ranged := strings.Cut(word, "-")
		if !ranged {
			end = first
		}
		lo, err1 := strconv.ParseUint(first, 10, 8)
		hi, err2 := strconv.ParseUint(end, 10, 8)
		if err1 != nil || err2 != nil || lo > hi || ranged && i < 3 {
			return bounds, false
		}
		bounds[i].lo, bounds[i].hi = byte(lo), byte(hi)
	}
	return bounds, len(words) == 4
}
