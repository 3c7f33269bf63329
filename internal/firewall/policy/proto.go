package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
)

// A Proto is a transport protocol, by its number in the IP header.
type Proto uint8

// The protocols that are treated specially somewhere.
const (
	ICMP  Proto = 1 // IPv4 only
	TCP   Proto = 6
	UDP   Proto = 17
	AH    Proto = 51 // IPv4 only: in IPv6 it is an extension header, which the kernel skips
	ICMP6 Proto = 58 // IPv6 only
	SCTP  Proto = 132
)

// all is the value of proto= that fits every protocol.
const all = "all"

// protoNames are the protocols that have a name.
var protoNames = map[string]Proto{
	"icmp": ICMP, "igmp": 2, "ipip": 4, "tcp": TCP, "udp": UDP, "dccp": 33, "ip6ip": 41, "gre": 47, "esp": 50, "ah": AH, "icmp6": ICMP6,
	"ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": SCTP, "udplite": 136,
}

// extensions are the numbers of IPv6 extension headers. No packet has one of them as its protocol.
var extensions = []Proto{0, 43, 44, 59, 60}

// String returns the name of the protocol, its number if it has none.
func (p Proto) String() string {
	for name, n := range protoNames {
		if n == p {
			return name
		}
	}
	return strconv.Itoa(int(p))
}

// Named reports whether a rule can name the protocol.
func (p Proto) Named() bool { return !slices.Contains(extensions, p) }

// HasPorts reports whether packets of the protocol have ports.
func (p Proto) HasPorts() bool { return slices.Contains([]Proto{TCP, UDP, 33, SCTP, 136}, p) }

// Families returns the families whose packets can have the protocol.
func (p Proto) Families() Family {
	switch p {
	case ICMP, AH:
		return V4
	case ICMP6:
		return V6
	}
	return Any
}

// Protos is what a rule says of the protocol, sorted. None fits any.
type Protos []Proto

// Of returns the protocols that packets of a family can have. The rule must fit some.
func (p Protos) Of(f Family) Protos {
	if f == Any || !slices.ContainsFunc(p, func(one Proto) bool { return one.Families()&f == 0 }) {
		return p
	}
	return slices.DeleteFunc(slices.Clone(p), func(one Proto) bool { return one.Families()&f == 0 })
}

// Families returns which families have packets that fit.
func (p Protos) Families() (f Family) {
	if len(p) == 0 {
		return Any
	}
	for _, one := range p {
		f |= one.Families()
	}
	return f
}

// Differ reports whether different protocols fit in IPv4 and in IPv6.
func (p Protos) Differ() bool {
	return p.Families() == Any && (len(p.Of(V4)) < len(p) || len(p.Of(V6)) < len(p))
}

// fits reports whether a packet of a family fits.
func (p Protos) fits(one Proto, f Family) bool {
	return len(p) == 0 || slices.Contains(p, one) && one.Families()&f != 0
}

// HavePorts reports whether each of them has ports.
func (p Protos) HavePorts() bool {
	return len(p) > 0 && !slices.ContainsFunc(p, func(one Proto) bool { return !one.HasPorts() })
}

// String returns "all" or the names, with commas between.
func (p Protos) String() string {
	if len(p) == 0 {
		return all
	}
	names := make([]string, len(p))
	for i, one := range p {
		names[i] = one.String()
	}
	return strings.Join(names, ",")
}

const protoSyntax = "all, or protocols such as tcp,udp, icmp, icmp6, esp, gre, or their numbers from 1 to 255"

// protocols reads a list of protocols.
func protocols(f *Field) (p Protos, err *conf.Error) {
	if f.Value == all {
		return nil, nil
	}
	for offset, word := range items(f.Value) {
		one, known := protoNames[word]
		if n, err := strconv.ParseUint(word, 10, 8); err == nil && Proto(n).Named() && word[0] != '0' {
			one, known = Proto(n), true
		}
		if !known {
			err := wrong(f.At, offset, word, protoSyntax)
			if hint := protoHint(word); hint != "" {
				err.Hint = hint
			}
			return nil, err
		}
		p = append(p, one)
	}
	slices.Sort(p)
	return slices.Compact(p), nil
}

// protoHint returns what to write instead of a word that is no protocol here, "" if nothing comes near.
func protoHint(word string) string {
	switch word = strings.ToLower(word); word {
	case "icmpv6", "ipv6-icmp":
		return "write proto=icmp6"
	case "ping", "echo":
		return "write proto=icmp icmp-type=echo-request"
	case "both", "tcp/udp", "udp/tcp", "tcpudp":
		return "write proto=tcp,udp"
	case "any", "ip", "0", all:
		return "write proto=all, and nothing beside it"
	}
	names := []string{all}
	for name := range protoNames {
		names = append(names, name)
	}
	slices.Sort(names)
	return diag.DidYouMean(word, names)
}

// ICMPTypes is what a rule says of the type of ICMP messages, sorted. None fits any.
type ICMPTypes []uint8

// The types of messages that have a name, as in nft(8).
var (
	icmpNames = map[string]uint8{
		"echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8, "router-advertisement": 9,
		"router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12, "timestamp-request": 13, "timestamp-reply": 14,
		"info-request": 15, "info-reply": 16, "address-mask-request": 17, "address-mask-reply": 18,
	}
	icmp6Names = map[string]uint8{
		"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4, "echo-request": 128, "echo-reply": 129,
		"mld-listener-query": 130, "mld-listener-report": 131, "mld-listener-done": 132, "nd-router-solicit": 133, "nd-router-advert": 134,
		"nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138,
		"ind-neighbor-solicit": 141, "ind-neighbor-advert": 142, "mld2-listener-report": 143,
	}
)

