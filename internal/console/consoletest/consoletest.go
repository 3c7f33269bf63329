// Package consoletest holds documentation against commands: what README, docs and manual pages tell to type must be what a program
// takes.
package consoletest

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"mef/internal/console"
)

// Plain takes the markup of a manual page out of what somebody types.
func Plain(page []byte) string {
	return strings.NewReplacer(`\-`, "-", `\fI`, "", `\fR`, "", `\fB`, "").Replace(string(page))
}

var (
	unfilled = regexp.MustCompile(`(?s)\n\.nf\n(.*?)\n\.fi\n`)
	word     = regexp.MustCompile(`"[^"]*"|\S+`)
)

// A Program is a command with all that are below it, and how pages speak of it.
type Program struct {
	Root func() *cobra.Command

	// Markdown returns what of a page in Markdown may be lines to type; of a manual page, that is what is not filled.
	Markdown func(text string) string

	Typed     *regexp.Regexp // finds a command line in lines to type, without the program's name
	Mentioned *regexp.Regexp // finds one in a text, where what a command wants may be left out; one of two groups has it
}

// Documented checks all command lines of all pages, of which there are some at least.
func (p Program) Documented(t *testing.T, some int) {
	t.Helper()
	name, found := p.Root().Name(), 0
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
			text := Plain(page)
			for _, m := range p.Typed.FindAllStringSubmatch(p.lines(path, text), -1) {
				found++
				if err := p.takes(m[1], true); err != nil {
					t.Errorf("%s has the command %s %s: %v", path, name, m[1], err)
				}
			}
			for _, m := range p.Mentioned.FindAllStringSubmatch(text, -1) {
				found++
				if err := p.takes(m[1]+m[2], false); err != nil {
					t.Errorf("%s speaks of %s %s: %v", path, name, m[1]+m[2], err)
				}
			}
		}
	}
	if found < some {
		t.Errorf("found %d commands", found)
	}
}

// lines returns what a page has to type.
func (p Program) lines(path, text string) (all string) {
	if strings.HasSuffix(path, ".md") {
		return p.Markdown(text)
	}
	for _, m := range unfilled.FindAllStringSubmatch(text, -1) {
		all += m[1] + "\n"
	}
	return all
}

// takes returns an error unless the program takes a command line, of which arguments may be left out unless it is whole.
func (p Program) takes(line string, whole bool) error {
	root := p.Root()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(word.FindAllString(line, -1))
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
