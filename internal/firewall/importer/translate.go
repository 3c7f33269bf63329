package importer

import (
	"fmt"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
)

// Translate says in mef.rules what the ruleset does. command is what the text says it was made by.
func Translate(rs *Ruleset, command string) Result {
	t := &translator{rs: rs, left: slices.Clone(rs.Left), notes: slices.Clone(rs.Notes)}
	for _, d := range policy.Dirs {
		t.way(d)
	}
	t.nat()
	if len(rs.Bases) == 0 {
		t.note("nothing filters packets: the policy accepts everything")
	}
	if len(t.answers) > 0 {
		t.note("reject answers TCP with a reset and all other packets with ICMP port unreachable; here it was %s", strings.Join(t.answers, ", "))
	}
	for i := range t.left {
		l := &t.left[i]
		l.Place, l.Line, l.Reason = clean(l.Place, maxText), clean(l.Line, maxText), clean(l.Reason, maxText)
	}
	return Result{Text: t.text(command), Rules: t.w.count, Left: t.left, Notes: t.notes}
}

// text returns the whole text.
func (t *translator) text(command string) string {
	head := writer{}
	head.comment(t.rs.Source + ", by " + command + ": the comment above each rule shows its origin.")
	head.comment(t.summary())
	for _, n := range t.notes {
		head.comment("Note: " + n)
	}
	if len(t.w.sets) > 0 {
		head.b.WriteByte('\n')
	}
	for _, s := range t.w.sets {
		head.set(s)
	}
	return head.b.String() + t.w.b.String()
}

func (t *translator) summary() string {
	switch len(t.left) {
	case 0:
		return "Everything was imported."
	case 1:
		return "One line was not imported: it is a comment at its place, if it has one."
	}
	return fmt.Sprintf("%d lines were not imported: they are comments at their places, if they have one.", len(t.left))
}

// A translator gathers a Result.
type translator struct {
	rs      *Ruleset
	w       writer
	left    []Left
	notes   []string
	answers []string // ways to reject that mef.rules does not have
}

func (t *translator) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(t.notes, text) {
		t.notes = append(t.notes, text)
	}
}

var headings = [...]string{policy.In: "Packets to this host", policy.Out: "Packets from this host", policy.Forward: "Packets through this host"}

// way translates the base chains of one way.
func (t *translator) way(d policy.Dir) {
	var bases []*Chain
	for _, c := range t.rs.Bases {
		if c.Dir == d {
			bases = append(bases, c)
		}
	}
	all, n := t.follow(d, bases)
	switch {
	case n > 0:
		t.w.heading(headings[d] + ": " + placesOf(bases[:n]))
	case len(bases) > 0:
		t.w.heading(headings[d] + ": of " + placesOf(bases) + " no rule could be imported")
		t.w.policy(d, strictest(bases), nil)
		return
	case d == policy.In:
		t.w.heading(headings[d] + ": nothing filters them")
		t.w.policy(d, policy.Accept, nil)
		return
	default:
		return
	}
	rest, pol, from := split(all, everyone(d))
	var pieces []piece
	for i := range rest {
		pieces = append(pieces, rest[i].pieces(d)...)
	}
	limited(pieces, d, pol)
	pieces = joinProtos(prune(pieces, pol))
	t.w.policy(d, pol, from)
	places := placesToReport(pieces)
	for i := range pieces {
		switch p := &pieces[i]; {
		case p.written():
			t.rule(d, p)
		case p.odd == oddICMP || p.odd == oddPort0:
			t.note("%s", p.odd)
		case p.odd != "" || places[p.from[0]] == i:
			t.leave(d, p, pieces)
		}
	}
}

// placesOf names base chains in the order in which packets meet them.
func placesOf(bases []*Chain) string {
	var places []string
	for _, c := range bases {
		places = append(places, c.Place)
	}
	return strings.Join(places, ", then ")
}

// strictest returns the policy that is left where no rule is: nothing passes that did not before.
func strictest(bases []*Chain) policy.Action {
	if slices.ContainsFunc(bases, func(c *Chain) bool { return c.Policy != policy.Accept }) {
		return policy.Drop
	}
	return policy.Accept
}

