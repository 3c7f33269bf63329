package importer

import (
	"fmt"
	"slices"

	"mef/internal/firewall/policy"
)

// foldLogs gives log lines to the rules that decide about the packets that they are of: rules of mef.rules that log decide too.
func foldLogs(all []entry) []entry {
	for i := range all {
		if all[i].kind == logs {
			all[i].fold(all[i+1:])
		}
	}
	return slices.DeleteFunc(all, func(e entry) bool { return e.kind == logs })
}

// foldHelpers gives helpers to the rules that accept nothing but connections that get them. The kernel chooses a helper with the first packet, so
// the order of these rules and others does not matter.
func foldHelpers(all []entry) []entry {
	for i := range all {
		e := &all[i]
		if e.kind != helps {
			continue
		}
		e.kind, e.why = loses, "helper "+e.helper+" for connections that no rule accepts by protocol and port"
		for j := range all {
			f := &all[j]
			opening := f.Match
			opening.States &= policy.New
			if f.kind == verdict && f.action == policy.Accept && len(f.Protos) == 1 && f.Dport.Given && policy.IsHelper(e.helper, f.Protos[0]) && e.covers(&opening) {
				f.helper, e.kind = e.helper, helps
			}
		}
	}
	return slices.DeleteFunc(all, func(e entry) bool { return e.kind == helps || e.kind == loses && e.helper != "" && e.spare })
}

// fold finds the verdict on what an entry logs among those that follow.
func (e *entry) fold(following []entry) {
	e.kind, e.why = loses, "mef.rules logs in the rule that decides, and several rules decide about these packets"
	var verdicts []*entry
	for i := range following {
		f := &following[i]
		if f.kind != verdict {
			continue
		}
		if _, touches := e.Meet(f.Match); !touches {
			continue
		}
		if f.limit != (policy.Rate{}) {
			e.why = "mef.rules logs in the rule that decides, and this one limits what it accepts"
			return
		}
		if f.log != nil {
			e.why = "mef.rules logs a packet once, and a later rule logs these again"
			return
		}
		verdicts = append(verdicts, f)
		if f.action != verdicts[0].action {
			return
		}
		if f.covers(&e.Match) {
			e.take(verdicts)
			return
		}
	}
}

// take gives an entry that logs the verdict that others agree upon. Those of them to which it leaves nothing may go.
func (e *entry) take(verdicts []*entry) {
	if f := verdicts[0]; len(verdicts) == 1 && e.covers(&f.Match) {
		f.log = e.log
		f.from = slices.Concat(e.from, f.from)
		e.kind = logs // and goes
		return
	}
	e.kind, e.action, e.answer, e.why = verdict, verdicts[0].action, verdicts[0].answer, ""
	for _, f := range verdicts {
		e.from = slices.Concat(e.from, f.from)
		f.spare = f.spare || e.covers(&f.Match)
	}
}

// maxTable bounds how many pairs of rules of the two families are compared.
const maxTable = 9_000_000

// mergeFamilies puts rules that say the same of IPv4 and of IPv6 together. Rules of the two never meet in a packet, so those of
// one may be moved past those of the other.
func mergeFamilies(all []entry) []entry {
	var out []entry
	var run families
	for i, e := range all {
		switch e.Family {
		case policy.V4:
			run.v4, run.at4 = append(run.v4, e), append(run.at4, i)
		case policy.V6:
			run.v6, run.at6 = append(run.v6, e), append(run.at6, i)
		default:
			out = append(append(out, run.interleave()...), e)
			run = families{}
		}
	}
	return append(out, run.interleave()...)
}

// families are entries that follow each other, by their family, and the places where they stood.
type families struct {
	v4, v6   []entry
	at4, at6 []int
}

