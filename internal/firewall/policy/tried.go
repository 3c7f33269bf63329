package policy

import (
	"net"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/diag"
)

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
