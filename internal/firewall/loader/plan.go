package loader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"mef/internal/firewall/policy"
	"mef/internal/run"
)

// A Plan is what would change if a policy were loaded.
type Plan struct {
	Verdicts []policy.Change // what becomes of packets, now and then
	Partly   bool            // there are too many different changes to list
	Added    []string        // statements that are added
	Removed  []string        // statements that are removed
	Kernel   string          // how the kernel's rules differ from what was loaded, if somebody changed them: a unified diff
	First    bool            // nothing is in force yet

	backend backend
	before  *policy.Policy // in force; nil if nothing is
	script  string         // of the planned policy
}

// Plan compares a policy with what is in force. Self is the command line by which this program runs List.
func (l *Loader) Plan(ctx context.Context, c *Candidate, self ...string) (*Plan, error) {
	b, _, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return nil, err
	}
	now, in, err := l.inForce()
	if err != nil {
		return nil, err
	}
	p := &Plan{First: now == nil, backend: b}
	before := &policy.Policy{}
	oldText := func() []byte { return nil }
	drift := func() error { return nil }
	if now != nil {
		p.before = now.Policy(policy.Facts{})
		before = p.before
		oldText = later(func() []byte { return now.Freeze(policy.Facts{}) })
		drift = later(func() (err error) {
			p.Kernel, err = l.drift(ctx, in, self)
			return err
		})
	}
	script := later(func() (err error) {
		p.script, err = b.script(c.Policy)
		return err
	})
	p.Verdicts, err = policy.Compare(before, c.Policy)
	if p.Partly = errors.Is(err, policy.ErrTooMany); p.Partly {
		err = nil
	}
	p.Added, p.Removed = compareLines(string(oldText()), string(c.Source.Freeze(c.Facts)))
	return p, cmp.Or(err, script(), drift())
}

// Diff returns the change as the backend sees it: a unified diff, empty if nothing changes.
func (p *Plan) Diff() (string, error) {
	old := ""
	if p.before != nil {
		var err error
		if old, err = p.backend.script(p.before); err != nil {
			return "", err
		}
	}
	return unified("in force", withoutPlaces(old), "planned", withoutPlaces(p.script)), nil
}

// drift reports how what the kernel holds differs from what was loaded: that is loaded once more, in a network namespace that nobody
// else sees, and both are listed.
func (l *Loader) drift(ctx context.Context, in loaded, self []string) (string, error) {
	b, ok := byName(in.Backend)
	if !ok {
		return "", fmt.Errorf("%s names an unknown backend, %q", l.state.path(loadedFile), in.Backend)
	}
	held, err := b.held(ctx)
	if err != nil || held == in.Held {
		return "", err
	}
	if held == "" {
		return "the whole table was removed\n", nil
	}
	now, err := b.list(ctx)
	if err != nil {
		return "", err
	}
	was, err := run.Isolated(ctx, maxOutput, append(self, b.String(), l.state.path(loadedRules))...)
	if errors.Is(err, run.ErrNoNamespace) {
		return "the difference cannot be shown: " + err.Error() + "\n", nil
	}
	return unified("as loaded", string(was), "in the kernel", now), err
}

// List loads frozen rules by a backend and returns how the kernel lists them. It is for a process in a network namespace of its
// own.
func List(ctx context.Context, name, file string) (string, error) {
	b, ok := byName(name)
	if !ok {
		return "", fmt.Errorf("unknown backend %q", name)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	src, err := policy.Thaw(file, text)
	if err != nil {
		return "", err
	}
	if err := b.load(ctx, src.Policy(policy.Facts{}), always); err != nil {
		return "", err
	}
	return b.list(ctx)
}

// unified returns a unified diff, empty if both are the same.
func unified(oldName, before, newName, after string) string {
	_, text, _ := strings.Cut(string(diff.Diff(oldName, []byte(before), newName, []byte(after))), "\n") // without the line "diff a b"
	return text
}

// inForce returns what was loaded last, nil if nothing was.
func (l *Loader) inForce() (*policy.Source, loaded, error) {
	text, err := os.ReadFile(l.state.path(loadedRules))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, loaded{}, err
	}
	in, ok := l.noted()
	if err != nil || !ok {
		return nil, in, nil
	}
	src, err := policy.Thaw(l.state.path(loadedRules), text)
	if err != nil {
		return nil, in, nil // as in noted
	}
	return src, in, nil
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
	return missing(now, old), missing(old, now)
}

// missing returns the lines that another text does not have.
func missing(lines, other []string) (list []string) {
	has := map[string]bool{"": true}
	for _, line := range other {
		has[line] = true
	}
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return has[line] })
}
