package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mefdaemon": main})
}

// TestScripts runs testdata/script/*.txtar: what is read when it does not start. How it runs is the matter of package e2e.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// TestManualNamesEveryFlag finds each flag in mefdaemon(8).
func TestManualNamesEveryFlag(t *testing.T) {
	page, err := os.ReadFile("../../man/mefdaemon.8")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(page), `\-`, "-")
	flags, _ := newFlags()
	flags.VisitAll(func(f *flag.Flag) {
		if !strings.Contains(text, "--"+f.Name) {
			t.Errorf("mefdaemon(8) does not name --%s", f.Name)
		}
	})
}
