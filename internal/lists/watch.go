package lists

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A watch tells when something may have changed in directories: soon after, by inotify, and from time to time unasked, in case
// that misses something, as it does on network file systems.
type watch struct {
	log     *slog.Logger
	changed chan struct{} // one that waits stands for all that came meanwhile
	places  chan places
}

// places are the directories to watch, and how often to look unasked.
type places struct {
	dirs    []string
	every   time.Duration
	watched chan struct{} // closed once they are
}

const (
	// settleFor is how long a directory must be left alone before it is read, because an editor writes in several steps;
	// settleWithin is how long that may be put off.
	settleFor    = 100 * time.Millisecond
	settleWithin = 500 * time.Millisecond
)

func newWatch(log *slog.Logger) *watch {
	return &watch{log: log, changed: make(chan struct{}, 1), places: make(chan places)}
}

// at replaces the directories, and returns once they are watched: whoever reads them then misses nothing.
func (w *watch) at(ctx context.Context, dirs []string, every time.Duration) {
	p := places{dirs, every, make(chan struct{})}
	select {
	case w.places <- p:
	case <-ctx.Done():
		return
	}
	select {
	case <-p.watched:
	case <-ctx.Done():
	}
}

// run tells of changes until ctx is done.
func (w *watch) run(ctx context.Context) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("changed lists are noticed late, because inotify is not available", "err", err)
		notify = &fsnotify.Watcher{} // whose channels tell nothing
	} else {
		defer notify.Close()
	}
	poll, quiet := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	defer poll.Stop()
	defer quiet.Stop()
	quiet.Stop()
	var now places
	var first time.Time // of the changes that have not been told
	for {
		select {
		case <-ctx.Done():
			return nil
		case now = <-w.places:
			w.add(notify, now.dirs)
			close(now.watched)
			poll.Reset(now.every)
		case <-notify.Events:
			if first.IsZero() {
				first = time.Now()
			}
			quiet.Reset(min(settleFor, time.Until(first.Add(settleWithin))))
		case <-notify.Errors: // too many events at once: anything may have changed
			quiet.Reset(settleFor)
		case <-quiet.C:
			first = time.Time{}
			w.add(notify, now.dirs) // one may have come into being
			w.tell()
		case <-poll.C:
			poll.Reset(now.every)
			w.add(notify, now.dirs)
			w.tell()
		}
	}
}

func (w *watch) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// add watches the directories, and those around them for the case that they do not exist yet. What is watched already stays so.
func (w *watch) add(notify *fsnotify.Watcher, dirs []string) {
	if notify.Events == nil {
		return
	}
	for _, dir := range dirs {
		for _, dir := range []string{dir, filepath.Dir(dir)} {
			_ = notify.Add(dir) // fails where there is none; the next look unasked finds what then comes
		}
	}
}
