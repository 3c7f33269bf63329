package policy_test

import (
	"slices"
	"strings"
	"testing"

	"mef/internal/firewall/policy"
)

func warningsOf(t *testing.T, text string) []string {
	t.Helper()
	var all []string
	for _, w := range policy.NewModel(pol(t, text)).Warnings(policy.Any, policy.DHCP()...) {
		all = append(all, w.String())
	}
	return all
}

// TestEachRemedyHelps drops everything, and then does what each warning says.
func TestEachRemedyHelps(t *testing.T) {
	const nothing = "policy dir=in action=drop\npolicy dir=out action=reject\n"
	all := warningsOf(t, nothing)
	want := []string{
		"programs on this host cannot reach each other over loopback",
		"programs on this host cannot reach each other over loopback",
		"replies to connections of this host are dropped",
		"replies to clients are dropped",
		"ICMP errors of IPv4 routers about packets that are too large (path MTU) are dropped",
		"incoming IPv6 neighbour discovery is dropped",
		"outgoing IPv6 neighbour discovery is dropped",
		"replies of DHCP servers are dropped",
		"requests to DHCP servers are dropped",
	}
	if len(all) != len(want) {
		t.Fatalf("%d warnings, want %d:\n%s", len(all), len(want), strings.Join(all, "\n"))
	}
	remedied := nothing
	for i, w := range all {
		if !strings.Contains(w, want[i]) {
			t.Errorf("warning %d is %q, want %q", i, w, want[i])
		}
		_, remedy, ok := strings.Cut(w, "; write ")
		if !ok {
			t.Fatalf("%q says nothing to write", w)
		}
		if left := warningsOf(t, nothing+remedy+"\n"); len(left) >= len(all) || slices.Contains(left, w) {
			t.Errorf("with %q there still is %q", remedy, w)
		}
		if !strings.Contains(remedied, remedy) {
			remedied += remedy + "\n"
		}
	}
	if left := warningsOf(t, remedied); len(left) > 0 {
		t.Errorf("with all remedies:\n%s", strings.Join(left, "\n"))
	}
}

// TestWarningsOfOneFamily warns a host that has addresses of one family of nothing that concerns the other.
func TestWarningsOfOneFamily(t *testing.T) {
	const nothing = "policy dir=in action=drop\npolicy dir=out action=drop\n"
	for family, other := range map[policy.Family]string{policy.V4: "IPv6", policy.V6: "IPv4"} {
		for _, w := range policy.NewModel(pol(t, nothing)).Warnings(family) {
			if strings.Contains(w.String(), other) {
				t.Errorf("without %s: %s", other, w)
			}
		}
	}
}

// safe lets pass what hosts can hardly do without.
const safe = `policy dir=in action=drop
rule dir=in action=accept proto=all iif=lo
rule dir=in action=accept proto=all ct=established,related
rule dir=in action=accept proto=icmp
rule dir=in action=accept proto=icmp6
rule dir=in action=accept proto=udp family=ip sport=67 dport=68
`

func TestWarnings(t *testing.T) {
	for name, tt := range map[string]struct{ rules, want string }{
		"none":                      {"rule dir=in action=accept proto=tcp dport=22\n", ""},
		"a way without a policy":    {"policy dir=fwd action=drop\n", ""},
		"all is let out":            {"policy dir=out action=accept\n", ""},
		"dropped in a rule":         {"policy dir=out action=accept\nrule dir=out action=drop proto=icmp6\n", "mef.rules:8:1: outgoing IPv6 neighbour discovery is dropped, which cuts this host off from IPv6; write rule dir=out action=accept proto=icmp6"},
		"log without a limit":       {"rule dir=in action=drop proto=tcp dport=23 log=prefix:X\n", "mef.rules:7:1: every packet of this rule is logged; add ratelimit=5/s, otherwise any sender can fill the log"},
		"log with a limit":          {"rule dir=in action=drop proto=tcp dport=23 log=prefix:X ratelimit=1/s\n", ""},
		"an empty set":              {"set name=x elements=none\nrule dir=in action=drop proto=tcp src=@x\n", "mef.rules:8:1: no packet matches this rule: one of its sets is empty, or has no addresses of its family"},
		"a set of the other family": {"set name=x elements=192.0.2.1\nrule dir=in family=ip6 action=drop proto=tcp src=@x\n", "mef.rules:8:1: no packet matches this rule: one of its sets is empty, or has no addresses of its family"},
		"an empty set of ports":     {"set name=x type=port elements=none\nrule dir=in action=drop proto=tcp dport=@x\n", "mef.rules:8:1: no packet matches this rule: one of its sets is empty, or has no addresses of its family"},
		"a set of ipset":            {"set name=x family=ip source=ipset:x\nrule dir=in action=drop proto=tcp src=@x\nrule dir=in action=drop proto=tcp src=@x\n", ""},
		"the same twice":            {"rule dir=in action=accept proto=tcp dport=22\nrule dir=in action=drop proto=tcp dport=22\n", "mef.rules:8:1: this rule never decides: all its packets match mef.rules:7 before it; remove it, or move it up"},
		"within another":            {"rule dir=in action=accept proto=tcp\nrule dir=in action=drop proto=tcp src=192.0.2.0/24 dport=22 ct=new\n", "mef.rules:8:1: this rule never decides: all its packets match mef.rules:7 before it; remove it, or move it up"},
		"within two others": {"rule dir=in action=accept proto=tcp dport=1-1000\nrule dir=in action=accept proto=tcp dport=1001-65535\nrule dir=in action=drop proto=tcp dport=22-2222\n",
			"mef.rules:9:1: this rule never decides: all its packets match mef.rules:7 and mef.rules:8 before it; remove it, or move it up"},
		"by family":         {"rule dir=in family=ip action=accept proto=tcp\nrule dir=in family=ip6 action=accept proto=tcp\nrule dir=in action=drop proto=tcp dport=25\n", "mef.rules:9:1: this rule never decides: all its packets match mef.rules:7 and mef.rules:8 before it; remove it, or move it up"},
		"one state left":    {"rule dir=in action=accept proto=tcp ct=new,invalid\nrule dir=in action=drop proto=tcp dport=25\n", ""},
		"the rest of ports": {"rule dir=in action=accept proto=tcp dport=1-24,26-65535\nrule dir=in action=drop proto=tcp dport=25\n", ""},
		"another interface": {"rule dir=in action=accept proto=tcp iif=!eth0\nrule dir=in action=drop proto=tcp iif=eth0\n", ""},
		"loopback":          {"rule dir=in action=accept proto=tcp\nrule dir=in action=drop proto=tcp iif=lo\n", "mef.rules:8:1: this rule never decides: all its packets match mef.rules:2 before it; remove it, or move it up"},
		"another way":       {"policy dir=fwd action=drop\nrule dir=in action=accept proto=tcp\nrule dir=fwd action=drop proto=tcp\n", ""},
	} {
		if got := strings.Join(warningsOf(t, safe+tt.rules), "\n"); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, tt.want)
		}
	}
}
