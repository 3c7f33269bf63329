// Package importer says in the language of mef.rules what rulesets of other programs do with packets.
//
//	nft -j list ruleset ──► package nftlist ─┐
//	                                         ├─► Ruleset ──► Translate ──► the text of a policy, and what is not in it
//	iptables-save       ──► package iptsave ─┘
//
// A Ruleset is what the programs have in common: base chains, one behind the other at a hook, and rules that match, decide, jump,
// go to, return and log. A policy of mef.rules is one list for each way, of which the first rule that fits decides. Translate
// turns one into the other by following packets: a jump becomes the rules of the chain it leads to, narrowed to what the jump
// matches. What returns from a chain gets the rules that come after the jump, narrowed to it, and what a chain accepts gets those of the
// next base chain, so it needs intersections alone, which the language can write.
//
// The text decides as the ruleset does about every packet but for those that the list of what is left out names, and what the notes
// say. Nothing is carried over by halves in silence: a rule that asks for more than the language has is a comment at its place.
package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
)

// A Ruleset is what somebody else has loaded.
type Ruleset struct {
	Source string   // what it is: "The rules of nftables on this host"
	Bases  []*Chain // base chains of the filter at input, output and forward, in the order in which packets meet them
	Left   []Left   // what was left out on reading
	Notes  []string

	// NAT are base chains that translate destinations: of prerouting those with Dir In, of output those with Dir Out.
	NAT []*Chain

	Helpers []*Rule // of other hooks, that give connections a helper, and decide nothing

	Sources []*Chain // base chains that translate sources, at postrouting, with Dir Out

	Own []netip.Prefix // addresses of this host, as far as they are known

	// NATText is what translates addresses in the language of its program, by the ending of a file for it; without what other
	// programs put into the kernel by themselves.
	NATText map[string]string
}

// LeadsTo reports whether a rule of a base chain leads to a chain whose name begins so.
func (rs *Ruleset) LeadsTo(prefix string) bool {
	return slices.ContainsFunc(rs.Bases, func(c *Chain) bool {
		return slices.ContainsFunc(c.Rules, func(r *Rule) bool { return r.Target != nil && strings.HasPrefix(r.Target.Name, prefix) })
	})
}

// A Chain is a list of rules. A packet that none of them decides about goes on behind the jump that led here, and at the end of a
// base chain the policy decides.
type Chain struct {
	Name  string
	Place string // for people: "table inet filter, chain input"
	Rules []*Rule

	Foreign bool // another program maintains it, and loads it again by itself

	// Only for base chains.
	Dir    policy.Dir
	Family policy.Family // whose packets come here
	Policy policy.Action // Accept or Drop
}

// A Verb is what a rule does with the packets that fit.
type Verb uint8

// The verbs.
const (
	Nothing Verb = iota // the next rule sees them too
	Decide              // Action
	Jump                // to Target, and from its end to the next rule
	Goto                // to Target, and from its end to where this chain's end leads
	Return              // to behind the jump that led to this chain
	Unknown             // nobody knows: it is left out
)

// A Rule is one rule of a chain. Its packets are those that fit one of Any and none of Not.
type Rule struct {
	Place   string // for people: "rules.v4:12"
	Within  string // the chain, where the text does not say it and the heading of the way neither: "chain services"
	Text    string // as it was found
	Comment string
	Any     []Match
	Not     []Match
	Do      Verb
	Action  policy.Action
	Target  *Chain
	Log     *Log
	Limit   policy.Rate // of what it accepts, of all sources together or of each; the rest goes on to the next rule
	Drops   bool        // what is over Limit is dropped, as by mef.rules

	// Beyond reports why the rule cannot be carried over, though Any are all packets that may fit: "mef.rules cannot match meta
	// mark". Empty: it can.
	Beyond string

	// Helper is the connection tracking helper that the rule gives to connections, empty for none.
	Helper string

	// Wider says that Any has more packets than fit, which connection tracking takes for invalid.
	Wider bool

	// To is where a rule of NAT leads the packets that fit, nil for all other rules.
	To *Destination

	// Source is what a rule of NAT makes of the source, nil for all other rules.
	Source *Source

	// Led says that the rule fits only packets of connections whose destination is translated.
	Led bool

	// OriginalDst and OriginalDport say that the rule asks for the destination that the sender used.
	OriginalDst, OriginalDport bool

	// Lost reports what the rule does besides, which has no bearing on verdicts: "meta mark set". Empty: nothing.
	Lost string

	// Answer is how the rule rejects, if otherwise than mef.rules: "icmp host-unreachable".
	Answer string
}

// A Log is a line in the kernel's log.
type Log struct {
	Prefix string
	Rate   policy.Rate
}

// line returns the text with where it is found.
func (r *Rule) line() string {
	if r.Within == "" {
		return r.Text
	}
	return r.Within + ": " + r.Text
}

// Cannot notes why the rule cannot be carried over. The first reason stays.
func (r *Rule) Cannot(format string, args ...any) {
	if r.Beyond == "" {
		r.Beyond = fmt.Sprintf(format, args...)
	}
}

// Widen leaves a rule as it is that drops more packets than it should, which are of no connection, and notes it. Others that are wider cannot be
// carried over. It is called when all of the rule was read.
func (r *Rule) Widen(rs *Ruleset) {
	const note = "mef.rules matches no single flags of TCP: where a rule drops segments that no connection has, all invalid TCP segments are dropped"
	switch {
	case !r.Wider:
	case r.Do != Decide || r.Action == policy.Accept:
		r.Cannot("mef.rules cannot match such flags of TCP")
	case !slices.Contains(rs.Notes, note):
		rs.Notes = append(rs.Notes, note)
	}
}

// Require narrows the rule to packets that fit one of the matches.
func (r *Rule) Require(any ...Match) {
	var both []Match
	for _, a := range r.Any {
		for _, b := range any {
			if m, ok := a.Meet(b); ok {
				both = append(both, m)
			}
		}
	}
	if len(both) > maxAny {
		r.Cannot("it has more than %d cases", maxAny)
		return
	}
	r.Any = both
}

// maxAny is how many alternatives a rule may have.
const maxAny = 1000

// Exclude narrows the rule to packets that do not fit the match.
func (r *Rule) Exclude(m Match) {
	if others, ok := m.complement(); ok {
		r.Require(others)
		return
	}
	r.Not = append(r.Not, m)
}

// A Left is something that is not carried over.
type Left struct {
	Place  string `json:"place"`
	Line   string `json:"line"`             // as it was found; empty if the place says it all
	Reason string `json:"reason"`           // why not
	Effect string `json:"effect,omitempty"` // what that does: "the rules after it decide about its packets"
}

// What a line does that is left out and is not missed.
const (
	noDifference = "it makes no difference here"
	sameVerdicts = "verdicts are the same without it"
)

// Matters reports whether packets may meet another verdict because the line is left out.
func (l Left) Matters() bool { return l.Effect != noDifference && l.Effect != sameVerdicts }

// String returns what is left out, on one line.
func (l Left) String() string {
	s := l.Place
	if l.Line != "" {
		s += ": " + l.Line
	}
	s += ": " + l.Reason
	if l.Effect != "" {
		s += "; " + l.Effect
	}
	return s
}

// A Result is what Translate makes of a ruleset.
type Result struct {
	Text  string   // of mef.rules
	Rules int      // in it
	Left  []Left   // what is not in it
	Notes []string // what else there is to know
}