// placesToReport returns the piece at which a left-out rule is reported: not a repetition, if there is another.
func placesToReport(pieces []piece) map[*Rule]int {
	places := map[*Rule]int{}
	for i := range pieces {
		p := &pieces[i]
		if p.kind == verdict {
			continue
		}
		if first, known := places[p.from[0]]; !known || pieces[first].spare && !p.spare {
			places[p.from[0]] = i
		}
	}
	return places
}

func (t *translator) rule(d policy.Dir, p *piece) {
	if p.answer != "" && !slices.Contains(t.answers, p.answer) {
		t.answers = append(t.answers, p.answer)
	}
	if p.open {
		t.note("nothing filters %s at a hook that filters the other family: the policy accepts all of it too", familyNames[p.Family])
	}
	if p.limit != (policy.Rate{}) {
		t.note("limit= counts each source by itself, and begins with as many packets as it has a number; limits of other programs may count all sources together")
	}
	t.w.rule(d, p)
}

// leave reports that a piece is left out.
func (t *translator) leave(d policy.Dir, p *piece, all []piece) {
	r := p.from[0]
	l := Left{Place: r.Place, Line: r.Text, Reason: p.why, Effect: "the rules after it decide about its packets"}
	idle := !slices.ContainsFunc(all, func(o piece) bool { return o.kind != verdict && o.from[0] == r && !o.idle })
	switch {
	case p.odd != "":
		l.Reason, l.Effect = p.odd, "the rules after it decide about these packets"
	case idle:
		l.Effect = noDifference
	case p.kind == loses:
		l.Effect = sameVerdicts
	case p.effect != "":
		l.Effect = p.effect
	}
	part := p.kind == leaves && r.Beyond == "" && (p.effect == partlyEffect || p.effect == allEffect) || p.kind == loses && r.Beyond == "" && r.Do != Nothing || slices.ContainsFunc(all, func(o piece) bool { return o.entry == p.entry && o.written() })
	t.w.left(p, l, part)
	if r.Target != nil && d == policy.Forward && slices.Contains([]string{"Docker", "Podman"}, KeeperOfChain(r.Target.Name)) {
		t.note("%s filters packets to its containers in its own chains, which stay in force: let a policy for dir=fwd accept them too, with "+
			"action=accept, or with a rule dir=fwd action=accept proto=tcp dport=PORT for each published port", KeeperOfChain(r.Target.Name))
	}
	if i := slices.IndexFunc(t.left, func(o Left) bool { return o.Place == l.Place && o.Line == l.Line && o.Reason == l.Reason }); i < 0 {
		t.left = append(t.left, l)
	} else if !idle {
		t.left[i].Effect = l.Effect
	}
}

// helpers returns what rules of other hooks give helpers to.
func (t *translator) helpers(d policy.Dir) (all []entry) {
	for _, r := range t.rs.Helpers {
		for _, m := range each(everyone(d), r.Any) {
			if r.Beyond == "" && len(r.Not) == 0 {
				all = append(all, entry{Match: m, kind: helps, helper: r.Helper, from: []*Rule{r}, spare: true})
			}
		}
	}
	return all
}

// everyone returns all packets of a way.
func everyone(d policy.Dir) Match {
	m := All()
	m.Kinds = kindsOf(d)
	switch d {
	case policy.In:
		m.Out = policy.LinksOf("")
	case policy.Out:
		m.In = policy.LinksOf("")
	}
	return m
}

// follow returns what becomes of packets of a way, and by how many of the base chains: where these together make too many cases, the
// last ones are left out.
func (t *translator) follow(d policy.Dir, bases []*Chain) (all []entry, n int) {
	for n = len(bases); ; n-- {
		all, err := walk(d, bases[:n], t.rs.translations(d))
		if err == nil {
			return mergeFamilies(foldHelpers(append(t.helpers(d), foldLogs(all)...))), n
		}
		t.left = append(t.left, Left{Place: bases[n-1].Place, Reason: "its rules, with those of the chains before it, have " + err.Error()})
	}
}
