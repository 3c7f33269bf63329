package iptsave_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"mef/internal/rules"
	"mef/internal/rules/foreign"
	"mef/internal/rules/foreign/foreigntest"
	"mef/internal/rules/foreign/iptsave"
)

var update = flag.Bool("update", false, "write the expected files anew")

func parse(t testing.TB, files ...iptsave.File) *foreign.Ruleset {
	t.Helper()
	rs, err := iptsave.Parse("The rules of a test", files...)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestGolden reads the rulesets below testdata. A directory is a case: rules.v4 and rules.v6, of which one may be missing, are what
// iptables-save and ip6tables-save wrote, mef.rules and left what comes out.
func TestGolden(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var files []iptsave.File
			for name, family := range map[string]rules.Family{"rules.v4": rules.V4, "rules.v6": rules.V6} {
				if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					files = append(files, iptsave.File{Name: name, Family: family, Text: text})
				}
			}
			foreigntest.Golden(t, dir, parse(t, files...), *update)
		})
	}
}
