// Package iptables compiles a policy for iptables-restore, ip6tables-restore and ipset, with the verdicts that package nft's script
// gives.
//
// Each way of packets (in, out, fwd) has one jump, the first rule of its hook in the filter table, to a chain of ours whose last rule
// is the default. Like a table of nft's, we only ever take packets out: one that is accepted returns to the hook, where rules of
// others may still drop it.
//
//	-A INPUT -j MEF-IN
//	-A MEF-IN -i lo -g MEF-IN-LO                        loopback must be named, so only rules that do are there
//	-A MEF-IN -m conntrack --ctstate DNAT --ctdir ORIGINAL -g MEF-IN-NAT
//	                                                    the same rules over the address and port that the sender used
//	-A MEF-IN -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
//	-A MEF-IN -p tcp -m multiport --dports 22 -j RETURN
//	-A MEF-IN -j DROP
//
// Chains are entered by -g, goto, so that RETURN leaves all of ours at once. What iptables cannot say in one rule becomes several,
// such as one for each address of a list. The nat statements are chains of ours in the table nat, MEF-PRE and MEF-POST, and connection
// tracking helpers are chosen in chains of the table raw, MEF-HELP-IN and MEF-HELP-OUT. A rule that logs has a chain of its own, so that
// its limit of log lines never limits its verdict.
//
// Named sets become sets of ipset, "mef-NAME-4a". The last letter is their generation: a policy is loaded with sets of a letter that
// nothing refers to, and those of the former one go when it has gone. So rules and what they look into change at the same moment,
// and rules that stay because a restore failed keep what they had.
//
// A restore replaces what one family has, at once. If the second family's fails, Revert brings the first one back.
package iptables

import (
	"fmt"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
)

// A Ruleset is what has to be loaded, in this order. A text is empty if there is nothing to do.
type Ruleset struct {
	Sets   string // for ipset: what the rules look into
	V4, V6 string // for iptables-restore and for ip6tables-restore
	Unused string // for ipset: removes what former rules looked into
}

// A Step is a text for the standard input of a command.
type Step struct{ Program, Flags, Text string }

// Steps returns what loads the ruleset, in order.
func (r Ruleset) Steps() []Step {
	all := []Step{
		{"ipset", "restore", r.Sets},
		{"iptables-restore", "--noflush -w", r.V4},
		{"ip6tables-restore", "--noflush -w", r.V6},
		{"ipset", "restore", r.Unused},
	}
	return slices.DeleteFunc(all, func(s Step) bool { return s.Text == "" })
}

// String returns the texts under the commands that they are for.
func (r Ruleset) String() string {
	var b strings.Builder
	for _, s := range r.Steps() {
		fmt.Fprintf(&b, "# %s %s\n%s", s.Program, s.Flags, s.Text)
	}
	return b.String()
}

// Compile returns what makes the policy hold in place of what is loaded now. The error reports which statement iptables cannot do.
func Compile(p *policy.Policy, now State) (Ruleset, error) {
	s := newIPSets(p, now)
	v4, err := compile(p, policy.V4, s)
	if err != nil {
		return Ruleset{}, err
	}
	v6, err := compile(p, policy.V6, s)
	if err != nil {
		return Ruleset{}, err
	}
	return Ruleset{
		Sets:   now.destroy(s.letter, true) + s.text.String(),
		V4:     now.v4.replace(v4),
		V6:     now.v6.replace(v6),
		Unused: now.destroy(s.letter, false),
	}, nil
}

// compile returns the chains of one family, by table.
func compile(p *policy.Policy, f policy.Family, s *ipsets) (all [len(tables)][]chain, err error) {
	w := &writer{family: f, sets: s, logs: map[*policy.Rule]string{}, limits: map[*policy.Rule]string{}}
	for _, d := range policy.Dirs {
		if p.Defaults[d] == nil {
			continue
		}
		wy, err := newWay(d, p.Defaults[d].Action, p.Of(d))
		if err == nil {
			wy.mss = p.Defaults[d].MSS
		}
		if err == nil {
			err = w.way(wy)
		}
		if err != nil {
			return all, err
		}
	}
	if w.rejects {
		w.add(rejectChain, rejects(f)...)
	}
	all[filter], w.chains = w.chains, nil
	for table, of := range [...]func(policy.Dir) []*policy.Rule{nat: p.Translations, raw: p.Helpers} {
		if of == nil {
			continue
		}
		for _, d := range []policy.Dir{policy.In, policy.Out} {
			if err := w.early(table, d, of(d)); err != nil {
				return all, err
			}
		}
		all[table], w.chains = w.chains, nil
	}
	return all, nil
}

// Clear returns what removes all of ours that is loaded now.
func Clear(now State) Ruleset {
	none := [len(tables)][]chain{}
	return Ruleset{V4: now.v4.replace(none), V6: now.v6.replace(none), Unused: now.destroy(0, false)}
}

// Revert returns what brings back a former state, as long as what was unused then has not been removed.
func Revert(former, now State) Ruleset {
	r := Ruleset{V4: now.v4.replace(former.v4.chains()), V6: now.v6.replace(former.v6.chains())}
	for _, name := range now.sets {
		if !slices.Contains(former.sets, name) {
			r.Unused += "destroy " + name + "\n"
		}
	}
	return r
}
