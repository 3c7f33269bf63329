package confirm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/confirm"
)

// A window opens, is prolonged, lapses, and has its bans lifted; each step is on disk for the next run of the daemon.
func TestKeeper(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "window.json")
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		k := confirm.NewKeeper(path, started)
		if k.Window() != nil || !k.ReachesBack(started) {
			t.Error("a new keeper has a window, or none that could be opened")
		}
		time.Sleep(10 * time.Second)
		w, err := k.Open(time.Now(), time.Minute, "192.0.2.1 50000 192.0.2.2 22")
		if err != nil || !w.Since.Equal(started) || k.Window() != w {
			t.Fatalf("window %+v, %v; want one that reaches back to the start", w, err)
		}
		time.Sleep(time.Minute - time.Second)
		if w, err = k.Open(time.Now(), time.Minute, ""); err != nil || !w.Since.Equal(started) {
			t.Fatalf("prolonged: %+v, %v; want the beginning of the first", w, err)
		}
		opened := time.Now()
		<-k.Lapses()
		if passed := time.Since(opened); passed != time.Minute {
			t.Errorf("lapses after %v", passed)
		}
		if lapsed, err := k.Lapse(); !lapsed || err != nil || !k.Window().HasLapsed() {
			t.Errorf("Lapse: %v, %v", lapsed, err)
		}
		if lapsed, _ := k.Lapse(); lapsed {
			t.Error("it lapses twice")
		}

		again := confirm.NewKeeper(path, time.Now())
		if err := again.Resume(time.Now()); err != nil || !again.Window().HasLapsed() || again.Window().Lifted {
			t.Errorf("after a restart: %+v, %v", again.Window(), err)
		}
		if err := again.Lifted(); err != nil {
			t.Error(err)
		}
		if w, err := confirm.Read(path, time.Now()); err != nil || !w.Lapsed || !w.Lifted {
			t.Errorf("file: %+v, %v", w, err)
		}
		if err := again.Close(); err != nil || again.Window() != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file after a confirmation: %v", err)
	}
}

// A keeper that cannot write has no window that a restart would forget.
func TestKeeperCannotSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "window.json")
	now := time.Now()
	k := confirm.NewKeeper(path, now.Add(-time.Hour))
	if k.ReachesBack(now) {
		t.Error("a window opened an hour after the start reaches back to it")
	}
	if w, err := k.Open(now, time.Minute, ""); err == nil || w != nil || k.Window() != nil {
		t.Errorf("window %+v, %v; want an error and none", w, err)
	}
	if err := k.Resume(now); err != nil || k.Window() != nil {
		t.Errorf("Resume without a file: %+v, %v", k.Window(), err)
	}
}
