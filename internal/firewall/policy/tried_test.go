package policy_test

import (
	"strings"
	"testing"

	"mef/internal/firewall/policy"
)

// TestWordsOfOtherFirewalls: a line that an administrator writes out of habit is reported with what to write instead.
func TestWordsOfOtherFirewalls(t *testing.T) {
	for line, want := range map[string]string{
		"allow 22/tcp":                                             `1:1: unknown statement "allow"; write rule dir=in action=accept proto=tcp dport=22`,
		"allow in on eth0 to any port 22":                          `1:1: unknown statement "allow"`,
		"deny from 192.0.2.7":                                      `1:1: unknown statement "deny"; write rule dir=in action=drop `,
		"limit ssh":                                                `limit=6/m`,
		"default deny incoming":                                    `write policy dir=in action=drop`,
		"-A INPUT -p tcp --dport 22 -j ACCEPT":                     `mef import iptables FILE`,
		"table inet filter {":                                      `mef import nft FILE`,
		"policy dir=input action=drop":                             `1:12: wrong value "input"; write in`,
		"policy dir=in action=DROP":                                `1:22: wrong value "DROP"; write drop`,
		"policy dir=forward action=deny":                           `write fwd`,
		"rule dir=in action=allow proto=tcp":                       `write accept`,
		"rule dir=in action=limit proto=tcp":                       `write action=accept limit=6/m`,
		"rule dir=fwd action=masquerade proto=all":                 `write nat dir=out oif=INTERFACE action=masquerade`,
		"rule dir=in action=accept family=ipv4 proto=tcp":          `write ip`,
		"rule dir=in action=accept proto=tcp dport=22/tcp":         `write proto=tcp beside the port 22`,
		"rule dir=in action=accept proto=tcp dport=6000:6010":      `write 6000-6010`,
		"rule dir=in action=accept proto=tcp dport=sshd":           `did you mean "ssh"?`,
		"rule dir=in action=accept proto=tcp from=192.0.2.7":       `write src=`,
		"rule dir=in action=accept proto=TCP dport=22":             `did you mean "tcp"?`,
		"rule dir=in action=accept proto=ping":                     `write proto=icmp icmp-type=echo-request`,
		"rule dir=in action=accept proto=icmp icmp-type=ping":      `write echo-request`,
		"rule dir=in action=accept proto=tcp ct=NEW":               `write new`,
		"include /etc/mef/rules.d/web.rules":                       `write include=/etc/mef/rules.d/web.rules`,
		"rule dir=in action=accept proto=tcp dport = 22":           `write fields as key=value`,
		"rule dir=in action=accept proto=tcp zone=public dport=22": `write iif= or oif= with the interfaces of the zone`,
	} {
		_, err := policy.Parse("x.rules", []byte(line+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.rules:1:") {
			t.Errorf("%s\n%v\nwant %s", line, err, want)
		}
	}
}
