//go:build linux

package inotify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// soon is when a test gives up.
func soon() time.Time { return time.Now().Add(30 * time.Second) }

func watcher(t *testing.T, ctx context.Context) *Watcher {
	t.Helper()
	w, err := New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsWatched checks that a watch of names reports no writes, and that an event names its watch.
func TestWhatIsWatched(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	write(t, path, "before\n")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := watcher(t, t.Context())
	names, err := w.Add(dir, Names)
	if err != nil {
		t.Fatal(err)
	}
	writes, err := w.AddFile(int(f.Fd()), Writes)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		what  string
		do    func() error
		watch int32
		ended bool
	}{
		{"write", func() error { _, err := f.WriteString("x"); return err }, writes, false},
		{"rename", func() error { return os.Rename(path, path+".1") }, names, false},
		{"remove the watch", func() error { w.Remove(writes); return nil }, writes, true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		events, err := w.Wait(soon())
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			t.Fatalf("%s: no event", step.what)
		}
		for _, e := range events {
			if e.Watch != step.watch || e.Ended != step.ended || e.Overflow {
				t.Errorf("%s: event %+v, want watch %d, ended %v", step.what, e, step.watch, step.ended)
			}
		}
	}
	if _, err := f.WriteString("y"); err != nil {
		t.Fatal(err)
	}
	if events, err := w.Wait(time.Now().Add(20 * time.Millisecond)); len(events) > 0 || err != nil {
		t.Errorf("after the watch was removed: events %v, error %v, want none", events, err)
	}
}

func TestAddMissing(t *testing.T) {
	w := watcher(t, t.Context())
	if _, err := w.Add(filepath.Join(t.TempDir(), "no"), Names); !errors.Is(err, fs.ErrNotExist) || IsFull(err) {
		t.Errorf("Add of what is not there: %v, want %v", err, fs.ErrNotExist)
	}
}

// TestContextEndsWaits checks waits that are under way and later ones.
func TestContextEndsWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := watcher(t, ctx)
	done := make(chan error, 1)
	go func() {
		_, err := w.Wait(time.Time{})
		done <- err
	}()
	cancel()
	limit := time.After(30 * time.Second)
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("Wait: %v, want nil", err)
			}
		case <-limit:
			t.Fatal("Wait goes on after its context ended")
		}
		go func() {
			_, err := w.WaitQuiet(time.Time{}, time.Hour, time.Hour)
			done <- err
		}()
	}
	<-done
}

// TestReady checks that what has come is returned at once, also after a wait that ended, and that nothing is waited for.
func TestReady(t *testing.T) {
	dir := t.TempDir()
	w := watcher(t, t.Context())
	if _, err := w.Add(dir, Names); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if events, err := w.Ready(); len(events) > 0 || err != nil {
			t.Errorf("nothing happened: %v, %v", events, err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if events, err := w.Ready(); len(events) != 1 || err != nil {
			t.Errorf("a file was created: %v, %v, want an event", events, err)
		}
		if events, err := w.Wait(time.Now()); len(events) > 0 || err != nil {
			t.Errorf("nothing more happened: %v, %v", events, err)
		}
	}
}

// TestQuiet checks that changes which come together are one, and that endless changes do not put it off for ever.
func TestQuiet(t *testing.T) {
	dir := t.TempDir()
	w := watcher(t, t.Context())
	if _, err := w.Add(dir, Names|Writes); err != nil {
		t.Fatal(err)
	}
	if changed, err := w.WaitQuiet(time.Now(), time.Hour, time.Hour); changed || err != nil {
		t.Errorf("nothing happened: %v, %v, want false", changed, err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(filepath.Join(dir, "a"), nil, 0o600)
			}
		}
	}()
	if changed, err := w.WaitQuiet(soon(), time.Hour, 50*time.Millisecond); !changed || err != nil {
		t.Errorf("endless changes: %v, %v, want true", changed, err)
	}
	close(stop)
	<-stopped
}
