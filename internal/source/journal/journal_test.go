package journal_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/source/journal"
)

// A journalctl that is not there makes the journal wait; it stops nothing.
func TestNoJournalctl(t *testing.T) {
	opt := journal.Options{Program: "/nonexistent/journalctl"}
	follow := journal.New(journal.Config{Options: opt, Resume: "nonsense"}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- follow.Run(ctx) }()
	deadline := time.Now().Add(time.Minute)
	for follow.Status().Restarts < 2 {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v, want restarts", follow.Status())
		}
		time.Sleep(5 * time.Millisecond)
	}
	if s := follow.Status(); s.State != journal.Waiting || !strings.Contains(s.Reason, "no journal") {
		t.Errorf("status %+v, want waiting and why", s)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if _, err := journal.Units(t.Context(), opt); !errors.Is(err, journal.ErrNoJournal) {
		t.Errorf("Units = %v, want %v", err, journal.ErrNoJournal)
	}
}

// What a journalctl writes that loses its mind is not believed, and it is started again.
func TestMalformedOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journalctl")
	script := `#!/bin/sh
printf '__CURSOR=s=a;i=1;b=b;m=1;t=1;x=1\nMESSAGE=%s\n\n' "$*"
printf 'this is no field\n'
sleep 1000
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	out := make(chan *event.Batch, 1)
	follow := journal.New(journal.Config{Options: journal.Options{Program: path}, Since: time.Minute}, out)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- follow.Run(ctx) }()
	b := <-out
	if len(b.Lines) != 1 || !strings.Contains(string(b.Lines[0].Text), "--since=@") || b.Resume == "" {
		t.Errorf("first batch %+v, want the arguments of a first start", b)
	}
	b.Release()
	deadline := time.Now().Add(time.Minute)
	for follow.Status().Restarts == 0 {
		if time.Now().After(deadline) {
			t.Fatal("journalctl was not started again")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if s := follow.Status(); !strings.Contains(s.LastError, "does not write the export format") {
		t.Errorf("status %+v, want the reason", s)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if s := follow.Status(); s.Lines != 1 {
		t.Errorf("the entry at the cursor was handed over again: %+v", s)
	}
}
