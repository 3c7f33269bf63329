// Package store keeps what must survive a restart, a reboot and kill -9 in one file, mef.db.
//
// The file is a bbolt database: a B+tree whose pages are never overwritten while they are in use. A transaction writes new
// pages, syncs them, and then makes them valid by writing one of two meta pages; whatever happens in between, the file
// holds either all of a transaction or nothing of it. That is what the daemon's promise rests on: read positions and the
// tallies made of what was read move together, so that after a crash no line is lost and none is counted twice.
//
//	meta       the schema version, and which program wrote it
//	banlist    bans in force with their evidence, a table
//	positions  where each source goes on reading, by source
//	tracker    the tracker's own records, whose meaning it alone knows, by key
//	spare      those of its records that may be left out, of which there are very many, a table
//	notes      what operators added by command, and other small things of the daemon's, by name
//
// Every value ends in a checksum over key and value, because bbolt has none: a flipped bit must not ban a stranger. Entries that
// cannot be read are skipped and counted.
//
// A Store does all this in the caller's goroutine. A Saver accepts updates without making their
// callers wait, and retries when the disk is full.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"mef/internal/ban"
)

// Options of a Store. The zero value is good for tests.
type Options struct {
	Version string // the program's version; the file keeps it for the error message of an older program
	MaxSize int64  // bound of the file in bytes; 0: DefaultMaxSize
}

// DefaultMaxSize is how large the file gets, in bytes.
const DefaultMaxSize = 64 << 20

// An Update is what one transaction changes.
type Update struct {
	Bans      []ban.Ban         // put, each in place of one with its Key
	Lifted    []ban.Key         // bans to delete; a ban that expires need not be listed
	Positions map[string]string // Batch.Resume by Batch.Source; empty: the source no longer exists
	Records   []Record          // the tracker's
	Notes     map[string]string // by name; empty: the note is removed
}

// A Record is one entry of the tracker's state.
type Record struct {
	Key   []byte
	Value []byte // empty: the entry is removed
	Spare bool   // may be left out where room is short
}

// The buckets of the file.
var (
	bucketMeta      = []byte("meta")
	bucketBans      = []byte("banlist")
	bucketPositions = []byte("positions")
	bucketTracker   = []byte("tracker")
	bucketSpare     = []byte("spare")
	bucketNotes     = []byte("notes")
)

// A Store is an open mef.db. Its methods must not be called at the same time.
type Store struct {
	path    string
	version string
	maxSize int64

	db      *bbolt.DB // nil: the file could not be opened; the next Commit tries again
	bans    table
	spare   table
	suspect bool // a transaction failed: the next Commit opens the file anew
	warning error
	skipped int

	room        room
	refused     int // bans and records for which there was no page any more, since the file was last large enough
	nextPrune   time.Time
	nextCompact time.Time
}

// Open opens the file at path, and makes it and its directory if need be. It holds the file's lock until Close.
//
// A damaged file is renamed, and a new one is created. If there can be no file now (no space, no permission), the Store is
// empty and Commit tries again. Warning returns either problem. An error means that the daemon must not run with this path: it
// wraps ErrLocked or ErrNewer.
func Open(path string, opt Options) (*Store, error) {
	s := &Store{path: path, version: opt.Version, maxSize: opt.MaxSize, bans: table{bucket: bucketBans}, spare: table{bucket: bucketSpare}}
	if s.maxSize <= 0 {
		s.maxSize = DefaultMaxSize
	}
	err := s.open()
	if errors.Is(err, ErrLocked) || errors.Is(err, ErrNewer) {
		return nil, err
	}
	if err != nil {
		s.warning = err
	}
	return s, nil
}

// Warning returns what went wrong when the file was opened, in words for the operator; nil if nothing did. It wraps
// ErrDamaged if a damaged file was set aside.
func (s *Store) Warning() error { return s.warning }

// Close releases the file and its lock.
func (s *Store) Close() error {
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db, s.suspect = nil, false
	return guard(db.Close)
}

// A State is what Load finds.
type State struct {
	Bans      []ban.Ban         // in force at the time asked for, in no particular order, without Reason, Author, Note and Evidence
	Positions map[string]string // by source
	Notes     map[string]string // by name
}

