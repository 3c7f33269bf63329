//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dir has the world's own files, which belong to no daemon: copies of programs, output of processes.
const dir = "/run/lab"

// privateMounts gives the world its own file systems wherever daemons write. programs are copied to dir/bin first, because a
// new mount may hide them.
func privateMounts(programs []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mountNew("tmpfs", "/run", "mode=755"); err != nil {
		return err
	}
	for _, d := range []string{"bin", "log", "etc", "dev", "home"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, p := range programs {
		if err := copyFile(p, Program(filepath.Base(p)), 0o755); err != nil {
			return err
		}
	}
	if err := privateEtc(); err != nil {
		return err
	}
	if err := privateDev(); err != nil {
		return err
	}
	for _, m := range []struct{ fstype, at, options string }{
		{"proc", "/proc", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"tmpfs", "/var/log", "mode=755"},
		{"tmpfs", "/var/lib", "mode=755"},
	} {
		if err := mountNew(m.fstype, m.at, m.options); err != nil {
			return err
		}
	}
	return nil
}

// Program returns the path of a program that New was given, inside the world.
func Program(name string) string { return filepath.Join(dir, "bin", name) }

func mountNew(fstype, at, options string) error {
	flags := uintptr(unix.MS_NOSUID)
	if err := unix.Mount(fstype, at, fstype, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, at, err)
	}
	return nil
}

func bind(what, at string) error {
	if err := unix.Mount(what, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", what, at, err)
	}
	return nil
}

// notCopied are secrets in the host's /etc that the world does not need, and configuration that would make it act as this host.
var notCopied = map[string]bool{
	"/etc/shadow": true, "/etc/shadow-": true, "/etc/gshadow": true, "/etc/gshadow-": true,
	"/etc/ssh": true, "/etc/ssl/private": true, "/etc/mef": true, "/etc/dovecot": true, "/etc/nologin": true,
}

// privateEtc makes /etc a copy, in which daemons find their configuration and the world its users.
func privateEtc() error {
	to := filepath.Join(dir, "etc")
	err := filepath.WalkDir("/etc", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if notCopied[path] {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return copyEntry(path, filepath.Join(to, strings.TrimPrefix(path, "/etc")), d)
	})
	if err != nil {
		return fmt.Errorf("copy /etc: %w", err)
	}
	return bind(to, "/etc")
}

func copyEntry(from, to string, d fs.DirEntry) error {
	switch {
	case d.IsDir():
		return os.MkdirAll(to, 0o755)
	case d.Type() == fs.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case d.Type().IsRegular():
		info, err := d.Info()
		if err != nil {
			return err
		}
		return copyFile(from, to, info.Mode().Perm())
	}
	return nil // sockets and the like belong to the host's daemons
}

func copyFile(from, to string, mode fs.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}

// privateDev makes a /dev with the world's own /dev/log, its own terminals, and harmless devices of the host.
func privateDev() error {
	to := filepath.Join(dir, "dev")
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := os.WriteFile(filepath.Join(to, name), nil, 0o666); err != nil {
			return err
		}
		if err := bind("/dev/"+name, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"shm", "pts"} {
		if err := os.Mkdir(filepath.Join(to, name), 0o777); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"log": "/run/systemd/journal/dev-log", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	if err := bind(to, "/dev"); err != nil {
		return err
	}
	return unix.Mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620") // terminals of the world's own
}

// writeFiles writes files with their directories; names are absolute paths inside the world.
func writeFiles(files map[string]string) error {
	var errs []error
	for path, text := range files {
		mode := fs.FileMode(0o644)
		if strings.Contains(path, "_key") || strings.HasSuffix(path, "shadow") {
			mode = 0o600
		}
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode))
	}
	return errors.Join(errs...)
}
