package confirm

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mef/internal/atomicfile"
)

// offFile is the name of the file below cache_dir that records that an operator switched the daemon off, and when: an RFC 3339 time. The
// file's own time would not do, for the kernel takes it from a clock that stands still for milliseconds at a time, so that a ban from just
// before would seem to be later.
const offFile = "off"

// maxOffSize is more than a time takes.
const maxOffSize = 64

// SetOff takes note below a state directory that an operator switched the daemon off, so that bans made before do not come back when it
// is started again. It needs no daemon.
func SetOff(stateDir string) error {
	return atomicfile.Write(filepath.Join(stateDir, offFile), []byte(time.Now().UTC().Format(time.RFC3339Nano)+"\n"), 0o644)
}

// Off returns when the daemon was switched off, zero if it was not since ClearOff. Where the file holds no time, the file's own counts.
func Off(stateDir string) (time.Time, error) {
	f, err := os.Open(filepath.Join(stateDir, offFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxOffSize))
	if err != nil {
		return time.Time{}, err
	}
	if at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text))); err == nil {
		return at, nil
	}
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// ClearOff forgets that the daemon was switched off. It is for when the bans made before are forgotten on disk.
func ClearOff(stateDir string) error { return atomicfile.Remove(filepath.Join(stateDir, offFile)) }
