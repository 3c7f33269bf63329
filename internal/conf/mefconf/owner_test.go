package mefconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Files that another user can write decide nothing: each kind of file, each way to write it.
func TestFilesOthersCanWriteAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	const stranger = 12345
	for name, tt := range map[string]struct {
		path string // below the directory of the configuration
		do   func(path string) error
		want string // the mistake, FILE standing for the path; empty: none
	}{
		"as installed":               {"mef.conf", func(string) error { return nil }, ""},
		"readable by everyone":       {"mef.conf", func(p string) error { return os.Chmod(p, 0o644) }, ""},
		"group root may write":       {"mef.conf", func(p string) error { return os.Chmod(p, 0o664) }, ""},
		"configuration, everyone":    {"mef.conf", func(p string) error { return os.Chmod(p, 0o666) }, `FILE: not read, because every user can change it; run chmod go-w "FILE"`},
		"configuration, owner":       {"mef.conf", func(p string) error { return os.Chown(p, stranger, 0) }, `FILE: not read, because user 12345 can change it; run chown root:root "FILE"`},
		"rule file, everyone":        {"rules.d/a.conf", func(p string) error { return os.Chmod(p, 0o666) }, `FILE: not read, because every user can change it`},
		"rule file, owner":           {"rules.d/a.conf", func(p string) error { return os.Chown(p, stranger, 0) }, `FILE: not read, because user 12345 can change it`},
		"rule directory, everyone":   {"rules.d", func(p string) error { return os.Chmod(p, 0o777) }, `FILE: not read, because every user can change it`},
		"rule directory, sticky":     {"rules.d", func(p string) error { return os.Chmod(p, 0o777|os.ModeSticky) }, `FILE: not read, because every user can change it`},
		"whitelist, group":           {"whitelist/a.conf", func(p string) error { return os.Chown(p, 0, stranger) }, `FILE: not read, because group 12345 can change it; run chmod g-w "FILE"`},
		"whitelist directory":        {"whitelist", func(p string) error { return os.Chmod(p, 0o777) }, `FILE: not read, because every user can change it`},
		"blacklist, owner":           {"blacklist/a.conf", func(p string) error { return os.Chown(p, stranger, 0) }, `FILE: not read, because user 12345 can change it`},
		"blacklist directory, owner": {"blacklist", func(p string) error { return os.Chown(p, stranger, 0) }, `FILE: not read, because user 12345 can change it`},
		"web request rules":          {"webscan.d", func(p string) error { return os.Chmod(p, 0o777) }, `FILE: not read, because every user can change it`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(path, text string) {
				t.Helper()
				path = filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o660); err != nil {
					t.Fatal(err)
				}
			}
			write("rules.d/a.conf", "[rule]\nname=a\nprograms=a\nfailregex=^no (?P<ip>\\S+)$\n")
			write("whitelist/a.conf", "192.0.2.1\n")
			write("blacklist/a.conf", "192.0.2.2\n")
			write("webscan.d/a.conf", "[rule]\nengine=webscan\nname=w\n[thresholds]\nrule_1_requests_min=9\n")
			write("mef.conf", "[global]\nrules_dir="+dir+"/rules.d\nwhitelist_dir="+dir+"/whitelist\nblacklist_dir="+dir+"/blacklist\n")
			path := filepath.Join(dir, tt.path)
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				os.Chmod(path, 0o660) // whatever the umask
			}
			if err := tt.do(path); err != nil {
				t.Fatal(err)
			}
			cfg, err := Load(filepath.Join(dir, "mef.conf"), nil)
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			} else {
				for _, e := range cfg.ListErrors {
					got = append(got, e.Error())
				}
			}
			if tt.want == "" {
				if len(got) > 0 {
					t.Errorf("refused: %q", got)
				}
				return
			}
			if want := strings.ReplaceAll(tt.want, "FILE", path); len(got) != 1 || !strings.HasPrefix(got[0], want) {
				t.Errorf("mistakes %q, want %q", got, want)
			}
		})
	}
}
