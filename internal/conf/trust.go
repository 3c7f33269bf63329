package conf

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// CheckOwner returns an error if the file at path could be changed by a user who is neither root nor the one this process runs as:
// whoever can write the configuration decides who is banned, and who never is. It looks at the file and at the directory it is
// in, both behind symbolic links. A file that does not exist, or whose owner cannot be read, is no mistake here: reading it is.
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
		return &Error{Pos{File: path}, fmt.Sprintf("not read, because %s can change %s", who, what), "run " + fix + " " + strconv.Quote(real)}
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
