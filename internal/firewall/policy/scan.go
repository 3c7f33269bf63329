package policy

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"unicode/utf8"

	"mef/internal/conf"
	"mef/internal/conf/diag"
)

const (
	maxLine     = 64 << 10 // bytes of a line: a list of four thousand addresses
	maxMistakes = 100      // after which a file is not read on: it is something else
)

// A Field is one key=value of a statement.
type Field struct {
	Key, Value string
	At         conf.Pos // of the value, behind a quote that it begins with
	key        conf.Pos // of the key
}

// A Statement is one line of a file: "rule dir=in action=accept proto=tcp". What stands in it has not been checked.
type Statement struct {
	Kind    string // policy, rule, set, expect, include
	Fields  []Field
	Comment string // behind the statement, with its "#"; or the whole line if Kind is empty
	At      conf.Pos
}

// field returns the field of a key, nil if there is none.
func (s *Statement) field(key string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Key == key {
			return &s.Fields[i]
		}
	}
	return nil
}

// scan cuts the text of a file into statements, lines without one included.
func scan(file string, text []byte, longest int) ([]Statement, conf.Errors) {
	all := make([]Statement, 0, min(bytes.Count(text, []byte("\n"))+1, maxStatements))
	var errs conf.Errors
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // byte order mark of Windows editors
	number := 0
	for raw := range bytes.Lines(text) {
		number++
		at := conf.Pos{File: file, Line: number, Col: 1}
		if len(errs) == maxMistakes {
			errs = append(errs, tooMany(at))
			break
		}
		if len(raw) > longest {
			errs = append(errs, &conf.Error{Pos: at, Msg: fmt.Sprintf("the line is longer than %d bytes", longest), Hint: "keep long lists in a file: set name=NAME file=PATH"})
			continue
		}
		st, err := scanLine(at, string(bytes.TrimRight(raw, "\r\n")))
		if err != nil {
			errs = append(errs, err)
		} else {
			all = append(all, st)
		}
	}
	return all, errs
}

func tooMany(at conf.Pos) *conf.Error {
	return &conf.Error{Pos: at, Msg: "too many mistakes, the rest of the file is not read", Hint: "fix those before it first"}
}

// usualFields is how many fields a statement may have before more room is made.
const usualFields = 8

// scanLine cuts one line.
func scanLine(at conf.Pos, line string) (Statement, *conf.Error) {
	if i := strings.IndexFunc(line, forbidden); i >= 0 {
		at.Col = i + 1
		return Statement{}, &conf.Error{Pos: at, Msg: fmt.Sprintf("byte %#x is not text", line[i]), Hint: "save the file as UTF-8"}
	}
	st := Statement{At: at}
	if line != "" && line[0] != '#' {
		st.Fields = make([]Field, 0, usualFields)
	}
	for i := 0; ; {
		for i < len(line) && blank(line[i]) {
			i++
		}
		if i == len(line) {
			return st, nil
		}
		at.Col = i + 1
		if line[i] == '#' {
			st.Comment = strings.TrimRight(line[i:], " \t")
			return st, nil
		}
		f, n, err := scanField(at, line[i:])
		if err != nil {
			return st, err
		}
		i += n
		switch {
		case f.Key == "":
			return st, &conf.Error{Pos: at, Msg: "no key before =", Hint: "write fields as key=value, without blanks around ="}
		case st.Kind == "":
			st.At = at
			if st.Kind = f.Key; f.Value != "" || f.At.Line > 0 { // include=PATH has no word before it
				st.Fields = append(st.Fields, f)
			}
		case f.At.Line == 0 && kinds[st.Kind].keys == nil:
			return st, unknownStatement(st.At, st.Kind)
		case f.At.Line == 0 && st.Kind == "include":
			return st, &conf.Error{Pos: at, Msg: diag.Quote(f.Key) + " is not key=value", Hint: "write include=" + f.Key}
		case f.At.Line == 0:
			return st, &conf.Error{Pos: at, Msg: diag.Quote(f.Key) + " is not key=value", Hint: "write fields as key=value, and a comment after #"}
		default:
			st.Fields = append(st.Fields, f)
		}
	}
}

