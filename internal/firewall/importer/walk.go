package importer

import (
	"errors"
	"fmt"
	"slices"

	"mef/internal/firewall/policy"
)

// An entry is what one rule, or one policy, does with some packets: those that fit, and that no entry before it has decided about.
type entry struct {
	Match
	kind   kind
	action policy.Action // of a verdict; of what is left out, if sure
	sure   bool          // it is known what a rule that is left out does
	log    *Log
	from   []*Rule // where it comes from
	policy bool    // that is the policy of a base chain
	spare  bool    // it may go where it makes no difference: a policy, or the repetition of a rule
	why    string  // it is left out
	effect string  // and what that does, if it is not the usual
	answer string
	open   bool // no base chain sees these packets
	limit  policy.Rate
	helper string
}

type kind uint8

const (
	verdict kind = iota
	logs         // and does nothing else
	leaves       // nothing: it is left out
	loses        // something that has no bearing on verdicts
	helps        // gives connections a helper, and does nothing else
)

// A walker follows packets of one way through base chains and gathers what becomes of them.
type walker struct {
	bases   []*Chain
	view    view
	entries []entry
	steps   int
	repeat  int // inside the repetition of rules that stand elsewhere too
	via     via
	wary    *wary // packets are led past rules that may not concern them
	err     error
}

// wary is set while packets follow a rule that fits some of them, and it is not known which: what drops them there counts, and what
// accepts them leads to behind the rule, so that nothing passes that might not.
type wary struct {
	behind *frame
	outer  *wary
}

// via is the rule that accepts the packets that are followed now, unless a later base chain decides otherwise; the zero value is
// none.
type via struct {
	*Rule
	repeat int // how deep in repetitions it is
}

// errTooMany says that following packets leads too far.
var errTooMany = errors.New("too many cases")

const (
	maxSteps   = 2_000_000 // rules that packets are led past
	maxEntries = 20_000
)

// A frame is a rule that packets see next.
type frame struct {
	chain  *Chain
	next   int    // index of the rule
	caller *frame // where the chain's end leads; nil: to the policy
	path   []*Chain
	base   int
}

// walk returns what becomes of packets of one way. The last entries decide about all that are left.
func walk(d policy.Dir, bases []*Chain, translations []translation) ([]entry, error) {
	w := &walker{bases: bases}
	for i := range translations {
		if t := &translations[i]; !t.exact {
			w.view.unclear = append(w.view.unclear, *t)
		}
	}
	concerned := w.concerned(translations)
	for i := range translations {
		if t := &translations[i]; t.exact && concerned[i] {
			follower := walker{bases: bases, view: view{of: t}, steps: w.steps}
			if m, ok := t.from.Meet(everyone(d)); ok {
				follower.enter(0, m, nil)
			}
			if follower.err != nil {
				return nil, follower.err
			}
			w.entries, w.steps = append(w.entries, follower.entries...), follower.steps
		}
	}
	w.enter(0, everyone(d), nil)
	return w.entries, w.err
}

// concerned reports of each translation whether its packets must be followed by themselves: it makes a difference to a rule of the filter
// that they are translated, or a later translation that does must not be taken to translate them.
func (w *walker) concerned(all []translation) []bool {
	out := make([]bool, len(all))
	for i := len(all) - 1; i >= 0; i-- {
		out[i] = w.concerns(&all[i])
		for j := i + 1; j < len(all) && !out[i]; j++ {
			_, meet := all[i].from.Meet(all[j].from)
			out[i] = out[j] && meet
		}
	}
	return out
}

// concerns reports whether it makes a difference to a rule of the filter that packets are translated.
func (w *walker) concerns(t *translation) bool {
	seen := map[*Chain]bool{}
	var concerned func(c *Chain) bool
	concerned = func(c *Chain) bool {
		if c == nil || seen[c] {
			return false
		}
		seen[c] = true
		return slices.ContainsFunc(c.Rules, func(r *Rule) bool {
			return r.Led || concerned(r.Target) || slices.ContainsFunc(slices.Concat(r.Any, r.Not), func(m Match) bool {
				if !r.addressed(&m) {
					return false
				}
				_, before := m.Meet(t.from)
				rest, fits, _ := t.translate(r, m)
				_, after := rest.Meet(t.from)
				return before || fits && after
			})
		})
	}
	return slices.ContainsFunc(w.bases, concerned)
}

