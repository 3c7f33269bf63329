package ipset

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// The chains. Those that a built-in chain jumps to are in raw, before connection tracking and address translation; raw has no chain for
// forwarded packets, so that the replies of containers are dropped in mangle.
const (
	banChain     = "mefd-ban"
	replyChain   = "mefd-reply"
	dropBan      = "mefd-drop"
	dropSusp     = "mefd-drop-susp"
	sampleList   = "mefd-sample"
	countBan     = "mefd-count"
	countSusp    = "mefd-count-susp"
	dropReply    = "mefd-drop-reply"
	chainsPrefix = "mefd-"
)

// A rule is a rule of a chain of ours, or the jump to one of ours in a built-in chain. Its target is a chain, an extension with its options,
// or "-g CHAIN", from which a packet does not come back.
type rule struct{ chain, match, target string }

// A table is what of ours belongs in a table of iptables.
type table struct {
	name   string
	jumps  []rule // in built-in chains, where they come first
	chains []string
	rules  []rule // in the order of their chains
}

// A layout determines the rules: the kinds of bans there are, and the operator's settings.
type layout struct {
	kinds []kind
	lists []listForm
	log   conf.DropLog
	scan  conf.Scan
	flood conf.Flood
	peers ban.Ports // at which sources that open a connection are reported
	// proxies and cdns have many clients behind each address: see enforce.Settings.
	proxies, cdns prefixset.Set
	// udpEnd is the first port that the system gives to its own clients: packets to this and higher UDP ports are no scans.
	udpEnd uint16
	// samples of dropped packets are reported.
	samples bool
}

// tables returns what belongs in the tables of a family.
func (l layout) tables(v6 bool) []table {
	raw := table{name: "raw", chains: []string{banChain, replyChain, dropReply},
		jumps: []rule{{"PREROUTING", "", banChain}, {"OUTPUT", "", replyChain}}}
	listChains, listRules := l.listRules(v6)
	replyChains, listReplies := l.listReplies(v6)
	raw.chains = slices.Concat(raw.chains, listChains, replyChains)
	raw.rules = slices.Concat(l.banRules(v6), l.replyRules(v6), listRules, listReplies)
	raw.chains = append(raw.chains, countBan, countSusp)
	raw.rules = append(raw.rules, l.countRules(v6)...)
	if l.log.Enabled {
		raw.chains = append(raw.chains, dropBan, dropSusp)
		raw.rules = append(raw.rules, l.logRules()...)
	}
	mangle := table{name: "mangle", chains: []string{replyChain, dropReply}, jumps: []rule{{"FORWARD", "", replyChain}}}
	mangle.chains = append(mangle.chains, replyChains...)
	mangle.rules = append(l.replyRules(v6), listReplies...)
	if l.samples {
		list := l.sample(sampleList, event.DroppedList)
		raw.chains, raw.rules = append(raw.chains, sampleList), append(raw.rules, list...)
		mangle.chains, mangle.rules = append(mangle.chains, sampleList), append(mangle.rules, list...)
	}
	if l.scan.Enabled {
		chains, rules := l.scanRules(v6)
		mangle.chains = append(mangle.chains, chains...)
		mangle.rules = append(mangle.rules, rules...)
		mangle.jumps = append(mangle.jumps, rule{"INPUT", "", scanChain})
	}
	if l.flood.Enabled {
		chains, rules := l.floodRules(v6)
		mangle.chains = append(mangle.chains, chains...)
		mangle.rules = append(mangle.rules, rules...)
		mangle.jumps = append(mangle.jumps, rule{"PREROUTING", "", guardChain})
	}
	if l.peers != "" {
		chains, rules := l.peerRules(v6)
		mangle.chains = append(mangle.chains, chains...)
		mangle.rules = append(mangle.rules, rules...)
		mangle.jumps = append(mangle.jumps, rule{"INPUT", "", peersChain})
	}
	return []table{raw, mangle}
}

func inSet(s set, end string) string { return "-m set --match-set " + s.name + " " + end }

