// Package logfile follows log files that are named by globs: it hands over what is appended, line by line, through every
// rotation, and goes on after a restart where it stopped.
//
// A log file is not one file. logrotate renames it and the logger creates another; or copies it and cuts it to nothing;
// it is deleted, replaced by way of a symbolic link, or its directory does not exist yet. A Follower keeps a path, not a
// file: when another file turns up behind the path, the old one is read to its end first and stays open for a while,
// because its writer may not have noticed yet.
//
// What a file is, is decided by what is in it. A position holds the place up to which the file was read, and checksums of
// the file's first line and of the last bytes before that place. A file that still has both goes on there, whatever its
// inode number; one that does not was rotated meanwhile, and the file that has them is looked for beside it. Inode numbers
// are only a hint: they are given out again, and device numbers change with a reboot.
//
// Memory does not grow with what a stranger writes: a file is read through one buffer, an unfinished last line is left in
// the file until the rest arrives, and lines longer than MaxLine are skipped and counted.
package logfile

import (
	"cmp"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/event"
	"mef/internal/ordered"
)

// MaxLine is the length in bytes of the longest line that is handed over.
const MaxLine = 64 << 10

// A Config sets which files to follow and where to begin.
type Config struct {
	// Globs are absolute patterns as of filepath.Match. Rotated files among the matches ("maillog.1", "maillog-20260101"
	// beside "maillog") and compressed ones are left alone.
	Globs []string

	// Resume holds the last Batch.Resume that was dealt with, by Batch.Source.
	Resume map[string]string

	// Recent bounds what is read of a file that is there at the start and has no position.
	Recent Recent

	// Stamp reads a line's own time, as seen at now. Lines written before the start get that time, or now if there is
	// none; without Stamp, Recent reads nothing.
	Stamp func(line []byte, now time.Time) (time.Time, bool)

	// Accept returns why a file of this owner and with these permissions is not read; nil if it is. nil accepts all.
	Accept func(path string, uid uint32, mode fs.FileMode) error

	// Linger is how long a file that was renamed or removed stays open, because its writer may go on; zero is a minute.
	Linger time.Duration

	// Poll is how often files are looked at instead of waiting for inotify, which does not see what other machines write
	// to a network file system. Zero waits for inotify.
	Poll time.Duration

	Log *slog.Logger // nil discards
}

// Recent bounds what is read of a file without a position: its last Lines lines, as far as they are no older than Window. Zero is no
// limit.
type Recent struct {
	Lines  int
	Window time.Duration
}

// A State reports whether a file is being read.
type State string

// The states of a file.
const (
	Active  State = "active"
	Waiting State = "waiting" // not there, or not readable; see Reason. It is picked up as soon as that changes.
)

// A Status describes one file, or a glob that matches none.
type Status struct {
	Glob   string
	Path   string // empty: nothing matches Glob
	State  State
	Reason string // why State is Waiting
	Lines  uint64 // lines handed over since the start
	Bytes  uint64 // bytes read since the start
	Lost   uint64 // lines skipped because of their length, or unfinished when their file went away
	Denied bool   // the file is there and we may not read it
	Lag    int64  // bytes written and not yet read

	// Behind is for how long lines have been waiting to be read; 0 if they have not for long.
	Behind   time.Duration
	LastLine time.Time // when the last line was handed over; zero: none yet
	Polling  bool      // looked at from time to time, because inotify is not used or not available
}

// New returns a follower that will send to out, which may be shared with other sources. Each Batch.Source is a path.
//
// A batch with Gone set ends a source: nothing is behind the path any more, and its position is worth nothing.
// A batch without lines only moves the position: a file was opened. Of all batches of one source the last Resume counts.
func New(cfg Config, out chan<- *event.Batch) *Follower {
	f := &Follower{
		cfg:    cfg,
		out:    out,
		log:    cfg.Log,
		resume: maps.Clone(cfg.Resume),
		open:   map[fileID]*tail{},
		past:   map[fileID]position{},
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	return f
}

// A Follower follows the files of a Config.
type Follower struct {
	cfg  Config
	out  chan<- *event.Batch
	log  *slog.Logger
	pool event.Pool

	watch   *watcher            // nil: polling
	resume  map[string]string   // of Config.Resume, what was not used yet
	tails   []*tail             // in order of path
	open    map[fileID]*tail    // whose file it is, so that none is followed under two names
	past    map[fileID]position // files that were rotated away and closed: a glob may name them again
	scanned time.Time           // when the names were last looked at; zero: not yet
	looked  time.Time           // when everything was last looked at
	again   bool                // the names must be looked at again at once
	backlog bool                // a file has more to read than its turn allowed

	mu    sync.Mutex
	known []*tail  // tails, as Status sees them
	empty []Status // globs that match nothing
}

// Status returns a snapshot, in order of glob and path. It may be called at any time.
func (f *Follower) Status() []Status {
	now := time.Now()
	f.mu.Lock()
	rows := slices.Clone(f.empty)
	for _, t := range f.known {
		row := t.status
		if row.State == Active {
			row.State, row.Reason, row.Lag, row.Behind = t.progress(now)
		}
		rows = append(rows, row)
	}
	f.mu.Unlock()
	ordered.Sort(rows, func(a, b Status) int {
		return cmp.Or(strings.Compare(a.Glob, b.Glob), strings.Compare(a.Path, b.Path))
	})
	return rows
}

// progress looks at the file behind the path of a tail that counts as active: whether it is the one that is read, and whether what is
// in it has been read. inotify(7) does not see everything, so neither is assumed. The caller holds Follower.mu.
func (t *tail) progress(now time.Time) (state State, why string, lag int64, behind time.Duration) {
	var st unix.Stat_t
	if err := unix.Stat(t.path, &st); err != nil {
		return Active, "", 0, 0 // being rotated
	}
	written := time.Unix(st.Mtim.Unix())
	waits := now.Sub(written) // what was written last
	switch size := st.Size; {
	case fileID{st.Dev, st.Ino} != t.reads && waits > time.Second:
		return Waiting, "the path is another file now", 0, waits
	case size > t.seenTo:
		if !t.reading.IsZero() {
			waits = max(waits, now.Sub(t.reading))
		}
		return Active, "", max(0, size-t.readTo), max(0, waits)
	default:
		return Active, "", max(0, size-t.readTo), 0
	}
}
