package loader_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/firewall/loader"
)

// A policy that others than root can change is not loaded, nor is one that includes such a file.
func TestPolicyOthersCanChangeIsRefused(t *testing.T) {
	for name, loose := range map[string]string{"the policy": "mef.rules", "what it includes": "more.rules"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			settings := &conf.Config{Path: filepath.Join(dir, "mef.conf")}
			settings.Paths.StateDir = filepath.Join(dir, "state")
			settings.Firewall.RulesFile = filepath.Join(dir, "mef.rules")
			for path, text := range map[string]string{"mef.rules": "include=more.rules\npolicy dir=in action=drop\n", "more.rules": "rule dir=in action=accept proto=tcp dport=22\n"} {
				if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(filepath.Join(dir, loose), 0o666); err != nil {
				t.Fatal(err)
			}
			l, err := loader.New(settings)
			if err != nil {
				t.Fatal(err)
			}
			_, err = l.Read(t.Context(), l.RulesFile())
			if want := filepath.Join(dir, loose) + ": not read, because every user can change it; run chmod go-w "; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("read: %v, want %q", err, want)
			}
		})
	}
}
