package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Change describes packets that another policy treats differently.
type Change struct {
	Dir      Dir
	Family   Family
	What     string // which packets: "proto=tcp src=192.0.2.0/24 dport=22"; empty: all of this way
	Old, New Verdict
	Sample   Packet

	nat bool // Old.NAT and New.NAT differ: how the packets are translated that open a connection
}

// String returns the change in words.
func (c Change) String() string {
	what := c.What
	if what == "" {
		what = "everything"
	}
	if c.Family != Any {
		what = strings.TrimSpace(fmt.Sprintf("family=%s %s", c.Family, c.What))
	}
	kind := ""
	if c.nat {
		kind = "nat "
	}
	return fmt.Sprintf("%sdir=%s %s: %s, now %s", kind, c.Dir, what, c.Before(), c.After())
}

// Before reports the former verdict, or how the packets were translated.
func (c Change) Before() string { return c.outcome(c.Old) }

// After reports the new verdict, or how the packets are translated.
func (c Change) After() string { return c.outcome(c.New) }

func (c Change) outcome(v Verdict) string {
	if c.nat {
		return v.NAT.translates()
	}
	return v.String()
}

// Compare returns which packets another policy treats otherwise, by what becomes of them: a policy that only says the same in
// other words changes nothing. It returns ErrTooMany, with those it has found, if they fall into too many cases.
//
// Packets that fit no rule that only one of the two has are treated alike, if the rules that both have stand in one order. So only
// those packets are looked at, unless the default differs as well.
func Compare(before, after *Policy) ([]Change, error) {
	old, now := NewModel(before), NewModel(after)
	var changes []Change
	work := 0
	for d := range 2 * len(Dirs) {
		for f, family := range families {
			d, nat := Dir(d%len(Dirs)), d >= len(Dirs)
			c := comparison{dir: d, nat: nat, f: f, before: before, after: after, old: old.rules[d], now: now.rules[d], whole: wholeOf(d, family), work: &work}
			if nat {
				c.old, c.now = old.nat[d], now.nat[d]
			}
			for _, region := range c.regions() {
				err := c.compare(region, func(change Change) bool {
					changes = merge(changes, change)
					return len(changes) < maxChanges
				})
				if err != nil || len(changes) >= maxChanges {
					return changes, ErrTooMany
				}
			}
		}
	}
	return changes, nil
}

// A comparison is of one way and one family: of rules, or of nat statements.
type comparison struct {
	dir           Dir
	nat           bool
	f             int
	before, after *Policy
	old, now      []modelRule
	whole         space // all packets
	work          *int
}

// regions returns spaces outside of which nothing changes. They have nothing in common.
func (c *comparison) regions() []space {
	if !c.nat && c.before.otherwise(c.dir).Action != c.after.otherwise(c.dir).Action {
		return []space{c.whole}
	}
	var regions []space
	for _, r := range differing(c.old, c.now) {
		part := r.in(c.f)
		if part == nil {
			continue
		}
		fresh := []space{*part}
		for i := range regions {
			fresh = without(fresh, &regions[i])
		}
		regions = append(regions, fresh...)
	}
	return regions
}

// compare calls report for each change in a region, until it returns false.
func (c *comparison) compare(region space, report func(Change) bool) error {
	var failed error
	err := part(c.old, c.f, region, c.work, func(old *space, was *Rule) bool {
		more := true
		failed = part(c.now, c.f, *old, c.work, func(part *space, is *Rule) bool {
			change := Change{Dir: c.dir, Family: families[c.f], nat: c.nat}
			if c.nat {
				change.Old.NAT, change.New.NAT = was, is
			} else {
				change.Old, change.New = c.before.verdict(c.dir, was), c.after.verdict(c.dir, is)
			}
			if change.differs() {
				change.What, change.Sample = part.differs(&c.whole), part.sample(c.dir, families[c.f])
				more = report(change)
			}
			return more
		})
		return failed == nil && more
	})
	return errors.Join(err, failed)
}

// differs reports whether the packets are treated differently.
func (c *Change) differs() bool {
	if c.nat {
		was, is := c.Old.NAT, c.New.NAT
		return (was == nil) != (is == nil) || was != nil && *was.NAT != *is.NAT
	}
	oldLimit, oldHelper := c.Old.besides()
	newLimit, newHelper := c.New.besides()
	return c.Old.Action != c.New.Action || oldLimit != newLimit || oldHelper != newHelper
}

