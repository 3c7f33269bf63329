package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mef/internal/console/consoletest"
)

// TestManualNamesEverything finds each command and flag in mef(8).
func TestManualNamesEverything(t *testing.T) {
	page, err := os.ReadFile("../../man/mef.8")
	if err != nil {
		t.Fatal(err)
	}
	text := consoletest.Plain(page)
	root := newRoot()
	root.InitDefaultCompletionCmd()
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		name := strings.TrimPrefix(c.CommandPath(), "mef ")
		if heading := regexp.MustCompile(`(?m)^\.BR? "?` + name + `\b`); c != root && !heading.MatchString(text) {
			t.Errorf("mef(8) does not tell of %q", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !strings.Contains(text, "--"+f.Name) {
				t.Errorf("mef(8) does not name --%s of %q", f.Name, c.CommandPath())
			}
		})
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// TestDocumentedCommands checks that what README, docs and manual tell to type is a command, with flags and arguments that it takes.
// To type is what is indented, without remarks.
func TestDocumentedCommands(t *testing.T) {
	indented, remarks := regexp.MustCompile(`(?m)^ {4}.*\n`), regexp.MustCompile(`(?m)\s#.*$`)
	consoletest.Program{
		Root: newRoot,
		Markdown: func(text string) string {
			return remarks.ReplaceAllString(strings.Join(indented.FindAllString(text, -1), ""), "")
		},
		Typed:     regexp.MustCompile(`(?m)^(?:.*[ \t])?mef ([a-z-][^#<>|\n]*)`),
		Mentioned: regexp.MustCompile("`(?:sudo )?mef\\s([a-z-][^`#<>|]*)`|\n\\.BR? \"?mef ([a-z][^\"\n]*)"),
	}.Documented(t, 40)
}
