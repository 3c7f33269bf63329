package enforce

import (
	"fmt"
	"net/netip"
	"slices"

	"mef/internal/ban"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// A RefusedError is why a ban was not made.
type RefusedError struct {
	Key    ban.Key
	Reason string // ends a sentence that begins with the key
}

func (e *RefusedError) Error() string { return fmt.Sprintf("ban %s refused: %s", e.Key, e.Reason) }

// Refuse returns a *RefusedError if a ban must not be made, by whomever: if it touches loopback, link-local, multicast or
// unspecified addresses, or if it is wider than an IPv4 /16 or an IPv6 /32 and force is not set. The key must be normal: see
// Normalize.
func Refuse(k ban.Key, force bool) error {
	if !k.Prefix.IsValid() {
		return &RefusedError{k, "it names no address"}
	}
	if name, special := exempt.SpecialIn(k.Prefix); name != "" {
		return &RefusedError{k, fmt.Sprintf("%s is %s, which is never banned",
			ban.Key{Prefix: prefixset.New(k.Prefix).Intersect(special).Prefixes()[0]}, name)}
	}
	if exempt.TooWide(k.Prefix) && !force {
		return &RefusedError{k, fmt.Sprintf("it is wider than /%d; use --force to ban it nevertheless", exempt.MinBits(k.Prefix))}
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

// connected returns the addresses that unverified bans of a batch would touch and that have an established connection; an error if that
// cannot be known.
func (e *Enforcer) connected(batch []request) ([]netip.Addr, error) {
	if e.opt.Connected == nil {
		return nil, nil
	}
	var prefixes []netip.Prefix
	for _, r := range batch {
		for _, b := range r.bans {
			if k := Normalize(b.Key); b.Class == ban.Unverified && k.Prefix.IsValid() {
				prefixes = append(prefixes, k.Prefix)
			}
		}
	}
	if len(prefixes) == 0 {
		return nil, nil
	}
	addrs, err := e.opt.Connected(prefixes)
	if err != nil {
		return nil, fmt.Errorf("look for established connections: %w", err)
	}
	return addrs, nil
}

// spareConnected returns the ban without what has an established connection: an unverified ban of such an address is refused, one of its
// network excepts it. Where nothing is known of connections, no unverified ban is made.
func spareConnected(b ban.Ban, connected []netip.Addr, unknown error) (ban.Ban, error) {
	if b.Class != ban.Unverified {
		return b, nil
	}
	b.Key = Normalize(b.Key)
	if unknown != nil {
		return b, fmt.Errorf("ban %s: %w", b.Key, unknown)
	}
	except := slices.Clone(b.Except)
	for _, a := range connected {
		if !b.Prefix.IsValid() || !b.Prefix.Contains(a) {
			continue
		}
		if b.Prefix.IsSingleIP() || len(except) >= ban.MaxExcept {
			return b, &RefusedError{b.Key, fmt.Sprintf("%s has an established connection, and the source of these packets may be forged", a)}
		}
		except = append(except, a)
	}
	b.Except = except
	return b, nil
}
