package iptsave

import (
	"encoding/hex"
	"net/netip"
	"strings"

	"mef/internal/firewall/importer"
	"mef/internal/firewall/policy"
	"mef/internal/prefixset"
)

// ufw keeps the administrator's rules in user.rules and user6.rules, in chains to which the rules of before.rules lead. Read without those, they stand
// behind rules of the same purpose here, so that a policy has as many lines as the administrator wrote, and a few that every host needs.

// ufwPrefix returns how the names of ufw's chains begin in a family.
func ufwPrefix(f policy.Family) string {
	if f == policy.V6 {
		return "ufw6-user-"
	}
	return "ufw-user-"
}

// ufwLimit is what ufw limits to: five connections of a source in 30 seconds.
var ufwLimit = policy.Rate{N: 6, Per: "minute"}

// ufwComment returns the comment of the rules that follow a line of user.rules: "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=6d79".
func ufwComment(line string) string {
	_, text, _ := strings.Cut(line, " comment=")
	comment, _ := hex.DecodeString(strings.TrimSpace(text))
	return string(comment)
}

// ufwName returns the comment that ufw writes for a profile of an application, 'dapp_Nginx%20Full', as people write it.
func ufwName(comment string) string {
	for _, prefix := range []string{"'dapp_", "'sapp_"} {
		if name, ok := strings.CutPrefix(comment, prefix); ok {
			return strings.ReplaceAll(strings.TrimSuffix(name, "'"), "%20", " ")
		}
	}
	return comment
}

// ufwOther makes base chains of the other family, which has no file: of what ufw filters, nothing is open there.
func (r *reader) ufwOther() {
	var have policy.Family
	for _, c := range r.rs.Bases {
		if strings.HasPrefix(c.Place, "user.rules, ") || strings.HasPrefix(c.Place, "user6.rules, ") {
			have |= c.Family
		}
	}
	if have != policy.V4 && have != policy.V6 {
		return
	}
	r.family = policy.Any &^ have
	name := ufwPrefix(r.family) + "input"
	r.chains = map[string]*importer.Chain{name: {Name: name}}
	r.ufw()
	r.rs.Notes = append(r.rs.Notes, "of ufw's files, that of one family was read: no rule of the administrator accepts packets of the other one")
}

// usual returns a rule for packets to this host that stands before those of the administrator.
func usual(text string, action policy.Action, change func(*importer.Match)) *importer.Rule {
	m := importer.All()
	change(&m)
	return &importer.Rule{Place: "ufw", Text: text, Any: []importer.Match{m}, Do: importer.Decide, Action: action}
}

// ufw makes base chains of the administrator's chains, if the table has these alone.
func (r *reader) ufw() {
	prefix := ufwPrefix(r.family)
	if r.chains[prefix+"input"] == nil || r.chains["INPUT"] != nil {
		return
	}
	local := policy.Addrs{Given: true, In: prefixset.New(netip.MustParsePrefix("fe80::/10"))}
	icmp, types := policy.ICMP, importer.TypesOf(3, 8, 11, 12)
	ports := [2]uint16{67, 68}
	if r.family == policy.V6 {
		icmp, types = policy.ICMP6, importer.TypesOf(1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 141, 142, 143)
		ports = [2]uint16{547, 546}
	}
	for _, base := range []struct {
		name  string
		dir   policy.Dir
		def   policy.Action
		rules []*importer.Rule
	}{
		{"input", policy.In, policy.Drop, []*importer.Rule{
			usual("before.rules: loopback", policy.Accept, func(m *importer.Match) { m.In = policy.LinksOf(policy.Loopback) }),
			usual("before.rules: connections", policy.Accept, func(m *importer.Match) { m.States = policy.Established | policy.Related }),
			usual("before.rules: packets of no connection", policy.Drop, func(m *importer.Match) { m.States = policy.Invalid }),
			usual("before.rules: ICMP", policy.Accept, func(m *importer.Match) { m.Protos, m.Types = importer.ProtosOf(icmp), types }),
			usual("before.rules: DHCP", policy.Accept, func(m *importer.Match) {
				m.Protos = importer.ProtosOf(policy.UDP)
				m.Sport = importer.PortsOf(policy.PortRange{First: ports[0], Last: ports[0]})
				m.Dport = importer.PortsOf(policy.PortRange{First: ports[1], Last: ports[1]})
				if r.family == policy.V6 {
					m.Src, m.Dst = local, local
				}
			}),
		}},
		{"output", policy.Out, policy.Accept, []*importer.Rule{
			usual("before.rules: loopback", policy.Accept, func(m *importer.Match) { m.Out = policy.LinksOf(policy.Loopback) }),
			usual("before.rules: connections", policy.Accept, func(m *importer.Match) { m.States = policy.Established | policy.Related }),
		}},
		{"forward", policy.Forward, policy.Drop, []*importer.Rule{
			usual("before.rules: connections", policy.Accept, func(m *importer.Match) { m.States = policy.Established | policy.Related }),
		}},
	} {
		c := &importer.Chain{Name: base.name, Place: map[policy.Family]string{policy.V4: "user.rules, ", policy.V6: "user6.rules, "}[r.family] + base.name, Dir: base.dir, Family: r.family, Policy: base.def}
		if own := r.chains[prefix+base.name]; base.dir == policy.In || own != nil && len(own.Rules) > 0 {
			c.Rules = append(base.rules, &importer.Rule{Place: "ufw", Text: own.Name, Any: []importer.Match{importer.All()}, Do: importer.Jump, Target: own})
		}
		r.rs.Bases = append(r.rs.Bases, c)
	}
	const note = "the rules of ufw's own files (before.rules, after.rules) are replaced by rules of the same purpose, and the policies by its defaults, deny " +
		"for incoming and routed packets: compare /etc/default/ufw, and before.rules if you have changed it"
	if len(r.rs.Notes) == 0 || r.rs.Notes[len(r.rs.Notes)-1] != note {
		r.rs.Notes = append(r.rs.Notes, note)
	}
}
