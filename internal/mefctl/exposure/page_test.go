package exposure

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/conf"
)

// config check says what keeps blocked customers from the page.
func TestPage(t *testing.T) {
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	inUse := taken.Addr().(*net.TCPAddr).Port
	const open, shut = "policy dir=in action=accept\n", "policy dir=in action=drop\nrule dir=in action=accept proto=tcp dport=22,80,443\n"
	for name, tt := range map[string]struct {
		rules string
		page  conf.Page
		with  conf.Backend
		want  string // in one sentence; empty: nothing is said
	}{
		"off":               {shut, conf.Page{}, conf.IPTables, ""},
		"accepted":          {open, conf.Page{BlockPort: 8480}, 0, ""},
		"accepted by rule":  {shut + "rule dir=in action=accept proto=tcp dport=8480\n", conf.Page{BlockPort: 8480}, 0, ""},
		"accepted of IPv4":  {shut + "rule dir=in action=accept proto=tcp family=ip dport=8480\n", conf.Page{BlockPort: 8480}, 0, ""},
		"not accepted":      {shut, conf.Page{BlockPort: 8480}, 0, "port 8480 meet drop by "},
		"what to write":     {shut, conf.Page{BlockPort: 8480}, 0, "add to it: rule dir=in action=accept proto=tcp dport=8480"},
		"TLS not accepted":  {shut + "rule dir=in action=accept proto=tcp dport=8480\n", conf.Page{BlockPort: 8480, BlockCertificate: "/nonexistent", BlockKey: "/nonexistent"}, 0, "port 8481 meet drop by "},
		"no certificate":    {open, conf.Page{BlockPort: 8480, BlockCertificate: "/nonexistent", BlockKey: "/nonexistent"}, 0, "block_page_certificate: stat /nonexistent"},
		"no key":            {open, conf.Page{BlockPort: 8480, BlockCertificate: "/nonexistent"}, 0, "block_page_certificate is set, but block_page_key is not"},
		"no rules":          {"", conf.Page{BlockPort: 8480}, 0, ""},
		"rules in mistake":  {"nonsense\n", conf.Page{BlockPort: 8480}, 0, ""},
		"iptables":          {open, conf.Page{BlockPort: 8480}, conf.IPTables, "block_page needs nftables"},
		"port already used": {open, conf.Page{BlockPort: inUse}, 0, "another program listens there"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &conf.Config{Page: tt.page}
			cfg.Firewall.Backend, cfg.Firewall.RulesFile = tt.with, filepath.Join(t.TempDir(), "mef.rules")
			if tt.rules != "" {
				if err := os.WriteFile(cfg.Firewall.RulesFile, []byte(tt.rules), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := strings.Join(Page(cfg, name == "port already used"), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("it says %q, want %q", got, tt.want)
			}
		})
	}
}
