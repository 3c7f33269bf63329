package logfile

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// errNotRegular reports that a path is not a log file.
	errNotRegular = errors.New("not a regular file")

	// errForeignLink reports a symbolic link of a user other than root to the file of another user. The daemon may be able to read what that user
	// cannot.
	errForeignLink = errors.New("a symbolic link leads to a file of another user")
)

// openFile opens the file behind path, which is, or was, the log file log. It never blocks, whatever the path is. A symbolic link counts
// if it belongs to root or to the owner of the file.
func (f *Follower) openFile(path, log string) (*file, error) {
	opened, st, err := open(path)
	if err == nil && f.cfg.Accept != nil {
		if err = f.cfg.Accept(log, st.Uid, fs.FileMode(st.Mode).Perm()); err != nil {
			opened.close()
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return opened, nil
}

func open(path string) (*file, *unix.Stat_t, error) {
	real, owners, err := resolve(path)
	if err != nil {
		return nil, nil, err
	}
	fd, err := openReal(real)
	if err != nil {
		return nil, nil, err
	}
	st, err := regular(fd)
	for _, owner := range owners {
		if err == nil && owner != 0 && owner != st.Uid {
			err = errForeignLink
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	id := fileID{st.Dev, st.Ino}
	return &file{fd: fd, id: id, pos: position{id: id}, catchUp: st.Size, last: make([]byte, 0, tailSize)}, st, nil
}

// openReal opens a path without symbolic links. The kernel makes sure that none was put in its place meanwhile, since 5.6.
func openReal(path string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_NOFOLLOW
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // an old kernel, or a filter of system calls
		return unix.Open(path, flags, 0)
	}
	return fd, err
}

// resolve returns a path without its symbolic links, and the owners of these.
func resolve(path string) (real string, owners []uint32, err error) {
	real = "/"
	for rest := strings.Split(path, "/"); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		var st unix.Stat_t
		if err := unix.Lstat(next, &st); err != nil {
			return "", nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			real = next
			continue
		}
		if len(owners) == maxResolved {
			return "", nil, unix.ELOOP
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlink(next, buf)
		if err != nil {
			return "", nil, err
		}
		owners = append(owners, st.Uid)
		if n > 0 && buf[0] == '/' {
			real = "/"
		}
		rest = append(strings.Split(string(buf[:n]), "/"), rest...)
	}
	return real, owners, nil
}

// maxResolved is how many symbolic links a path may have, as many as the kernel allows.
const maxResolved = 40

// regular returns what the kernel reports of an open regular file.
func regular(fd int) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errNotRegular
	}
	return &st, nil
}

// identify returns the ID and size of an open regular file.
func identify(fd int) (fileID, int64, error) {
	st, err := regular(fd)
	if err != nil {
		return fileID{}, 0, err
	}
	return fileID{st.Dev, st.Ino}, st.Size, nil
}
