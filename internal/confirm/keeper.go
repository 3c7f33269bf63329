package confirm

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Late is how long after its start the daemon may be armed as if it had started so.
const Late = time.Minute

// A Keeper keeps the window of a running daemon, in its file and for others to see. It belongs to one goroutine; Window may be called
// from any.
type Keeper struct {
	path    string
	started time.Time // the start of the daemon
	window  atomic.Pointer[Window]
	lapse   *time.Timer // runs while a window is open
}

// NewKeeper returns a Keeper without a window. path is that of its file; started is when the daemon started.
func NewKeeper(path string, started time.Time) *Keeper {
	lapse := time.NewTimer(time.Hour)
	lapse.Stop()
	return &Keeper{path: path, started: started, lapse: lapse}
}

// Window returns the window, nil if there is none. It is never changed once it is returned.
func (k *Keeper) Window() *Window { return k.window.Load() }

// Lapses receives when the time to confirm is over, so that Lapse is due.
func (k *Keeper) Lapses() <-chan time.Time { return k.lapse.C }

// Resume goes on with the window of an earlier run, if there is one. Even with an error there may be a window; see Read.
func (k *Keeper) Resume(now time.Time) error {
	w, err := Read(k.path, now)
	k.window.Store(w)
	if w != nil && !w.Lapsed {
		k.lapse.Reset(w.Left(now))
	}
	return err
}

// Open opens a window of a length, or prolongs the one that is open. Bans since it first opened are lifted when it lapses; if the daemon
// has just started, bans since its start. from is as in Window. Nothing changes if the window cannot be saved.
func (k *Keeper) Open(now time.Time, length time.Duration, from string) (*Window, error) {
	w := &Window{Since: now, Until: now.Add(length), For: length, From: from}
	switch before := k.Window(); {
	case before != nil && !before.Lapsed:
		w.Since = before.Since
	case now.Sub(k.started) < Late:
		w.Since = k.started
	}
	if err := w.Write(k.path); err != nil {
		return nil, err
	}
	k.window.Store(w)
	k.lapse.Reset(w.Left(now))
	return w, nil
}

// ReachesBack reports whether a window that is open, or could be opened now, concerns a ban that begins now.
func (k *Keeper) ReachesBack(now time.Time) bool {
	return k.Window() != nil || now.Sub(k.started) <= Late
}

// Close ends a window: it was confirmed. It stays if it cannot be removed.
func (k *Keeper) Close() error {
	if err := Remove(k.path); err != nil {
		return err
	}
	k.lapse.Stop()
	k.window.Store(nil)
	return nil
}

// Lapse ends an open window that was not confirmed, and reports whether there was one. With an error that is not saved, and the file
// still has the time at which the window ends.
func (k *Keeper) Lapse() (lapsed bool, err error) {
	before := k.Window()
	if before == nil || before.Lapsed {
		return false, nil
	}
	w := *before
	w.Lapsed = true
	return true, k.replace(&w)
}

// Lifted notes that the bans made since a lapsed window began are lifted. The error is as that of Lapse.
func (k *Keeper) Lifted() error {
	w := *k.Window()
	w.Lifted = true
	return k.replace(&w)
}

func (k *Keeper) replace(w *Window) error {
	k.window.Store(w)
	if err := w.Write(k.path); err != nil {
		return fmt.Errorf("the end of the trial cannot be saved: %w", err)
	}
	return nil
}