// scanField cuts the first word of s, which begins at a place, and returns how long it is. A word without "=" is a key without a
// place of its value.
func scanField(at conf.Pos, s string) (f Field, n int, err *conf.Error) {
	f.key = at
	for n < len(s) && !blank(s[n]) && s[n] != '=' {
		n++
	}
	f.Key = s[:n]
	if n == len(s) || s[n] != '=' {
		return f, n, nil
	}
	n++
	f.At = at
	f.At.Col += n
	if n < len(s) && s[n] == '"' {
		value, used, err := scanQuoted(f.At, s[n:])
		f.Value = value
		f.At.Col++
		return f, n + used, err
	}
	start := n
	for n < len(s) && !blank(s[n]) {
		n++
	}
	f.Value = s[start:n]
	return f, n, nil
}

// scanQuoted cuts a value in quotes, in which \" and \\ stand for a quote and a backslash.
func scanQuoted(at conf.Pos, s string) (value string, n int, err *conf.Error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] != '"':
			b.WriteByte(s[i])
		case i+1 < len(s) && !blank(s[i+1]):
			at.Col += i + 1
			return "", 0, &conf.Error{Pos: at, Msg: "text after the closing quote", Hint: `write \" for a quote inside, and a blank after the last one`}
		default:
			return b.String(), i + 1, nil
		}
	}
	return "", 0, &conf.Error{Pos: at, Msg: "the quote is not closed", Hint: `close it with " on the same line`}
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// forbidden reports whether r stands nowhere: control characters, and what is not UTF-8.
func forbidden(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError }

// tried are words of other firewalls, as keys and statements, with what to write instead. A word that is merely similar to one
// of ours may mean the opposite: port=22 is not sport=22.
var tried = map[string]string{
	"port": "write dport= for the port of a service, sport= for that of the sender", "ports": "write dport= for the ports of services, with commas between",
	"mss": "write it at policy dir=fwd", "clamp": "write policy dir=fwd action=... mss=auto", "tcpmss": "write policy dir=fwd action=... mss=auto", "maxseg": "write policy dir=fwd action=... mss=auto",
	"sport": "this statement cannot match the port of the sender", "rate": "write limit= to limit what is accepted from each source, ratelimit= to limit log lines",
	"nat": "write " + sourceNAT + ", or " + destinationNAT, "masquerade": "write " + sourceNAT, "snat": "write " + sourceNAT + ", or action=snat to=ADDRESS",
	"dnat": "write " + destinationNAT, "redirect": "write nat dir=in proto=tcp dport=80 action=redirect to=:8080", "forward": "write " + destinationNAT,
	"to": "write " + destinationNAT + "; a rule leads packets nowhere else", "to-destination": "write to=ADDRESS:PORT", "to-source": "write to=ADDRESS", "to-ports": "write to=:PORT",
	"type": "write icmp-type=, with proto=icmp or proto=icmp6", "icmptype": "write icmp-type=", "icmp_type": "write icmp-type=", "icmpv6-type": "write icmp-type=, with proto=icmp6",
	"uid": "write owner=USER", "user": "write owner=USER", "skuid": "write owner=USER", "gid": "write owner=group:GROUP", "group": "write owner=group:GROUP", "skgid": "write owner=group:GROUP",
	"owner": "only rules and expectations have it, for dir=out", "helper": "write it in the rule that accepts the connections",
	"zone": "write iif= or oif= with the interfaces of the zone, or set name=NAME type=interface elements=... and iif=@NAME", "in": "write dir=in, or iif=INTERFACE", "out": "write dir=out, or oif=INTERFACE",
	"interface": "write iif= for where packets come in, oif= for where they go out", "iface": "write iif= for where packets come in, oif= for where they go out",
	"dev": "write iif= for where packets come in, oif= for where they go out", "saddr": "write src=", "daddr": "write dst=", "source": "write src=", "from": "write src=",
	"destination": "write dst=", "state": "write ct=", "ctstate": "write ct=", "jump": "write action=", "target": "write action=", "verdict": "write action=", "protocol": "write proto=",
	"dports": "write dport=", "sports": "write sport=", "flags": "write tcp-flags=syn, or tcp-flags=!syn", "service": "write proto=tcp dport= with the name or the port of the service",
}

