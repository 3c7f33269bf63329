package inforce

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckWithoutTheKernel(t *testing.T) {
	for name, tt := range map[string]struct {
		note    any // nil: there is none
		enabled bool
		want    string // of the one problem; empty: none
	}{
		"never loaded":              {nil, false, ""},
		"enabled and not loaded":    {nil, true, "mef.service is enabled; mef load"},
		"loaded before a reboot":    {Note{Backend: "nftables", Boot: "another", Frame: "x"}, false, ""},
		"enabled, lost by a reboot": {Note{Backend: "nftables", Boot: "another", Frame: "x"}, true, "mef.service is enabled; mef load"},
		"held by iptables":          {Note{Backend: "iptables", Boot: Boot()}, true, ""},
		"half a note":               {"{", true, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.note != nil {
				text, err := json.Marshal(tt.note)
				if s, ok := tt.note.(string); ok {
					text = []byte(s)
				}
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, NoteFile), text, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got := strings.Join(check(dir, tt.enabled), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("check: %q, want %q", got, tt.want)
			}
		})
	}
}