// typeNames returns the names of the types of a protocol's messages.
func typeNames(p Proto) map[string]uint8 {
	if p == ICMP6 {
		return icmp6Names
	}
	return icmpNames
}

// typeName returns the name of a type of message, its number if it has none.
func typeName(p Proto, t uint8) string {
	for name, n := range typeNames(p) {
		if n == t {
			return name
		}
	}
	return strconv.Itoa(int(t))
}

// Words returns the types by name, with commas between.
func (t ICMPTypes) Words(p Proto) string {
	names := make([]string, len(t))
	for i, one := range t {
		names[i] = typeName(p, one)
	}
	return strings.Join(names, ",")
}

// TypeNumber returns the type of a protocol's messages that has a name, or is written as a number.
func TypeNumber(p Proto, word string) (t uint8, ok bool) {
	if t, ok = typeNames(p)[word]; ok {
		return t, true
	}
	n, err := strconv.ParseUint(word, 10, 8)
	return uint8(n), err == nil
}

// maxType is the largest type that can be named: iptables takes 255 for any.
const maxType = 254

// icmpTypes reads a list of types of messages of a protocol.
func icmpTypes(f *Field, p Proto) (t ICMPTypes, err *conf.Error) {
	for offset, word := range items(f.Value) {
		one, known := TypeNumber(p, word)
		if !known || one > maxType {
			return nil, noType(f, offset, word, p)
		}
		t = append(t, one)
	}
	slices.Sort(t)
	return slices.Compact(t), nil
}

// noType returns the error of a word that is no type of the protocol's messages.
func noType(f *Field, offset int, word string, p Proto) *conf.Error {
	var known []string
	for name := range typeNames(p) {
		known = append(known, name)
	}
	slices.Sort(known)
	err := wrong(f.At, offset, word, fmt.Sprintf("types of proto=%s such as echo-request,time-exceeded, or their numbers from 0 to %d", p, maxType))
	other := ICMP + ICMP6 - p
	if _, ok := typeNames(other)[word]; ok {
		err.Hint = fmt.Sprintf("%s is a type of proto=%s; those of proto=%s are %s", word, other, p, strings.Join(known, ", "))
	} else if word == "ping" || word == "echo" {
		err.Hint = "write echo-request"
	} else if hint := diag.DidYouMean(word, known); hint != "" {
		err.Hint = hint
	}
	return err
}

// helpers are the connection tracking helpers that rules can name, with the protocols and families of the connections that they read.
var helpers = map[string]struct {
	protos Protos
	family Family
}{
	"amanda": {Protos{UDP}, Any}, "ftp": {Protos{TCP}, Any}, "irc": {Protos{TCP}, V4}, "netbios-ns": {Protos{UDP}, V4}, "pptp": {Protos{TCP}, V4},
	"sane": {Protos{TCP}, Any}, "sip": {Protos{TCP, UDP}, Any}, "snmp": {Protos{UDP}, V4}, "tftp": {Protos{UDP}, Any},
}

// IsHelper reports whether a rule can name the connection tracking helper, for connections of a protocol.
func IsHelper(name string, p Proto) bool { return slices.Contains(helpers[name].protos, p) }

// helper reads the name of a connection tracking helper.
func helper(f *Field) (string, *conf.Error) {
	if f.Value == "none" {
		return "", nil
	}
	var known []string
	for name := range helpers {
		known = append(known, name)
	}
	slices.Sort(known)
	_, err := choice(f, known)
	return f.Value, err
}

// helped finds fields that do not go together with helper=.
func (r *reader) helped(at func(string) conf.Pos, c *clause) {
	h, known := helpers[c.Helper]
	if !known {
		return // reported
	}
	switch {
	case c.Action != Accept:
		r.fail(at("helper"), fmt.Sprintf("helper with action=%s: it follows connections that are accepted", c.Action), "write action=accept, or remove helper")
	case len(c.Protos) != 1 || !slices.Contains(h.protos, c.Protos[0]):
		r.fail(at("helper"), fmt.Sprintf("helper=%s is not for proto=%s", c.Helper, c.Protos), "write proto="+Protos(h.protos[:1]).String())
	case !c.dport.given:
		r.fail(at("helper"), "helper without dport: it would read every connection", "write the port of the service, such as dport=21 for ftp")
	case c.Family&h.family == 0:
		r.fail(at("helper"), fmt.Sprintf("helper=%s is not in family=%s", c.Helper, c.Family), "write family=any, or remove helper")
	}
	c.Family &= h.family
}

// Helpers returns the rules that give a connection tracking helper to connections that arrive (In) or begin on this host (Out). The kernel
// chooses a helper with the first packet, before it is known by which interface it leaves and whether rules accept it.
func (p *Policy) Helpers(d Dir) []*Rule {
	var all []*Rule
	for i := range p.Rules {
		if r := p.Rules[i]; r.Helper != "" && (r.Dir == Out) == (d == Out) {
			if d == In {
				r.Dir, r.Out = In, Interfaces{}
			}
			r.States, r.Owners = AnyState, Owners{}
			all = append(all, &r)
		}
	}
	return all
}
