// Package policytest makes random policies and packets, in which much meets: few addresses, ports and interfaces.
package policytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"mef/internal/firewall/policy"
)

// What policies and packets are made of. The packets' own values are those that policies name, and their neighbours.
var (
	hosts4  = []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1", "198.51.100.2"}
	hosts6  = []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:1::1", "2001:db8:1::2"}
	nets4   = []string{"192.0.2.0/24", "192.0.2.2/31", "198.51.100.0/25", "192.0.2.2-192.0.2.9"}
	nets6   = []string{"2001:db8::/64", "2001:db8::2/127", "2001:db8:1::/48", "2001:db8::/32", "2001:db8::2-2001:db8::9"}
	ports   = []string{"22", "53", "80", "443", "8080", "20-25", "8000-8100", "1-65535"}
	links   = []string{"eth0", "eth1", "lo", "eth*"}
	further = []string{"eth2", "wlan0", "eth0", "eth1", "lo"} // that packets take
	states  = []string{"new", "established", "related", "invalid", "untracked"}
	numbers = []uint16{20, 22, 25, 26, 53, 80, 443, 8000, 8080, 8101, 65535}
	protos  = []policy.Proto{policy.TCP, policy.UDP, policy.ICMP, policy.ICMP6, 47, 50}

	types = map[string][]string{
		"icmp":  {"echo-request", "echo-reply", "destination-unreachable", "8", "0", "3", "11"},
		"icmp6": {"echo-request", "nd-router-solicit", "nd-neighbor-advert", "1", "128", "129", "135", "136"},
	}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// chance is true one time in n.
func chance(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// named are the sets that policies have.
const named = `set name=office family=ip type=addr elements=192.0.2.0/30,198.51.100.2
set name=mixed elements=192.0.2.3,2001:db8::/126,@office
set name=world elements=0.0.0.0/0,2001:db8:1::/64
set name=nobody elements=none
set name=web type=port elements=80,443,8000-8080
set name=noport type=port elements=none
set name=ftp type=port elements=20-22,@noport
set name=wan type=interface elements=eth0,eth2
`

// Policy returns the text of a policy for some ways, or for all if none is named.
func Policy(r *rand.Rand, ways ...policy.Dir) string {
	if len(ways) == 0 {
		ways = policy.Dirs[:]
	}
	var b strings.Builder
	for _, d := range ways {
		fmt.Fprintf(&b, "policy dir=%s action=%s\n", d, pick(r, []string{"accept", "drop", "drop", "reject"}))
	}
	b.WriteString(named)
	for range r.IntN(20) {
		b.WriteString(ruleFor(r, pick(r, ways), true) + "\n")
	}
	return b.String()
}

// Rule returns the text of a rule. It may name the sets of Policy only if it is part of one, so it names none.
func Rule(r *rand.Rand) string { return ruleFor(r, pick(r, policy.Dirs[:]), false) }

func ruleFor(r *rand.Rand, dir policy.Dir, sets bool) string {
	proto := pick(r, []string{"all", "tcp", "udp", "tcp", "udp", "tcp,udp", "icmp", "icmp6", "icmp,icmp6", "icmp,tcp,gre", "esp,47", "udp,sctp"})
	family := "any"
	switch {
	case proto == "icmp":
		family = "ip"
	case proto == "icmp6":
		family = "ip6"
	case chance(r, 3) && !strings.Contains(proto, "icmp"):
		family = pick(r, []string{"ip", "ip6"})
	}
	action := pick(r, []string{"accept", "drop", "reject"})
	s := fmt.Sprintf("rule dir=%s action=%s proto=%s family=%s", dir, action, proto, family)
	add := func(key, value string) { s += " " + key + "=" + value }
	if action == "accept" && dir != policy.Out && chance(r, 6) {
		add("limit", "10000/s") // which nothing exceeds
	}
	version := family
	if version == "any" && chance(r, 2) {
		version = pick(r, []string{"ip", "ip6"}) // both ends of one family, or they never meet
	}
	src, dst := chance(r, 2), chance(r, 2)
	if src {
		add("src", addresses(r, version, sets))
	}
	if dst && (version != "any" || !src) {
		add("dst", addresses(r, version, sets))
	}
	if of := types[proto]; of != nil && chance(r, 2) {
		add("icmp-type", list(r, of, 3))
	}
	if proto == "tcp" && chance(r, 4) {
		add("tcp-flags", pick(r, []string{"syn", "!syn"}))
	}
	if slices.Contains([]string{"tcp", "udp", "tcp,udp", "udp,sctp"}, proto) {
		if chance(r, 4) {
			add("sport", portList(r, sets))
		}
		if chance(r, 2) {
			add("dport", portList(r, sets))
		}
	}
	if dir != policy.Out && chance(r, 3) {
		add("iif", interfaces(r, sets))
	}
	if dir != policy.In && chance(r, 3) {
		add("oif", interfaces(r, sets))
	}
	if dir == policy.Out && chance(r, 4) {
		add("owner", pick(r, []string{"0", "33", "0,33", "34", "group:8", "group:0,group:9"}))
	}
	if chance(r, 2) {
		add("ct", list(r, states, 3))
	}
	if chance(r, 8) {
		add("log", "prefix:TEST")
		add("ratelimit", "1/h")
	}
	return s
}

func addresses(r *rand.Rand, family string, sets bool) string {
	var from []string
	if family != "ip6" {
		from = append(append(from, hosts4...), nets4...)
	}
	if family != "ip" {
		from = append(append(from, hosts6...), nets6...)
	}
	if sets && chance(r, 3) && family != "ip6" {
		return pick(r, []string{"@office", "@office", "!@office"})
	}
	if sets && chance(r, 3) {
		return pick(r, []string{"@mixed", "@mixed", "@world", "@mixed,@nobody", "@nobody", "!@mixed", "!@nobody", "!@office,2001:db8::2"})
	}
	if chance(r, 6) {
		return "!" + list(r, from, 3)
	}
	return list(r, from, 4)
}

func portList(r *rand.Rand, sets bool) string {
	if sets && chance(r, 4) {
		return pick(r, []string{"@web", "@web", "@ftp", "@web,@ftp", "@web,8080", "@noport"})
	}
	if chance(r, 8) {
		return "20,21,22,24,26,28,30,32,34,36,38,40,42,44,46,48-50,53,80,8000-8080,8101" // more than one match of iptables takes
	}
	return list(r, ports, 3)
}

func interfaces(r *rand.Rand, sets bool) string {
	switch r.IntN(4) {
	case 0:
		if chance(r, 4) {
			return "!eth1*" // which iptables excepts alone
		}
		return "!" + list(r, links[:3], 3)
	case 1:
		return "auto"
	case 2:
		if sets && chance(r, 2) {
			return pick(r, []string{"@wan", "!@wan", "@wan,lo"})
		}
	}
	return list(r, links, 2)
}

// list returns one or more items, most often one.
func list(r *rand.Rand, from []string, most int) string {
	items := []string{pick(r, from)}
	for len(items) < most && chance(r, 3) {
		items = append(items, pick(r, from))
	}
	return strings.Join(items, ",")
}

// Packet returns a packet.
func Packet(r *rand.Rand) policy.Packet {
	p := policy.Packet{Dir: pick(r, policy.Dirs[:]), Proto: pick(r, protos), State: 1 << r.IntN(len(states))}
	hosts := hosts4
	if p.Proto == 58 || p.Proto != 1 && chance(r, 2) {
		hosts = hosts6
	}
	p.Src, p.Dst = netip.MustParseAddr(pick(r, hosts)), netip.MustParseAddr(pick(r, hosts))
	switch p.Proto {
	case policy.ICMP:
		p.Type = pick(r, []uint8{0, 3, 8, 11})
	case policy.ICMP6:
		p.Type = pick(r, []uint8{1, 128, 129, 135})
	}
	p.Syn = p.Proto == policy.TCP && chance(r, 2)
	if p.Proto == policy.TCP || p.Proto == policy.UDP {
		p.Sport, p.Dport = pick(r, numbers), pick(r, numbers)
	}
	if p.Dir != policy.Out {
		p.In = pick(r, further)
	}
	if p.Dir != policy.In {
		p.Out = pick(r, further)
	}
	return p
}

// Translating returns the text of a policy with nat statements.
func Translating(r *rand.Rand) string {
	text := Policy(r)
	for range 1 + r.IntN(6) {
		more := text + translation(r) + "\n"
		if _, err := policy.Parse("mef.rules", []byte(more)); err == nil { // else it is hidden by another one, or does nothing
			text = more
		}
	}
	return text
}

// translation returns the text of a nat statement.
func translation(r *rand.Rand) string {
	action := pick(r, []string{"masquerade", "snat", "dnat", "dnat", "dnat", "redirect"})
	proto := pick(r, []string{"all", "tcp", "udp", "tcp,udp", "icmp", "icmp6", "esp,47"})
	family := pick(r, []string{"ip", "ip6"})
	hasPorts := slices.Contains([]string{"tcp", "udp", "tcp,udp"}, proto)
	in := action == "dnat" || action == "redirect"
	s := fmt.Sprintf("nat action=%s proto=%s", action, proto)
	add := func(key, value string) { s += " " + key + "=" + value }
	port := pick(r, numbers)
	switch {
	case action == "snat":
		add("to", pick(r, map[string][]string{"ip": {"192.0.2.77", "198.51.100.1"}, "ip6": {"2001:db8::77"}}[family]))
	case action == "redirect":
		add("to", fmt.Sprintf(":%d", port))
	case action == "dnat" && family == "ip":
		s += " to=" + pick(r, []string{"192.0.2.2", "198.51.100.2", "198.51.100.1"})
		if hasPorts && chance(r, 2) {
			s += fmt.Sprintf(":%d", port)
		}
	case action == "dnat" && hasPorts && chance(r, 2):
		add("to", fmt.Sprintf("[%s]:%d", pick(r, hosts6), port))
	case action == "dnat":
		add("to", pick(r, hosts6))
	}
	if chance(r, 3) && action != "dnat" && action != "snat" {
		family = "any"
	}
	if family != "any" {
		add("family", family)
	}
	if chance(r, 2) {
		add("src", addresses(r, family, true))
	}
	if chance(r, 2) {
		add("dst", addresses(r, family, true))
	}
	if hasPorts && (in || chance(r, 2)) {
		add("dport", portList(r, true))
	}
	if chance(r, 3) {
		add(map[bool]string{true: "iif", false: "oif"}[in], pick(r, []string{"eth0", "eth1", "!eth0", "eth*", "auto", "!eth0,eth1"}))
	}
	add("dir", map[bool]string{true: "in", false: "out"}[in])
	return s
}
