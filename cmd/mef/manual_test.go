package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mef/internal/console"
)

// plain takes the markup of a manual page out of what somebody types.
func plain(page []byte) string {
	return strings.NewReplacer(`\-`, "-", `\fI`, "", `\fR`, "", `\fB`, "").Replace(string(page))
}

// TestManualNamesEverything finds each command and flag in mef(8).
func TestManualNamesEverything(t *testing.T) {
	page, err := os.ReadFile("../../man/mef.8")
	if err != nil {
		t.Fatal(err)
	}
	text := plain(page)
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

// Where pages tell of commands: in lines to type, indented in Markdown and unfilled in manual pages, and in the text, where what a
// command wants may be left out.
var (
	typed     = regexp.MustCompile(`(?m)^(?:.*[ \t])?mef ([a-z-][^#<>|\n]*)`)
	indented  = regexp.MustCompile(`(?m)^ {4}.*\n`)
	unfilled  = regexp.MustCompile(`(?s)\n\.nf\n(.*?)\n\.fi\n`)
	remarks   = regexp.MustCompile(`(?m)\s#.*$`)
	mentioned = regexp.MustCompile("`(?:sudo )?mef\\s([a-z-][^`#<>|]*)`|\n\\.BR? \"?mef ([a-z][^\"\n]*)")
)

// TestDocumentedCommands checks that what README, docs and manual tell to type is a command, with flags and arguments that it takes.
func TestDocumentedCommands(t *testing.T) {
	found := 0
	for _, glob := range []string{"../../README.md", "../../docs/*.md", "../../man/*"} {
		pages, err := filepath.Glob(glob)
		if err != nil || len(pages) == 0 {
			t.Fatalf("%s: %q, %v", glob, pages, err)
		}
		for _, path := range pages {
			page, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text := plain(page)
			for _, m := range typed.FindAllStringSubmatch(lines(path, text), -1) {
				found++
				if err := takes(m[1], true); err != nil {
					t.Errorf("%s tells to type mef %s: %v", path, m[1], err)
				}
			}
			for _, m := range mentioned.FindAllStringSubmatch(text, -1) {
				found++
				if err := takes(m[1]+m[2], false); err != nil {
					t.Errorf("%s speaks of mef %s: %v", path, m[1]+m[2], err)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("found %d commands", found)
	}
}

// lines returns what a page has to type, without what it says of that.
func lines(path, text string) string {
	var all string
	if strings.HasSuffix(path, ".md") {
		all = strings.Join(indented.FindAllString(text, -1), "")
	} else {
		for _, m := range unfilled.FindAllStringSubmatch(text, -1) {
			all += m[1] + "\n"
		}
	}
	return remarks.ReplaceAllString(all, "")
}

// takes returns an error unless mef takes a command line, of which arguments may be left out unless it is whole.
func takes(line string, whole bool) error {
	root := newRoot()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(strings.Fields(line))
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if args := cmd.Flags().Args(); err == nil && (whole || len(args) > 0) {
		err = cmd.ValidateArgs(args)
	}
	if status := new(console.Exit); errors.As(err, &status) {
		return status.Err
	}
	if cmd == root && len(rest) > 0 && err == nil {
		err = errors.New("no such command")
	}
	return err
}
