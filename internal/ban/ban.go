// Package ban has the words of the second half of the data flow: a ban, its key, and the ports it covers.
package ban

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// A Class reports how far the source of a ban's evidence can be trusted, and with it what the kernel drops.
type Class uint8

// The classes of ban.
const (
	// Verified bans rest on completed TCP dialogues: everything from and to the prefix is dropped.
	Verified Class = iota
	// Unverified bans rest on packets whose source can be forged: only what opens a connection to us is dropped, for at
	// most ten minutes, and answers to connections that we opened always pass.
	Unverified
)

// String returns "verified" or "unverified".
func (c Class) String() string {
	if c == Unverified {
		return "unverified"
	}
	return "verified"
}

// MarshalText makes a Class its name in JSON.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (c *Class) UnmarshalText(text []byte) error {
	switch string(text) {
	case "verified":
		*c = Verified
	case "unverified":
		*c = Unverified
	default:
		return fmt.Errorf("unknown class %q: write verified or unverified", text)
	}
	return nil
}

// A Key names a ban in force: two bans with one key are the same ban, the later one extends the earlier.
type Key struct {
	Prefix netip.Prefix // masked, never IPv4-mapped
	Ports  Ports        // empty: all ports and protocols
	Class  Class
}

// String returns the key as the operator sees it: "192.0.2.7", "2001:db8::/64", "192.0.2.7 ports 25,465".
func (k Key) String() string {
	var s string
	if k.Prefix.IsSingleIP() {
		s = k.Prefix.Addr().String()
	} else {
		s = k.Prefix.String()
	}
	if k.Ports != "" {
		s += " ports " + string(k.Ports)
	}
	return s
}

// Compare orders keys by prefix, ports and class.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		k.Prefix.Addr().Compare(o.Prefix.Addr()),
		cmp.Compare(k.Prefix.Bits(), o.Prefix.Bits()),
		cmp.Compare(k.Ports, o.Ports),
		cmp.Compare(k.Class, o.Class),
	)
}

// A Ban is a decision to keep a prefix out, with the reason for it.
type Ban struct {
	Key

	Start time.Time
	Until time.Time // zero: until an operator lifts it

	// Except are addresses inside a network that stay reachable although it is banned, such as those of known users. A ban of the
	// same address holds nevertheless. At most MaxExcept; empty for a ban of one address.
	Except []netip.Addr

	Rule    string // what decided: a rule's name, ByScore, ByHand, ByCrowd, ByList or ByFleet
	Service string // service of the deciding event; empty for manual bans
	ID      string // rule, prefix and position of the deciding line: the same line never bans twice
	Count   int    // how many bans the source had within the history, this one included
	Reason  string // the arithmetic, in a sentence

	Listed bool // without what block lists report of the source there would be no ban; not saved

	Evidence []string // at most MaxEvidence raw lines, oldest first; quoted whenever shown
	Author   string   // who asked for a manual ban
	Note     string   // what the author wrote beside it
}

// A Shared is a ban that another host of the same operator has made, or all its hosts together.
type Shared struct {
	Key
	For    time.Duration
	Host   string // where it was made
	ID     string // unique, and begins with what names that host
	Reason string // in a sentence
}

// What stands in Ban.Rule when no detection rule decided. No rule can have these names.
const (
	ByScore = "score"     // the points of a source across services
	ByHand  = "manual"    // an operator
	ByCrowd = "crowd"     // very many banned addresses of a network, when there was no room for more
	ByList  = "blacklist" // a file in the blacklist directory
	ByFleet = "fleet"     // another host of the same operator
	Unknown = "unknown"   // not known: there is no record
)

// MaxExcept is how many addresses a ban excepts at most.
const MaxExcept = 64

// Reserved reports whether name stands in Ban.Rule for something else than a detection rule.
func Reserved(name string) bool {
	return slices.Contains([]string{ByScore, ByHand, ByCrowd, ByList, ByFleet, Unknown}, name)
}

// MaxEvidence is how many lines of evidence a ban keeps.
const MaxEvidence = 5

// Permanent reports whether the ban has no end.
func (b Ban) Permanent() bool { return b.Until.IsZero() }

// Ports is a list of ports in its one canonical spelling: ascending, merged, separated by commas, ranges with a hyphen, as
// in "25,465,587" or "22,8000-8010". The empty string means every port and protocol.
type Ports string

// MaxPorts is how long the ports of a ban may be, in bytes: they are part of the names of sets in the kernel.
const MaxPorts = 200

