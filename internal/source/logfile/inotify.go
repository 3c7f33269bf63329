package logfile

import (
	"context"
	"fmt"
	"time"

	"mef/internal/inotify"
)

// A news is what a watcher reports after a wait.
type news struct {
	names bool // names may have changed in a directory
	all   bool // what is in any file may have changed
}

// A watcher waits for changes. Directories are watched for names only and files for what is written to them, so that busy files
// nobody follows wake nobody.
type watcher struct {
	*inotify.Watcher
	files map[int32]*tail // by watch
	dirs  map[int32]bool
}

func newWatcher(ctx context.Context) (*watcher, error) {
	w, err := inotify.New(ctx)
	if err != nil {
		return nil, err
	}
	return &watcher{w, map[int32]*tail{}, map[int32]bool{}}, nil
}

// watchDirs watches exactly the directories dirs; those that do not exist are not watched. It returns whether any was not
// watched before.
func (w *watcher) watchDirs(dirs []string) (grown bool, failed error) {
	keep := map[int32]bool{}
	for _, dir := range dirs {
		wd, err := w.Add(dir, inotify.Names)
		if err == nil {
			keep[wd] = true
			grown = grown || !w.dirs[wd]
		} else if inotify.IsFull(err) {
			failed = err
		}
	}
	for wd := range w.dirs {
		if !keep[wd] {
			w.Remove(wd)
		}
	}
	w.dirs = keep
	return grown, failed
}

// watchFile watches the open file fd on behalf of t.
func (w *watcher) watchFile(fd int, t *tail) (int32, error) {
	wd, err := w.AddFile(fd, inotify.Writes)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", t.path, err)
	}
	w.files[wd] = t
	return wd, nil
}

// unwatchFile ends what watchFile began.
func (w *watcher) unwatchFile(wd int32) {
	delete(w.files, wd)
	w.Remove(wd)
}

// wait waits until something changes, at most until the time until, and marks the files that were written to as dirty.
func (w *watcher) wait(until time.Time) (what news, err error) {
	events, err := w.Wait(until)
	return w.news(events), err
}

// ready reports what has changed, as wait does, and does not wait.
func (w *watcher) ready() (news, error) {
	events, err := w.Ready()
	return w.news(events), err
}

func (w *watcher) news(events []inotify.Event) (what news) {
	for _, e := range events {
		t := w.files[e.Watch]
		switch {
		case e.Overflow:
			what.all = true
		case e.Ended:
			delete(w.files, e.Watch)
		case t != nil:
			t.dirty = true
		default:
			what.names = true
		}
	}
	return what
}
