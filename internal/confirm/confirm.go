// Package confirm keeps the window in which an operator finds out whether he can still log in, as "commit
// confirmed" of routers does for a configuration.
//
// A window is opened by arming the daemon. Confirmed in time, it is removed. Otherwise it lapses: the daemon goes into observe mode and
// lifts the bans made since the window began, until it is confirmed late. A window outlives the daemon and the machine, because it is a
// file. The file stands beside the database, because it must be readable even if that is not.
package confirm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/duration"
)

// The lengths of a window.
const (
	Default = 10 * time.Minute
	Min     = time.Second
	Max     = 24 * time.Hour
)

// A Window is the time in which an operator must confirm.
type Window struct {
	Since  time.Time     `json:"since"` // bans that began since then are lifted when it lapses
	Until  time.Time     `json:"until"`
	For    time.Duration `json:"for_ns"`
	From   string        `json:"from,omitempty"` // the SSH connection from which it was opened, as in SSH_CONNECTION
	Lapsed bool          `json:"lapsed"`         // it ended without a confirmation: observe mode
	Lifted bool          `json:"lifted"`         // and the bans made since are lifted
}

// Left returns how long the window stays open. A clock that was set back does not make it longer than it was meant to be.
func (w *Window) Left(now time.Time) time.Duration {
	if w.Lapsed {
		return 0
	}
	return max(0, min(w.Until.Sub(now), w.For))
}

// Length returns for how long the window was opened, as text.
func (w *Window) Length() string { return duration.Format(w.For) }

// HasLapsed reports whether w is a window that lapsed; false for nil, no window.
func (w *Window) HasLapsed() bool { return w != nil && w.Lapsed }

// Read returns the window in the file at path, nil if there is no file. A file that cannot be read counts as a window that has lapsed,
// beside the error: better to observe for a while than to lock out.
func Read(path string, now time.Time) (*Window, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	w := new(Window)
	if err == nil {
		err = json.Unmarshal(data, w)
	}
	if err != nil {
		return &Window{Since: now, Until: now, For: Default, Lapsed: true}, fmt.Errorf("%s: %w", path, err)
	}
	w.Lapsed = w.Left(now) == 0
	if w.Since.After(now) {
		w.Since = now // the clock was set back, and new bans begin now
	}
	return w, nil
}

// Write puts the window into the file at path. It is on disk when Write returns nil.
func (w *Window) Write(path string) error {
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}

// Remove removes the window at path. A power cut does not bring it back once Remove returned nil.
func Remove(path string) error { return atomicfile.Remove(path) }
