package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// changes are what happens in a directory: files and directories that are made, renamed and removed there.
type changes struct{ f *os.File }

// newChanges begins to watch a directory. What happens before is not among them.
func newChanges(dir string) (*changes, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	c := &changes{os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", dir, err), c.Close())
	}
	return c, nil
}

// Close ends the watch.
func (c *changes) Close() error { return c.f.Close() }

// wait returns once something has happened, or at a time, which is over then. The error is that of ctx.
func (c *changes) wait(ctx context.Context, until time.Time) (over bool, err error) {
	if err := c.f.SetReadDeadline(until); err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var events [4 << 10]byte
	_, err = c.f.Read(events[:])
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true, nil
	}
	return false, err
}