// A PortRange is an inclusive range of ports.
type PortRange struct {
	First, Last uint16
}

// Has reports whether a port is in the range.
func (r PortRange) Has(port uint16) bool { return r.First <= port && port <= r.Last }

// ParsePorts reads a list of ports in any order: "all" or "" for every port, else ports and ranges separated by commas, each
// from 1 to 65535.
func ParsePorts(s string) (Ports, error) {
	s = strings.TrimSpace(s)
	if s == "" || s == "all" {
		return "", nil
	}
	var ranges []PortRange
	for field := range strings.SplitSeq(s, ",") {
		field = strings.TrimSpace(field)
		first, last, isRange := strings.Cut(field, "-")
		if !isRange {
			last = first
		}
		lo, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
		hi, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		if err != nil || err2 != nil || lo == 0 || hi < lo {
			return "", fmt.Errorf("ports %q: write \"all\", or ports and ranges from 1 to 65535 such as 22,8000-8010", field)
		}
		ranges = append(ranges, PortRange{uint16(lo), uint16(hi)})
	}
	return canonical(ranges), nil
}

func canonical(ranges []PortRange) Ports {
	sort.Slice(ranges, func(i, j int) bool { return ranges[i].First < ranges[j].First })
	merged := ranges[:1]
	for _, r := range ranges[1:] {
		last := &merged[len(merged)-1]
		if int(r.First) > int(last.Last)+1 {
			merged = append(merged, r)
		} else if r.Last > last.Last {
			last.Last = r.Last
		}
	}
	if merged[0] == (PortRange{1, 65535}) {
		return ""
	}
	var b strings.Builder
	for i, r := range merged {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(r.First)))
		if r.Last > r.First {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(int(r.Last)))
		}
	}
	return Ports(b.String())
}

// Ranges returns the ports as ascending ranges, nil for every port. p must come from ParsePorts.
func (p Ports) Ranges() []PortRange {
	if p == "" {
		return nil
	}
	var out []PortRange
	for field := range strings.SplitSeq(string(p), ",") {
		first, last, isRange := strings.Cut(field, "-")
		if !isRange {
			last = first
		}
		lo, _ := strconv.ParseUint(first, 10, 16)
		hi, _ := strconv.ParseUint(last, 10, 16)
		out = append(out, PortRange{uint16(lo), uint16(hi)})
	}
	return out
}

// Lists reports whether p is a list that has a port; a p for every port is none.
func (p Ports) Lists(port uint16) bool {
	return slices.ContainsFunc(p.Ranges(), func(r PortRange) bool { return r.Has(port) })
}

// Covers reports whether p includes every port of q.
func (p Ports) Covers(q Ports) bool {
	if p == "" || p == q {
		return true
	}
	if q == "" {
		return false
	}
	have := p.Ranges()
	for _, want := range q.Ranges() {
		if !slices.ContainsFunc(have, func(r PortRange) bool { return r.First <= want.First && want.Last <= r.Last }) {
			return false
		}
	}
	return true
}

// Without returns the ports of p that are not in q; ok is false if there are none. Every port and protocol without some ports are the
// other ports.
func (p Ports) Without(q Ports) (left Ports, ok bool) {
	if q == "" {
		return "", false
	}
	ranges := p.Ranges()
	if p == "" {
		ranges = []PortRange{{First: 1, Last: 65535}}
	}
	for _, cut := range q.Ranges() {
		var next []PortRange
		for _, r := range ranges {
			if r.First < cut.First {
				next = append(next, PortRange{First: r.First, Last: min(r.Last, cut.First-1)})
			}
			if r.Last > cut.Last {
				next = append(next, PortRange{First: max(r.First, cut.Last+1), Last: r.Last})
			}
		}
		ranges = next
	}
	if len(ranges) == 0 {
		return "", false
	}
	return canonical(ranges), true
}

// With returns the ports that are in p or in q. Both must be lists: without one, a side would be every port.
func (p Ports) With(q Ports) Ports {
	switch {
	case q == "":
		return p
	case p == "":
		return q
	}
	return canonical(append(p.Ranges(), q.Ranges()...))
}

// Overlaps reports whether p and q have a port in common.
func (p Ports) Overlaps(q Ports) bool {
	left, ok := p.Without(q)
	return !ok || left != p
}

// UnmarshalJSON accepts any spelling that ParsePorts does.
func (p *Ports) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	ports, err := ParsePorts(s)
	if err != nil {
		return err
	}
	*p = ports
	return nil
}
