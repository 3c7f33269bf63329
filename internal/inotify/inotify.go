//go:build linux

// Package inotify waits for changes of files and directories (inotify(7)).
//
// The kernel reports only what happens on this machine: a file on a network file system can change without an event. Callers
// therefore look from time to time without one, too.
package inotify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Mask is what is watched.
type Mask uint32

const (
	// Names of a directory: files are created, renamed, deleted or change their permissions. Only directories can be watched so.
	Names Mask = unix.IN_CREATE | unix.IN_MOVE | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	// Writes to a file, or to any file of a directory.
	Writes Mask = unix.IN_MODIFY
)

// An Event is one change.
type Event struct {
	Watch    int32 // the watch, as Add returned it
	Ended    bool  // what was watched is gone, and the watch with it
	Overflow bool  // events of any watch were lost
}

// A Watcher waits for changes. Add and Remove may be called from any goroutine, Wait and WaitQuiet from one.
type Watcher struct {
	file *os.File
	ctx  context.Context
	stop func() bool
	buf  []byte
}

// bufSize is for 512 writes to files, or for 30 changes of the longest names.
const bufSize = 8 << 10

// New returns a Watcher whose waits, those under way included, end once ctx is done.
func New(ctx context.Context) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &Watcher{file: os.NewFile(uintptr(fd), "inotify"), ctx: ctx, buf: make([]byte, bufSize)}
	w.stop = context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	return w, nil
}

// Watch returns a Watcher of one file or directory: see New and Add.
func Watch(ctx context.Context, path string, what Mask) (*Watcher, error) {
	w, err := New(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := w.Add(path, what); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Close ends all watches.
func (w *Watcher) Close() error {
	w.stop()
	return w.file.Close()
}

// Add begins to watch the file or directory at path and returns its watch. For one that is watched already, what is watched of it is
// replaced. The error wraps fs.ErrNotExist if there is none, and unix.ENOSPC if the kernel allows no further watch.
func (w *Watcher) Add(path string, what Mask) (watch int32, err error) {
	var wd int
	err = w.control(func(fd int) (err error) {
		wd, err = unix.InotifyAddWatch(fd, filepath.Clean(path), uint32(what))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("inotify: watch %s: %w", path, err)
	}
	return int32(wd), nil
}

// AddFile is Add for an open file, whatever its name is by now.
func (w *Watcher) AddFile(fd int, what Mask) (watch int32, err error) {
	return w.Add(fmt.Sprintf("/proc/self/fd/%d", fd), what)
}

// Remove ends a watch. It is no error if the watch has ended already.
func (w *Watcher) Remove(watch int32) {
	_ = w.control(func(fd int) error {
		_, err := unix.InotifyRmWatch(fd, uint32(watch))
		return err
	})
}

func (w *Watcher) control(do func(fd int) error) error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	if err := conn.Control(func(fd uintptr) { doErr = do(int(fd)) }); err != nil {
		return err
	}
	return doErr
}

// IsFull reports whether an error of Add is about a limit of the kernel (fs.inotify.max_user_watches).
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) }

// Wait waits for events and returns those that have come; none if the time until comes first, or the context ends. The slice is the
// caller's.
func (w *Watcher) Wait(until time.Time) ([]Event, error) {
	n, err := w.read(until)
	return w.events(n), err
}

// Ready returns the events that have come. It does not wait, which Wait does not do for a time that is over: the runtime then returns
// without asking the kernel.
func (w *Watcher) Ready() ([]Event, error) {
	var n int
	err := w.control(func(fd int) (err error) {
		n, err = unix.Read(fd, w.buf)
		return err
	})
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return w.events(n), nil
}

// events returns the events in the first n bytes of the buffer, n <= 0: none.
func (w *Watcher) events(n int) (events []Event) {
	if n <= 0 {
		return nil
	}
	for data := w.buf[:n]; len(data) >= unix.SizeofInotifyEvent; {
		mask := binary.NativeEndian.Uint32(data[unsafe.Offsetof(unix.InotifyEvent{}.Mask):])
		size := binary.NativeEndian.Uint32(data[unsafe.Offsetof(unix.InotifyEvent{}.Len):])
		events = append(events, Event{
			Watch:    int32(binary.NativeEndian.Uint32(data)),
			Ended:    mask&unix.IN_IGNORED != 0,
			Overflow: mask&unix.IN_Q_OVERFLOW != 0,
		})
		data = data[unix.SizeofInotifyEvent+int(size):]
	}
	return events
}

// WaitQuiet waits for events, and then until none has come for the time quiet, which is put off by the time within at most: an editor
// saves a file in several steps. It reports whether there were any before the time until.
func (w *Watcher) WaitQuiet(until time.Time, quiet, within time.Duration) (changed bool, err error) {
	n, err := w.read(until)
	if n == 0 || err != nil {
		return false, err
	}
	for end := time.Now().Add(within); n > 0 && err == nil; {
		n, err = w.read(earlier(time.Now().Add(quiet), end))
	}
	return true, err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// read returns how many bytes of events have come, 0 if the time until comes first or the context ends.
func (w *Watcher) read(until time.Time) (int, error) {
	if err := w.file.SetReadDeadline(until); err != nil {
		return 0, fmt.Errorf("inotify: %w", err)
	}
	if w.ctx.Err() != nil { // asked after the deadline is set: New's function has the last word
		return 0, nil
	}
	n, err := w.file.Read(w.buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("inotify: %w", err)
	}
	return n, nil
}