// banRules drop what comes from banned addresses.
func (l layout) banRules(v6 bool) []rule {
	accept := func(match string) rule { return rule{banChain, match, "RETURN"} }
	rules := []rule{accept("-i lo"), accept(inSet(allowSet(v6), "src")), accept(inSet(graceSet(v6), "src"))}
	server, client := 67, 68
	if v6 {
		rules = append(rules, neighbourDiscovery(banChain)...)
		server, client = 547, 546
	}
	// Without the replies of its DHCP server this host would lose its address.
	rules = append(rules, accept(fmt.Sprintf("-p udp -m udp --sport %d --dport %d", server, client)))
	for _, nets := range []bool{false, true} {
		if nets {
			rules = append(rules, listGates()...)
			// An address that is excepted from a ban of its network may be banned itself, so bans of single addresses come first.
			rules = append(rules, accept(inSet(exceptSet(v6), "src")))
		}
		for _, k := range l.of(v6, nets) {
			for _, match := range k.matches() {
				rules = append(rules, rule{banChain, match, countChain(k.trust)})
			}
		}
	}
	return rules
}

// of returns the kinds of a family, of addresses or of networks.
func (l layout) of(v6, nets bool) (kinds []kind) {
	for _, k := range l.kinds {
		if k.v6 == v6 && k.nets == nets {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// replyRules drop what goes to banned addresses. Unverified bans have none: a forged source must not cut this host off from another.
func (l layout) replyRules(v6 bool) []rule {
	accept := func(match string) rule { return rule{replyChain, match, "RETURN"} }
	rules := []rule{accept("-o lo"), accept(inSet(allowSet(v6), "dst")), accept(inSet(graceSet(v6), "dst"))}
	if v6 {
		rules = append(rules, neighbourDiscovery(replyChain)...)
	}
	for _, nets := range []bool{false, true} {
		if nets {
			rules = append(rules, rule{replyChain, "", listReplyChain}, accept(inSet(exceptSet(v6), "dst")))
		}
		for _, k := range l.of(v6, nets) {
			if k.trust == ban.Verified {
				rules = append(rules, rule{replyChain, ofPorts(k.ports, "src") + inSet(k.set(), "dst"), dropReply})
			}
		}
	}
	rules = append(rules, rule{dropReply, inSet(repliesSet(v6), "dst"), ""})
	rules = append(rules, l.sample(dropReply, event.DroppedReply)...)
	return append(rules, rule{dropReply, "", "DROP"})
}

// sample returns the rule that reports packets that are dropped for a cause, up to a rate.
func (l layout) sample(chain, cause string) []rule {
	if !l.samples {
		return nil
	}
	return []rule{{chain, fmt.Sprintf("-m limit --limit %d/sec --limit-burst %d", enforce.SampleRate, enforce.SampleBurst), nflogTo(enforce.SampleGroup, cause)}}
}

// sampleLists returns the rule that samples packets of lists, whose limit is for all of them.
func (l layout) sampleLists(chain string) []rule {
	if !l.samples {
		return nil
	}
	return []rule{{chain, "", sampleList}}
}

// ofPorts matches TCP and UDP packets whose port at this host is one of a list, if it is not empty.
func ofPorts(ports ban.Ports, end string) string {
	if ports == "" {
		return ""
	}
	return inSet(portsSet(ports), end) + " "
}

const (
	// privileged is the first port that programs without privileges can have, localPorts the first that the system gives to its clients.
	privileged = 1024
	localPorts = 32768
	// maxService is how many ports in a row a service may have.
	maxService = 64
)

// answeringPorts are the ports of UDP services whose answers may come to ports of services: resolvers on this host get answers from port
// 53, and NTP, IKE and OpenVPN use the same port at both ends.
const answeringPorts = "53,123,500,1194,4500"

const (
	notAnswers = "-p udp -m multiport ! --sports " + answeringPorts + " "
	fromClient = "-p udp -m udp --sport 1024:65535 "
)

// opens matches TCP segments that open a connection.
const opens = "-p tcp -m tcp --tcp-flags SYN,ACK SYN "

// matches returns what the rules of the kind match, one for each rule. Those of unverified bans match only packets that open a
// connection to this host, so that answers to its own connections always pass.
//
// UDP packets do not show whether they open a connection. Without a list of ports, and in wide ranges of one ("all except 22"), those from
// a port of clients to a privileged port do; at the ports of a service, all do, except from ports whose answers come there.
func (k kind) matches() []string {
	banned := inSet(k.set(), "src")
	switch {
	case k.trust == ban.Verified:
		return []string{ofPorts(k.ports, "dst") + banned}
	case k.ports == "":
		return []string{opens + banned, fmt.Sprintf("%s--dport 0:%d %s", fromClient, privileged-1, banned)}
	}
	matches := []string{opens + ofPorts(k.ports, "dst") + banned}
	served, wide := servicePorts(k.ports)
	if served != "" {
		udp := "-p udp "
		if wide != "" || answersAt(served) {
			udp = notAnswers
		}
		matches = append(matches, udp+ofPorts(served, "dst")+banned)
	}
	if wide != "" {
		matches = append(matches, fromClient+ofPorts(wide, "dst")+banned)
	}
	return matches
}

// servicePorts splits a list into the ports of services and the privileged ones in wide ranges.
func servicePorts(ports ban.Ports) (served, wide ban.Ports) {
	var narrow, broad []string
	for _, r := range ports.Ranges() {
		switch {
		case r.Last-r.First < maxService:
			narrow = append(narrow, fmt.Sprintf("%d-%d", r.First, r.Last))
		case r.First < privileged:
			broad = append(broad, fmt.Sprintf("%d-%d", r.First, min(r.Last, privileged-1)))
		}
	}
	served, _ = ban.ParsePorts(strings.Join(narrow, ","))
	wide, _ = ban.ParsePorts(strings.Join(broad, ","))
	return served, wide
}

// answersAt reports whether answers may come to one of the ports.
func answersAt(ports ban.Ports) bool {
	for port := range strings.SplitSeq(answeringPorts, ",") {
		if ports.Covers(ban.Ports(port)) {
			return true
		}
	}
	return false
}

// portSets returns the sets of lists of ports that the rules use, by name.
func (l layout) portSets() map[string]ban.Ports {
	sets := map[string]ban.Ports{}
	for _, list := range l.lists {
		if list.ports != "" {
			sets[portsSet(list.ports).name] = list.ports
		}
	}
	if l.scan.Enabled && l.scan.Exclude != "" {
		sets[portsSet(l.scan.Exclude).name] = l.scan.Exclude
	}
	if l.peers != "" {
		sets[portsSet(l.peers).name] = l.peers
	}
	if l.flood.Enabled {
		sets[portsSet(exempt.WebPorts).name] = exempt.WebPorts
		for _, g := range l.flood.Groups() {
			if g.Ports != "" {
				sets[portsSet(g.Ports).name] = g.Ports
			}
		}
	}
	for _, k := range l.kinds {
		if k.ports == "" {
			continue
		}
		sets[portsSet(k.ports).name] = k.ports
		if k.trust == ban.Unverified {
			served, wide := servicePorts(k.ports)
			for _, ports := range []ban.Ports{served, wide} {
				if ports != "" {
					sets[portsSet(ports).name] = ports
				}
			}
		}
	}
	return sets
}

// neighbourDiscovery accepts router and neighbour solicitations and advertisements of the link (RFC 4861). With hop limit 255 they cannot
// come from beyond the link. A ban of the server's own network must not cut it off.
func neighbourDiscovery(chain string) (rules []rule) {
	for typ := 133; typ <= 136; typ++ {
		rules = append(rules, rule{chain, fmt.Sprintf("-p ipv6-icmp -m icmp6 --icmpv6-type %d -m hl --hl-eq 255", typ), "RETURN"})
	}
	return rules
}

// countChain returns the chain that counts packets from banned addresses and drops them.
func countChain(trust ban.Class) string {
	if trust == ban.Unverified {
		return countSusp
	}
	return countBan
}

// countRules returns the rules of the chains that count and drop.
func (l layout) countRules(v6 bool) (rules []rule) {
	for _, trust := range []ban.Class{ban.Verified, ban.Unverified} {
		chain, cause := countChain(trust), event.DroppedBan
		if trust == ban.Unverified {
			cause = event.DroppedUnverified
		}
		rules = append(rules, rule{chain, inSet(dropsSet(trust, v6), "src"), ""})
		rules = append(rules, l.sample(chain, cause)...)
		rules = append(rules, rule{chain, "", l.drop(trust)})
	}
	return rules
}

// drop returns the target of packets of banned peers.
func (l layout) drop(trust ban.Class) string {
	switch {
	case !l.log.Enabled:
		return "DROP"
	case trust == ban.Unverified:
		return dropSusp
	}
	return dropBan
}

// maxLogPrefix is how long the beginning of a line in the kernel log may be.
const maxLogPrefix = 29

// logRules return the rules of the chains that log and drop. Verified and unverified bans have separate limits: forged packets must not
// use up the lines of real attackers.
func (l layout) logRules() (rules []rule) {
	for _, end := range []struct{ chain, word string }{{dropBan, "BAN "}, {dropSusp, "SUSP "}} {
		begin := l.log.Prefix[:min(len(l.log.Prefix), maxLogPrefix-len(end.word))]
		rules = append(rules,
			rule{end.chain, fmt.Sprintf("-m limit --limit %d/sec --limit-burst %d", l.log.Rate, l.log.Burst),
				fmt.Sprintf("LOG --log-level %s --log-prefix %s", logLevel(l.log.Level), quote(begin+end.word))},
			rule{end.chain, "", "DROP"})
	}
	return rules
}

// logLevel returns what LOG calls a level of the configuration.
func logLevel(level string) string {
	switch level {
	case "emerg", "alert", "crit", "notice", "info", "debug":
		return level
	case "err":
		return "error"
	}
	return "warning"
}

// quote returns a text as one word for iptables-restore.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// marker begins the comment of each rule, its fingerprint.
const marker = "mefd:"

// print returns the fingerprint of a rule. Rules cannot be changed, only replaced, so a rule with the right fingerprint is the right rule.
func (r rule) print() string {
	h := fnv.New32a()
	h.Write([]byte(r.chain + "\n" + r.match + "\n" + r.target))
	return fmt.Sprintf("%s%08x", marker, h.Sum32())
}

// String returns the rule as iptables-restore reads it.
func (r rule) String() string {
	var words []string
	for _, word := range []string{r.chain, strings.TrimSpace(r.match), "-m comment --comment", r.print()} {
		if word != "" {
			words = append(words, word)
		}
	}
	switch {
	case strings.HasPrefix(r.target, "-g "):
		words = append(words, r.target)
	case r.target != "":
		words = append(words, "-j", r.target)
	}
	return strings.Join(words, " ")
}

// restore returns the text for iptables-restore --noflush that replaces what is ours in the tables, each in one step. found is what
// is there now.
func restore(tables []table, found map[string]*foundTable) string {
	var b strings.Builder
	for _, t := range tables {
		old := found[t.name]
		if old == nil {
			old = &foundTable{}
		}
		fmt.Fprintf(&b, "*%s\n", t.name)
		for _, chain := range t.chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		}
		for _, jump := range old.jumps {
			fmt.Fprintf(&b, "-D %s\n", jump)
		}
		for _, r := range t.rules {
			fmt.Fprintf(&b, "-A %s\n", r)
		}
		for _, jump := range t.jumps {
			chain, rest, _ := strings.Cut(jump.String(), " ")
			fmt.Fprintf(&b, "-I %s 1 %s\n", chain, rest)
		}
		unused := slices.DeleteFunc(slices.Sorted(maps.Keys(old.chains)), func(name string) bool { return slices.Contains(t.chains, name) })
		for _, chain := range unused {
			fmt.Fprintf(&b, "-F %s\n", chain)
		}
		for _, chain := range unused {
			fmt.Fprintf(&b, "-X %s\n", chain)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// erase returns the text that removes what is ours from the tables in which something was found, "" if there is nothing.
func erase(found map[string]*foundTable) string {
	var none []table
	for name, t := range found {
		if len(t.jumps) > 0 || len(t.chains) > 0 {
			none = append(none, table{name: name})
		}
	}
	if none == nil {
		return ""
	}
	return restore(none, found)
}

// A foundTable is what of ours is in a table of iptables.
type foundTable struct {
	jumps  []string            // to chains of ours from others, as -D takes them
	first  map[string]string   // the fingerprint of the first rule of each other chain
	chains map[string][]string // the fingerprints of the rules of each chain of ours; "" for one that has none
}

// asFound returns what is found after tables were written.
func asFound(tables []table) map[string]*foundTable {
	found := map[string]*foundTable{}
	for _, t := range tables {
		f := &foundTable{chains: map[string][]string{}}
		for _, chain := range t.chains {
			f.chains[chain] = nil
		}
		for _, jump := range t.jumps {
			f.jumps = append(f.jumps, jump.String())
		}
		found[t.name] = f
	}
	return found
}

// parseSave reads what iptables-save writes: the tables by name.
func parseSave(text string) map[string]*foundTable {
	tables := map[string]*foundTable{}
	t := &foundTable{}
	for line := range strings.Lines(text) {
		words := splitWords(strings.TrimSpace(line))
		switch {
		case len(words) == 0:
		case words[0][0] == '*':
			t = &foundTable{first: map[string]string{}, chains: map[string][]string{}}
			tables[words[0][1:]] = t
		case words[0][0] == ':' && strings.HasPrefix(words[0][1:], chainsPrefix):
			t.chains[words[0][1:]] = nil
		case words[0] == "-A" && len(words) > 1:
			chain, print, target := words[1], "", ""
			for i := 2; i < len(words)-1; i++ {
				switch words[i] {
				case "--comment":
					if strings.HasPrefix(words[i+1], marker) {
						print = words[i+1]
					}
				case "-j", "-g":
					target = words[i+1]
				}
			}
			if strings.HasPrefix(chain, chainsPrefix) {
				t.chains[chain] = append(t.chains[chain], print)
				continue
			}
			if _, seen := t.first[chain]; !seen {
				t.first[chain] = print
			}
			if strings.HasPrefix(target, chainsPrefix) {
				t.jumps = append(t.jumps, strings.TrimSpace(line)[len("-A "):])
			}
		}
	}
	return tables
}

// splitWords splits a line as iptables-restore does: blanks separate words except in double quotes, in which a backslash escapes.
func splitWords(line string) (words []string) {
	var word strings.Builder
	inWord, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			inWord, quoted = true, !quoted
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return slices.DeleteFunc(words, func(w string) bool { return w == "" })
}

// damage returns the chains of a family that are not as they should be.
func damage(family string, tables []table, found map[string]*foundTable) (damaged []string) {
	for _, want := range tables {
		got := found[want.name]
		if got == nil {
			got = &foundTable{}
		}
		name := func(chain string) string { return fmt.Sprintf("chain %s (%s, %s)", chain, family, want.name) }
		prints := map[string][]string{}
		for _, chain := range want.chains {
			prints[chain] = nil
		}
		for _, r := range want.rules {
			prints[r.chain] = append(prints[r.chain], r.print())
		}
		for chain, want := range prints {
			if have, there := got.chains[chain]; !there || !slices.Equal(have, want) {
				damaged = append(damaged, name(chain))
			}
		}
		for chain := range got.chains {
			if _, wanted := prints[chain]; !wanted {
				damaged = append(damaged, name(chain))
			}
		}
		for _, jump := range want.jumps {
			if got.first[jump.chain] != jump.print() {
				damaged = append(damaged, "the first rule of "+name(jump.chain))
			}
		}
		if len(got.jumps) > len(want.jumps) {
			damaged = append(damaged, fmt.Sprintf("jumps to chains of ours (%s, %s)", family, want.name))
		}
	}
	slices.Sort(damaged)
	return damaged
}
