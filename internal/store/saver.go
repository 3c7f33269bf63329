package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/owner"
)

// A Saver writes updates in a goroutine of its own, so that no caller waits for the disk. Updates that come while one is being
// written, or cannot be, are merged: the latest value of each key counts.
type Saver struct {
	store *Store
	log   *slog.Logger

	wake    chan struct{}
	flushes chan chan error
	asks    chan func()

	warned error // the store's last warning that was logged

	mu      sync.Mutex // protects what follows
	waiting *pending
	writing int  // changes that are being written now
	room    room // of the store, when it was last written to
	status  Status
}

// A Status is how saving goes.
type Status struct {
	LastCommit time.Time // zero: none yet
	Size       int64     // of the file, in bytes
	Pending    int       // changes not on disk yet
	Problem    string    // why they are not, and what else is wrong; empty if all is well
}

// Times of the Saver.
const (
	firstRetry = time.Second      // after a failure; doubled with each one that follows
	lastRetry  = 30 * time.Second // what that leads to
	lastWrite  = 5 * time.Second  // how long ending may take
)

// NewSaver returns a Saver that owns the store once it runs. The caller reports the store's Warning so far.
func NewSaver(s *Store, log *slog.Logger) *Saver {
	v := &Saver{store: s, log: log, wake: make(chan struct{}, 1), flushes: make(chan chan error), asks: make(chan func()), waiting: newPending(),
		warned: s.Warning()}
	v.status.Size, v.room = s.Size(), s.room
	if s.db == nil {
		v.status.Problem = s.Warning().Error()
	}
	return v
}

// Save takes an update over and keeps nothing of it; it never waits for the disk.
func (v *Saver) Save(u Update) {
	v.mu.Lock()
	v.waiting.add(&u, v.room)
	v.mu.Unlock()
	owner.Wake(v.wake)
}

// Status returns how saving goes.
func (v *Saver) Status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	st := v.status
	st.Pending = v.waiting.len() + v.writing
	return st
}

// Flush writes what has been saved so far and returns once it is on disk, or could not be written. Run must be running.
func (v *Saver) Flush(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case v.flushes <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Bans reads back the bans of keys, as saved; keys that are not there are absent. Run must be running.
func (v *Saver) Bans(ctx context.Context, keys []ban.Key) (map[ban.Key]ban.Ban, error) {
	type answer struct {
		bans map[ban.Key]ban.Ban
		err  error
	}
	answers := make(chan answer, 1)
	ask := func() {
		bans, err := v.store.Bans(keys)
		v.mu.Lock()
		v.waiting.fill(bans, keys)
		v.mu.Unlock()
		answers <- answer{bans, err}
	}
	select {
	case v.asks <- ask:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-answers:
		return a.bans, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Run writes what is saved until ctx is done; then it writes what is left, closes the store, and returns what went wrong
// with that. A failure before is logged, shown by Status, and tried again.
func (v *Saver) Run(ctx context.Context) error {
	var wait time.Duration // until the next try; 0: the last one went well
	for {
		var retry <-chan time.Time
		wake := v.wake
		if wait > 0 {
			retry, wake = time.After(wait), nil
		}
		var answer chan error
		select {
		case <-ctx.Done():
			return v.finish()
		case answer = <-v.flushes:
		case ask := <-v.asks:
			ask()
			continue
		case <-wake:
		case <-retry:
		}
		err := v.write(time.Now())
		if answer != nil {
			answer <- err
		}
		if err == nil {
			wait = 0
		} else {
			wait = min(max(2*wait, firstRetry), lastRetry)
		}
	}
}

// finish writes what is left and closes the store. A disk that hangs is not waited for.
func (v *Saver) finish() error {
	done := make(chan error, 1)
	go func() {
		err := v.write(time.Now())
		done <- errors.Join(err, v.store.Close())
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(lastWrite):
		return fmt.Errorf("write %s: no answer from the disk within %v", v.store.path, lastWrite)
	}
}

// write commits what is waiting. What could not be written waits on, with what has come since.
func (v *Saver) write(now time.Time) error {
	v.mu.Lock()
	p := v.waiting
	if p.len() == 0 {
		v.mu.Unlock()
		return nil
	}
	v.waiting, v.writing = newPending(), p.len()
	v.mu.Unlock()

	err := v.store.commitAll(p, now)
	if err != nil {
		p.forget(v.store, now)
	}
	size := v.store.Size()

	v.mu.Lock()
	defer v.mu.Unlock()
	v.writing, v.room = 0, v.store.room
	if err != nil {
		p.merge(v.waiting)
		v.waiting = p
	}
	v.report(err, size, now)
	return err
}

// report keeps the status and logs its changes.
func (v *Saver) report(err error, size int64, now time.Time) {
	if w := v.store.Warning(); w != v.warned {
		v.warned = w
		v.log.Warn("the state's file was damaged or deleted while in use", "problem", w)
	}
	was := v.status.Problem
	v.status.Size = size
	v.status.Problem = ""
	switch {
	case err != nil:
		v.status.Problem = err.Error()
	case v.store.refused > 0:
		v.status.Problem = fmt.Sprintf("%s is full (%d MB): %d changes were not saved", v.store.path, v.store.maxSize>>20, v.store.refused)
	case v.store.room == scarce:
		v.status.Problem = fmt.Sprintf("%s is nearly full (%d MB): counters of new sources are not saved, nor reasons and evidence of new bans",
			v.store.path, v.store.maxSize>>20)
	case v.store.room == short:
		v.status.Problem = fmt.Sprintf("%s is nearly full (%d MB): counters of new sources are not saved, nor more than one line of evidence a ban",
			v.store.path, v.store.maxSize>>20)
	}
	if err == nil {
		v.status.LastCommit = now
	}
	switch {
	case v.status.Problem == was:
	case v.status.Problem == "":
		v.log.Info("state is saved again", "file", v.store.path)
	default:
		v.log.Warn("state cannot be saved", "problem", v.status.Problem, "pending", v.waiting.len())
	}
}