func (w *walker) add(e entry) {
	if w.entries = append(w.entries, e); len(w.entries) > maxEntries {
		w.err = errTooMany
	}
}

// again follows packets past rules that others have passed, or will.
func (w *walker) again(follow func()) {
	w.repeat++
	follow()
	w.repeat--
}

// enter leads packets into a base chain, and those that are not of its family past it, until all are decided about. from is the
// policy that let them through so far, nil if none has seen them.
func (w *walker) enter(base int, m Match, from *Rule) {
	if base == len(w.bases) {
		w.accept(m, from)
		return
	}
	c := w.bases[base]
	outside := m
	if m.Family &= c.Family; m.Family != 0 {
		w.through(&frame{chain: c, path: []*Chain{c}, base: base}, base, m)
	}
	if outside.Family &^= c.Family; outside.Family != 0 {
		w.enter(base+1, outside, from)
	}
}

// accept takes down that packets have passed all base chains.
func (w *walker) accept(m Match, from *Rule) {
	e := entry{Match: m, kind: verdict, action: policy.Accept, policy: true, spare: true}
	switch {
	case w.via.Rule != nil:
		e.from, e.policy, e.spare = []*Rule{w.via.Rule}, false, w.via.repeat > 0
	case from != nil:
		e.from = []*Rule{from}
	default:
		e.open = true
		e.from = []*Rule{{Text: "nothing filters " + familyNames[m.Family]}}
	}
	w.add(e)
}

var familyNames = map[policy.Family]string{policy.V4: "IPv4", policy.V6: "IPv6", policy.Any: "them"}

// policyOf returns the policy of a base chain as if it was a rule.
func policyOf(c *Chain) *Rule {
	return &Rule{Place: c.Place, Text: fmt.Sprintf("policy of %s: %s", c.Place, c.Policy)}
}

// through leads packets from a frame on until all are decided about.
func (w *walker) through(f *frame, base int, m Match) {
	before := w.wary
	for ; f != nil && w.err == nil; f = f.caller {
		for w.wary != nil && w.wary.behind == f {
			w.wary = w.wary.outer
		}
		w.run(f, m)
	}
	defer func() { w.wary = before }()
	if w.err != nil {
		return
	}
	if c := w.bases[base]; c.Policy != policy.Accept {
		w.add(entry{Match: m, kind: verdict, action: c.Policy, from: []*Rule{policyOf(c)}, policy: true, spare: true})
		return
	}
	w.enter(base+1, m, policyOf(w.bases[base]))
}

// run leads packets past the rules of a frame's chain. Those that none of them decides about come out at its end.
func (w *walker) run(f *frame, m Match) {
	for i := f.next; i < len(f.chain.Rules) && w.err == nil; i++ {
		r := f.chain.Rules[i]
		for i+1 < len(f.chain.Rules) {
			both, ok := r.with(f.chain.Rules[i+1])
			if !ok {
				break
			}
			r, i = both, i+1
		}
		if w.steps += 1 + len(r.Any); w.steps > maxSteps {
			w.err = errTooMany
			return
		}
		as := w.view.read(r)
		here := each(m, as.any)
		if len(here) == 0 || r.Target != nil && KeeperOfChain(r.Target.Name) == mef {
			continue
		}
		after := &frame{f.chain, i + 1, f.caller, f.path, f.base}
		if why := cannot(r, f, w.bases[f.base+1:], as.why); why != "" {
			if r.Do == Return && !slices.ContainsFunc(f.chain.Rules[i+1:], func(o *Rule) bool { return o.Do != Nothing }) {
				w.aside(&Rule{Place: r.Place, Within: r.Within, Text: r.Text, Lost: "return before log lines alone: " + why}, here[0])
				continue
			}
			w.leave(r, here, why, as.unclear, f)
			if as.unclear && w.warily(r, here, after) {
				continue
			}
			if r.Do == Return && f.caller != nil && w.returnAll(r, as.not, m, here, after) {
				return
			}
			continue
		}
		w.pass(as.not, here, after)
		for _, h := range here {
			if as.partly != "" {
				effect := partlyEffect
				if w.view.of != nil {
					effect = allEffect
				}
				w.add(entry{Match: h, kind: leaves, from: []*Rule{r}, why: as.partly, effect: effect, spare: w.repeat > 0})
			}
			w.aside(r, h)
			if r.Do == Return && len(as.not) == 0 && h.covers(&m) {
				return // all of them, as at the chain's end
			}
			w.do(r, h, after)
		}
	}
}

