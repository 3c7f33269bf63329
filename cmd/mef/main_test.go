//go:build integration

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"mef/internal/netnstest"
)

// program is the name by which this test binary is mef.
const program = "mef"

func TestMain(m *testing.M) {
	if os.Getenv("MEF_NETNSTEST") == "" && filepath.Base(os.Args[0]) != program {
		netnstest.Main(m)
	}
	testscript.Main(m, map[string]func(){program: main})
}

// TestScripts runs testdata/script/*.txtar: what an operator types and reads. One after the other, for they share a network
// namespace.
func TestScripts(t *testing.T) {
	netnstest.Need(t)
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Files: []string{file},
				Setup: func(env *testscript.Env) error {
					conf := "[global]\nrules_file=" + env.WorkDir + "/mef.rules\ncache_dir=" + env.WorkDir + "/state\n"
					env.Defer(func() { clearRules(t) })
					return os.WriteFile(filepath.Join(env.WorkDir, "mef.conf"), []byte(conf), 0o600)
				},
			})
		})
	}
}
