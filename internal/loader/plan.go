package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"mef/internal/rules"
)

// A Plan is what would change if a policy were loaded.
type Plan struct {
	Verdicts []rules.Change // what becomes of packets, now and then
	Partly   bool           // there are more changes than can be told apart
	Added    []string       // statements that come
	Removed  []string       // statements that go
	Script   string         // the same as the backend sees it: a unified diff, empty if nothing changes
	Kernel   string         // how the kernel's rules differ from what was loaded, if somebody changed them: a unified diff
	First    bool           // nothing is in force yet
}

// Plan compares a policy with what is in force.
func (l *Loader) Plan(ctx context.Context, c *Candidate) (*Plan, error) {
	b, _, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return nil, err
	}
	now, in, err := l.inForce()
	if err != nil {
		return nil, err
	}
	p := &Plan{First: now == nil}
	before := &rules.Policy{}
	var oldText string
	if now != nil {
		before = now.Policy(rules.Facts{})
		oldText = string(now.Freeze(rules.Facts{}))
	}
	p.Added, p.Removed = compareLines(oldText, string(c.Source.Freeze(c.Facts)))
	p.Verdicts, err = rules.Compare(before, c.Policy)
	if p.Partly = errors.Is(err, rules.ErrTooMany); err != nil && !p.Partly {
		return nil, err
	}
	old := ""
	if now != nil {
		if old, err = b.script(before); err != nil {
			return nil, err
		}
	}
	script, err := b.script(c.Policy)
	if err != nil {
		return nil, err
	}
	p.Script = unified("in force", withoutPlaces(old), "planned", withoutPlaces(script))
	if now != nil {
		held, err := l.held(ctx, in.Backend)
		if err != nil {
			return nil, err
		}
		p.Kernel = unified("as loaded", in.Held, "in the kernel", held)
	}
	return p, nil
}

// unified returns a unified diff, empty if both are the same.
func unified(oldName, before, newName, after string) string {
	_, text, _ := strings.Cut(string(diff.Diff(oldName, []byte(before), newName, []byte(after))), "\n") // without the line "diff a b"
	return text
}

// inForce returns what was loaded last, nil if nothing was.
func (l *Loader) inForce() (*rules.Source, loaded, error) {
	var in loaded
	text, err := os.ReadFile(l.state.path(loadedRules))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, in, nil
	}
	if err != nil {
		return nil, in, err
	}
	if err := readJSON(l.state.path(loadedFile), &in); err != nil {
		return nil, in, err
	}
	src, err := rules.Thaw(l.state.path(loadedRules), text)
	return src, in, err
}

// withoutPlaces removes where in a file each rule stands, which moves with every line that comes before it.
func withoutPlaces(script string) string {
	var b strings.Builder
	for line := range strings.Lines(script) {
		if at := strings.Index(line, ` comment "`); at >= 0 {
			rest := line[at+len(` comment "`):]
			if end := strings.IndexByte(rest, '"'); end >= 0 {
				_, said, _ := strings.Cut(rest[:end], " ")
				line = line[:at] + rest[end+1:]
				if said != "" {
					line = fmt.Sprintf("%s comment %q\n", strings.TrimRight(line, "\n"), said)
				}
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// statements returns the lines of a frozen policy without the places where they came from.
func statements(frozen string) []string {
	var lines []string
	for line := range strings.Lines(frozen) {
		if i := strings.LastIndex(line, "  # "); i >= 0 {
			line = line[:i]
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// compareLines returns the lines that only one of two texts has.
func compareLines(before, after string) (added, removed []string) {
	old, now := statements(before), statements(after)
	for _, line := range now {
		if line != "" && !slices.Contains(old, line) {
			added = append(added, line)
		}
	}
	for _, line := range old {
		if line != "" && !slices.Contains(now, line) {
			removed = append(removed, line)
		}
	}
	return added, removed
}
