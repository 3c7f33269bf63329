package logtext

import (
	"bytes"
	"net/netip"
)

// Addr reads an address as logs write it, without allocating: IPv4, also with leading zeros, which log writers mean as
// decimal; IPv6, whose zone it drops and whose IPv4-mapped form it unmaps. An unspecified address is not read.
func Addr(s []byte) (netip.Addr, bool) {
	if zone := bytes.IndexByte(s, '%'); zone >= 0 {
		s = s[:zone]
	}
	var addr netip.Addr
	if bytes.IndexByte(s, ':') < 0 {
		four, ok := parseIPv4(s)
		if !ok {
			return netip.Addr{}, false
		}
		addr = netip.AddrFrom4(four)
	} else {
		sixteen, ok := parseIPv6(s)
		if !ok {
			return netip.Addr{}, false
		}
		addr = netip.AddrFrom16(sixteen).Unmap()
	}
	return addr, !addr.IsUnspecified()
}

func parseIPv4(s []byte) (addr [4]byte, ok bool) {
	for i := range addr {
		if i > 0 {
			if len(s) == 0 || s[0] != '.' {
				return addr, false
			}
			s = s[1:]
		}
		n, value := 0, 0
		for n < len(s) && n < 3 && isDigit(s[n]) {
			value = value*10 + int(s[n]-'0')
			n++
		}
		if n == 0 || value > 255 {
			return addr, false
		}
		addr[i] = byte(value)
		s = s[n:]
	}
	return addr, len(s) == 0
}

// parseIPv6 reads RFC 4291 text: eight groups of up to four hexadecimal digits, "::" for a run of zeros, the last two
// groups also as IPv4.
func parseIPv6(s []byte) (addr [16]byte, ok bool) {
	n := 0         // bytes of addr filled
	ellipsis := -1 // n where "::" stands
	if len(s) >= 2 && s[0] == ':' && s[1] == ':' {
		ellipsis = 0
		s = s[2:]
	}
	for len(s) > 0 {
		if n == len(addr) {
			return addr, false
		}
		digits, value := 0, 0
		for digits < len(s) && digits < 5 && hexValue(s[digits]) >= 0 {
			value = value<<4 | hexValue(s[digits])
			digits++
		}
		if digits < len(s) && s[digits] == '.' {
			four, ok := parseIPv4(s)
			if !ok || n > len(addr)-4 {
				return addr, false
			}
			n += copy(addr[n:], four[:])
			break
		}
		if digits == 0 || digits > 4 {
			return addr, false
		}
		addr[n], addr[n+1] = byte(value>>8), byte(value)
		n += 2
		s = s[digits:]
		if len(s) == 0 {
			break
		}
		if s[0] != ':' || len(s) == 1 {
			return addr, false
		}
		s = s[1:]
		if s[0] == ':' {
			if ellipsis >= 0 {
				return addr, false
			}
			ellipsis = n
			s = s[1:]
		}
	}
	if ellipsis < 0 {
		return addr, n == len(addr)
	}
	if n == len(addr) {
		return addr, false
	}
	moved := copy(addr[len(addr)-(n-ellipsis):], addr[ellipsis:n])
	clear(addr[ellipsis : len(addr)-moved])
	return addr, true
}

func hexValue(c byte) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Peer reads an address, behind which a port may stand.
func Peer(s []byte) (addr netip.Addr, ok bool) {
	if len(s) > 0 && s[0] == '[' {
		end := bytes.IndexByte(s, ']')
		if end < 0 || end+1 < len(s) && (s[end+1] != ':' || !isNumber(s[end+2:])) {
			return addr, false
		}
		return Addr(s[1:end])
	}
	if colon := bytes.IndexByte(s, ':'); colon >= 0 && bytes.IndexByte(s, '.') >= 0 && colon == bytes.LastIndexByte(s, ':') && isNumber(s[colon+1:]) {
		s = s[:colon]
	}
	return Addr(s)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isNumber(s []byte) bool {
	for _, c := range s {
		if !isDigit(c) {
			return false
		}
	}
	return len(s) > 0
}
