package decide

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/prefixset"
)

// Facts say which addresses must stay reachable. Loopback, link-local, multicast and unspecified addresses always do.
type Facts struct {
	Own       prefixset.Set // this host's addresses
	Gateways  prefixset.Set
	Resolvers prefixset.Set
	Servers   prefixset.Set // DHCP servers
	Allowed   prefixset.Set // the allow list
	Proxies   prefixset.Set // reverse proxies of the operator: many clients behind each address
	CDNs      []CDN         // content delivery networks: the same
	OnLink    prefixset.Set // the networks of our own links

	Sessions prefixset.Set // peers of live SSH sessions of administrators
	SSHPorts ban.Ports     // which those bans leave alone; "": 22
}

// special are the addresses that no host elsewhere has, or that a network cannot do without.
var special = []struct {
	set  prefixset.Set
	name string
}{
	{prefixset.New(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")), "loopback"},
	{prefixset.New(netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")), "link-local"},
	{prefixset.New(netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")), "multicast"},
	{prefixset.New(netip.MustParsePrefix("255.255.255.255/32")), "broadcast"},
	{prefixset.New(netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("::/128")), "unspecified"},
}

// allSpecial is the union of special.
var allSpecial = func() (all prefixset.Set) {
	for _, s := range special {
		all = all.Union(s.set)
	}
	return all
}()

// Special returns the loopback, link-local, multicast, broadcast and unspecified addresses, which nobody bans.
func Special() prefixset.Set { return allSpecial }

// Exempt returns the families of addresses of which nobody is ever banned, because the allow list or the proxies have them all.
func (f *Facts) Exempt() (families []string) {
	free := f.Allowed.Union(f.Proxies)
	for _, p := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		if prefixset.New(p).Subtract(free).Len() == 0 {
			families = append(families, map[bool]string{true: "IPv4", false: "IPv6"}[p.Addr().Is4()])
		}
	}
	return families
}

// Never says why addr is never banned, "" if it may be.
func (f *Facts) Never(addr netip.Addr) string {
	p := netip.PrefixFrom(addr, addr.BitLen())
	if why := f.fixed(p); why != "" {
		return why
	}
	if why := f.listed(p); why != "" {
		return why
	}
	if f.Proxies.Contains(addr) {
		return "a proxy, behind which are many"
	}
	return f.cdn(p)
}

// fixed says what in p is beyond anybody's reach: special and own addresses.
func (f *Facts) fixed(p netip.Prefix) string {
	if allSpecial.Overlaps(p) {
		for _, s := range special {
			if s.set.Overlaps(p) {
				return s.name + " addresses"
			}
		}
	}
	if f.Own.Overlaps(p) {
		return "our own address"
	}
	return ""
}

// listed says what in p this host needs or its operator allows.
func (f *Facts) listed(p netip.Prefix) string {
	switch {
	case f.Gateways.Overlaps(p):
		return "our gateway"
	case f.Resolvers.Overlaps(p):
		return "our resolver"
	case f.Servers.Overlaps(p):
		return "our DHCP server"
	case f.Allowed.Overlaps(p):
		return "an entry of the allow list"
	}
	return ""
}

// letThrough says why the kernel lets all of p through ahead of every ban, "" if a ban of p would keep anybody out.
func (f *Facts) letThrough(p netip.Prefix) string {
	needed := f.Gateways.Union(f.Resolvers).Union(f.Servers).Union(f.Allowed)
	if prefixset.New(p).Subtract(needed).Len() > 0 {
		return ""
	}
	return f.listed(p)
}

// inside says who in a network must stay reachable, "" if nobody.
func (f *Facts) inside(p netip.Prefix) string {
	switch why := cmp.Or(f.fixed(p), f.listed(p)); {
	case why != "":
		return why
	case f.Proxies.Overlaps(p):
		return "a proxy"
	case f.cdn(p) != "":
		return f.cdn(p)
	case f.Sessions.Overlaps(p):
		return "an administrator's live SSH session"
	case f.OnLink.Overlaps(p):
		return "our own link"
	}
	return ""
}

func (f *Facts) sshPorts() ban.Ports { return cmp.Or(f.SSHPorts, "22") }

// without returns the ports of p that are not in q; ok is false if there are none. Of all ports and protocols, what is left
// are the other ports.
func without(p, q ban.Ports) (left ban.Ports, ok bool) {
	ranges := p.Ranges()
	if p == "" {
		ranges = []ban.PortRange{{First: 1, Last: 65535}}
	}
	for _, cut := range q.Ranges() {
		var next []ban.PortRange
		for _, r := range ranges {
			if r.First < cut.First {
				next = append(next, ban.PortRange{First: r.First, Last: min(r.Last, cut.First-1)})
			}
			if r.Last > cut.Last {
				next = append(next, ban.PortRange{First: max(r.First, cut.Last+1), Last: r.Last})
			}
		}
		ranges = next
	}
	if len(ranges) == 0 {
		return "", false
	}
	var text string
	for _, r := range ranges {
		text += fmt.Sprintf(",%d-%d", r.First, r.Last)
	}
	left, err := ban.ParsePorts(text[1:])
	return left, err == nil
}

// A Request is an operator's wish for a ban.
type Request struct {
	Prefix netip.Prefix
	For    time.Duration // 0: until lifted
	Ports  ban.Ports
	Author string
	Note   string
	Caller netip.Addr // from where the operator is logged in; the zero Addr if that is not known
	Known  int        // known logins inside Prefix
	Force  bool       // also very wide networks, and such that contain somebody who has reason to come
}

// longestManual is how long an operator's ban lasts at most, unless it has no end: times in nanoseconds end in 2262.
const longestManual = 100 * 365 * 24 * time.Hour

// Manual makes the ban that an operator asks for. The error says why it must not be, and what to do about it.
func Manual(r Request, facts Facts, now time.Time) (ban.Ban, error) {
	if !r.Prefix.IsValid() {
		return ban.Ban{}, errors.New("not an address or network")
	}
	p := prefixset.Normalize(r.Prefix)
	name := ban.Key{Prefix: p}.String()
	if why := facts.fixed(p); why != "" && p.IsSingleIP() {
		return ban.Ban{}, fmt.Errorf("%s is never banned: %s", name, why)
	} else if why != "" {
		return ban.Ban{}, fmt.Errorf("%s is never banned: it contains %s", name, why)
	}
	if why := facts.letThrough(p); why != "" {
		return ban.Ban{}, fmt.Errorf("%s is %s, and let through ahead of every ban", name, why)
	}
	if r.For < 0 || r.For > 0 && r.For < time.Second {
		return ban.Ban{}, fmt.Errorf("a ban lasts a second at least, not %s", r.For)
	}
	if r.For > longestManual {
		return ban.Ban{}, errors.New("a ban lasts a hundred years at most: name no time for one without end")
	}
	if why := unforced(&r, &facts, p); why != "" && !r.Force {
		return ban.Ban{}, fmt.Errorf("%s %s: use --force if it is meant", name, why)
	}
	b := ban.Ban{
		Key:   ban.Key{Prefix: p, Ports: r.Ports},
		Start: now, Rule: ban.ByHand, Count: 1,
		ID:     fmt.Sprintf("%s %s %d", ban.ByHand, p, now.UnixNano()),
		Reason: "asked for by " + cmp.Or(r.Author, "an operator"),
		Author: r.Author, Note: r.Note,
	}
	if r.For > 0 {
		b.Until = now.Add(r.For)
	}
	return b, nil
}

// unforced says what speaks against a request that is not forced, "" if nothing does.
func unforced(r *Request, facts *Facts, p netip.Prefix) string {
	least := 32
	if p.Addr().Is4() {
		least = 16
	}
	if p.Bits() < least {
		return fmt.Sprintf("is wider than /%d", least)
	}
	why := facts.listed(p)
	switch {
	case why != "":
	case p.Contains(r.Caller):
		why = "the address from which you are logged in"
	case facts.Proxies.Overlaps(p):
		why = "a proxy"
	case facts.cdn(p) != "":
		why = facts.cdn(p)
	case facts.Sessions.Overlaps(p):
		why = "the address of an administrator's live SSH session"
	case p.IsSingleIP():
	case facts.OnLink.Overlaps(p):
		why = "our own link"
	case r.Known > 0:
		why = fmt.Sprintf("%d known logins", r.Known)
	}
	switch {
	case why == "":
		return ""
	case p.IsSingleIP():
		return "is " + why
	}
	return "contains " + why
}
