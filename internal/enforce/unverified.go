package enforce

import (
	"fmt"
	"net/netip"
	"slices"

	"mef/internal/ban"
)

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
