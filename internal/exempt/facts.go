// Package exempt knows who must stay reachable, and for what: who is never banned, whatever the origin of a ban.
//
// Nobody bans special addresses (loopback, link-local, multicast, unspecified) and this host's own. The gateways, resolvers and DHCP
// servers of this host and the allow list are let through by the kernel ahead of every ban. Reverse proxies and content delivery
// networks have many clients behind each address, so that web ports stay open to them; they have no business at other ports. The SSH
// ports stay open to addresses from which an administrator is logged in.
//
// Every origin of bans (rules, scores, operators, lists) asks here.
package exempt

import (
	"cmp"
	"net/netip"
	"slices"

	"mef/internal/ban"
	"mef/internal/prefixset"
)

// WebPorts stay open to proxies and content delivery networks.
const WebPorts ban.Ports = "80,443"

// Facts report which addresses must stay reachable. Special addresses always do; see Special. The zero value has only these.
type Facts struct {
	Own       prefixset.Set // this host's addresses
	Gateways  prefixset.Set
	Resolvers prefixset.Set
	Servers   prefixset.Set // DHCP servers
	Allowed   prefixset.Set // the allow list
	Proxies   prefixset.Set // reverse proxies of the operator: many clients behind each address
	CDNs      []CDN         // content delivery networks: the same
	OnLink    prefixset.Set // the networks of this host's own links

	// Docker holds the gateways of Docker's networks, each with the length of its network. Where this host is the gateway, many clients may
	// be behind an address of the network: that of a reverse proxy in a container.
	Docker []netip.Prefix
	// Containers is the same for other networks of containers: own addresses at bridges that join nothing else.
	Containers []netip.Prefix

	Sessions prefixset.Set // peers of live SSH sessions of administrators
	SSHPorts ban.Ports     // which bans of these leave open; "": 22
	Admins   prefixset.Set // from where administrators have logged in lately

	LiveAdmins int // addresses of Sessions
}

// SetHost sets what the host itself needs, as it is found: addresses may be IPv4-mapped or have zones.
func (f *Facts) SetHost(own, gateways, resolvers, dhcp []netip.Addr, onLink []netip.Prefix) {
	f.Own, f.Gateways, f.Resolvers, f.Servers = hosts(own), hosts(gateways), hosts(resolvers), hosts(dhcp)
	f.OnLink = prefixset.New(onLink...)
}

// SetAdmins sets from where administrators are logged in, from where they were lately, and the ports of the SSH server; no ports change
// nothing about these. It reports whether the addresses are others than before.
func (f *Facts) SetAdmins(live, recent []netip.Addr, ssh ban.Ports) (changed bool) {
	sessions, admins := hosts(live), hosts(recent)
	changed = !f.Sessions.Equal(sessions) || !f.Admins.Equal(admins)
	f.Sessions, f.Admins, f.LiveAdmins = sessions, admins, len(live)
	if ssh != "" {
		f.SSHPorts = ssh
	}
	return changed
}

func hosts(addrs []netip.Addr) prefixset.Set {
	prefixes := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		a = a.Unmap().WithZone("")
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return prefixset.New(prefixes...)
}

