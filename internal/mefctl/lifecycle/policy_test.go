package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/firewall/inforce"
	"mef/internal/firewall/loader"
)

// TestEnablePolicy enables the service for a policy that is good, and starts it only for one that somebody has confirmed.
func TestEnablePolicy(t *testing.T) {
	const good = "policy dir=in action=accept\n"
	for name, tt := range map[string]struct {
		text      string
		confirmed bool // that text
		refused   bool
		calls     []string
		says      string
		err       string
	}{
		"confirmed":     {text: good, confirmed: true, calls: []string{"enable mef.service", "start mef.service"}, says: "It was confirmed before, and is in force now."},
		"not confirmed": {text: good, calls: []string{"enable mef.service"}, says: "Nothing was loaded now, because this policy was never confirmed.\nLoad it now with\n  mef apply\n"},
		"refused":       {text: good, refused: true, calls: []string{"enable mef.service"}, says: "tried and not confirmed: until it is"},
		"a mistake":     {text: "policy dir=in action=acept\n", err: `mef.rules:1:22: wrong value "acept"; did you mean "accept"?`},
		"no file":       {err: "no such file or directory; mef.rules(5) describes the language"},
		"unmet":         {text: good + "expect dir=in proto=tcp dport=22 action=drop\n", err: "mef.rules:2:1: expected drop, but "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			settings := &conf.Config{}
			settings.Paths.StateDir, settings.Firewall.RulesFile = filepath.Join(dir, "state"), filepath.Join(dir, "mef.rules")
			if tt.text != "" {
				writePolicy(t, settings.Firewall.RulesFile, tt.text)
			}
			l, err := loader.New(settings)
			if err != nil {
				t.Fatal(err)
			}
			if tt.confirmed || tt.refused {
				keep(t, l, settings, map[bool]string{true: "confirmed", false: "refused"}[tt.confirmed])
			}
			var calls []string
			m := manager{call: func(_ context.Context, args ...string) error {
				calls = append(calls, strings.Join(args, " "))
				return nil
			}}
			r, err := m.enable(t.Context(), l)
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), "fix the policy first, as mef check reports:\n") || !strings.Contains(err.Error(), tt.err) || calls != nil {
					t.Errorf("error %v, systemctl %q; want %q and nothing done", err, calls, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			r.show(&out)
			if !slices.Equal(calls, tt.calls) || !strings.Contains(out.String(), tt.says) {
				t.Errorf("systemctl %q, want %q; it says\n%s\nwant %q", calls, tt.calls, out.String(), tt.says)
			}
		})
	}
}

func writePolicy(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// keep has the state say that the policy in the file was confirmed, or refused.
func keep(t *testing.T, l *loader.Loader, settings *conf.Config, name string) {
	t.Helper()
	c, err := l.Read(t.Context(), settings.Firewall.RulesFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(inforce.StateDir(settings), name)
	writePolicy(t, filepath.Join(dir, "policy.rules"), "policy dir=in action=accept\n")
	writePolicy(t, filepath.Join(dir, "record.json"), `{"digest":"`+c.Source.Digest+`"}`)
}