// interleave returns all as one list, in which what the longest common subsequence of both has stands once.
func (f *families) interleave() (out []entry) {
	v4, v6 := f.v4, f.v6
	if len(v4)*len(v6) > maxTable {
		return slices.Concat(v4, v6)
	}
	numbers := map[string]int{} // of what entries say
	say4, say6 := sayings(v4, numbers), sayings(v6, numbers)
	longest := make([][]int32, len(v4)+1) // of what remains of both from here
	for i := range longest {
		longest[i] = make([]int32, len(v6)+1)
	}
	for i := len(v4) - 1; i >= 0; i-- {
		for j := len(v6) - 1; j >= 0; j-- {
			if say4[i] == say6[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(v4) && j < len(v6) {
		not4, not6 := longest[i+1][j] == longest[i][j], longest[i][j+1] == longest[i][j] // nothing is lost without it
		switch {
		case say4[i] == say6[j]:
			out = append(out, v4[i].with(&v6[j]))
			i, j = i+1, j+1
		case not4 && (!not6 || f.at4[i] < f.at6[j]):
			out = append(out, v4[i])
			i++
		default:
			out = append(out, v6[j])
			j++
		}
	}
	return slices.Concat(out, v4[i:], v6[j:])
}

// sayings returns a number for each entry, the same for those that say the same but for the family.
func sayings(all []entry, numbers map[string]int) []int {
	list := make([]int, len(all))
	for i := range all {
		e := &all[i]
		log := Log{}
		if e.log != nil {
			log = *e.log
		}
		say := fmt.Sprintf("%v %v %v %v %q %q %q %v %v %v %v %v %v %v %v %v %v %v %v %v %v %v %v", e.kind, e.action, e.sure, e.policy, e.why, e.answer, e.comment(),
			e.log != nil, log, e.Protos, e.Types, e.Sport, e.Dport, e.In, e.Out, e.States, e.Flags, e.Kinds, e.Protos == nil, e.Users, e.Groups, e.limit, e.helper)
		switch {
		case e.Src.Given || e.Dst.Given: // of one family alone
			say += fmt.Sprintf(" %v %d", e.Family, i)
		case e.kind != verdict: // reported line by line
			say += fmt.Sprintf(" %p", e.from[0])
		}
		if numbers[say] == 0 {
			numbers[say] = len(numbers) + 1
		}
		list[i] = numbers[say]
	}
	return list
}

// with returns the entry for both families.
func (e *entry) with(o *entry) entry {
	both := *e
	both.Family = policy.Any
	both.spare = e.spare && o.spare
	for _, r := range o.from {
		if !slices.Contains(both.from, r) {
			both.from = append(slices.Clip(both.from), r)
		}
	}
	return both
}

func (e *entry) comment() string {
	for _, r := range e.from {
		if r.Comment != "" {
			return r.Comment
		}
	}
	return ""
}

// split parts a way's entries into rules and a policy for what none of them fits.
func split(all []entry, everyone Match) (rest []entry, pol policy.Action, from []*Rule) {
	n := len(all)
	for n > 0 && all[n-1].policy && all[n-1].log == nil {
		n--
	}
	if n > 0 {
		if last := &all[n-1]; last.kind == verdict && last.limit == (policy.Rate{}) && last.covers(&everyone) {
			if last.log == nil {
				n--
			}
			return all[:n], last.action, deciding(last.from)
		}
	}
	// Of two families with different policies, that which lets through becomes a rule.
	pol = policy.Accept
	for _, e := range all {
		if e.policy && (from == nil || e.action != policy.Accept) {
			pol, from = e.action, deciding(e.from)
		}
	}
	return all, pol, from
}

// deciding returns the rules that do more than to log.
func deciding(from []*Rule) []*Rule {
	return slices.DeleteFunc(slices.Clone(from), func(r *Rule) bool { return r.Log != nil && r.Do == Nothing })
}

// A piece is an entry, or a part of one, that can be written as one rule; or one that cannot, and is left out.
type piece struct {
	Match
	*entry
	spare bool
	odd   string // why it cannot be written
	idle  bool   // that it is left out makes no difference
}

// written reports whether the piece is a rule of the policy.
func (p *piece) written() bool { return p.kind == verdict && p.odd == "" }

// prune leaves out what makes no difference among what may go: repetitions, what was split off, and what is left out anyway. The
// policy decides about what no piece fits.
func prune(all []piece, pol policy.Action) []piece {
	p := pruner{policy: pol, budget: maxCompared}
	var kept []piece
	for _, c := range all {
		switch {
		case c.written() && !c.spare || !p.taken(&c, kept):
			kept = append(kept, c)
		case c.kind != verdict && !c.spare:
			c.idle = true // but is reported nevertheless
			kept = append(kept, c)
		}
	}
	for i := len(kept) - 1; i >= 0; i-- {
		if c := &kept[i]; !c.mayGo() || !p.decided(c, kept[i+1:]) {
			continue
		} else if c.kind == leaves {
			c.idle = true
		} else {
			kept = slices.Delete(kept, i, i+1)
		}
	}
	return kept
}

// joinProtos makes one of rules that follow each other and differ in the protocol alone, such as tcp and udp: no packet fits two of them.
func joinProtos(all []piece) (joined []piece) {
	for _, p := range all {
		if n := len(joined); n > 0 && joined[n-1].differsByProto(&p) {
			last := &joined[n-1]
			last.Protos = ProtosOf(slices.Concat(last.Protos, p.Protos)...)
			e := *last.entry
			e.from = slices.Concat(e.from, p.from)
			last.entry = &e
			continue
		}
		joined = append(joined, p)
	}
	return joined
}

// differsByProto reports whether two rules are the same but for the protocol, in both cases one that has ports.
func (p *piece) differsByProto(o *piece) bool {
	if !p.written() || !o.written() || p.log != nil || o.log != nil || p.action != o.action || p.limit != o.limit || p.helper != o.helper || p.answer != o.answer || p.comment() != o.comment() ||
		!p.Protos.HavePorts() || !o.Protos.HavePorts() || p.Flags != anyFlags || o.Flags != anyFlags || slices.ContainsFunc(o.Protos, func(n policy.Proto) bool { return slices.Contains(p.Protos, n) }) {
		return false
	}
	same := o.Match
	same.Protos = p.Protos
	return p.covers(&same) && same.covers(&p.Match)
}

// mayGo reports whether the piece is not missed where what follows does the same.
func (p *piece) mayGo() bool {
	if p.kind == verdict {
		return p.odd != "" || p.spare && p.log == nil && p.limit == (policy.Rate{})
	}
	return p.kind == leaves && p.sure
}

// limited makes pieces odd that limit what they accept while later ones accept the rest: what is over a limit of mef.rules is dropped.
func limited(all []piece, d policy.Dir, pol policy.Action) {
	for i := range all {
		p := &all[i]
		if !p.written() || p.limit == (policy.Rate{}) || p.from[0].Drops {
			continue
		}
		rest := pol
		for _, o := range all[i+1:] {
			if _, touches := o.Match.Meet(p.Match); !touches || !o.written() || slices.Equal(o.from, p.from) { // a packet passes a rule once
				continue
			}
			if rest = o.action; rest == policy.Accept || o.covers(&p.Match) {
				break
			}
			rest = pol
		}
		if d == policy.Out || rest == policy.Accept {
			p.odd = "mef.rules drops what is over a limit, and here later rules may accept it"
		}
	}
}

// maxCompared bounds how many pairs of pieces are compared. What is not looked at any more stays.
const maxCompared = 20_000_000

type pruner struct {
	policy policy.Action
	budget int
}

// taken reports whether an earlier rule leaves nothing of the piece.
func (p *pruner) taken(c *piece, before []piece) bool {
	for i := range before {
		if p.budget--; p.budget < 0 {
			return false
		}
		if before[i].written() && before[i].covers(&c.Match) {
			return true
		}
	}
	return false
}

// decided reports whether the rules behind the piece do to all of its packets what it does.
func (p *pruner) decided(c *piece, after []piece) bool {
	for i := range after {
		if p.budget--; p.budget < 0 {
			return false
		}
		f := &after[i]
		if !f.written() {
			continue
		}
		if _, touches := f.Match.Meet(c.Match); !touches {
			continue
		}
		if f.action != c.action || f.limit != (policy.Rate{}) || f.log != nil && c.written() {
			return false
		}
		if f.covers(&c.Match) {
			return true
		}
	}
	return p.policy == c.action
}
