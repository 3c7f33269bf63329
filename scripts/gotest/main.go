// Gotest runs "go test" with the arguments it is given, prints what go test prints, and names the failed tests with their first
// messages once more at the end: a record that keeps only the end of a long output shows what failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
}

// run returns nil if go test succeeded.
func run(args []string, out io.Writer) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := newReport(out)
	if err := r.read(pipe); err != nil {
		return err // go test ends by SIGPIPE
	}
	err = cmd.Wait()
	r.summary()
	if err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	return nil
}

// An action is a line of "go test -json", see "go doc test2json".
type action struct {
	Action, Package, Test, Output string
	ImportPath, FailedBuild       string // of a build that failed: on its own lines and on that of the package
	Elapsed                       float64
}

// A name is one of a test; Test is empty for the package itself.
type name struct{ Package, Test string }

// A failure is a test or package that failed, with what it printed.
type failure struct {
	name
	seconds float64
	lines   []string
}

// A report follows the tests of one run.
type report struct {
	out     io.Writer
	running map[name][]string // what each has printed
	failed  []failure
}

func newReport(out io.Writer) *report { return &report{out: out, running: map[name][]string{}} }

// read reads go test's output to its end. What is no JSON is printed as it is.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var a action
			if json.Unmarshal([]byte(line), &a) == nil && a.Action != "" {
				r.add(a)
			} else {
				io.WriteString(r.out, line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) add(a action) {
	id := name{a.Package, a.Test}
	switch a.Action {
	case "build-output":
		id = name{Package: a.ImportPath}
		r.running[id] = append(r.running[id], a.Output)
		io.WriteString(r.out, a.Output)
	case "build-fail":
		r.fail(failure{name{Package: a.ImportPath}, 0, r.running[name{Package: a.ImportPath}]})
	case "run":
		r.running[id] = nil
	case "output":
		if strings.HasPrefix(a.Output, "=== ") {
			return
		}
		r.running[id] = append(r.running[id], a.Output)
	case "pass", "skip":
		if lines := r.running[id]; a.Test == "" && len(lines) > 0 {
			io.WriteString(r.out, lines[len(lines)-1]) // "ok" and the package
		}
		delete(r.running, id)
	case "fail":
		if a.FailedBuild != "" {
			return // reported
		}
		if a.Test == "" {
			r.unfinished(a.Package)
		}
		r.print(id)
		r.fail(failure{id, a.Elapsed, r.running[id]})
		delete(r.running, id)
	}
}

// print prints what a failed test printed, below its result.
func (r *report) print(id name) {
	isResult := func(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "--- ") }
	for _, results := range []bool{true, false} {
		for _, line := range r.running[id] {
			if isResult(line) == results {
				io.WriteString(r.out, line)
			}
		}
	}
}

// unfinished reports the tests that a package left without a result, by a panic or a timeout.
func (r *report) unfinished(pkg string) {
	var left []name
	for id := range r.running {
		if id.Package == pkg && id.Test != "" {
			left = append(left, id)
		}
	}
	slices.SortFunc(left, func(a, b name) int { return strings.Compare(a.Test, b.Test) })
	for _, id := range left {
		r.print(id)
		r.fail(failure{id, 0, r.running[id]})
		delete(r.running, id)
	}
}

// fail adds a failure, unless a part of it failed already: that says more.
func (r *report) fail(f failure) {
	for _, part := range r.failed {
		if part.Package == f.Package && (f.Test == "" && part.Test != "" || strings.HasPrefix(part.Test, f.Test+"/")) {
			return
		}
	}
	r.failed = append(r.failed, f)
}

// How much the summary shows.
const (
	maxFailures = 20
	maxLines    = 6
	maxLine     = 300
)

func (r *report) summary() {
	if len(r.failed) == 0 {
		return
	}
	fmt.Fprintf(r.out, "\n%d failed:\n", len(r.failed))
	for _, f := range r.failed[:min(len(r.failed), maxFailures)] {
		fmt.Fprintf(r.out, "--- FAIL: %s (%.2fs)\n", strings.TrimSpace(f.Package+" "+f.Test), f.seconds)
		for _, line := range first(f.lines) {
			fmt.Fprintf(r.out, "    %s\n", line)
		}
	}
	if more := len(r.failed) - maxFailures; more > 0 {
		fmt.Fprintf(r.out, "and %d more\n", more)
	}
}

// first returns the lines that say best why a test failed: those from the first message, race or panic on; those of a script (testscript)
// end with it.
func first(lines []string) []string {
	lines = slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		line = strings.TrimSpace(line)
		return line == "" || line == "FAIL" || strings.HasPrefix(line, "--- ") || strings.Trim(line, "=") == ""
	})
	start := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "FAIL: ") })
	start = max(0, start, slices.IndexFunc(lines, func(line string) bool {
		return strings.Contains(line, ".go:") || strings.Contains(line, "DATA RACE") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:")
	}))
	lines = lines[start:min(len(lines), start+maxLines)]
	for i, line := range lines {
		line = strings.TrimSpace(line)
		lines[i] = line[:min(len(line), maxLine)]
	}
	return lines
}
