package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// maxLines is how many rules of iptables a statement may become in one chain.
const maxLines = 8192

// matches returns the matches of a rule at a place, each for one rule of iptables. There are none if no packet fits there.
func (w *writer) matches(wy *way, pl place, r *policy.Rule) ([]string, error) {
	if err := linkError(r); err != nil {
		return nil, err
	}
	dst, err := w.dst(pl, r)
	if err != nil {
		return nil, err
	}
	parts := [][]string{
		links("-i", pl.in, wy.ins, &r.In), links("-o", pl.out, wy.outs, &r.Out),
		w.src(r), dst,
		protoMatches(r.Protos.Of(w.family)), typeMatches(r), {flagMatch(r.Flags)}, w.sport(r), w.dport(pl, r),
		ownerMatches(r.Owners), {stateMatch(r.States)},
	}
	all := []string{""}
	for _, part := range parts {
		if len(all)*len(part) > maxLines {
			return nil, fmt.Errorf("%s: iptables needs more than %d rules for this one, because it cannot match several lists at once; "+
				"use sets for src and ports, write fewer values in dst, or use the nft backend", r.At, maxLines)
		}
		all = product(all, part)
	}
	return all, nil
}

// product returns each of a with each of b.
func product(a, b []string) []string {
	all := make([]string, 0, len(a)*len(b))
	for _, first := range a {
		for _, second := range b {
			all = append(all, join(first, second))
		}
	}
	return all
}

// linkError reports which interface iptables would not match by its whole name.
func linkError(r *policy.Rule) error {
	for _, i := range []*policy.Interfaces{&r.In, &r.Out} {
		for _, name := range i.Names {
			if strings.HasSuffix(name, "+") || strings.HasPrefix(name, "-") {
				return fmt.Errorf("%s: iptables would read interface %q as a pattern or an option; rename it, or use the nft backend", r.At, name)
			}
		}
	}
	return nil
}

// linkMatch returns the match of an interface, "" for none.
func linkMatch(flag, name string) string {
	if name == "" {
		return ""
	}
	if prefix, ok := strings.CutSuffix(name, "*"); ok {
		name = prefix + "+"
	}
	return flag + " " + name
}

// links returns the matches of what a rule says of an interface, at a place of one that has a chain of its own, or of none of those.
func links(flag, at string, apart []string, i *policy.Interfaces) []string {
	if at != "" {
		return []string{""} // the chain is there for it
	}
	matches := []string{}
	names, not := i.Names, ""
	if i.Not {
		names, not = excepted(i), "! "
	}
	for _, name := range names {
		if !slices.Contains(apart, name) {
			matches = append(matches, not+linkMatch(flag, name))
		}
	}
	if len(matches) == 0 && (i.Not || len(i.Names) == 0) {
		return []string{""}
	}
	return matches
}

func (w *writer) src(r *policy.Rule) []string {
	switch {
	case !r.Src.Given:
		return []string{""}
	case r.Src.Set != "":
		return []string{w.addrSet(&r.Src, "src")}
	}
	return addrMatches("-s", "--src-range", w.family.Of(r.Src.In))
}

// addrSet returns the match of a named set of addresses; end is src or dst.
func (w *writer) addrSet(a *policy.Addrs, end string) string {
	not := ""
	if a.Not {
		not = "!"
	}
	return setMatch(not, w.sets.use(a.Set, w.family), end)
}

// setMatch returns the match of a set of ipset.
func setMatch(not, ipset, end string) string { return join("-m set", not, "--match-set", ipset, end) }

// dst returns the matches of the destination: the one in the packet, or the one that the sender used.
func (w *writer) dst(pl place, r *policy.Rule) ([]string, error) {
	switch {
	case !r.Dst.Given:
		return []string{""}, nil
	case pl.nat && r.Dst.Set != "" && w.sets.foreign(r.Dst.Set):
		return nil, fmt.Errorf("%s: iptables cannot match an address from before NAT in a set of ipset; "+
			"list the elements of @%s", r.At, r.Dst.Set)
	case pl.nat:
		return originalMatches(w.family.Of(r.Dst.In).Prefixes()), nil
	case r.Dst.Set != "":
		return []string{w.addrSet(&r.Dst, "dst")}, nil
	}
	return addrMatches("-d", "--dst-range", w.family.Of(r.Dst.In)), nil
}

