package run_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/run"
)

// script writes a program for a test to run and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOutput(t *testing.T) {
	t.Setenv("SECRET", "x")
	for name, tt := range map[string]struct {
		text string
		args []string
		want string
		err  string
	}{
		"output":            {text: "echo hello", want: "hello\n"},
		"no shell for args": {text: `echo "$1"`, args: []string{"$(id); `id`"}, want: "$(id); `id`\n"},
		"clean environment": {text: `echo "$LC_ALL$SECRET"`, want: "C\n"},
		"its own words":     {text: `echo 'bad "thing"' >&2; exit 3`, err: `program: exit status 3: "bad \"thing\""`},
		"silent failure":    {text: "exit 4", err: "program: exit status 4"},
		"too much output":   {text: "head -c 200000 /dev/zero", err: "wrote more than 100000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run.Output(t.Context(), 100000, script(t, tt.text), tt.args...)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if string(out) != tt.want {
				t.Errorf("output %q, want %q", out, tt.want)
			}
		})
	}
}

func TestFeed(t *testing.T) {
	stdin := strings.Repeat("x", 1<<20) // more than a pipe holds
	out, err := run.Feed(t.Context(), []byte(stdin), 2<<20, script(t, "cat; cat"))
	if err != nil || string(out) != stdin {
		t.Errorf("%d bytes came back, %v", len(out), err)
	}
	if out, err := run.Feed(t.Context(), []byte(stdin), 10, script(t, "exit 0")); err != nil || len(out) > 0 {
		t.Errorf("a program that does not read: %q, %v", out, err)
	}
	if !run.Installed("sh") || run.Installed("no-such-program") {
		t.Error("Installed is wrong about sh, or about no-such-program")
	}
}

// TestStream: a program reads what is written meanwhile, and sees no end of it if the writer fails.
func TestStream(t *testing.T) {
	text := strings.Repeat("x", 1<<20) // more than a pipe holds
	writes := func(failure error) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return cmp.Or(err, failure)
		}
	}
	failure := errors.New("no last line")
	end := filepath.Join(t.TempDir(), "end")
	for name, tt := range map[string]struct {
		program string
		failure error
		want    string // of the error; empty: the program returns the text
	}{
		"all is read":               {program: "cat"},
		"the writer fails":          {program: "cat; touch " + end, failure: failure, want: "no last line"},
		"the program fails":         {program: "echo wrong >&2; exit 1", want: "wrong"},
		"the program fails, later":  {program: "head -c 100000 >&2; exit 3", want: "exit status 3"},
		"the program does not read": {program: "exit 0", want: "broken pipe"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run.Stream(t.Context(), writes(tt.failure), 2<<20, script(t, tt.program))
			if tt.want == "" && (err != nil || string(out) != text) {
				t.Errorf("%d bytes came back, %v", len(out), err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) && !errors.Is(err, os.ErrClosed)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := os.Stat(end); err == nil {
		t.Error("a program saw the end of what was not written to its end")
	}
}

func TestStandardErrorIsBounded(t *testing.T) {
	_, err := run.Output(t.Context(), 10, script(t, "echo the beginning >&2; head -c 100000 /dev/zero >&2; echo the end >&2; exit 1"))
	if err == nil || len(err.Error()) > 8<<10 || !strings.Contains(err.Error(), `"the beginning`) || !strings.HasSuffix(err.Error(), `the end"`) {
		t.Errorf("error of %d bytes, want a short one that begins and ends as standard error does", len(err.Error()))
	}
}

func TestProgramIsLookedUpInSystemDirectories(t *testing.T) {
	dir := filepath.Dir(script(t, "echo mine"))
	t.Setenv("PATH", dir)
	if _, err := run.Output(t.Context(), 10, "program"); !errors.Is(err, run.ErrNotFound) {
		t.Errorf("a program in PATH alone: %v, want %v", err, run.ErrNotFound)
	}
	if _, err := run.Output(t.Context(), 10, "true"); err != nil {
		t.Errorf("true: %v", err)
	}
	if _, err := run.Output(t.Context(), 10, "./program"); err == nil {
		t.Error("a relative path was run")
	}
	if _, err := run.Output(t.Context(), 10, "/nonexistent/program"); !errors.Is(err, run.ErrNotFound) {
		t.Errorf("an absent path: %v, want %v", err, run.ErrNotFound)
	}
}

// A program and what it started no longer exist once ctx is done.
func TestCancelKillsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p, err := run.Start(ctx, script(t, "sleep 1000 & echo started; wait"))
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(p.Stdout, make([]byte, len("started\n")))
	cancel()
	if err := p.Wait(); err == nil {
		t.Error("a killed program ended without error")
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if err := syscall.Kill(-p.Pid(), 0); errors.Is(err, syscall.ESRCH) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("a child is still there")
		}
	}
}
