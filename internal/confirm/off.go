package confirm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mef/internal/atomicfile"
)

// offFile is the name of the file below cache_dir that records that an operator switched the daemon off; its time is when.
const offFile = "off"

// SetOff takes note below a state directory that an operator switched the daemon off, so that bans made before do not come back when it
// is started again. It needs no daemon.
func SetOff(stateDir string) error {
	return atomicfile.Write(filepath.Join(stateDir, offFile), nil, 0o644)
}

// Off returns when the daemon was switched off, zero if it was not since ClearOff.
func Off(stateDir string) (time.Time, error) {
	info, err := os.Stat(filepath.Join(stateDir, offFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// ClearOff forgets that the daemon was switched off. It is for when the bans made before are forgotten on disk.
func ClearOff(stateDir string) error { return atomicfile.Remove(filepath.Join(stateDir, offFile)) }
