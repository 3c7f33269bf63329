package conf

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seed adds the files below testdata and some that are hard to cut into lines.
func seed(f *testing.F, pattern string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("%s: %v, %v", pattern, files, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{"", "=", "[", "[]", "\n\n[rule]\r\n", "\xff\xfe", "\xef\xbb\xbf[rule]\nname=\xef\xbb\xbf", "a=b # c", "[rule]\nfailregex=((((<HOST>",
		"[rule]\nfailregex=^a{1000}{1000}<HOST>", "[rule]\nports=65535-1", "[rule]\nfindtime=9999999999999999999d", "[rule] # x\nname=\t#"} {
		f.Add([]byte(text))
	}
}

// inside fails if an error does not stand inside text.
func inside(t *testing.T, file string, text []byte, errs Errors) {
	t.Helper()
	lines := bytes.Split(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), []byte("\n"))
	for _, e := range errs {
		if e.File != file || e.Line < 0 || e.Line > len(lines) {
			t.Fatalf("%v: the file has %d lines", e, len(lines))
		}
		if e.Col > 0 && (e.Line < 1 || e.Col > len(lines[e.Line-1])+1) {
			t.Fatalf("%v: the line has %d bytes", e, len(lines[e.Line-1]))
		}
		if strings.ContainsAny(e.Error(), "\x00\x1b\n") {
			t.Fatalf("raw bytes of the file in %q", e.Error())
		}
	}
}

func FuzzParseRule(f *testing.F) {
	seed(f, "testdata/*/rules.d/*.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		rule, notices, errs := ParseRule("fuzz.conf", text, nil)
		inside(t, "fuzz.conf", text, errs)
		for _, n := range notices {
			inside(t, "fuzz.conf", text, Errors{{n.Pos, n.Text, ""}})
		}
		if len(errs) > 0 || rule.Enabled && strings.Contains(string(text), "webscan") {
			return
		}
		if rule.Enabled && len(rule.Fail)+len(rule.Probe) == 0 {
			t.Errorf("enabled without pattern: %+v", rule)
		}
		if rule.MaxRetry < 1 || rule.FindTime <= 0 || rule.BanTime <= 0 || !isName(rule.Name) || !isName(rule.Service) {
			t.Errorf("out of bounds: %+v", rule)
		}
	})
}

func FuzzConfig(f *testing.F) {
	seed(f, "testdata/*/mef.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg := new(Config)
		r := reader{Loader: loader, cfg: cfg}
		r.global(scan("mef.conf", text, "global"))
		inside(t, "mef.conf", text, r.errs)
		if len(cfg.Origins) < len(keys)/2 {
			t.Errorf("%d origins", len(cfg.Origins))
		}
	})
}

func FuzzList(f *testing.F) {
	seed(f, "testdata/*/*list/*.conf")
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, errs := ParseList("list.conf", text)
		inside(t, "list.conf", []byte(strings.ToValidUTF8(string(text), "\uFFFD")), errs)
		for _, e := range entries {
			prefixes, ok := e.Prefixes()
			if ok != (len(prefixes) > 0) {
				t.Errorf("entry %q has prefixes %v", e.Text, prefixes)
			}
			for _, p := range prefixes {
				if p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
					t.Errorf("entry %q has prefix %v", e.Text, p)
				}
			}
		}
	})
}
