//go:build integration

package main

import (
	"os"
	"testing"
)

// TestImportedRulesLetTheSameThrough takes the rules of nftables and iptables over, with packets from a peer before and after.
func TestImportedRulesLetTheSameThrough(t *testing.T) {
	for name, tt := range map[string]struct {
		load  [][]string // a program with arguments, and its standard input last
		from  string
		clear [][]string
		open  []string
	}{
		"nftables": {
			load: [][]string{{"nft", "-f", "-", `table inet filter {
				chain services {
					ip saddr 192.0.2.0/24 tcp dport 22 return
					ip6 saddr 2001:db8::/64 tcp dport 22 return
					tcp dport { 22, 80 } reject with tcp reset
				}
				chain input {
					type filter hook input priority filter; policy drop;
					ct state vmap { established : accept, related : accept, invalid : drop }
					iifname "lo" accept
					meta l4proto { icmp, ipv6-icmp } accept
					jump services
					tcp dport 22 accept
				}
			}`}},
			from: "nft", clear: [][]string{{"nft", "delete", "table", "inet", "filter", ""}}, open: []string{ssh},
		},
		"iptables": {
			load: [][]string{
				{"iptables-restore", "*filter\n:INPUT DROP\n:WEB -\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\n" +
					"-A INPUT -p tcp -m multiport --dports 80,443 -j WEB\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n-A WEB ! -s 192.0.2.0/24 -j RETURN\n-A WEB -j ACCEPT\nCOMMIT\n"},
				{"ip6tables-restore", "*filter\n:INPUT DROP\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A INPUT -p ipv6-icmp -j ACCEPT\n" +
					"-A INPUT -p tcp --dport 80 -j ACCEPT\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"},
			},
			from: "iptables", clear: [][]string{{"iptables-restore", "*filter\nCOMMIT\n"}, {"ip6tables-restore", "*filter\nCOMMIT\n"}}, open: []string{web},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.all(tt.load)
			s.open(tt.open...)
			s.write("mef.rules", s.imported(tt.from))
			s.all(tt.clear)
			s.open(ssh, web)
			s.must("apply", "--yes")
			s.open(tt.open...)
		})
	}
}

// all runs programs on the host, each with its last word as standard input.
func (s *server) all(lines [][]string) {
	s.Helper()
	for _, words := range lines {
		n := len(words) - 1
		s.ns.Run(s.T, words[n], words[0], words[1:n]...)
	}
}

// imported returns the policy that the rules of a program become.
func (s *server) imported(from string) string {
	s.Helper()
	out, err := os.Create(s.path("imported"))
	if err != nil {
		s.Fatal(err)
	}
	defer out.Close()
	cmd := s.command("import", from)
	cmd.Stdout, cmd.Stderr = out, s.Output()
	s.start(cmd)
	if status := wait(s.T, cmd); status != 0 {
		s.Fatalf("mef import %s: exit status %d", from, status)
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}
