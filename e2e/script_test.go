//go:build integration

package e2e_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"

	"mef/internal/atomicfile"
	"mef/internal/geodb/geodbtest"
	"mef/internal/lab"
)

// TestScripts runs testdata/script/*.txtar: commands of an operator and their output, beside a daemon. Each begins
// with a mefdaemon that has the mef.conf and the rules.d/*.conf of the script. In addition to the commands of testscript there are
//
//	exits STATUS PROGRAM ARGUMENTS    run a program, as exec does, and check its exit status
//	until PATTERN PROGRAM ARGUMENTS   run it again and again until it prints what the pattern matches
//	guess N ADDRESS                   N failed logins over ssh, one after the other
//	daemon stop|start                 as systemd does
//	mmdb PATH NETWORK=COUNTRY ...     there is a database of countries, or of autonomous systems with NETWORK=NUMBER
//	group NAME                        there is a group of that name, without members, until the script ends
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, rules := "", make(map[string]string)
			for _, f := range archive.Files {
				if f.Name == "mef.conf" {
					config = string(f.Data)
				} else if name, ok := strings.CutPrefix(f.Name, "rules.d/"); ok {
					rules[name] = string(f.Data)
				}
			}
			s := begin(t, config, rules)
			testscript.RunT(inOrder{t}, testscript.Params{
				Files: []string{file},
				Setup: func(env *testscript.Env) error {
					env.Setenv("PATH", filepath.Dir(lab.Program("mefctl"))+":/usr/sbin:/usr/bin:/sbin:/bin")
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"exits": exits, "until": until, "guess": s.guess, "daemon": s.daemon(config), "group": group, "mmdb": mmdb,
				},
			})
		})
	}
}

// inOrder is a test that runs its scripts one after the other, because there is one world.
type inOrder struct{ *testing.T }

func (t inOrder) Parallel()     {}
func (t inOrder) Verbose() bool { return testing.Verbose() }
func (t inOrder) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(inOrder{t}) })
}

// run runs a program as exec does and returns its exit status.
func run(ts *testscript.TestScript, program string, args ...string) (status int) {
	err, exit := ts.Exec(program, args...), new(exec.ExitError)
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	ts.Check(err)
	return 0
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARGUMENTS")
	}
	if got := run(ts, args[1], args[2:]...); strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM ARGUMENTS")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	end := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		run(ts, args[1], args[2:]...)
		if pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v does not print %s within %v", args[1:], args[0], patience)
		}
		<-tick.C
	}
}

// guess makes failed logins.
func (s *scene) guess(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: guess N ADDRESS")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for range n {
		s.fail(ssh, "root", args[1])
	}
}

func (s *scene) daemon(config string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		switch {
		case !neg && len(args) == 1 && args[0] == "stop":
			s.stop(os.Interrupt)
		case !neg && len(args) == 1 && args[0] == "start":
			s.start(config)
		default:
			ts.Fatalf("usage: daemon stop|start")
		}
	}
}

// mmdb writes a database.
func mmdb(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mmdb PATH NETWORK=COUNTRY ...")
	}
	var entries []geodbtest.Entry
	for _, arg := range args[1:] {
		network, what, _ := strings.Cut(arg, "=")
		if n, err := strconv.ParseUint(what, 10, 32); err == nil {
			entries = append(entries, geodbtest.AS(network, uint32(n), "Example \x1b[31mNetwork"))
		} else {
			entries = append(entries, geodbtest.Country(network, what))
		}
	}
	ts.Check(os.MkdirAll(filepath.Dir(args[0]), 0o755))
	ts.Defer(func() { os.Remove(args[0]) })
	ts.Check(atomicfile.Write(args[0], geodbtest.Bytes(geodbtest.Form{Type: "Test"}, slices.Values(entries)), 0o644))
}

// groupID is a number that no group of the server has.
const groupID = "4711"

func group(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: group NAME")
	}
	const path = "/etc/group"
	before, err := os.ReadFile(path)
	ts.Check(err)
	ts.Defer(func() { os.WriteFile(path, before, 0o644) })
	ts.Check(os.WriteFile(path, append(before, args[0]+":x:"+groupID+":\n"...), 0o644))
}
