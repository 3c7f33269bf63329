package journal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/source/journal"
)

// A journalctl that follows shows only entries of the boot that the kernel tells, unless it is told another one. In a container
// the journal may have nothing of the former.
func TestFollowsTheBootThatGoesOn(t *testing.T) {
	const bootA, bootB = "0000000000000000000000000000000a", "0000000000000000000000000000000b"
	for name, tt := range map[string]struct{ known, want string }{
		"the kernel's": {bootA, "follows the kernel's boot"},
		"another one":  {"", "follows boot " + bootB},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journalctl")
			script := fmt.Sprintf(`#!/bin/sh
entry() { printf '__CURSOR=s=a;i=%%s;b=%%s;m=1;t=1;x=1\nMESSAGE=%%s\n\n' "$@"; }
case " $* " in
*" --boot=%[2]s "*"--follow "*) entry 3 %[2]s "follows boot %[2]s"; exec sleep 1000 ;;
*" --follow "*) entry 3 %[1]s "follows the kernel's boot"; exec sleep 1000 ;;
*" --boot "*) [ -z "%[3]s" ] || entry 2 "%[3]s" known ;;
*" --lines=1 "*) entry 2 %[2]s newest ;;
esac
`, bootA, bootB, tt.known)
			if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			out := make(chan *event.Batch, 1)
			follow := journal.New(journal.Config{Options: journal.Options{Program: path}, Since: time.Minute}, out)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- follow.Run(ctx) }()
			b := <-out
			if len(b.Lines) != 1 || string(b.Lines[0].Text) != tt.want {
				t.Errorf("lines %+v, want one: %q", b.Lines, tt.want)
			}
			b.Release()
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		})
	}
}
