//go:build integration

package inforce

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestCheck compares the kernel with a note of what was loaded.
func TestCheck(t *testing.T) {
	ns, dir := netnstest.New(t), t.TempDir()
	const table = "table inet mef {\nset s_4 {\ntype ipv4_addr; elements = { 192.0.2.1 }\n}\nchain input {\ntype filter hook input priority 0; policy drop;\n}\n}\n"
	ns.Run(t, table, "nft", "-f", "-")
	problems := func() (all string) {
		t.Helper()
		ns.Do(func() { all = strings.Join(check(dir, false), "\n") })
		return all
	}
	ns.Do(func() {
		_, frame, err := Fingerprint()
		text, err2 := json.Marshal(Note{Backend: "nftables", Boot: Boot(), Frame: frame})
		if err != nil || err2 != nil || os.WriteFile(filepath.Join(dir, NoteFile), text, 0o644) != nil {
			t.Fatal(err, err2)
		}
	})
	if got := problems(); got != "" {
		t.Errorf("as it was loaded: %q", got)
	}
	ns.Run(t, "", "nft", "add", "rule", "inet", "mef", "input", "accept")
	if got := problems(); !strings.Contains(got, "another program changed the firewall policy") {
		t.Errorf("with another rule: %q", got)
	}
	ns.Run(t, "", "nft", "flush", "ruleset")
	if got := problems(); !strings.Contains(got, "is not in force: another program removed table inet mef") {
		t.Errorf("after a flush: %q", got)
	}
	if others := Others(); len(others) > 0 {
		t.Logf("here: %v", others)
	}
	ns.Run(t, "table inet firewalld {\nchain filter_INPUT {\n}\n}\n", "nft", "-f", "-")
	ns.Do(func() {
		if others := Others(); len(others) != 1 || !strings.HasPrefix(others[0], "firewalld has rules in force too") {
			t.Errorf("beside firewalld: %q", others)
		}
	})
}
