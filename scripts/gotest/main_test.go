package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// module is one with a package for each kind of end that tests have.
var module = map[string]string{
	"go.mod": "module m\n",
	"good/good_test.go": `package good
import ("fmt"; "testing")
func TestGood(t *testing.T) { fmt.Println("chatter") }
`,
	"bad/bad_test.go": `package bad
import "testing"
func TestGood(t *testing.T) { t.Log("not shown") }
func TestBad(t *testing.T) {
	t.Run("part", func(t *testing.T) {
		t.Error("this is wrong")
		t.Log("log of it\nin lines\n3\n4\n5\n6")
	})
	t.Run("other", func(t *testing.T) {})
}
`,
	"panics/panics_test.go": `package panics
import "testing"
func TestPanics(t *testing.T) { panic("at the disco") }
`,
	"broken/broken_test.go": `package broken
import "testing"
func TestBroken(t *testing.T) { undefined() }
`,
}

func gotest(t *testing.T, packages ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for file, text := range module {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var out strings.Builder
	err := run(packages, &out)
	return out.String(), err
}

func TestSuccess(t *testing.T) {
	out, err := gotest(t, "./good")
	if err != nil || !strings.HasPrefix(out, "ok  \tm/good\t") || strings.Count(out, "\n") != 1 {
		t.Errorf("gotest ./good: %v, printed\n%s\nwant one line of success", err, out)
	}
}

// The end of the output names what failed, of each package, and says why.
func TestFailures(t *testing.T) {
	out, err := gotest(t, "-p=1", "./...")
	if err == nil {
		t.Error("gotest reports success")
	}
	if shown := strings.Contains(out, "not shown") || strings.Contains(out, "chatter"); shown {
		t.Errorf("gotest prints what a test logs that passed:\n%s", out)
	}
	all, summary, _ := strings.Cut(out, "\n3 failed:\n")
	for _, want := range []string{"bad_test.go:7: log of it\n", "--- FAIL: TestBad/part (0.00s)\n    bad_test.go:6: this is wrong\n", "ok  \tm/good", "FAIL\tm/bad", "goroutine "} {
		if !strings.Contains(all, want) {
			t.Errorf("gotest does not print %q as go test does:\n%s", want, all)
		}
	}
	var got []string
	for line := range strings.Lines(summary) {
		line, _, _ = strings.Cut(strings.TrimSuffix(line, "\n"), " (")
		if strings.HasPrefix(line, "--- ") || strings.Contains(line, "wrong") || strings.Contains(line, "panic:") || strings.Contains(line, "undefined:") {
			got = append(got, line)
		}
	}
	want := []string{
		"--- FAIL: m/bad TestBad/part", "    bad_test.go:6: this is wrong",
		"--- FAIL: m/broken [m/broken.test]", "    broken/broken_test.go:3:33: undefined: undefined",
		"--- FAIL: m/panics TestPanics", "    panic: at the disco [recovered, repanicked]",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("summary (-want +got):\n%s\nwhole:\n%s", d, summary)
	}
}
