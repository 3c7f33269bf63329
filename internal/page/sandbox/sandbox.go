// Package sandbox takes from mefpage what it could do with the rights of the user that it runs as.
//
// Renounce takes the capabilities, Enter everything else: Landlock forbids access to files, and seccomp all system calls but those that
// serve inherited sockets. Strangers send bytes to mefpage; one that they have taken over can still send what it is allowed to serve,
// and ask the daemon for what the page may ask, but not open the control socket or a file, connect to a host, start a program, or signal another process.
package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// renounced is the argument of mefpage once it has given up its capabilities.
const renounced = "--renounced"

// Renounce gives up every capability, and that a program which is executed could have more rights: it executes the running program again
// without them, with the same arguments and one more, and returns only in that, or with an error. capset(2) would have to be called on every
// thread, and the sandbox of mefdaemon does not allow it.
func Renounce() error {
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == renounced {
		os.Args = os.Args[:len(os.Args)-1]
		_ = os.WriteFile("/proc/self/comm", []byte("mefpage"), 0) // what ps shows; "exe" otherwise
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(&header, &caps[0]); err != nil {
			return os.NewSyscallError("capget", err)
		}
		if caps[0].Permitted|caps[1].Permitted != 0 {
			return fmt.Errorf("give up rights: capabilities %x%08x are left", caps[1].Permitted, caps[0].Permitted)
		}
		return nil
	}
	runtime.LockOSThread() // the rights of this thread are those of what it executes
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("no_new_privs", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("clear ambient capabilities", err)
	}
	for capability := range uintptr(64) { // root may, and would get all of these back; others may not, and get none
		if unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0) != nil {
			break
		}
	}
	return os.NewSyscallError("execve", syscall.Exec("/proc/self/exe", append(os.Args, renounced), os.Environ()))
}

// Enter confines the process, which must have called Renounce, for good.
func Enter() error {
	// Other processes of the same user can neither read this one's memory nor trace it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := Landlock(); err != nil {
		return err
	}
	return Seccomp()
}

// Landlock forbids what this kernel's Landlock can: all access to files by their paths (Linux 5.13), TCP connections and listeners (6.7), and
// abstract unix sockets and signals of others (6.12). Where the kernel has none, it does nothing.
func Landlock() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP || errno == unix.EPERM {
		return nil // the kernel has none, it is switched off, or a sandbox does not allow it
	} else if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	rules := unix.LandlockRulesetAttr{Handled_access_fs: 1<<13 - 1} // execute, read, write, make and remove, of version 1
	size := unsafe.Sizeof(rules.Handled_access_fs)
	if version >= 2 {
		rules.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		rules.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		rules.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size += unsafe.Sizeof(rules.Handled_access_net)
	}
	if version >= 5 {
		rules.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		rules.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size += unsafe.Sizeof(rules.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), size, 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	defer unix.Close(int(fd))
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}
