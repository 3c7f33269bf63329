package main

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mef/internal/console/consoletest"
	"mef/internal/enforce/kernel"
	"mef/internal/selftest"
)

func TestMain(m *testing.M) {
	if handled, exit := selftest.Child(os.Args[1:], kernel.Open); handled {
		os.Exit(exit)
	}
	testscript.Main(m, map[string]func(){"mefctl": main})
}

// TestScripts runs testdata/script/*.txtar: what an operator types and reads.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"here": here, "exits": exits},
	})
}

// exits STATUS PROGRAM ARGUMENTS runs a program like exec, and checks with which status it ends.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARGUMENTS")
	}
	err := ts.Exec(args[1], args[2:]...)
	got, exit := 0, new(exec.ExitError)
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || got != want {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// here FILE writes the script's directory into FILE where it says HERE, for keys that want an absolute path.
func here(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "HERE", ts.Getenv("WORK"))
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// TestExamplesOfRuleManual runs the example of docs/rules.md as it stands there.
func TestExamplesOfRuleManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) string {
		m := regexp.MustCompile("(?s)```" + kind + "\n(.*?)```").FindSubmatch(text)
		if m == nil {
			t.Fatalf("docs/rules.md has no block of %s", kind)
		}
		return string(m[1])
	}
	dir := t.TempDir()
	rule, sample := dir+"/gatekeeper.conf", dir+"/sample.log"
	for path, content := range map[string]string{rule: block("ini"), sample: block("text")} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errOut strings.Builder
	status := execute(t.Context(), "test", []string{"match", "--rule", rule, "--json", sample}, strings.NewReader(""), &out, &errOut)
	if status != 0 || out.String() != block("json") {
		t.Errorf("exit status %d, output\n%s%swant\n%s", status, out.String(), errOut.String(), block("json"))
	}
}

// TestManualNamesEverything finds each command and flag in mefctl(8).
func TestManualNamesEverything(t *testing.T) {
	page, err := os.ReadFile("../../man/mefctl.8")
	if err != nil {
		t.Fatal(err)
	}
	text := consoletest.Plain(page)
	root := newRoot("test")
	root.InitDefaultCompletionCmd()
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		if name := strings.TrimPrefix(c.CommandPath(), "mefctl "); c.Runnable() && c != root && !c.HasSubCommands() && !strings.Contains(text, name) {
			t.Errorf("mefctl(8) does not name the command %q", name)
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Name != "help" && f.Name != "version" && c.Name() != "completion" && !strings.Contains(text, "--"+f.Name) {
				t.Errorf("mefctl(8) does not name --%s of %q", f.Name, c.CommandPath())
			}
		})
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// TestDocumentedCommands checks that what README, docs and manual tell to type is a command, with flags and arguments that it takes.
func TestDocumentedCommands(t *testing.T) {
	consoletest.Program{
		Root:      func() *cobra.Command { return newRoot("test") },
		Markdown:  func(text string) string { return text }, // Typed looks for what is indented
		Typed:     regexp.MustCompile(`(?m)^(?: {4}.*?)?(?:sudo )?mefctl ([a-z][^#<>|\n]*)`),
		Mentioned: regexp.MustCompile("(?m)`(?:sudo )?mefctl ([a-z][^`#<>|]*)|^\\.BR? \"?mefctl ([a-z][^\"\n]*)"),
	}.Documented(t, 60)
}
