//go:build !cgo

// With cgo, a Go program cannot make a system call on all of its threads.

package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mef/internal/page/sandbox"
)

// TestMain makes the test binary a process that tries what a process that was taken over would.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "intruder" {
		os.Exit(m.Run())
	}
	if err := intrude(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// intrude enters a sandbox and writes a line for each attempt: its name, and why it failed.
func intrude(mode string, at []string) error {
	inherited, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		err = errors.Join(unix.Bind(inherited, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(inherited, 1))
	}
	if err != nil {
		return err
	}
	switch mode {
	case "landlock":
		err = errors.Join(noNewPrivs(), sandbox.Landlock())
	case "seccomp":
		err = errors.Join(noNewPrivs(), sandbox.Seccomp())
	case "all":
		if err = sandbox.Renounce(); err == nil {
			err = sandbox.Enter()
		}
	}
	if err != nil {
		return err
	}
	attempts := attempts(at[0], at[1], at[2], inherited)
	for _, name := range slices.Sorted(maps.Keys(attempts)) {
		fmt.Printf("%s: %v\n", name, attempts[name]())
	}
	return nil
}

// noNewPrivs takes no right away; without it, only root may enter a sandbox.
func noNewPrivs() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// attempts are what a process of a user could do. dir is a folder that has the sockets "socket" and "datagrams", beside which tcp and abstract are listened
// at; listener is one of its own.
func attempts(dir, tcp, abstract string, listener int) map[string]func() error {
	closing := func(c interface{ Close() error }, err error) error {
		if err == nil {
			c.Close()
		}
		return err
	}
	dial := func(network, address string) func() error {
		return func() error { return closing(net.Dial(network, address)) }
	}
	return map[string]func() error{
		"read a file":            func() error { return closing(os.Open("/etc/passwd")) },
		"write a file":           func() error { return closing(os.OpenFile(filepath.Join(dir, "new"), os.O_CREATE|os.O_WRONLY, 0o600)) },
		"connect by TCP":         dial("tcp", tcp),
		"listen by TCP":          func() error { return closing(net.Listen("tcp", "127.0.0.1:0")) },
		"connect to a socket":    dial("unix", filepath.Join(dir, "socket")),
		"connect to a name":      dial("unix", abstract),
		"open a netlink socket":  func() error { fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); unix.Close(fd); return err },
		"start a program":        start,
		"replace the program":    func() error { return replace(dir) },
		"signal another process": func() error { return unix.Kill(os.Getppid(), 0) },
		"trace another process":  trace,
		"take a capability":      takeCapability,
		"make a namespace":       func() error { return unix.Unshare(unix.CLONE_NEWUTS) },
		"connect by fast open":   func() error { return fastOpen(listener, tcp) },
		"send to a name":         func() error { return sendTo(filepath.Join(dir, "datagrams")) },
		"own a signal":           ownSignal,
	}
}

// replace executes something that is no program, so that this one goes on if it may.
func replace(dir string) error {
	if err := unix.Exec(filepath.Join(dir, "no program"), nil, nil); !errors.Is(err, unix.ENOEXEC) {
		return err
	}
	return nil
}

// fastOpen makes a listener a socket that is connected to an address, without connect.
func fastOpen(listener int, address string) error {
	to, err := netip.ParseAddrPort(address)
	if err == nil {
		err = unix.Shutdown(listener, unix.SHUT_RD)
	}
	if err != nil {
		return err
	}
	_, err = unix.SendmsgN(listener, []byte("x"), nil, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}, unix.MSG_FASTOPEN)
	return err
}

// sendTo sends a datagram to a socket by its name.
func sendTo(path string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	_, err = unix.SendmsgN(pair[0], []byte("x"), nil, &unix.SockaddrUnix{Name: path}, 0)
	return err
}

// ownSignal has the kernel signal another process when something happens to a file.
func ownSignal() error {
	_, err := unix.FcntlInt(0, unix.F_SETOWN, os.Getppid())
	return err
}

func start() error {
	_, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	return err
}

func trace() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(os.Getppid()), 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// takeCapability has the calling thread's effective set be what it was and CAP_NET_ADMIN.
func takeCapability() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	caps[0].Effective |= 1 << unix.CAP_NET_ADMIN
	caps[0].Permitted |= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&header, &caps[0])
}

// outcomes runs an intruder and returns what became of each attempt.
func outcomes(t *testing.T, mode string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err == nil {
		err = errors.Join(os.Symlink(exe, filepath.Join(dir, "intruder")), os.WriteFile(filepath.Join(dir, "no program"), []byte("text"), 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	address := func(network, address string) string {
		l, err := new(net.ListenConfig).Listen(context.Background(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().String()
	}
	address("unix", filepath.Join(dir, "socket"))
	datagrams, err := net.ListenPacket("unixgram", filepath.Join(dir, "datagrams"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { datagrams.Close() })
	out, err := exec.Command(filepath.Join(dir, "intruder"), mode, dir, address("tcp", "127.0.0.1:0"), address("unix", "@"+dir)).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", mode, err, out)
	}
	found := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, outcome, _ := strings.Cut(strings.TrimSpace(line), ": ")
		found[name] = outcome
	}
	if len(found) != len(attempts("", "", "", 0)) {
		t.Fatalf("%s: %s", mode, out)
	}
	return found
}

// TestConfined checks that a process that can do all of it can do nothing in the sandbox, and what each of its layers forbids alone.
func TestConfined(t *testing.T) {
	free := outcomes(t, "none")
	for name, outcome := range free {
		rights := slices.Contains([]string{"make a namespace", "take a capability", "trace another process"}, name) // of root only
		if outcome != nothing && !(rights && os.Getuid() != 0) {
			t.Errorf("without a sandbox, %s: %s", name, outcome)
		}
	}
	all, seccomp := outcomes(t, "all"), outcomes(t, "seccomp")
	for name := range free {
		if all[name] == nothing {
			t.Errorf("in the sandbox one can %s", name)
		}
		if !strings.HasSuffix(seccomp[name], unix.EPERM.Error()) {
			t.Errorf("with seccomp, %s: %s", name, seccomp[name])
		}
	}
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		t.Logf("this kernel has no Landlock (%v): only seccomp was tested", errno)
		return
	}
	landlock := outcomes(t, "landlock")
	for name, from := range map[string]uintptr{"read a file": 1, "write a file": 1, "start a program": 1, "replace the program": 1, "trace another process": 1,
		"connect by TCP": 4, "connect to a name": 6, "signal another process": 6} {
		switch {
		case version < from:
			t.Logf("Landlock %d of this kernel does not know how to forbid to %s; %d does", version, name, from)
		case landlock[name] == nothing:
			t.Errorf("with Landlock %d one can %s", version, name)
		}
	}
}

// nothing is the outcome of an attempt that succeeded.
const nothing = "<nil>"