// differing returns the rules that only one of two lists has, or that stand in another order there.
func differing(old, now []modelRule) []modelRule {
	for len(old) > 0 && len(now) > 0 && old[0].rule.same(now[0].rule) {
		old, now = old[1:], now[1:]
	}
	for len(old) > 0 && len(now) > 0 && old[len(old)-1].rule.same(now[len(now)-1].rule) {
		old, now = old[:len(old)-1], now[:len(now)-1]
	}
	places := map[string][]int{}
	for i := range old {
		words := old[i].rule.words()
		places[words] = append(places[words], i)
	}
	// What both have, in order: each rule of the new list takes the first one left of its kind behind the last one taken.
	taken := make([]bool, len(old))
	var out []modelRule
	last := -1
	for i := range now {
		words := now[i].rule.words()
		left := places[words]
		for len(left) > 0 && left[0] <= last {
			left = left[1:]
		}
		if len(left) == 0 {
			out = append(out, now[i])
			continue
		}
		last = left[0]
		taken[last] = true
		places[words] = left[1:]
	}
	for i := range old {
		if !taken[i] {
			out = append(out, old[i])
		}
	}
	return out
}

// same reports whether two rules fit and do the same.
func (r *Rule) same(o *Rule) bool {
	return r.Action == o.Action && r.Family == o.Family && r.States == o.States && r.Flags == o.Flags && r.Helper == o.Helper && r.Limit == o.Limit &&
		slices.Equal(r.Protos, o.Protos) && slices.Equal(r.Types, o.Types) &&
		r.In.Not == o.In.Not && slices.Equal(r.In.Names, o.In.Names) && r.Out.Not == o.Out.Not && slices.Equal(r.Out.Names, o.Out.Names) &&
		r.Src.Given == o.Src.Given && r.Src.In.Equal(o.Src.In) && r.Dst.Given == o.Dst.Given && r.Dst.In.Equal(o.Dst.In) &&
		r.Sport.Given == o.Sport.Given && slices.Equal(r.Sport.In, o.Sport.In) && r.Dport.Given == o.Dport.Given && slices.Equal(r.Dport.In, o.Dport.In) &&
		r.Owners.Groups == o.Owners.Groups && slices.Equal(r.Owners.IDs, o.Owners.IDs) &&
		(r.NAT == nil) == (o.NAT == nil) && (r.NAT == nil || *r.NAT == *o.NAT)
}

// words reports what a rule fits and does, and nothing else.
func (r *Rule) words() string {
	return fmt.Sprint(r.Action, r.Family, r.Protos, r.Types, r.In, r.Out, r.Src.Given, r.Src.In.Ranges(), r.Dst.Given, r.Dst.In.Ranges(),
		r.Sport.Given, r.Sport.In, r.Dport.Given, r.Dport.In, r.States, r.Flags, r.Owners, r.Helper, r.Limit, r.NAT)
}

// wholeOf returns all packets of a way and a family, those over loopback included, which no rule names that speaks of any
// interface.
func wholeOf(d Dir, family Family) space {
	all := Rule{Dir: d, Family: family, States: AnyState}
	s, _ := all.space(family)
	s.in, s.out = everywhere(d)
	return s
}

// maxChanges is how many changes are reported.
const maxChanges = 500

// everywhere returns all interfaces that packets of a way come in by and go out by.
func everywhere(d Dir) (in, out Links) {
	in, out = AllLinks(), AllLinks()
	if d == In {
		out = LinksOf("")
	}
	if d == Out {
		in = LinksOf("")
	}
	return in, out
}

// verdict returns what a policy does by a rule, or by its default.
func (p *Policy) verdict(d Dir, r *Rule) Verdict {
	if r == nil {
		return p.otherwise(d)
	}
	return Verdict{Action: r.Action, Rule: r}
}

// merge adds a change, or makes one that says the same of the other family one of both.
func merge(changes []Change, c Change) []Change {
	i := slices.IndexFunc(changes, func(o Change) bool {
		return o.Dir == c.Dir && o.nat == c.nat && o.What == c.What && o.Before() == c.Before() && o.After() == c.After()
	})
	if i < 0 {
		return append(changes, c)
	}
	changes[i].Family |= c.Family
	return changes
}
