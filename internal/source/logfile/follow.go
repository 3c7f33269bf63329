package logfile

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/sleep"
)

// How often what is looked at.
const (
	backupPoll = 30 * time.Second      // everything, in case inotify missed something
	fallback   = time.Second           // everything, where inotify is not available
	scanPause  = 20 * time.Millisecond // names at most, so that creating files does not keep the daemon busy
	turn       = 4 << 20               // bytes of one file, before the others have their turn
	linger     = time.Minute           // a rotated file is read as long as its writer wrote to it within this time
)

// Bounds on what is kept open.
const (
	maxFiles = 1024 // files of one glob
	maxOld   = 4    // rotated files of one path
)

// Run sends what is appended to the files until ctx is done; it then returns nil. It blocks while the channel is full: a
// file keeps its lines until they are read. The receiver owns each batch and must Release it.
func (f *Follower) Run(ctx context.Context) error {
	defer f.closeAll()
	if f.cfg.Poll <= 0 {
		f.startWatching(ctx)
	}
	for what := (news{names: true, all: true}); ctx.Err() == nil; what = f.wait(ctx) {
		if what.names {
			f.scan(ctx)
		}
		f.readAll(ctx, what.all)
	}
	return nil
}

// startWatching turns inotify on.
func (f *Follower) startWatching(ctx context.Context) {
	w, err := newWatcher(ctx)
	if err != nil {
		f.stopWatching(err)
		return
	}
	f.watch = w
}

// stopWatching goes over to polling.
func (f *Follower) stopWatching(reason error) {
	f.log.Warn("log files are polled, because inotify is not available", "error", reason)
	if f.watch != nil {
		f.watch.Close()
		f.watch = nil
	}
}

// wait waits until there is something to do and reports what.
func (f *Follower) wait(ctx context.Context) news {
	if f.again {
		return news{names: true}
	}
	if f.backlog {
		return news{names: f.renamed(), all: true}
	}
	if f.watch == nil {
		sleep.For(ctx, cmp.Or(max(0, f.cfg.Poll), fallback))
		return news{names: true, all: true}
	}
	until := f.looked.Add(min(backupPoll, cmp.Or(f.cfg.Linger, linger)))
	what, err := f.watch.wait(until)
	if err != nil {
		f.stopWatching(err)
		return news{names: true, all: true}
	}
	if what.names {
		sleep.For(ctx, scanPause-time.Since(f.scanned))
	}
	if what.all || !time.Now().Before(until) {
		what = news{names: true, all: true}
	}
	return what
}

// renamed reports whether to look at the names again, without waiting, while files have a backlog: a file may be rotated more than once
// meanwhile, and what is behind a name only between two rotations would be missed.
func (f *Follower) renamed() bool {
	since := time.Since(f.scanned)
	if f.watch == nil {
		return since > scanPause
	}
	what, err := f.watch.ready()
	if err != nil {
		f.stopWatching(err)
	}
	return err != nil || what.names || what.all || since > fallback
}

// scan looks at the globs, and at what stands behind each path.
func (f *Follower) scan(ctx context.Context) {
	first := f.scanned.IsZero()
	f.scanned, f.again = time.Now(), false
	var dirs []string
	unseen := map[string]error{} // by glob: why there is not more
	for _, glob := range f.cfg.Globs {
		v := expand(glob)
		dirs = append(dirs, v.dirs...)
		unseen[glob] = v.err
		f.addTails(glob, v.paths, first)
	}
	if f.watch != nil {
		grown, err := f.watch.watchDirs(dirs)
		if err != nil {
			f.stopWatching(err)
		}
		f.again = grown // something may have changed there before it was watched
	}
	for _, t := range f.tails {
		f.look(ctx, t)
	}
	// Paths without a file are forgotten, and so are positions in files that were removed while the daemon did not run.
	f.tails = slices.DeleteFunc(f.tails, func(t *tail) bool {
		if !t.gone || t.cur != nil || len(t.old) > 0 {
			return false
		}
		if t.left == nil || f.gone(t.path, *t.left) {
			f.forget(ctx, t.path)
		}
		return true
	})
	if first {
		f.forgetUnused(ctx)
	}
	f.publish(unseen)
}

// forgetUnused ends the sources of saved positions whose files no longer exist.
func (f *Follower) forgetUnused(ctx context.Context) {
	for path, text := range f.resume {
		p, err := parsePosition(text)
		if filepath.IsAbs(path) && err == nil && f.gone(path, p) { // other kinds of sources have other positions
			delete(f.resume, path)
			f.forget(ctx, path)
		}
	}
}

// gone reports whether there is no file at path, although its directory is there, and none beside it that was rotated away with the
// content that led to p. If the directory is missing too, it may be on a file system that is still to be mounted.
func (f *Follower) gone(path string, p position) bool {
	_, err := os.Lstat(path)
	_, dirErr := os.Stat(filepath.Dir(path))
	if !errors.Is(err, fs.ErrNotExist) || dirErr != nil {
		return false
	}
	rotated := f.findRotated(path, p, fileID{})
	closeFiles(rotated)
	return len(rotated) == 0
}

// publish updates what Status returns. unseen has every glob, and why files of it cannot be seen.
func (f *Follower) publish(unseen map[string]error) {
	matched := map[string]bool{}
	for _, t := range f.tails {
		matched[t.status.Glob] = true
	}
	var empty []Status
	for glob, err := range unseen {
		if err != nil || !matched[glob] {
			empty = append(empty, Status{Glob: glob, State: Waiting, Reason: reason(err), Polling: f.watch == nil})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.empty = slices.Clone(f.tails), empty
}

// addTails begins to follow what paths has that is not followed yet. A path that is there at the first scan was there before
// us.
func (f *Follower) addTails(glob string, paths []string, first bool) {
	for _, path := range paths[:min(len(paths), maxFiles)] {
		i, found := slices.BinarySearchFunc(f.tails, path, func(t *tail, path string) int { return strings.Compare(t.path, path) })
		if found || f.isRotated(path) {
			continue
		}
		t := &tail{path: path, before: first, status: Status{Glob: glob, Path: path, State: Waiting}}
		if p, err := parsePosition(f.resume[path]); err == nil {
			t.left = &p
		} else if f.resume[path] != "" {
			f.log.Warn("saved position of a log file is not used", "path", path, "error", err)
		}
		f.tails = slices.Insert(f.tails, i, t)
	}
}

// isRotated reports whether path is a rotated copy of a file that is followed.
func (f *Follower) isRotated(path string) bool {
	return slices.ContainsFunc(f.tails, func(t *tail) bool { return rotatedName(path, t.path) })
}

// reason returns why no file is there, in words.
func reason(err error) string {
	if err == nil {
		return "no such file"
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Path + ": " + pathErr.Err.Error()
	}
	return err.Error()
}

// readAll reads what was written: of all files, or of those that the watcher marked.
func (f *Follower) readAll(ctx context.Context, all bool) {
	if all {
		f.looked = time.Now()
	}
	f.backlog = false
	for _, t := range f.tails {
		if !all && !t.dirty {
			continue
		}
		t.dirty = false
		f.readTail(ctx, t)
	}
}

// closeAll closes what is open.
func (f *Follower) closeAll() {
	for _, t := range f.tails {
		closeFiles(t.old)
		if t.cur != nil {
			t.cur.close()
		}
	}
	if f.watch != nil {
		f.watch.Close()
	}
}
