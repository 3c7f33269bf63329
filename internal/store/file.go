package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"mef/internal/ban"
)

// ErrLocked is wrapped by the error for a file that another process holds.
var ErrLocked = errors.New("another mefdaemon holds it")

// ErrDamaged is wrapped by the warning about a file that was set aside, and by errors of a file that turns out to be damaged.
var ErrDamaged = errors.New("damaged")

const (
	pageSize = 4096    // of the file, on every machine
	growBy   = 1 << 20 // how much the file grows at once, in bytes

	lockTimeout = time.Second // how long a daemon that is just ending may hold the file
	lockPoll    = 20 * time.Millisecond

	keepDamaged = 3 // how many damaged files are kept for those who want to look

	compacting = ".compact" // ends the name of a file in the making
)

// open makes s.db, by way of setting a damaged file aside.
func (s *Store) open() error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o750); err != nil {
		return err // os names the path
	}
	db, err := s.openFile()
	if errors.Is(err, ErrDamaged) {
		s.warning = err
		db, err = s.openFile()
	}
	if err != nil {
		return err
	}
	s.db = db
	return s.cleanUp()
}

// openFile opens the file. If it is damaged it is set aside, and the error wraps ErrDamaged.
func (s *Store) openFile() (*bbolt.DB, error) {
	f, err := lock(s.path)
	if err != nil {
		return nil, err
	}
	db, err := s.load(f)
	if err == nil {
		return db, nil
	}
	// Until it is closed the file is locked, so that no other daemon sets it aside too, or the new one that follows it.
	defer f.Close()
	if errors.Is(err, ErrDamaged) {
		aside, err2 := s.setAside()
		if err2 != nil {
			return nil, fmt.Errorf("%s is %v, and cannot be renamed: %w", s.path, err, err2)
		}
		err = fmt.Errorf("%s is %w; it was renamed to %s, and a new one was created", s.path, err, aside)
	}
	if db != nil {
		guard(db.Close)
	}
	return nil, err
}

// load makes a database of a locked file. After an error the file, and the database if there is one, are the caller's to
// close.
func (s *Store) load(f *os.File) (*bbolt.DB, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// bbolt trusts what it reads, and reads in goroutines of its own, where no panic can be caught: it gets to see only
	// what has been checked.
	if info.Size() > 0 {
		if err := check(f, info.Size()); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	db, err := s.bolt(s.path, f)
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		if err := syncDir(s.path); err != nil { // the file is new
			return db, err
		}
	}
	return db, guard(func() error { return s.migrate(db) })
}

// bolt opens the database in f, which belongs to it from now on.
func (s *Store) bolt(path string, f *os.File) (db *bbolt.DB, err error) {
	err = guard(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:  lockTimeout,
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f, nil },
			PageSize: pageSize,
			MaxSize:  int(s.maxSize),
			// Only pages that are looked at take memory. A mapping that need not grow spares bbolt a copy of all it has
			// in hand.
			InitialMmapSize: int(s.maxSize),
			// The list of free pages is found by a walk through the file at start, rather than written a second time
			// with each transaction.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		})
		return err
	})
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.AllocSize = growBy
	return db, nil
}

// lock opens the file at path, makes it if need be, and locks it.
func lock(path string) (*os.File, error) {
	for end := time.Now().Add(lockTimeout); ; time.Sleep(lockPoll) {
		f, err := tryLock(path)
		if f != nil || err != nil {
			return f, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%s: %w: stop it first, or set another cache_dir", path, ErrLocked)
		}
	}
}

// tryLock returns nil without an error if another holds the file.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err // os names the path
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	// Whoever held the lock may have put another file in this one's place.
	locked, err := f.Stat()
	if err == nil {
		var there fs.FileInfo
		if there, err = os.Stat(path); err == nil && os.SameFile(locked, there) {
			return f, nil
		}
	}
	f.Close()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return nil, err
}

// setAside renames the file and deletes the oldest of those that were set aside before.
func (s *Store) setAside() (string, error) {
	const mark = ".damaged-"
	aside := s.path + mark + time.Now().UTC().Format("20060102T150405.000000Z")
	if err := os.Rename(s.path, aside); err != nil {
		return "", err
	}
	old, _ := filepath.Glob(s.path + mark + "*")
	slices.Sort(old)
	for _, name := range old[:max(0, len(old)-keepDamaged)] {
		os.Remove(name)
	}
	return aside, syncDir(s.path)
}