const (
	sourceNAT      = "nat dir=out oif=INTERFACE action=masquerade"
	destinationNAT = "nat dir=in proto=tcp dport=80 action=dnat to=ADDRESS:PORT"
	acceptRule     = "rule dir=in action=accept proto=tcp dport=22"
)

// triedStatements are how lines of other firewalls begin.
var triedStatements = map[string]string{
	"allow": "write " + acceptRule, "accept": "write " + acceptRule, "permit": "write " + acceptRule, "open": "write " + acceptRule, "pass": "write " + acceptRule,
	"deny": "write rule dir=in action=drop proto=tcp dport=22", "drop": "write rule dir=in action=drop proto=tcp dport=22", "block": "write rule dir=in action=drop proto=tcp dport=22",
	"reject": "write rule dir=in action=reject proto=tcp dport=22", "limit": "write " + acceptRule + " limit=6/m", "default": "write policy dir=in action=drop",
	"ufw": "write " + acceptRule, "iptables": importSaved, "ip6tables": importSaved, "-a": importSaved, "-p": importSaved, "*filter": importSaved, "*nat": importSaved,
	"table": importNft, "chain": importNft, "flush": importNft, "add": importNft, "nft": importNft,
}

const (
	importSaved = "mef import iptables FILE translates what iptables-save has written"
	importNft   = "mef import nft FILE translates a script of nft"
)

// triedValues are values of other firewalls, and of keys that have a few values alone.
var triedValues = map[string]string{
	"allow": "write accept", "permit": "write accept", "pass": "write accept", "deny": "write drop", "block": "write drop", "discard": "write drop", "limit": "write action=accept limit=6/m",
	"log": "write log=prefix:TEXT beside the action", "masquerade": "write " + sourceNAT, "snat": "write " + sourceNAT + ", or action=snat to=ADDRESS", "dnat": "write " + destinationNAT,
	"redirect": "write nat dir=in proto=tcp dport=80 action=redirect to=:8080", "return": "the first rule that matches decides: write accept, drop or reject",
	"input": "write in", "incoming": "write in", "output": "write out", "outgoing": "write out", "forward": "write fwd", "forwarded": "write fwd", "routed": "write fwd",
	"ipv4": "write ip", "inet": "write any, for both families", "both": "write any, for both families", "ipv6": "write ip6", "inet6": "write ip6",
}

// instead returns what to write in place of a value, of those that the key has; "" if nothing comes near.
func instead(value string, known []string) string {
	lower := strings.ToLower(value)
	for _, k := range known {
		if k == lower {
			return "write " + k
		}
	}
	if hint := triedValues[lower]; hint != "" {
		return hint
	}
	return diag.DidYouMean(value, known)
}

// unknownStatement returns the error of a line that begins with none of our words.
func unknownStatement(at conf.Pos, kind string) *conf.Error {
	lower := strings.ToLower(kind)
	hint := triedStatements[lower]
	if hint == "" {
		hint = tried[lower]
	}
	if hint == "" {
		hint = diag.DidYouMean(kind, kindNames)
	}
	if hint == "" {
		hint = "write " + strings.Join(kindNames, ", ")
	}
	return &conf.Error{Pos: at, Msg: "unknown statement " + diag.Quote(kind), Hint: hint}
}

// portHint returns what to write instead of a word that is no port, "" if nothing comes near.
func portHint(word string) string {
	if port, proto, ok := strings.Cut(word, "/"); ok {
		if _, why := portOrService(port); why == "" && (proto == "tcp" || proto == "udp") {
			return "write proto=" + proto + " beside the port " + port
		}
	}
	if first, last, ok := strings.Cut(word, ":"); ok {
		if _, ok := portRange(first + "-" + last); ok {
			return "write " + first + "-" + last
		}
	}
	if service, ok := strings.CutSuffix(word, "d"); ok && isService(service) {
		if _, err := net.LookupPort("tcp", service); err == nil {
			return "did you mean " + diag.Quote(service) + "?"
		}
	}
	return ""
}
