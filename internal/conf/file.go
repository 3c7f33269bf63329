package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"mef/internal/conf/diag"
)

// CheckOwner returns an error if the file at path could be changed by a user who is neither root nor the one this process runs as:
// that user would decide who is banned. It checks the file and its directory, both after following symbolic links. A file that does not
// exist, or whose owner cannot be read, is not an error here; reading it will be.
func CheckOwner(path string) *Error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	if e := checkOwner(path, real, false); e != nil {
		return e
	}
	return checkOwner(path, filepath.Dir(real), true)
}

// CheckDirOwner is CheckOwner for a directory of which every file is read.
func CheckDirOwner(dir string) *Error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	return checkOwner(dir, real, false)
}

// checkOwner returns why what is at real must not be read for the configuration at path. In a directory that holds the file, the
// sticky bit is enough: others can add files there, but not replace this one.
func checkOwner(path, real string, stickyIsEnough bool) *Error {
	info, err := os.Stat(real)
	if err != nil {
		return nil
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() && !info.IsDir() {
		return nil // reading it fails with a better reason
	}
	what := "it"
	if stickyIsEnough || real != path {
		what = strconv.Quote(real)
	}
	sticky := stickyIsEnough && info.Mode()&fs.ModeSticky != 0
	refused := func(who, fix string) *Error {
		return &Error{Pos: Pos{File: path}, Msg: fmt.Sprintf("not read, because %s can change %s", who, what), Hint: "run " + fix + " " + strconv.Quote(real)}
	}
	switch mode := info.Mode().Perm(); {
	case owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return refused(userName(owner.Uid), "chown root:root")
	case mode&0o002 != 0 && !sticky:
		return refused("every user", "chmod go-w")
	case mode&0o020 != 0 && owner.Gid != 0 && !sticky:
		return refused("group "+groupName(owner.Gid), "chmod g-w")
	}
	return nil
}

// userName returns the name of a user, or its number.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user " + id
}

// groupName returns the name of a group, or its number.
func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

const (
	MaxConfig = 1 << 20  // mef.conf and rule files are written by hand
	MaxList   = 64 << 20 // lists are not
)

// ReadOwned is ReadFile for what only root may write; see CheckOwner.
func ReadOwned(path string, limit int64) ([]byte, error) {
	if e := CheckOwner(path); e != nil {
		return nil, e
	}
	return ReadFile(path, limit)
}

// Open opens a regular file, of which no read waits. Anything else is refused: a pipe or a terminal may never end. A file of /proc that has
// nothing to read yet ends with an error.
func Open(path string) (io.ReadCloser, error) {
	info, err := os.Stat(path) // because opening a device may act on it
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = errNotRegular // it was replaced meanwhile
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return file{f}, nil
}

var (
	errNotRegular = errors.New("not a regular file")
	errWaits      = errors.New("reading this file waits for another program")
)

// A file is read without waiting: an os.File would wait until a file that can be polled has something to read.
type file struct{ *os.File }

// Read reads what is there now.
func (f file) Read(p []byte) (n int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	done := conn.Read(func(fd uintptr) bool {
		for n, err = syscall.Read(int(fd), p); err == syscall.EINTR; n, err = syscall.Read(int(fd), p) {
		}
		return true
	})
	switch {
	case done != nil:
		return 0, done
	case err == syscall.EAGAIN:
		return 0, errWaits
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// ReadFile reads a regular file of at most limit bytes; see Open.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("larger than %d MiB", limit>>20)
	}
	return text, err
}

// FileError is err as a mistake of the file as a whole.
func FileError(path string, err error) *Error {
	if refused := new(Error); errors.As(err, &refused) {
		return refused
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		return &Error{Pos: Pos{File: path}, Msg: at.Err.Error(), Hint: ""}
	}
	return &Error{Pos: Pos{File: path}, Msg: err.Error(), Hint: ""}
}

// PathError returns err with the path in quotes.
func PathError(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return diag.Quote(at.Path) + ": " + at.Err.Error()
	}
	return err.Error()
}

func IsConfFile(name string) bool {
	return strings.HasSuffix(name, ".conf") && !strings.HasPrefix(name, ".")
}