// syncDir makes what was renamed in the directory of path outlive a power cut.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// usage returns how many bytes of the file are in use, and how many are free for reuse.
func (s *Store) usage() (used, free int64) {
	stats := s.db.Stats()
	free = int64(stats.FreePageN+stats.PendingPageN) * pageSize
	s.view(func(tx *bbolt.Tx) { used = tx.Size() - free })
	return used, free
}

// A room is how much of the file's bound is left.
type room uint8

const (
	ample  room = iota
	short       // new spare records are left out, and all but one line of evidence
	scarce      // evidence and reasons are left out, except what an operator wrote
)

// shorten returns what is kept of a ban.
func (r room) shorten(b *ban.Ban) *ban.Ban {
	if r == ample {
		return b
	}
	cut := *b
	cut.Evidence = b.Evidence[max(0, len(b.Evidence)-1):]
	if r == scarce && b.Author == "" {
		cut.Evidence, cut.Reason = nil, ""
	}
	return &cut
}

// measure finds out how much room there is. Bans come in no order, so that their pages are two thirds full: 200,000 of the scarcest form
// take half of what DefaultMaxSize is.
func (s *Store) measure() (used, free int64) {
	used, free = s.usage()
	switch {
	case used > s.maxSize/2:
		s.room = scarce
	case used > s.maxSize*3/8:
		s.room = short
	default:
		s.room, s.refused = ample, 0
	}
	return used, free
}

// cleanUp looks after a file just opened: a compaction that was cut short leaves its file behind, and one that is mostly free
// pages is worth copying.
func (s *Store) cleanUp() error {
	os.Remove(s.path + compacting)
	used, free := s.measure()
	if free > used && free > growBy {
		return s.compact()
	}
	return nil
}

// compactEvery is the least time between two compactions.
const compactEvery = time.Hour

// maintain looks after the file once a transaction is done. A copy gains even where no page is free: pages that bans and
// tallies have come to in no order are two thirds full, and a copy's are all full.
func (s *Store) maintain(now time.Time) error {
	if err := s.restoreDeleted(); err != nil {
		return err
	}
	used, _ := s.measure()
	if (used > s.maxSize*5/8 || s.Size() > s.maxSize*3/4) && !now.Before(s.nextCompact) {
		s.nextCompact = now.Add(compactEvery)
		if err := s.compact(); err != nil {
			return err
		}
		s.measure()
	}
	return nil
}

// restoreDeleted writes a copy in the place of the file if it was deleted: an open file can still be read.
func (s *Store) restoreDeleted() error {
	if _, err := os.Lstat(s.path); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(s.path), 0o750)
	if err == nil {
		err = s.compact()
	}
	if err == nil {
		_, err = os.Lstat(s.path)
	}
	if err != nil {
		return fmt.Errorf("%s was deleted while in use, and cannot be restored: %w", s.path, err)
	}
	s.warning = fmt.Errorf("%s was deleted while in use, and was restored; stop the daemon before you delete it", s.path)
	return nil
}

// compact copies what is in use into a file beside ours and puts that in its place. Until the rename our file is what it
// was, and after it the other is complete, on disk, and locked like ours: there is no moment without a whole file, and none
// at which another daemon could take it. If it cannot be done, all stays as it was.
func (s *Store) compact() error {
	db, err := s.copy(s.path + compacting)
	if err != nil {
		os.Remove(s.path + compacting)
		return nil // most likely there is no space for two: the old file serves as well
	}
	if err := os.Rename(s.path+compacting, s.path); err != nil {
		guard(db.Close)
		os.Remove(s.path + compacting)
		return nil
	}
	old := s.db
	s.db = db
	guard(old.Close)
	return syncDir(s.path)
}

// copy makes a copy of the database without free pages, synced and open.
func (s *Store) copy(path string) (*bbolt.DB, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	db, err := s.bolt(path, f)
	if err != nil {
		return nil, err
	}
	db.NoSync, db.NoGrowSync = true, true // one sync at the end is enough
	err = guard(func() error {
		if err := bbolt.Compact(db, s.db, growBy); err != nil {
			return err
		}
		return db.Sync()
	})
	if err != nil {
		guard(db.Close)
		return nil, err
	}
	db.NoSync, db.NoGrowSync = false, false
	return db, nil
}

// release gives back the memory through which bbolt has read the file. It stays in the kernel's cache, but no longer counts
// as ours.
func (s *Store) release() {
	s.view(func(tx *bbolt.Tx) {
		// Not more than the file's pages: what lies behind the mapping is not ours. An error changes nothing.
		syscall.Syscall(syscall.SYS_MADVISE, s.db.Info().Data, uintptr(tx.Size()), syscall.MADV_DONTNEED)
	})
}
