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
	return fmt.Sprintf("dir=%s %s: %s, now %s", c.Dir, what, c.Old, c.New)
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
	for d := range Dirs {
		for f, family := range families {
			c := comparison{dir: Dir(d), f: f, old: old, now: now, whole: wholeOf(Dir(d), family), work: &work}
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

// A comparison is of one way and one family.
type comparison struct {
	dir      Dir
	f        int
	old, now *Model
	whole    space // all packets
	work     *int
}

// regions returns spaces outside of which nothing changes. They have nothing in common.
func (c *comparison) regions() []space {
	if c.old.policy.otherwise(c.dir).Action != c.now.policy.otherwise(c.dir).Action {
		return []space{c.whole}
	}
	var regions []space
	for _, r := range differing(c.old.rules[c.dir], c.now.rules[c.dir]) {
		if !r.some[c.f] {
			continue
		}
		fresh := []space{r.parts[c.f]}
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
	err := c.old.part(c.dir, c.f, region, c.work, func(part *space, was *Rule) bool {
		more := true
		failed = c.now.part(c.dir, c.f, *part, c.work, func(part *space, is *Rule) bool {
			change := Change{Dir: c.dir, Family: families[c.f], Old: c.old.policy.verdict(c.dir, was), New: c.now.policy.verdict(c.dir, is)}
			if change.Old.Action != change.New.Action || change.Old.limit() != change.New.limit() {
				change.What, change.Sample = part.differs(&c.whole), part.sample(c.dir, families[c.f])
				more = report(change)
			}
			return more
		})
		return failed == nil && more
	})
	return errors.Join(err, failed)
}

// differing returns the rules that only one of two lists has, or that stand in another order there.
func differing(old, now []modelRule) []modelRule {
	words := func(r *modelRule) string { return r.rule.words() }
	places := map[string][]int{}
	for i := range old {
		places[words(&old[i])] = append(places[words(&old[i])], i)
	}
	// What both have, in order: each rule of the new list takes the first one left of its kind behind the last one taken.
	taken := make([]bool, len(old))
	var out []modelRule
	last := -1
	for i := range now {
		left := places[words(&now[i])]
		for len(left) > 0 && left[0] <= last {
			left = left[1:]
		}
		if len(left) == 0 {
			out = append(out, now[i])
			continue
		}
		last = left[0]
		taken[last] = true
		places[words(&now[i])] = left[1:]
	}
	for i := range old {
		if !taken[i] {
			out = append(out, old[i])
		}
	}
	return out
}

// words reports what a rule fits and does, and nothing else.
func (r *Rule) words() string {
	return fmt.Sprint(r.Action, r.Family, r.Protos, r.Types, r.In, r.Out, r.Src.Given, r.Src.In.Ranges(), r.Dst.Given, r.Dst.In.Ranges(),
		r.Sport.Given, r.Sport.In, r.Dport.Given, r.Dport.In, r.States, r.Limit)
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
		return o.Dir == c.Dir && o.What == c.What && o.Old.String() == c.Old.String() && o.New.String() == c.New.String()
	})
	if i < 0 {
		return append(changes, c)
	}
	changes[i].Family |= c.Family
	return changes
}
