package logfile

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

// A news is what a watcher has to tell after a wait.
type news struct {
	names bool // names may have changed in a directory
	all   bool // anything may have changed
}

// A watcher waits for changes by inotify(7). Directories are watched for names only and files for what is written to them, so
// that busy files nobody follows wake nobody.
type watcher struct {
	file  *os.File // the inotify descriptor
	buf   []byte
	files map[int32]*tail // by watch descriptor
	dirs  map[int32]bool
}

// What is watched of a directory, and of a file.
const (
	dirEvents  = unix.IN_CREATE | unix.IN_MOVE | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	fileEvents = unix.IN_MODIFY
)

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &watcher{
		file:  os.NewFile(uintptr(fd), "inotify"),
		buf:   make([]byte, 64<<10),
		files: map[int32]*tail{},
		dirs:  map[int32]bool{},
	}, nil
}

// interruptOn makes the waits that are and that will be end once ctx is done.
func (w *watcher) interruptOn(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { w.file.SetReadDeadline(time.Unix(1, 0)) })
}

// watchDirs watches exactly the directories dirs; those that do not exist are not watched. It returns whether any was not
// watched before.
func (w *watcher) watchDirs(dirs []string) (grown bool, failed error) {
	keep := map[int32]bool{}
	for _, dir := range dirs {
		wd, err := w.add(dir, dirEvents)
		if err == nil {
			keep[wd] = true
			grown = grown || !w.dirs[wd]
		} else if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
			failed = fmt.Errorf("inotify: watch %s: %w", dir, err)
		}
	}
	for wd := range w.dirs {
		if !keep[wd] {
			w.remove(wd)
		}
	}
	w.dirs = keep
	return grown, failed
}

// watchFile watches the open file fd on behalf of t.
func (w *watcher) watchFile(fd int, t *tail) (int32, error) {
	wd, err := w.add(fmt.Sprintf("/proc/self/fd/%d", fd), fileEvents)
	if err != nil {
		return 0, fmt.Errorf("inotify: watch %s: %w", t.path, err)
	}
	w.files[wd] = t
	return wd, nil
}

// unwatchFile ends what watchFile began.
func (w *watcher) unwatchFile(wd int32) {
	delete(w.files, wd)
	w.remove(wd)
}

func (w *watcher) add(path string, events uint32) (int32, error) {
	var wd int
	err := w.control(func(fd int) (err error) {
		wd, err = unix.InotifyAddWatch(fd, filepath.Clean(path), events)
		return err
	})
	return int32(wd), err
}

func (w *watcher) remove(wd int32) {
	w.control(func(fd int) error {
		_, err := unix.InotifyRmWatch(fd, uint32(wd))
		return err // gone already if what it watched is
	})
}

func (w *watcher) control(do func(fd int) error) error {
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

// wait waits until something changes, at most until the time until, and marks the files that were written to as dirty. A
// wait that was too long for the kernel's queue tells that anything may have changed.
func (w *watcher) wait(ctx context.Context, until time.Time) (news, error) {
	w.file.SetReadDeadline(until)
	if ctx.Err() != nil { // after the deadline was set, so that interruptOn has the last word
		return news{}, nil
	}
	n, err := w.file.Read(w.buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return news{}, nil
	}
	if err != nil {
		return news{}, fmt.Errorf("inotify: %w", err)
	}
	var what news
	for data := w.buf[:n]; len(data) >= unix.SizeofInotifyEvent; {
		wd := int32(binary.NativeEndian.Uint32(data))
		mask := binary.NativeEndian.Uint32(data[unsafe.Offsetof(unix.InotifyEvent{}.Mask):])
		size := binary.NativeEndian.Uint32(data[unsafe.Offsetof(unix.InotifyEvent{}.Len):])
		data = data[unix.SizeofInotifyEvent+int(size):]
		t := w.files[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			what.all = true
		case mask&unix.IN_IGNORED != 0:
			delete(w.files, wd)
		case t != nil:
			t.dirty = true
		default:
			what.names = true
		}
	}
	return what, nil
}

func (w *watcher) close() { w.file.Close() }