// with returns two rules that follow each other and do the same to packets of other interfaces, or to other kinds of destinations, as one: zones
// have such, and ufw.
func (r *Rule) with(o *Rule) (both *Rule, ok bool) {
	if r.Do != o.Do || r.Target != o.Target || r.Action != o.Action || r.Answer != o.Answer || len(r.Any) != 1 || len(o.Any) != 1 || len(r.Not)+len(o.Not) > 0 ||
		r.Beyond+o.Beyond != "" || r.Log != nil || o.Log != nil || r.Lost+o.Lost != "" || r.Led || o.Led || r.Limit != (policy.Rate{}) || o.Limit != (policy.Rate{}) {
		return nil, false
	}
	m, other := r.Any[0], o.Any[0]
	in, out, kinds := !m.In.Equal(other.In), !m.Out.Equal(other.Out), m.Kinds != other.Kinds
	if r.Do != Jump && r.Do != Goto && (in || out || !kinds) || in && out || in && kinds || out && kinds {
		return nil, false
	}
	m.In = m.In.Others().Meet(other.In.Others()).Others()
	m.Out = m.Out.Others().Meet(other.Out.Others()).Others()
	m.Kinds |= other.Kinds
	other.In, other.Out, other.Kinds = m.In, m.Out, m.Kinds
	one := *r
	one.Any = []Match{m}
	return &one, m.covers(&other) && other.covers(&m)
}

// warily leads packets to where a rule may lead them that is left out because of a translation. It reports whether that is all there is
// to do.
func (w *walker) warily(r *Rule, here []Match, after *frame) bool {
	follow := func(behind, f *frame, m Match) {
		outer := w.wary
		w.wary = &wary{behind, outer}
		w.run(f, m)
		w.wary = outer
	}
	for _, h := range here {
		switch {
		case (r.Do == Jump || r.Do == Goto) && r.Target != nil && KeeperOfChain(r.Target.Name) == "" && !slices.Contains(after.path, r.Target):
			follow(after, &frame{r.Target, 0, after, append(slices.Clip(after.path), r.Target), after.base}, h)
		case r.Do == Return && after.caller != nil:
			w.again(func() {
				follow(after.caller, after, h)
				w.through(after.caller, after.base, h)
			})
		case r.Do == Return && w.bases[after.base].Policy != policy.Accept:
			w.add(entry{Match: h, kind: verdict, action: w.bases[after.base].Policy, from: []*Rule{r}, spare: w.repeat > 0})
		default:
			return false
		}
	}
	return true
}

// pass leads packets past a rule that does not fit them because they are of its Not.
func (w *walker) pass(not, here []Match, after *frame) {
	for _, h := range here {
		for _, n := range each(h, not) {
			w.again(func() { w.through(after, after.base, n) })
		}
	}
}

// each returns what m has in common with each of others.
func each(m Match, others []Match) (both []Match) {
	for _, o := range others {
		if b, ok := m.Meet(o); ok {
			both = append(both, b)
		}
	}
	return both
}

// aside takes down what a rule does besides.
func (w *walker) aside(r *Rule, m Match) {
	if r.Lost != "" {
		w.add(entry{Match: m, kind: loses, from: []*Rule{r}, why: "mef.rules has no " + r.Lost, spare: w.repeat > 0})
	}
	if r.Helper != "" {
		w.add(entry{Match: m, kind: helps, helper: r.Helper, from: []*Rule{r}, spare: w.repeat > 0})
	}
	if r.Log != nil && r.Do != Decide {
		w.add(entry{Match: m, kind: logs, log: r.Log, from: []*Rule{r}, spare: w.repeat > 0})
	}
}

// do leads packets that fit a rule to where it leads.
func (w *walker) do(r *Rule, m Match, after *frame) {
	switch r.Do {
	case Decide:
		w.decide(r, m, after.base)
	case Jump:
		w.run(&frame{r.Target, 0, after, append(slices.Clip(after.path), r.Target), after.base}, m)
	case Goto:
		w.run(&frame{r.Target, 0, after.caller, append(slices.Clip(after.path), r.Target), after.base}, m)
		w.again(func() { w.through(after.caller, after.base, m) })
	case Return:
		w.again(func() { w.through(after.caller, after.base, m) })
	}
}

