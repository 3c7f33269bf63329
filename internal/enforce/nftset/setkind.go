package nftset

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mef/internal/ban"
	"mef/internal/ordered"
)

// A setKind is a kind of bans that share a set and its rules: those with the same trust, prefix length and ports.
type setKind struct {
	trust ban.Class
	v6    bool
	bits  int
	ports ban.Ports
}

// baseKinds always exist, in the order of their rules. Any other is created when the first ban needs it.
var baseKinds = []setKind{
	{bits: 32},
	{bits: 24},
	{v6: true, bits: 128},
	{v6: true, bits: 64},
	{v6: true, bits: 56},
	{v6: true, bits: 48},
	{trust: ban.Unverified, bits: 32},
	{trust: ban.Unverified, v6: true, bits: 64},
}

// SetOf returns the name of the set in which the kernel holds a ban, as nft list set inet mefdaemon NAME shows it.
func (b *Backend) SetOf(k ban.Key) string { return kindOf(k).set() }

func kindOf(k ban.Key) setKind {
	return setKind{trust: k.Class, v6: k.Prefix.Addr().Is6(), bits: k.Prefix.Bits(), ports: k.Ports}
}

// set returns the name of the kind's set: "ban4_32", "susp6_64", or with ports "ban4_32_p25.465.8000-8010". The name is
// complete, so a table found in the kernel can be read without any other record.
func (c setKind) set() string {
	name := "ban"
	if c.trust == ban.Unverified {
		name = "susp"
	}
	name += c.family() + "_" + strconv.Itoa(c.bits)
	if c.ports != "" {
		name += "_p" + strings.ReplaceAll(string(c.ports), ",", ".")
	}
	return name
}

// family returns "4" or "6", which ends the names of chains and begins those of prefix lengths.
func (c setKind) family() string { return familyName(c.v6) }

func familyName(v6 bool) string {
	if v6 {
		return "6"
	}
	return "4"
}

// parseKind reads a set's name. ok is false for any name that set does not return.
func parseKind(name string) (c setKind, ok bool) {
	head, ports, _ := strings.Cut(name, "_p")
	kind, bits, _ := strings.Cut(head, "_")
	switch strings.TrimRight(kind, "46") {
	case "ban":
	case "susp":
		c.trust = ban.Unverified
	default:
		return setKind{}, false
	}
	c.v6 = strings.HasSuffix(kind, "6")
	var err error
	if c.bits, err = strconv.Atoi(bits); err != nil || c.bits < 0 || c.bits > addrBits(c.v6) {
		return setKind{}, false
	}
	if c.ports, err = ban.ParsePorts(strings.ReplaceAll(ports, ".", ",")); err != nil || c.set() != name {
		return setKind{}, false
	}
	return c, true
}

func addrBits(v6 bool) int {
	if v6 {
		return 128
	}
	return 32
}

// key returns the ban that an element of the kind's set represents.
func (c setKind) key(addr netip.Addr) ban.Key {
	return ban.Key{Prefix: netip.PrefixFrom(addr, c.bits), Ports: c.ports, Class: c.trust}
}

func compareKinds(a, b setKind) int {
	return cmp.Or(cmp.Compare(a.trust, b.trust), cmp.Compare(a.family(), b.family()), cmp.Compare(b.bits, a.bits),
		cmp.Compare(a.ports, b.ports))
}

// withBase returns the base kinds followed by the others among cs, in order, each once.
func withBase(cs []setKind) []setKind {
	var extra []setKind
	for _, c := range cs {
		if !slices.Contains(baseKinds, c) {
			extra = append(extra, c)
		}
	}
	ordered.Sort(extra, compareKinds)
	return append(slices.Clone(baseKinds), slices.Compact(extra)...)
}