// Load reads bans, positions and notes. Bans that are over at now are left out.
func (s *Store) Load(now time.Time) (State, error) {
	st := State{Positions: make(map[string]string), Notes: make(map[string]string)}
	s.release() // what was read to open the file
	err := s.view(func(tx *bbolt.Tx) {
		st.Bans = make([]ban.Ban, 0, s.bans.index.used)
		var d decoder
		s.eachOf(tx, &s.bans, func(k, v []byte) bool {
			b, err := d.brief(k, v)
			if err != nil {
				s.skipped++
			} else if !over(b.Until, now) {
				st.Bans = append(st.Bans, b)
			}
			return true
		})
		s.each(tx, bucketPositions, func(k, v []byte) bool {
			st.Positions[string(k)] = string(v)
			return true
		})
		s.each(tx, bucketNotes, func(k, v []byte) bool {
			st.Notes[string(k)] = string(v)
			return true
		})
	})
	s.release()
	return st, err
}

// Bans reads the bans of keys, all that is known of them. Keys that are not there are absent.
func (s *Store) Bans(keys []ban.Key) (map[ban.Key]ban.Ban, error) {
	found := make(map[ban.Key]ban.Ban, len(keys))
	err := s.view(func(tx *bbolt.Tx) {
		var d decoder
		for _, key := range keys {
			_, entry := s.bans.find(tx, banKey(key))
			k, v, ok := leave(entry)
			if !ok {
				continue
			}
			if b, err := d.ban(k, v); err == nil {
				found[key] = b
			}
		}
	})
	s.release()
	return found, err
}

// Records returns the tracker's records. Key and value are valid until the next one is asked for.
func (s *Store) Records() iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		err := s.view(func(tx *bbolt.Tx) {
			more := true
			each := func(k, v []byte) bool {
				more = yield(k, v)
				return more
			}
			if s.each(tx, bucketTracker, each); more {
				s.eachOf(tx, &s.spare, each)
			}
		})
		if err != nil {
			s.skipped++
		}
		s.release()
	}
}

// Skipped returns how many records Load and Records left out because they could not be read.
func (s *Store) Skipped() int { return s.skipped }

// each calls fn for the entries of a bucket whose checksum holds, until it returns false.
func (s *Store) each(tx *bbolt.Tx, bucket []byte, fn func(k, v []byte) bool) {
	s.walk(tx, bucket, func(k, sealed []byte) ([]byte, []byte, bool) {
		v, ok := unseal(k, sealed)
		return k, v, ok
	}, fn)
}

// eachOf is each for a table.
func (s *Store) eachOf(tx *bbolt.Tx, t *table, fn func(k, v []byte) bool) {
	s.walk(tx, t.bucket, func(key, entry []byte) ([]byte, []byte, bool) {
		k, v, ok := leave(entry)
		_, numbered := numberOf(key)
		return k, v, ok && numbered
	}, fn)
}

// releaseEvery is after how many entries the memory through which they were read is given back.
const releaseEvery = 4096

func (s *Store) walk(tx *bbolt.Tx, bucket []byte, read func(k, v []byte) ([]byte, []byte, bool), fn func(k, v []byte) bool) {
	c, n := tx.Bucket(bucket).Cursor(), 0
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if n++; n%releaseEvery == 0 {
			s.release()
		}
		if k, v, ok := read(k, v); !ok {
			s.skipped++
		} else if !fn(k, v) {
			return
		}
	}
}