// addrMatches returns a match for each address, prefix or range.
func addrMatches(flag, rangeFlag string, s prefixset.Set) []string {
	matches := []string{}
	for _, r := range s.Ranges() {
		if p, ok := r.Prefix(); ok {
			matches = append(matches, flag+" "+p.String())
		} else {
			matches = append(matches, fmt.Sprintf("-m iprange %s %s-%s", rangeFlag, r.First, r.Last))
		}
	}
	return matches
}

func originalMatches(prefixes []netip.Prefix) []string {
	matches := []string{}
	for _, p := range prefixes {
		matches = append(matches, "-m conntrack --ctorigdst "+p.String())
	}
	return matches
}

// protoMatches returns a match for each protocol.
func protoMatches(protos policy.Protos) []string {
	if len(protos) == 0 {
		return []string{""}
	}
	matches := make([]string, len(protos))
	for i, p := range protos {
		switch p {
		case policy.ICMP6:
			matches[i] = "-p ipv6-icmp"
		case policy.ICMP, policy.TCP, policy.UDP:
			matches[i] = "-p " + p.String()
		default: // by number, as names in /etc/protocols are missing on small systems
			matches[i] = fmt.Sprintf("-p %d", p)
		}
	}
	return matches
}

// typeMatches returns a match for each type of ICMP messages.
func typeMatches(r *policy.Rule) []string {
	if len(r.Types) == 0 {
		return []string{""}
	}
	match := "-m icmp --icmp-type"
	if r.Protos[0] == policy.ICMP6 {
		match = "-m icmp6 --icmpv6-type"
	}
	matches := make([]string, len(r.Types))
	for i, t := range r.Types {
		matches[i] = fmt.Sprintf("%s %d", match, t)
	}
	return matches
}

func flagMatch(f policy.TCPFlags) string {
	const syn = "--tcp-flags FIN,SYN,RST,ACK SYN"
	return map[policy.TCPFlags]string{policy.Syn: "-m tcp " + syn, policy.NotSyn: "-m tcp ! " + syn}[f]
}

func (w *writer) sport(r *policy.Rule) []string {
	switch {
	case !r.Sport.Given:
		return []string{""}
	case r.Sport.Set != "" && len(r.Sport.In) > 0:
		return []string{setMatch("", w.sets.use(r.Sport.Set, 0), "src")}
	}
	return portMatches("--sports", r.Sport.In)
}

// dport returns the matches of the port of the destination: the one in the packet, or the one that the sender used.
func (w *writer) dport(pl place, r *policy.Rule) []string {
	switch {
	case !r.Dport.Given:
		return []string{""}
	case pl.nat:
		return originalPorts(r.Dport.In)
	case r.Dport.Set != "" && len(r.Dport.In) > 0:
		return []string{setMatch("", w.sets.use(r.Dport.Set, 0), "dst")}
	}
	return portMatches("--dports", r.Dport.In)
}

// maxPorts is how many ports one match takes. A range counts for two.
const maxPorts = 15

// portMatches returns the fewest matches for ranges of ports.
func portMatches(flag string, ranges []policy.PortRange) []string {
	matches := []string{}
	var list []string
	left := maxPorts
	for _, r := range ranges {
		size := 1
		if r.First != r.Last {
			size = 2
		}
		if left < size {
			matches = append(matches, multiport(flag, list))
			list, left = nil, maxPorts
		}
		list, left = append(list, portText(r)), left-size
	}
	if len(list) > 0 {
		matches = append(matches, multiport(flag, list))
	}
	return matches
}

func multiport(flag string, list []string) string {
	return "-m multiport " + flag + " " + strings.Join(list, ",")
}

func originalPorts(ranges []policy.PortRange) []string {
	matches := []string{}
	for _, r := range ranges {
		matches = append(matches, "-m conntrack --ctorigdstport "+portText(r))
	}
	return matches
}

// portText returns "22" or "8000:8010".
func portText(r policy.PortRange) string { return strings.Replace(r.String(), "-", ":", 1) }

// ownerMatches returns a match for each user or group.
func ownerMatches(o policy.Owners) []string {
	if len(o.IDs) == 0 {
		return []string{""}
	}
	flag := map[bool]string{false: "--uid-owner", true: "--gid-owner"}[o.Groups]
	matches := make([]string, len(o.IDs))
	for i, id := range o.IDs {
		matches[i] = fmt.Sprintf("-m owner %s %d", flag, id)
	}
	return matches
}

func stateMatch(s policy.States) string {
	if s == policy.AnyState {
		return ""
	}
	return "-m conntrack --ctstate " + strings.ToUpper(s.String())
}
