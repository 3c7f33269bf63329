package rules

import (
	"fmt"
	"slices"
)

// A Change is a description of packets of which another policy makes something else.
type Change struct {
	Dir      Dir
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
	return fmt.Sprintf("dir=%s %s: %s, now %s", c.Dir, what, c.Old, c.New)
}

// Compare returns which packets another policy treats otherwise, by what becomes of them: a policy that only says the same in
// other words changes nothing. It returns ErrTooMany, with those it has found, if they fall into too many cases. States are those
// that matter most: new connections and what belongs to others.
func Compare(before, after *Policy) ([]Change, error) {
	old, now := NewModel(before), NewModel(after)
	var changes []Change
	for d := range Dirs {
		for f, family := range families {
			all := Rule{Dir: Dir(d), Family: family, States: AnyState}
			everything, _ := all.space(family)
			// Loopback is named by no rule that speaks of any interface.
			everything.in, everything.out = everywhere(Dir(d))
			err := old.part(Dir(d), f, everything, func(part *space, was *Rule) bool {
				err := now.part(Dir(d), f, *part, func(part *space, is *Rule) bool {
					c := Change{Dir: Dir(d), Old: before.verdict(Dir(d), was), New: after.verdict(Dir(d), is)}
					if c.Old.Action != c.New.Action {
						c.What, c.Sample = part.differs(&everything), part.sample(Dir(d), family)
						changes = merge(changes, c)
					}
					return len(changes) < maxChanges
				})
				return err == nil && len(changes) < maxChanges
			})
			if err != nil {
				return changes, err
			}
		}
	}
	if len(changes) >= maxChanges {
		return changes, ErrTooMany
	}
	return changes, nil
}

// maxChanges is how many changes are told.
const maxChanges = 500

// everywhere returns all interfaces that packets of a way come in by and go out by.
func everywhere(d Dir) (in, out names) {
	in, out = names{but: true}, names{but: true}
	if d == In {
		out = names{list: []string{""}}
	}
	if d == Out {
		in = names{list: []string{""}}
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

// merge adds a change, unless the same was said of the other family.
func merge(changes []Change, c Change) []Change {
	if slices.ContainsFunc(changes, func(o Change) bool {
		return o.Dir == c.Dir && o.What == c.What && o.Old.String() == c.Old.String() && o.New.String() == c.New.String()
	}) {
		return changes
	}
	return append(changes, c)
}
