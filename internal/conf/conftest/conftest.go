// Package conftest has what the fuzz tests of the configuration's packages share.
package conftest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/conf/diag"
)

// Seed adds the files below testdata and some that are hard to cut into lines.
func Seed(f *testing.F, pattern string) {
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

// Inside fails if an error does not stand inside text.
func Inside(t *testing.T, file string, text []byte, errs diag.Errors) {
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