// specials are the addresses that no host elsewhere has, or that a network cannot do without.
var specials = []struct {
	set  prefixset.Set
	name string
}{
	{prefixset.New(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")), "loopback"},
	{prefixset.New(netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")), "link-local"},
	{prefixset.New(netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")), "multicast"},
	{prefixset.New(netip.MustParsePrefix("255.255.255.255/32")), "broadcast"},
	{prefixset.New(netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("::/128")), "unspecified"},
}

// allSpecials is the union of specials.
var allSpecials = func() (all prefixset.Set) {
	for _, s := range specials {
		all = all.Union(s.set)
	}
	return all
}()

// Special returns the loopback, link-local, multicast, broadcast and unspecified addresses.
func Special() prefixset.Set { return allSpecials }

// SpecialIn names the kind of the special addresses in p ("loopback") and returns those addresses; "" if p has none.
func SpecialIn(p netip.Prefix) (name string, which prefixset.Set) {
	if !allSpecials.Overlaps(p) {
		return "", prefixset.Set{}
	}
	for _, s := range specials {
		if s.set.Overlaps(p) {
			return s.name, s.set
		}
	}
	return "", prefixset.Set{}
}

// MinBits is the shortest length of a prefix like p that is banned unless an operator insists: 16 for IPv4, 32 for IPv6.
func MinBits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 16
	}
	return 32
}

// TooWide reports whether p is shorter than MinBits.
func TooWide(p netip.Prefix) bool { return p.Bits() < MinBits(p) }

// FullyExempt returns the families, "IPv4" or "IPv6", of which no address is ever banned, because the allow list has them all.
func (f *Facts) FullyExempt() (families []string) {
	for _, p := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		if prefixset.New(p).Subtract(f.Allowed).Len() == 0 {
			families = append(families, map[bool]string{true: "IPv4", false: "IPv6"}[p.Addr().Is4()])
		}
	}
	return families
}

// Reachable returns the addresses that the kernel lets through ahead of every ban.
func (f *Facts) Reachable() prefixset.Set {
	return f.Allowed.Union(f.Own).Union(f.Gateways).Union(f.Resolvers).Union(f.Servers)
}

// Never returns why addr is never banned, on any port; "" if it may be.
func (f *Facts) Never(addr netip.Addr) string {
	p := netip.PrefixFrom(addr, addr.BitLen())
	return cmp.Or(f.Untouchable(p), f.Needed(p), f.container(addr))
}

// container names the network of containers on this host that has addr, "" if none has it.
func (f *Facts) container(addr netip.Addr) string {
	has := func(p netip.Prefix) bool { return p.Contains(addr) && f.Own.Contains(p.Addr()) }
	switch {
	case slices.ContainsFunc(f.Docker, has):
		return "an address of a Docker network of this host"
	case slices.ContainsFunc(f.Containers, has):
		return "an address of a network of containers on this host"
	}
	return ""
}

// Web returns why the web ports stay open to every address of p, "" if they need not.
func (f *Facts) Web(p netip.Prefix) string {
	if f.Proxies.Overlaps(p) {
		return "a proxy"
	}
	return f.cdn(p)
}

// SSH returns the ports that stay open to addr because an administrator is logged in from there, "" if none is.
func (f *Facts) SSH(addr netip.Addr) ban.Ports {
	if !f.Sessions.Contains(addr) {
		return ""
	}
	return cmp.Or(f.SSHPorts, "22")
}

// HoldBack returns why a list must not ban p without an operator's word for it: an administrator is logged in from there, or has been
// lately. "" if it may.
func (f *Facts) HoldBack(p netip.Prefix) string {
	switch {
	case f.Sessions.Overlaps(p):
		return "an administrator is logged in from " + common(p, f.Sessions)
	case f.Admins.Overlaps(p):
		return "an administrator has logged in from " + common(p, f.Admins) + " lately"
	}
	return ""
}

// common returns the first address that p and a set have in common.
func common(p netip.Prefix, set prefixset.Set) string {
	return prefixset.New(p).Intersect(set).Ranges()[0].First.String()
}

// Untouchable names special and own addresses in p, which no ban may touch even if an operator insists; "" if there are none.
func (f *Facts) Untouchable(p netip.Prefix) string {
	if name, _ := SpecialIn(p); name != "" {
		return name + " addresses"
	}
	if f.Own.Overlaps(p) {
		return "this host's own address"
	}
	return ""
}

// Needed names what this host needs, or its operator allows, in p; "" if there is none.
func (f *Facts) Needed(p netip.Prefix) string {
	switch {
	case f.Gateways.Overlaps(p):
		return "a gateway of this host"
	case f.Resolvers.Overlaps(p):
		return "a resolver of this host"
	case f.Servers.Overlaps(p):
		return "a DHCP server of this host"
	case f.Allowed.Overlaps(p):
		return "an entry of the allow list"
	}
	return ""
}

// LetThrough returns why the kernel lets all of p through ahead of every ban, "" if a ban of p would block anything.
func (f *Facts) LetThrough(p netip.Prefix) string {
	if why := f.Needed(p); why != "" && prefixset.New(p).Subtract(f.Reachable()).Len() == 0 {
		return why
	}
	return ""
}

// Inside names what in a network must stay reachable, so that no attack widens a ban to it; "" if there is nothing.
func (f *Facts) Inside(p netip.Prefix) string {
	if why := cmp.Or(f.Untouchable(p), f.Needed(p)); why != "" {
		return why
	}
	switch {
	case f.Proxies.Overlaps(p):
		return "a proxy"
	case f.cdn(p) != "":
		return f.cdn(p)
	case f.Sessions.Overlaps(p):
		return "an administrator's SSH session"
	case f.Admins.Overlaps(p):
		return "an administrator's recent login"
	case f.OnLink.Overlaps(p):
		return "this host's own link"
	}
	return ""
}
