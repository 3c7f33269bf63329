package lists

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/inotify"
)

// A watch reports when something may have changed in directories: soon after, by inotify, and from time to time unasked, in case
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

// at replaces the directories, and returns once they are watched, so that a read after it misses no change.
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

// run reports changes until ctx is done.
func (w *watch) run(ctx context.Context) error {
	in, err := inotify.New(ctx)
	if err != nil {
		w.log.Warn("changes of lists are noticed late, because inotify is not available", "err", err)
	} else {
		defer in.Close()
	}
	changes := make(chan struct{}) // has no room: more changes wait in the kernel meanwhile
	follow := errgroup.Group{}
	follow.Go(func() error { return w.follow(ctx, in, changes) })
	poll := time.NewTimer(time.Hour)
	defer poll.Stop()
	var now places
	for {
		select {
		case <-ctx.Done():
			return follow.Wait()
		case now = <-w.places:
			w.add(in, now.dirs)
			close(now.watched)
			poll.Reset(now.every)
			continue
		case <-changes:
		case <-poll.C:
			poll.Reset(now.every)
		}
		w.add(in, now.dirs) // one may have come into being
		w.report()
	}
}

// follow sends to changes whenever something has changed and was then left alone for a moment, until ctx is done.
func (w *watch) follow(ctx context.Context, in *inotify.Watcher, changes chan<- struct{}) error {
	for in != nil && ctx.Err() == nil {
		changed, err := in.WaitQuiet(time.Time{}, settleFor, settleWithin)
		switch {
		case err != nil:
			w.log.Warn("changes of lists are noticed late from now on", "err", err)
			return nil
		case !changed:
			continue
		}
		select {
		case changes <- struct{}{}:
		case <-ctx.Done():
		}
	}
	return nil
}

func (w *watch) report() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// add watches the directories, and those around them for the case that they do not exist yet. What is watched already stays so.
func (w *watch) add(in *inotify.Watcher, dirs []string) {
	if in == nil {
		return
	}
	for _, dir := range dirs {
		for _, dir := range []string{dir, filepath.Dir(dir)} {
			_, _ = in.Add(dir, inotify.Names|inotify.Writes) // fails where there is none; the next look unasked finds what then comes
		}
	}
}
