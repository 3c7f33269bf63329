package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
)

// A Source is what a rule of NAT makes of the source of packets: an address, or that of the interface if it is invalid.
type Source struct{ Addr netip.Addr }

// natEffect is what leaving out a rule of NAT does.
const natEffect = "it translates no more once the program that loads it is disabled; --nat FILE saves it"

// nat writes the rules of NAT as nat statements. A rule is written only if it is certain which packets it translates, and to what: those that
// an earlier rule may have decided about are left out, with their lines.
func (t *translator) nat() {
	written := "" // the statements so far
	for _, hook := range []struct {
		dir   policy.Dir
		bases []*Chain
		local bool // they translate the destinations of this host's own packets
	}{{policy.In, t.rs.NAT, false}, {policy.Out, t.rs.NAT, true}, {policy.Out, t.rs.Sources, false}} {
		g := gatherer{}
		for _, c := range hook.bases {
			if c.Dir == hook.dir {
				m := everyone(hook.dir)
				m.Family, m.Kinds = c.Family, anyKind
				g.chain(c, m, true, nil)
			}
		}
		var others []*translation // that come first, and not by mef
		for i := range g.all {
			one := &g.all[i]
			if one.foreign {
				others = append(others, one)
				continue // its program loads it again
			}
			if written == "" {
				t.w.heading("Translation of addresses")
				written = "policy dir=in action=drop\n"
			}
			statement, why := one.statement(&t.w, hook.dir)
			if hook.local {
				why = "nat translates the destinations of packets that arrive, not those of this host's own packets"
			}
			if j := slices.IndexFunc(others, one.meets); why == "" && j >= 0 {
				why = "some of its packets are translated before it, by " + others[j].rule.where() + ", which is not imported"
			}
			if more := written + statement + "\n"; why == "" {
				if why = mistake(t.w.sets, more); why == "" {
					written = more
					t.w.origin([]*Rule{one.rule})
					t.w.b.WriteString(statement + "\n")
					continue
				}
			}
			if strings.HasPrefix(why, policy.NeverTranslates) {
				continue // which makes no difference
			}
			others = append(others, one)
			t.leaveNAT(one.rule, why)
		}
	}
}

// meets reports whether two translations have packets in common.
func (t *translation) meets(o *translation) bool {
	_, touches := t.from.Meet(o.from)
	return touches
}

// mistake returns why a policy with nat statements would be refused, "" if it would not.
func mistake(sets []namedSet, text string) string {
	w := writer{}
	for _, s := range sets {
		w.set(s)
	}
	_, err := policy.Parse("mef.rules", []byte(w.b.String()+text))
	if err == nil {
		return ""
	}
	_, why, _ := strings.Cut(err.Error(), ": ")
	why, _, _ = strings.Cut(why, "\n")
	return why
}

// leaveNAT reports that a rule of NAT is left out.
func (t *translator) leaveNAT(r *Rule, why string) {
	l := Left{Place: r.Place, Line: r.Text, Reason: why, Effect: natEffect}
	if slices.Contains(t.left, l) {
		return
	}
	t.left = append(t.left, l)
	t.w.last = ""
	t.w.comment("not imported: " + r.line())
	t.w.b.WriteString("#   " + clean(l.Reason+"; "+l.Effect, maxText) + "\n")
}

// statement returns a translation as a nat statement, or why there is none.
func (t *translation) statement(w *writer, d policy.Dir) (text, why string) {
	m := t.from
	switch r := t.rule; {
	case r.Beyond != "":
		return "", r.Beyond
	case len(r.Not) > 0 || !t.exact:
		return "", "it is not certain which packets it translates: an earlier rule, or what it excludes, may take some of them"
	case m.Sport.Given:
		return "", "nat cannot match the port of the sender"
	case m.Users != nil || m.Groups != nil || m.Flags != anyFlags:
		return "", "nat cannot match flags of TCP and the owner of packets"
	case m.Types != nil:
		return "", "nat cannot match types of ICMP messages"
	case m.States&policy.New == 0:
		return "", "nat translates packets that open a connection"
	}
	action, to := "masquerade", ""
	if t.rule.To != nil {
		if action, to = t.to.words(); action == "" {
			return "", "nat leads to one address and one port"
		}
	} else if a := t.rule.Source.Addr; a.IsValid() {
		action, to = "snat", a.String()
	}
	family, iif, oif := m.Family.String(), linksText(m.In), linksText(m.Out)
	if m.Src.Given || m.Dst.Given || m.Protos.Families() != policy.Any || strings.ContainsAny(to, ".[") || strings.Contains(to, "::") {
		family = "" // goes without saying
	}
	if other := map[policy.Dir]policy.Links{policy.In: m.Out, policy.Out: m.In}[d]; !other.Equal(map[policy.Dir]policy.Links{policy.In: everyone(policy.In).Out, policy.Out: everyone(policy.Out).In}[d]) {
		return "", "nat matches iif where packets arrive and oif where they leave"
	}
	if d == policy.In {
		oif = ""
	} else {
		iif = ""
	}
	if _, _, ok := map[policy.Dir]policy.Links{policy.In: m.In, policy.Out: m.Out}[d].Names(); !ok {
		return "", "its interfaces cannot be listed"
	}
	return statement("nat", "dir", d.String(), "family", family, "action", action, "to", to, "proto", m.Protos.String(), "iif", iif, "oif", oif,
		"src", w.addrs(m.Src), "dst", w.addrs(m.Dst), "dport", w.ports(m.Dport), "comment", clean(t.rule.Comment, maxText)), ""
}

// words returns the action and the target of a nat statement, "" if there is no such one.
func (d *Destination) words() (action, to string) {
	var port uint16
	switch {
	case len(d.Ports) > 1 || len(d.Ports) == 1 && d.Ports[0].First != d.Ports[0].Last:
		return "", ""
	case len(d.Ports) == 1:
		port = d.Ports[0].First
	}
	ranges := d.Addrs.Ranges()
	switch {
	case d.Here && port == 0, !d.Here && (len(ranges) != 1 || ranges[0].First != ranges[0].Last):
		return "", ""
	case d.Here:
		return "redirect", fmt.Sprintf(":%d", port)
	case port == 0:
		return "dnat", ranges[0].First.String()
	}
	return "dnat", netip.AddrPortFrom(ranges[0].First, port).String()
}
