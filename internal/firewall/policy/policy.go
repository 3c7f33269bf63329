// Package policy is the language of mef.rules: it turns text into a policy, and reports what the policy does with packets.
//
//	text ──► Source ──► Policy ──► a script for nft or iptables (packages nft and iptables)
//	         statements  resolved ─► the simulator (Decide) and the model (Ask)
//
// A policy has, for each way of packets, a default and rules in order; the first rule that fits a packet decides. Source is what
// the files say, with every mistake in them reported at once; Policy is what that means on this host, once names, interfaces and the
// elements of sets are known.
//
// Two things report what a policy does without a kernel. The simulator takes one packet. The model takes all packets that fit a
// description and cuts them into cases, exactly, by set arithmetic over each of their properties: so an expectation is not tried
// with samples but proven, a rule that can never decide is found, and two policies are compared by what becomes of packets.
//
// Address and port of the destination are those that the sender used. Where NAT has changed them since, as Docker and Podman do for
// published ports, the backends ask connection tracking for the original ones, in the direction of the one who began a connection;
// what answers has what it bears in the hook. The interface by which packets of the host itself leave is that of their first route:
// to a port that the host publishes it is lo, wherever they are sent instead.
package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
	"mef/internal/prefixset"
)

// A Dir is the path of a packet through the host, named after the hook of netfilter.
type Dir uint8

// The ways.
const (
	In      Dir = iota // to this host
	Out                // from this host
	Forward            // through this host
)

// Dirs are all ways, in order.
var Dirs = [...]Dir{In, Out, Forward}

var dirNames = []string{"in", "out", "fwd"}

// String returns "in", "out" or "fwd".
func (d Dir) String() string { return dirNames[d] }

// An Action is the verdict on a packet.
type Action uint8

// The actions.
const (
	Accept Action = iota
	Drop
	Reject // with a TCP reset, or with ICMP port unreachable
)

var actionNames = []string{"accept", "drop", "reject"}

// String returns "accept", "drop" or "reject".
func (a Action) String() string { return actionNames[a] }

// A Family is a set of address families.
type Family uint8

// The families.
const (
	V4  Family = 1 << iota
	V6         // IPv6
	Any = V4 | V6
)

var familyNames = []string{"", "ip", "ip6", "any"}

// String returns "ip", "ip6" or "any".
func (f Family) String() string { return familyNames[f] }

// Of returns the addresses of the family in a set.
func (f Family) Of(s prefixset.Set) prefixset.Set {
	if f == Any {
		return s
	}
	return s.Intersect(Everything(f))
}

// familyOf returns the family of an address.
func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return V4
	}
	return V6
}

// States is a set of states of connection tracking.
type States uint8

// The states, as in ct(5) of nft(8). Untracked is what rules exempt from conntrack (notrack), and always IPv6 neighbour discovery.
const (
	New States = 1 << iota
	Established
	Related
	Invalid
	Untracked
	AnyState States = 1<<iota - 1 // any of them
)

var stateNames = []string{"new", "established", "related", "invalid", "untracked"}

// String returns the states between commas, or "any".
func (s States) String() string {
	if s == AnyState {
		return "any"
	}
	return strings.Join(s.Names(), ",")
}

// StateOf returns the state of a name.
func StateOf(name string) (s States, ok bool) {
	i := slices.Index(stateNames, name)
	if i < 0 {
		return 0, false
	}
	return 1 << i, true
}

