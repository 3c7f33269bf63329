package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// ipsets are the sets of ipset that the rules look into. Each is declared when the first rule asks for it.
type ipsets struct {
	policy   *policy.Policy
	letter   byte // the generation
	declared map[string]bool
	text     strings.Builder // for "ipset restore"
}

func newIPSets(p *policy.Policy, now State) *ipsets {
	return &ipsets{policy: p, letter: now.letter(), declared: map[string]bool{}}
}

func (s *ipsets) find(name string) *policy.Set {
	i := slices.IndexFunc(s.policy.Sets, func(set policy.Set) bool { return set.Name == name })
	return &s.policy.Sets[i] // a policy has all sets that its rules name
}

// foreign reports whether a set is somebody else's.
func (s *ipsets) foreign(name string) bool { return s.find(name).IPSet != "" }

// use returns the name in ipset of a set of the policy, for a family.
func (s *ipsets) use(name string, f policy.Family) string {
	set := s.find(name)
	if set.IPSet != "" {
		return set.IPSet
	}
	ipset := fmt.Sprintf("%s%s-%c%c", setPrefix, name, kind(set, f), s.letter)
	if !s.declared[ipset] {
		s.declared[ipset] = true
		s.declare(ipset, set, f)
	}
	return ipset
}

// What the names of our sets look like: prefix, name in the policy, "-", kind, generation.
const (
	setPrefix = "mef-"
	setKinds  = "46p"
)

// kind returns the letter for what a set holds: addresses of a family, or ports.
func kind(set *policy.Set, f policy.Family) byte {
	switch {
	case set.Type == policy.PortSet:
		return setKinds[2]
	case f == policy.V6:
		return setKinds[1]
	}
	return setKinds[0]
}

// generation returns the generation that one of our sets is of; ok is false if the set is none of ours.
func generation(ipset string) (letter byte, ok bool) {
	n := len(ipset)
	if !strings.HasPrefix(ipset, setPrefix) || n < len(setPrefix)+4 {
		return 0, false
	}
	dash, kind, letter := ipset[n-3], ipset[n-2], ipset[n-1]
	return letter, dash == '-' && strings.IndexByte(setKinds, kind) >= 0 && 'a' <= letter && letter <= 'z'
}

// defaultSize is how many elements ipset lets a set have that does not report how many.
const defaultSize = 65536

// declare writes a set and what is in it.
func (s *ipsets) declare(ipset string, set *policy.Set, f policy.Family) {
	if set.Type == policy.PortSet {
		fmt.Fprintf(&s.text, "create %s bitmap:port range 0-65535\n", ipset)
		for _, r := range set.In {
			fmt.Fprintf(&s.text, "add %s %s\n", ipset, r)
		}
		return
	}
	prefixes := halves(f.Of(set.Addrs))
	size := ""
	if len(prefixes) > defaultSize {
		size = fmt.Sprintf(" maxelem %d", len(prefixes))
	}
	family := map[policy.Family]string{policy.V4: "inet", policy.V6: "inet6"}[f]
	fmt.Fprintf(&s.text, "create %s hash:net family %s%s\n", ipset, family, size)
	for _, p := range prefixes {
		fmt.Fprintf(&s.text, "add %s %s\n", ipset, p)
	}
}

// halves returns the prefixes of a set. All addresses of a family are two of them, as hash:net takes no prefix of length 0.
func halves(s prefixset.Set) []netip.Prefix {
	prefixes := s.Prefixes()
	if len(prefixes) != 1 || prefixes[0].Bits() != 0 {
		return prefixes
	}
	all := prefixset.RangeOf(prefixes[0])
	return []netip.Prefix{netip.PrefixFrom(all.First, 1), netip.PrefixFrom(all.Last, 1).Masked()}
}
