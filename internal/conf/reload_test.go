package conf_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"mef/internal/conf"
)

// Reading lists again can be switched off, as MEF 1.0 documents it.
func TestReloadOff(t *testing.T) {
	for value, want := range map[string]time.Duration{"0": 0, "false": 0, "90": 90 * time.Second, "1m": time.Minute} {
		path := filepath.Join(t.TempDir(), "mef.conf")
		if err := os.WriteFile(path, []byte("[global]\nwhitelist_reload="+value+"\nblacklist_reload="+value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := conf.LoadSettings(path)
		if err != nil || cfg.WhitelistReload != want || cfg.BlacklistReload != want {
			t.Errorf("%s: %v, %v, %v; want %v", value, cfg.WhitelistReload, cfg.BlacklistReload, err, want)
		}
	}
}
