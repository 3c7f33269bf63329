package enforce

import (
	"fmt"
	"net/netip"

	"mef/internal/ban"
	"mef/internal/prefixset"
)

// A RefusedError says why a ban was not made.
type RefusedError struct {
	Key    ban.Key
	Reason string // ends a sentence that begins with the key
}

func (e *RefusedError) Error() string { return fmt.Sprintf("ban %s refused: %s", e.Key, e.Reason) }

// neverBanned are the addresses whose packets a host needs to function, or that no single host has.
var neverBanned = []struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
}

const minBits4, minBits6 = 16, 32 // shorter prefixes need force

// Refuse returns a *RefusedError if a ban must not be made, by whomever: if it touches loopback, link-local, multicast or
// unspecified addresses, or if it is wider than an IPv4 /16 or an IPv6 /32 and force is not set. The key must be normal: see
// Normalize.
func Refuse(k ban.Key, force bool) error {
	if !k.Prefix.IsValid() {
		return &RefusedError{k, "it names no address"}
	}
	for _, never := range neverBanned {
		if k.Prefix.Overlaps(never.prefix) {
			return &RefusedError{k, fmt.Sprintf("%s is %s, which is never banned", common(k.Prefix, never.prefix), never.name)}
		}
	}
	least := minBits6
	if k.Prefix.Addr().Is4() {
		least = minBits4
	}
	if k.Prefix.Bits() < least && !force {
		return &RefusedError{k, fmt.Sprintf("it is wider than /%d; use force if you mean it", least)}
	}
	if ports, err := ban.ParsePorts(string(k.Ports)); err != nil {
		return &RefusedError{k, err.Error()}
	} else if ports != k.Ports {
		return &RefusedError{k, fmt.Sprintf("its ports are not in canonical order, which is %q", ports)}
	}
	if len(k.Ports) > ban.MaxPorts {
		return &RefusedError{k, fmt.Sprintf("its list of ports is longer than %d bytes", ban.MaxPorts)}
	}
	return nil
}

// common returns the narrower of two overlapping prefixes, an address if it is one.
func common(a, b netip.Prefix) string {
	if b.Bits() > a.Bits() {
		a = b
	}
	if a.IsSingleIP() {
		return a.Addr().String()
	}
	return a.String()
}

// Normalize returns the key as it is compared: its prefix masked, and IPv4 rather than IPv4-mapped.
func Normalize(k ban.Key) ban.Key {
	if k.Prefix.IsValid() {
		k.Prefix = prefixset.Normalize(k.Prefix)
	}
	return k
}

// gracePrefix returns what a grace period for p covers: an IPv4 address, or the /64 of an IPv6 prefix. Wider prefixes get
// none.
func gracePrefix(p netip.Prefix) (netip.Prefix, bool) {
	if !p.IsValid() {
		return p, false
	}
	p = prefixset.Normalize(p)
	if p.Addr().Is4() {
		return p, p.Bits() == 32
	}
	return netip.PrefixFrom(p.Addr(), 64).Masked(), p.Bits() >= 64
}