// Names returns the names of the states.
func (s States) Names() []string {
	var names []string
	for i, name := range stateNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Interfaces is what a rule says of an interface. The zero value fits any but loopback, which must be named.
type Interfaces struct {
	Names []string // and patterns, which end in *
	Not   bool     // any but these, and but loopback
}

// Loopback is the name of the loopback interface.
const Loopback = "lo"

// Any reports whether every interface but loopback fits.
func (i Interfaces) Any() bool { return len(i.Names) == 0 }

// Fits reports whether an interface fits.
func (i Interfaces) Fits(name string) bool {
	named := slices.ContainsFunc(i.Names, func(pattern string) bool { return fitsPattern(pattern, name) })
	if i.Not || len(i.Names) == 0 {
		return name != Loopback && !named
	}
	return named
}

// IsPattern reports whether what a rule names is a pattern.
func IsPattern(name string) bool { return strings.HasSuffix(name, "*") }

// fitsPattern reports whether a name is the one that a rule names, or fits its pattern.
func fitsPattern(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// Exists reports whether an interface is there that the name or pattern means.
func Exists(pattern string, there []string) bool {
	return slices.ContainsFunc(there, func(name string) bool { return fitsPattern(pattern, name) })
}

// Addrs is what a rule says of an address. The zero value fits any.
type Addrs struct {
	Given bool          // else any address fits
	Not   bool          // those of the set do not fit, and all others do
	Set   string        // the name of the set that is meant, where it is one set alone
	In    prefixset.Set // what fits, if Given; also that of the set, or all but that
}

// Within returns what fits addresses in these prefixes.
func Within(prefixes ...netip.Prefix) Addrs {
	return Addrs{Given: true, In: prefixset.New(prefixes...)}
}

// Families returns which families have addresses that fit.
func (a Addrs) Families() Family {
	if !a.Given {
		return Any
	}
	var f Family
	for _, r := range a.In.Ranges() {
		f |= familyOf(r.First)
	}
	return f
}

// TCPFlags is what a rule says of the flags of TCP segments. The zero value fits any.
type TCPFlags uint8

// The flags of TCP that rules can match.
const (
	Syn    TCPFlags = 1 << iota // SYN without FIN, RST and ACK: the segment opens a connection
	NotSyn                      // all others
)

var flagNames = []string{"any", "syn", "!syn"}

// String returns "any", "syn" or "!syn".
func (f TCPFlags) String() string { return flagNames[f%3] }

// bits returns the segments that fit, as a set.
func (f TCPFlags) bits() TCPFlags {
	if f == 0 {
		return Syn | NotSyn
	}
	return f
}

// A PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// String returns "22" or "8000-8010".
func (r PortRange) String() string {
	first := strconv.Itoa(int(r.First))
	if r.First == r.Last {
		return first
	}
	return first + "-" + strconv.Itoa(int(r.Last))
}

// Ports is what a rule says of a port. The zero value fits any.
type Ports struct {
	Given bool   // else any port fits, and packets without ports too
	Set   string // the name of the set that is meant, where it is one set alone
	In    []PortRange
}

// MergePorts returns ranges sorted, and those that overlap or touch merged.
func MergePorts(ranges []PortRange) []PortRange {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	var out []PortRange
	for _, r := range ranges {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// A Rate limits how often a rule logs, or accepts packets of one source. The zero value does not.
type Rate struct {
	N   int
	Per string // "second", "minute", "hour"
}

// String returns "6/m", or "any" for the zero value.
func (r Rate) String() string {
	if r == (Rate{}) {
		return "any"
	}
	return fmt.Sprintf("%d/%.1s", r.N, r.Per)
}

// Valid reports whether a rule can have the rate.
func (r Rate) Valid() bool { return r.N > 0 && r.N <= maxRate && r.Seconds() > 0 }

// Seconds returns how long the unit is.
func (r Rate) Seconds() int { return map[string]int{"second": 1, "minute": 60, "hour": 3600}[r.Per] }

// LimitedSources is how many sources of a family each limit keeps at a time. IPv6 sources are networks of LimitedBits.
const (
	LimitedSources = 65536
	LimitedBits    = 64
)

// A Rule decides about the packets that fit it, unless an earlier one has.
type Rule struct {
	At      conf.Pos
	Dir     Dir
	Action  Action
	Family  Family // narrowed to what protocol and addresses leave; 0 if nothing fits
	Protos  Protos
	Types   ICMPTypes // only if Protos is ICMP alone, or ICMP6 alone
	Log     string    // prefix of the log line; empty: none is written
	LogRate Rate
	Limit   Rate // packets of one source that are accepted, as many at once; those over it are dropped
	In, Out Interfaces
	Src     Addrs
	Dst     Addrs // as the sender addressed it, also where NAT has changed it since
	Sport   Ports
	Dport   Ports // likewise
	States  States
	Flags   TCPFlags // only if Protos is TCP alone
	Owners  Owners   // of packets from this host
	Helper  string   // connection tracking helper of the connections that are accepted; empty: none
	Comment string
	NAT     *Translation // of a nat statement, which has no Action; nil: a rule
}

// maxRemark is how long nft lets comments be.
const maxRemark = 120

// Remark returns what stands beside the rule in the kernel: its place in the file, and what its author says of it, without characters
// that end a quote.
func (r *Rule) Remark() string {
	s := filepath.Base(r.At.File) + ":" + strconv.Itoa(r.At.Line)
	if r.Comment != "" {
		s += " " + r.Comment
	}
	s = strings.Map(func(c rune) rune {
		switch {
		case c == '"' || c == '\\':
			return '\''
		case c < ' ' || c > '~':
			return '?'
		}
		return c
	}, s)
	return s[:min(len(s), maxRemark)]
}

// A Default is what becomes of packets that no rule fits.
type Default struct {
	At     conf.Pos
	Action Action
	MSS    bool // of Forward: the maximum segment size of TCP connections is limited to what the MTU of their routes allows
}

// A SetType is what a set holds.
type SetType uint8

// The types of sets.
const (
	AddrSet SetType = iota
	PortSet
	InterfaceSet
)

var (
	setTypeNames = []string{"addr", "port", "interface"}
	setTypeWords = []string{"addresses", "ports", "interfaces"}
)

// A Set is a named set of addresses, ports or interfaces.
type Set struct {
	At    conf.Pos
	Name  string
	Type  SetType
	Addrs prefixset.Set // of addresses
	In    []PortRange   // of ports
	Links []string      // of interfaces: names and patterns
	IPSet string        // it is this one of ipset(8), which somebody else fills; only for iptables
}

// An Expectation is a test of the policy: what must become of every packet that fits it.
type Expectation struct {
	Rule // whose action is expected
}

// A Policy is what a file says, checked and resolved: nothing in it needs a second look.
type Policy struct {
	Defaults [len(Dirs)]*Default // nil: the policy has nothing to say about this way
	Rules    []Rule
	NAT      []Rule // the nat statements, in order
	Sets     []Set  // those in use, by name
	Expects  []Expectation
}

// Of returns the rules for one way, in order.
func (p *Policy) Of(d Dir) []*Rule {
	var rules []*Rule
	for i := range p.Rules {
		if p.Rules[i].Dir == d {
			rules = append(rules, &p.Rules[i])
		}
	}
	return rules
}