// view calls fn with a transaction that only reads.
func (s *Store) view(fn func(tx *bbolt.Tx)) error {
	if s.db == nil {
		return nil
	}
	err := guard(func() error {
		tx, err := s.db.Begin(false)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		fn(tx)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	return nil
}

// Commit makes the update hold, all of it or nothing, and returns once the disk has it. Bans that are over at now are
// cleared out from time to time. After an error the caller tries the update again.
//
// Only an update that changes more pages than the file may have is written in several transactions: what matters most
// comes first and the positions last, so that lines may be counted again after a crash in between, but none is lost.
func (s *Store) Commit(u *Update, now time.Time) error {
	p := newPending()
	p.add(u, s.room)
	return s.commitAll(p, now)
}

// commitAll is Commit of updates that are merged.
func (s *Store) commitAll(u *pending, now time.Time) error {
	if s.db == nil || s.suspect {
		s.Close()
		if err := s.open(); err != nil {
			return err
		}
	}
	all := u.part()
	err := s.commit(&all, now)
	if errors.Is(err, bolterrors.ErrMaxSizeReached) {
		for some := range all.cut() {
			if s.room > ample {
				some.shorten(s.room)
			}
			err = s.commit(&some, now)
			if what := some.refusable(); what > 0 && errors.Is(err, bolterrors.ErrMaxSizeReached) {
				s.refused += what // rather these than the positions, without which all is read again and again
				err = nil
			}
			if err != nil {
				break
			}
			s.measure()
		}
	}
	if err != nil {
		// After a failed write or sync bbolt's memory cannot be trusted; the file can.
		s.suspect = true
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return fmt.Errorf("save state: %w", err) // os names the path
		}
		return fmt.Errorf("save state in %s: %w", s.path, err)
	}
	if !now.Before(s.nextPrune) {
		s.nextPrune = now.Add(pruneEvery)
	}
	s.release()
	return s.maintain(now)
}

// commit writes a part in one transaction.
func (s *Store) commit(p *part, now time.Time) error {
	err := guard(func() error {
		tx, err := s.db.Begin(true)
		if err != nil {
			return err
		}
		defer tx.Rollback() // of no effect after Commit
		if err := s.write(tx, p, now); err != nil {
			return err
		}
		return tx.Commit()
	})
	s.bans.settle(err == nil)
	s.spare.settle(err == nil)
	return err
}

func (s *Store) write(tx *bbolt.Tx, p *part, now time.Time) error {
	for _, c := range p.bans {
		if err := s.bans.apply(tx, c); err != nil {
			return err
		}
	}
	for _, c := range p.records {
		if err := s.writeRecord(tx, c); err != nil {
			return err
		}
	}
	if err := putAll(tx.Bucket(bucketPositions), p.positions); err != nil {
		return err
	}
	if err := putAll(tx.Bucket(bucketNotes), p.notes); err != nil {
		return err
	}
	if !now.Before(s.nextPrune) {
		return s.prune(tx, now)
	}
	return nil
}

// writeRecord puts or deletes a record of the tracker.
func (s *Store) writeRecord(tx *bbolt.Tx, c change) error {
	tracker, k := tx.Bucket(bucketTracker), []byte(c.key)
	known := tracker.Get(k) != nil // of a spare one: in a file of an earlier schema
	if c.spare && c.value != nil && !known {
		if s.room > ample {
			if n, _ := s.spare.find(tx, k); n == 0 {
				return nil
			}
		}
		return s.spare.apply(tx, c)
	}
	if c.value == nil {
		if err := s.spare.apply(tx, c); err != nil {
			return err
		}
	} else if c.spare {
		_, c.value = split(c.value)
	}
	return c.apply(tracker)
}

// apply puts or deletes an entry. The bucket refers to the value until the transaction has ended.
func (c change) apply(b *bbolt.Bucket) error {
	if c.value == nil {
		return b.Delete([]byte(c.key))
	}
	return b.Put([]byte(c.key), c.value)
}

// putAll puts entries; an empty one is deleted.
func putAll(b *bbolt.Bucket, entries map[string]string) error {
	for k, v := range entries {
		c := change{key: k}
		if v != "" {
			c.value = seal([]byte(k), []byte(v))
		}
		if err := c.apply(b); err != nil {
			return err
		}
	}
	return nil
}

func put(b *bbolt.Bucket, k, v []byte) error { return b.Put(k, seal(k, v)) }

// pruneEvery is how often bans that are over are cleared out.
const pruneEvery = 5 * time.Minute

// prune deletes the bans that are over, and what cannot be read.
func (s *Store) prune(tx *bbolt.Tx, now time.Time) error {
	bans := tx.Bucket(bucketBans)
	var numbers [][]byte
	c := bans.Cursor()
	for key, entry := c.First(); key != nil; key, entry = c.Next() {
		k, v, ok := leave(entry)
		n, numbered := numberOf(key)
		if until, err := decodeUntil(v); ok && numbered && err == nil && !over(until, now) {
			continue
		}
		numbers = append(numbers, key)
		if ok && numbered {
			s.bans.removed = append(s.bans.removed, place{s.bans.index.hash(k), n})
		}
	}
	for _, n := range numbers {
		if err := bans.Delete(n); err != nil {
			return err
		}
	}
	return nil
}

// over reports whether a ban that holds until then is over at now.
func over(until, now time.Time) bool { return !until.IsZero() && !until.After(now) }

// holdsBan reports whether the file has the ban of a key. A file that cannot be opened has nothing.
func (s *Store) holdsBan(k string) (found bool) {
	s.view(func(tx *bbolt.Tx) { found = s.bans.has(tx, k) })
	return found
}

// holdsRecord reports whether the file has the record of a key. A file that cannot be opened has nothing.
func (s *Store) holdsRecord(k string) (found bool) {
	s.view(func(tx *bbolt.Tx) { found = tx.Bucket(bucketTracker).Get([]byte(k)) != nil || s.spare.has(tx, k) })
	return found
}

// Size returns the size of the file in bytes, 0 if there is none.
func (s *Store) Size() int64 {
	info, err := os.Stat(s.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// guard calls fn and turns a panic into an error: bbolt panics on pages it does not understand, and reads the file through
// memory, where a bad sector or a file cut short is a fault.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return fn()
}