// decide takes a rule's verdict down. What it accepts goes on to the next base chain.
func (w *walker) decide(r *Rule, m Match, base int) {
	if wary := w.wary; wary != nil && r.Action == policy.Accept {
		w.again(func() { w.through(wary.behind, wary.behind.base, m) })
		return
	}
	if r.Action != policy.Accept || !slices.ContainsFunc(w.bases[base+1:], func(c *Chain) bool { return c.Family&m.Family != 0 }) {
		w.add(entry{Match: m, kind: verdict, action: r.Action, log: r.Log, from: []*Rule{r}, spare: w.repeat > 0, answer: r.Answer, limit: r.Limit})
		return
	}
	if r.Log != nil {
		w.add(entry{Match: m, kind: logs, log: r.Log, from: []*Rule{r}, spare: w.repeat > 0})
	}
	before := w.via
	w.via = via{r, w.repeat}
	w.again(func() { w.enter(base+1, m, nil) })
	w.via = before
}

// partlyEffect is what a rule does that is carried over for those of its packets alone that nobody translates.
const partlyEffect = "it is imported for packets without NAT; of packets with NAT it drops those that its port identifies"

// allEffect is what a rule does that drops all packets of a translation, for it may fit them.
const allEffect = "it drops all packets that are translated there"

// waryEffect is what a jump or a return does that is left out because of a translation.
const waryEffect = "what may be dropped because of it is dropped, and the rules behind it decide about the rest"

// cannot returns why a rule cannot be carried over, "" if it can. Later are the base chains behind that of the frame.
func cannot(r *Rule, f *frame, later []*Chain, why string) string {
	switch {
	case why != "":
		return why
	case r.Limit != (policy.Rate{}) && slices.ContainsFunc(later, func(c *Chain) bool { return c.Family&f.path[0].Family != 0 }):
		return "mef.rules limits what the last base chain accepts"
	case r.Do == Unknown || (r.Do == Jump || r.Do == Goto) && r.Target == nil:
		return "its effect is not known"
	case r.Do != Jump && r.Do != Goto:
		return ""
	case slices.Contains(f.path, r.Target):
		return "the chain jumps to itself"
	}
	if program := KeeperOfChain(r.Target.Name); program != "" {
		return program + " maintains the rules of chain " + r.Target.Name + " itself"
	}
	return ""
}

// leave takes down that a rule is left out.
func (w *walker) leave(r *Rule, here []Match, why string, unclear bool, f *frame) {
	e := entry{kind: leaves, from: []*Rule{r}, why: why, spare: w.repeat > 0}
	switch {
	case r.Do == Decide:
		e.action, e.sure = r.Action, true
	case r.Do == Return && f.caller == nil:
		e.action, e.sure = w.bases[f.base].Policy, true
	case r.Do == Nothing:
		e.kind = loses
	case r.Target != nil && onlyDrops(r.Target.Name):
		e.effect = sameVerdicts // the chain stays in force
	case r.Target != nil && KeeperOfChain(r.Target.Name) != "":
		e.action, e.sure = policy.Accept, true // at most: what it drops, it drops as long as its program runs
	}
	if e.sure && e.action == policy.Accept && f.base+1 < len(w.bases) {
		e.sure = false // unless a later base chain decides otherwise
	}
	switch {
	case unclear && (r.Do == Return || r.Target != nil):
		e.effect = waryEffect
	case r.Do == Return && f.caller != nil:
		e.effect = "all packets that may match return instead"
	}
	for _, e.Match = range here {
		w.add(e)
	}
}

// returnAll has all packets return that may fit a return that is left out: what else the chain does to them is not known. It reports
// whether none is left.
func (w *walker) returnAll(r *Rule, not []Match, m Match, here []Match, after *frame) (all bool) {
	w.pass(not, here, after)
	for _, h := range here {
		if h.covers(&m) {
			w.leaveRest(after, m)
			return true
		}
		w.again(func() { w.through(after.caller, after.base, h) })
	}
	return false
}

// leaveRest takes down that the rules of a chain from a frame on are left out.
func (w *walker) leaveRest(f *frame, m Match) {
	for _, r := range f.chain.Rules[f.next:] {
		if here := each(m, w.view.read(r).any); len(here) > 0 && (r.Do != Nothing || r.Log != nil || r.Lost != "") {
			w.leave(r, here, "it comes after a return that is not imported", false, f)
		}
	}
}
