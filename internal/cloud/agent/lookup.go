package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/webclient"
)

const (
	prefixTime  = time.Minute // for which the answer about a prefix is kept
	maxPrefixes = 1024        // that are kept; when there are more, all are forgotten
	maxKept     = 500_000     // addresses of all prefixes
	maxAnswer   = 4 << 20     // bytes of an answer about a prefix
)

// prefixes are the answers of the server about prefixes.
type prefixes struct {
	mu     sync.Mutex
	of     map[netip.Prefix]prefix
	kept   int
	member *membership // that the answers are of
	retry  time.Time   // after an error; until then, the server is not asked
	err    error
}

type prefix struct {
	until time.Time
	addrs []netip.Addr // in order
}

// Listed asks the server whether an address is listed: for all listed addresses of its /16, or the /32 of IPv6, so that the server is not shown which of
// them is meant. An answer is used for a minute. After an error, the server is not asked for the time that the configuration names.
func (a *Agent) Listed(ctx context.Context, addr netip.Addr) (bool, error) {
	addr = addr.Unmap().WithZone("")
	a.mu.Lock()
	m, wait := a.member, a.cfg.Listing.Error
	a.mu.Unlock()
	if m == nil {
		return false, errors.New("this host has joined no server")
	}
	of, now, p := wire.Wide(addr), time.Now(), &a.prefixes
	p.mu.Lock()
	if p.member != m || p.of == nil {
		p.of, p.kept, p.member, p.retry = make(map[netip.Prefix]prefix), 0, m, time.Time{}
	}
	known, err := p.of[of], p.err
	waiting := now.Before(p.retry)
	p.mu.Unlock()
	if now.Before(known.until) {
		return known.has(addr), nil
	}
	if waiting {
		return false, err
	}
	found, err := m.prefix(ctx, of)
	a.note("prefixes", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.member != m {
		return false, errors.New("this host has left the server")
	}
	if p.err = err; err != nil {
		p.retry = now.Add(wait)
		return false, err
	}
	if len(p.of) >= maxPrefixes || p.kept+len(found.addrs) > maxKept {
		clear(p.of)
		p.kept = 0
	}
	p.kept += len(found.addrs) - len(p.of[of].addrs)
	p.of[of] = found
	return found.has(addr), nil
}

// has reports whether an address is listed: that of IPv6 if its /64 is.
func (p prefix) has(addr netip.Addr) bool {
	if addr.Is6() {
		net, _ := addr.Prefix(64) // it has no zone
		addr = net.Addr()
	}
	_, ok := slices.BinarySearchFunc(p.addrs, addr, netip.Addr.Compare)
	return ok
}

// prefix asks the server for the listed addresses of a prefix.
func (m *membership) prefix(ctx context.Context, of netip.Prefix) (p prefix, err error) {
	text, err := m.ask(ctx, http.MethodGet, "/v1/prefix/"+wire.PrefixPath(of), 0, nil, maxAnswer)
	if err != nil {
		return p, err
	}
	var list wire.PrefixList
	if err := json.Unmarshal(text, &list); err != nil || list.Prefix != of || len(list.Addresses) > wire.MaxPrefix ||
		slices.ContainsFunc(list.Addresses, func(a netip.Addr) bool { return !of.Contains(a) }) || !slices.IsSortedFunc(list.Addresses, netip.Addr.Compare) {
		return p, errors.New("the answer of the server about a prefix is malformed")
	}
	return prefix{time.Now().Add(prefixTime), list.Addresses}, nil
}

// Zone returns the DNS zone in which addresses are looked up, if they are.
func (a *Agent) Zone() (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg.Lookup, a.cfg.Protection && !a.cfg.Feed() && a.cfg.Lookup != conf.LookupPrefix
}

// Lookup finds out whether the server lists an address: in the copy of the list, by its prefix, or by asking about the address itself if the configuration
// wants no protection.
func (a *Agent) Lookup(ctx context.Context, addr netip.Addr) (v control.CloudVerdict, err error) {
	a.mu.Lock()
	m, cfg, list := a.member, a.cfg, a.lists["public"]
	a.mu.Unlock()
	switch {
	case m == nil:
		return v, control.Refuse("this host has joined no server; run mefctl cloud join with an invitation")
	case cfg.Feed() && list.seq == 0:
		return v, control.Refuse("this host does not have the list yet; see mefctl cloud status")
	case cfg.Feed():
		v.Listed, v.Shown = list.addrs.Contains(addr.Unmap()), "the copy of the list on this host was read; nobody was shown anything"
		return v, nil
	case cfg.Protection:
		if v.Listed, err = a.Listed(ctx, addr); err != nil {
			return v, control.Refuse("%v", err)
		}
		v.Shown = fmt.Sprintf("%s was shown %s, and no more of the address", m.server.Server, wire.Wide(addr))
		return v, nil
	}
	text, err := m.ask(ctx, http.MethodGet, "/v1/ip/"+addr.String(), 0, nil, webclient.MaxAnswer)
	if err != nil {
		return v, control.Refuse("%v", err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return v, control.Refuse("the answer of the server is malformed")
	}
	v.Shown = fmt.Sprintf("%s was shown %s", m.server.Server, addr)
	return v, nil
}
