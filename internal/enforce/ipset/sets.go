package ipset

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/ordered"
	"mef/internal/prefixset"
)

// The names of sets begin with prefix; those that are being filled, to be exchanged with others, with newPrefix.
const (
	prefix    = "mefd_"
	newPrefix = "mefd+"
)

// A kind is a kind of bans that share a set and its rules: those of one family with the same trust and ports, of single addresses or of
// networks of all widths.
type kind struct {
	trust ban.Class
	v6    bool
	nets  bool
	ports ban.Ports
}

func kindOf(k ban.Key) kind {
	addr := k.Prefix.Addr()
	return kind{trust: k.Class, v6: addr.Is6(), nets: k.Prefix.Bits() < addr.BitLen(), ports: k.Ports}
}

// baseKinds always have sets and rules. Any other is created when the first ban needs it.
func baseKinds() (kinds []kind) {
	for _, trust := range []ban.Class{ban.Verified, ban.Unverified} {
		for _, v6 := range []bool{false, true} {
			kinds = append(kinds, kind{trust: trust, v6: v6}, kind{trust: trust, v6: v6, nets: true})
		}
	}
	return kinds
}

// withBase returns the base kinds followed by the others among kinds, in order, each once.
func withBase(kinds []kind) []kind {
	base := baseKinds()
	others := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return slices.Contains(base, k) })
	ordered.Sort(others, compareKinds)
	return append(base, slices.Compact(others)...)
}

func compareKinds(a, b kind) int {
	return cmp.Or(cmp.Compare(a.name(), b.name()), cmp.Compare(a.ports, b.ports))
}

// name returns the name of the kind's set: "mefd_ban4", "mefd_susp6net", or with ports "mefd_ban4_89abcdef01234567".
func (k kind) name() string {
	name := prefix + "ban"
	if k.trust == ban.Unverified {
		name = prefix + "susp"
	}
	name += familyName(k.v6)
	if k.nets {
		name += "net"
	}
	if k.ports != "" {
		name += "_" + portsHash(k.ports)
	}
	return name
}

func (k kind) set() set {
	s := set{name: k.name(), typ: hashIP, v6: k.v6, timeout: true, counters: true}
	if k.nets {
		s.typ = hashNet
	}
	return s
}

func (k kind) key(p netip.Prefix) ban.Key { return ban.Key{Prefix: p, Ports: k.ports, Class: k.trust} }

// parseKind reads the name of a set. The ports are to be looked up by their hash.
func parseKind(name string) (k kind, hash string, ok bool) {
	rest, ours := strings.CutPrefix(name, prefix)
	rest, hash, _ = strings.Cut(rest, "_")
	rest, k.nets = strings.CutSuffix(rest, "net")
	switch rest {
	case "ban4":
	case "ban6":
		k.v6 = true
	case "susp4":
		k.trust = ban.Unverified
	case "susp6":
		k.trust, k.v6 = ban.Unverified, true
	default:
		return k, "", false
	}
	return k, hash, ours
}

func familyName(v6 bool) string {
	if v6 {
		return "6"
	}
	return "4"
}

// portsHash stands for a list of ports in names, which have 31 bytes at most.
func portsHash(p ban.Ports) string {
	h := fnv.New64a()
	h.Write([]byte(p))
	return fmt.Sprintf("%016x", h.Sum64())
}

const portsPrefix = prefix + "ports_"

// portsSet is the set of a list of ports. Its name is a hash of what it holds, and rules of both families use it.
func portsSet(p ban.Ports) set { return set{name: portsPrefix + portsHash(p), typ: bitmapPort} }

// fixedSets exist whatever is banned.
func (l layout) fixedSets() (sets []set) {
	for _, v6 := range []bool{false, true} {
		sets = append(sets, allowSet(v6), graceSet(v6), exceptSet(v6))
	}
	sets = append(sets, totals()...)
	if l.scan.Enabled {
		sets = append(sets, scanSets()...)
	}
	if l.peers != "" {
		sets = append(sets, peersSource(false), peersSource(true))
	}
	if l.flood.Enabled {
		sets = append(sets, l.floodSets()...)
	}
	return sets
}

// totals are the sets that count what is dropped. They count on when everything is written anew.
func totals() (sets []set) {
	for _, v6 := range []bool{false, true} {
		sets = append(sets, repliesSet(v6), dropsSet(ban.Verified, v6), dropsSet(ban.Unverified, v6))
	}
	return sets
}

func allowSet(v6 bool) set { return set{name: prefix + "allow" + familyName(v6), typ: hashNet, v6: v6} }

// graceSet holds IPv4 addresses and IPv6 networks.
func graceSet(v6 bool) set {
	return set{name: prefix + "grace" + familyName(v6), typ: hashNet, v6: v6, timeout: true}
}

func exceptSet(v6 bool) set {
	return set{name: prefix + "except" + familyName(v6), typ: hashIP, v6: v6, timeout: true}
}

// repliesSet holds all addresses and counts the packets that are dropped on their way to banned ones. A counter of a rule would begin
// anew whenever the rules are written.
func repliesSet(v6 bool) set {
	return set{name: prefix + "replies" + familyName(v6), typ: hashNet, v6: v6, counters: true}
}

// dropsSet is like repliesSet, for packets from addresses with bans of a class.
func dropsSet(trust ban.Class, v6 bool) set {
	name := "drops"
	if trust == ban.Unverified {
		name = "dropsusp"
	}
	return set{name: prefix + name + familyName(v6), typ: hashNet, v6: v6, counters: true}
}

// everything returns all addresses of a family. A set of networks cannot hold a prefix of length 0.
func everything(v6 bool) []element {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if v6 {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	low, high := halves(all)
	return []element{{prefix: low}, {prefix: high}}
}

// halves returns the two halves of a prefix.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	low = netip.PrefixFrom(p.Addr(), p.Bits()+1)
	upper := prefixset.RangeOf(low).Last.Next()
	return low, netip.PrefixFrom(upper, p.Bits()+1)
}

func portElements(p ban.Ports) (es []element) {
	for _, r := range p.Ranges() {
		es = append(es, element{first: r.First, last: r.Last})
	}
	return es
}

// readPorts returns the list of ports that a set holds; ok is false if that is not what its name stands for.
func (c *conn) readPorts(name string) (ban.Ports, bool, error) {
	var ranges []ban.PortRange
	err := c.each(set{name: name, typ: bitmapPort}, func(e element) {
		if n := len(ranges); n > 0 && ranges[n-1].Last+1 == e.first {
			ranges[n-1].Last = e.first
			return
		}
		ranges = append(ranges, ban.PortRange{First: e.first, Last: e.first})
	})
	if err != nil || len(ranges) == 0 {
		return "", false, err
	}
	var text []string
	for _, r := range ranges {
		text = append(text, strconv.Itoa(int(r.First))+"-"+strconv.Itoa(int(r.Last)))
	}
	p, err := ban.ParsePorts(strings.Join(text, ","))
	return p, err == nil && portsSet(p).name == name, nil
}

// portCount is how many elements the set of a list of ports has.
func portCount(p ban.Ports) (n int) {
	for _, r := range p.Ranges() {
		n += int(r.Last-r.First) + 1
	}
	return n
}

// longest is how long the kernel can hold an element, in seconds (24.8 days).
const longest = 2147483

// seconds returns a timeout in the kernel's unit, rounded up: a ban never ends too early.
func seconds(t enforce.Timeout) (uint64, error) {
	ms, err := t.Milliseconds()
	return (ms + 999) / 1000, err
}
