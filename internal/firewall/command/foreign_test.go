package command

import (
	"strings"
	"testing"
)

func TestAdvice(t *testing.T) {
	for name, tt := range map[string]struct {
		m             managers
		nft, iptables string // how the advice begins, and what it says further; empty: none
	}{
		"neither":              {managers{}, "", ""},
		"ufw is active":        {managers{ufw: true, ufwOn: true, ufwHere: true}, "ufw keeps its rules in chains of iptables", "ufw loads the rules of the chains ufw-*"},
		"ufw is not active":    {managers{ufw: true}, "", "ufw is installed, but none of its rules are in force"},
		"rules of ufw, saved":  {managers{ufwHere: true}, "", "ufw loads the rules"},
		"firewalld runs":       {managers{firewalld: true}, "firewalld runs and has no table", "firewalld keeps its rules in nftables"},
		"firewalld's rules":    {managers{firewalld: true, firewalldHere: true}, "firewalld loads the rules of table inet firewalld", "firewalld loads these rules"},
		"firewalld's, as file": {managers{firewalldHere: true}, "firewalld loads the rules of table inet firewalld", "firewalld loads these rules"},
	} {
		for kind, got := range map[string][2]string{
			"nft":      {strings.Join(tt.m.adviceNFT(), "\n"), tt.nft},
			"iptables": {strings.Join(tt.m.adviceIPTables(), "\n"), tt.iptables},
		} {
			if !strings.HasPrefix(got[0], got[1]) || (got[0] == "") != (got[1] == "") || strings.Contains(got[0], "\n") {
				t.Errorf("%s, import %s: %q, want %q", name, kind, got[0], got[1])
			}
		}
	}
}
