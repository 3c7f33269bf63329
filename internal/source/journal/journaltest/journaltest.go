// Package journaltest starts a systemd-journald of a test's own, beside the one that the host may have.
//
// journald's paths are fixed, so it gets a mount namespace in which directories of the test stand in their places: from outside,
// its sockets and journal files are found there. It needs root, for unshare(1) and mount(8).
package journaltest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/run"
)

// A Journal is a running journald.
type Journal struct {
	dir     string
	process *run.Process
	socket  int // connected to journald's; it sends entries
	ended   chan error
	boots   int
}

// setUp mounts the directory $1 in place of journald's paths and executes journald, which does not read messages of the kernel and the
// audit system.
const setUp = `
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal
mount --bind "$1/run" /run/systemd/journal
mount -t tmpfs tmpfs /var/log
mkdir /var/log/journal
mount --bind "$1/log" /var/log/journal
mount --bind "$1/machine-id" /etc/machine-id
mount --bind "$1/boot_id" /proc/sys/kernel/random/boot_id
mount -t tmpfs tmpfs /etc/systemd
cp "$1/journald.conf" /etc/systemd/journald.conf
mount -t cgroup2 cgroup2 /sys/fs/cgroup || true
exec /lib/systemd/systemd-journald
`

// config turns off limits that tests would reach.
const config = `[Journal]
Storage=persistent
RateLimitBurst=0
ReadKMsg=no
Audit=
ForwardToSyslog=no
ForwardToWall=no
`

// Start starts a journald that keeps its journal in a directory of the test, and ends it with the test. The lines extra are
// added to its configuration. Without the rights or the programs for it, the test is skipped, or fails if CI=true.
func Start(t testing.TB, extra ...string) *Journal {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "root is needed to give journald a mount namespace")
	}
	j := &Journal{dir: t.TempDir()}
	for name, text := range map[string]string{
		"run/flushed":   "", // journald may write to /var at once
		"machine-id":    "0123456789abcdef0123456789abcdef\n",
		"journald.conf": config + strings.Join(extra, "\n") + "\n",
		"boot_id":       bootID(1),
		"log/.keep":     "",
	} {
		path := filepath.Join(j.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	j.Restart(t)
	t.Cleanup(func() {
		if j.process != nil {
			j.Kill()
		}
	})
	return j
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Restart starts journald again after Kill.
func (j *Journal) Restart(t testing.TB) {
	t.Helper()
	os.Remove(filepath.Join(j.dir, "run", "socket"))
	p, err := run.Start(context.Background(), "unshare", "--mount", "--propagation=private", "sh", "-c", setUp, "sh", j.dir)
	if errors.Is(err, run.ErrNotFound) {
		skip(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	j.process, j.ended = p, make(chan error, 1)
	go func() { j.ended <- p.Wait() }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if j.socket, err = dial(filepath.Join(j.dir, "run", "socket")); err == nil {
			return
		}
		select {
		case err := <-j.ended:
			j.process = nil
			skip(t, fmt.Sprintf("start journald: %v", err))
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("journald does not listen: %v", err)
		}
	}
}

// Reboot ends journald and starts it again as after a reboot of the machine.
func (j *Journal) Reboot(t testing.TB) {
	t.Helper()
	j.Kill()
	j.boots++
	if err := os.WriteFile(filepath.Join(j.dir, "boot_id"), []byte(bootID(1+j.boots)), 0o644); err != nil {
		t.Fatal(err)
	}
	j.Restart(t)
}

func bootID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d\n", n) }

// dial connects to the socket at path, however long its name is.
func dial(path string) (int, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: short}); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// Kill ends journald at once.
func (j *Journal) Kill() {
	j.process.Kill()
	<-j.ended
	unix.Close(j.socket)
	j.process = nil
}

// Args are what journalctl needs to read this journal.
func (j *Journal) Args() []string { return []string{"--directory=" + filepath.Join(j.dir, "log")} }

// Socket is where this journald receives entries.
func (j *Journal) Socket() string { return filepath.Join(j.dir, "run", "socket") }

// An Entry is a journal entry. The kernel reports UID and PID as its sender's; PID 0 is the test's.
type Entry struct {
	Identifier string
	Message    string
	UID        uint32
	PID        int
	More       map[string]string // other fields
}

// Unit starts a process for Entry.PID that journald records as a process of a system unit. It returns the process ID and the unit's
// name, and ends the process with the test.
func (j *Journal) Unit(t testing.TB) (pid int, unit string) {
	t.Helper()
	unit = fmt.Sprintf("mef-test-%d.service", os.Getpid())
	slice := fmt.Sprintf("/proc/%d/root/sys/fs/cgroup/system.slice", j.process.Pid())
	group := filepath.Join(slice, unit)
	if err := os.MkdirAll(group, 0o755); err != nil {
		skip(t, fmt.Sprintf("make a control group (needs a writable cgroup v2): %v", err))
	}
	p, err := run.Start(context.Background(), "sleep", "infinity")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.Wait() // says that it was killed
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
		os.Remove(slice) // unless the host uses it
	})
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(p.Pid())), 0); err != nil {
		t.Fatal(err)
	}
	return p.Pid(), unit
}

// WaitFor waits until the journal's newest entry has the message.
func (j *Journal) WaitFor(t testing.TB, message string) {
	t.Helper()
	args := append(j.Args(), "--lines=1", "--output=cat")
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		out, err := run.Output(context.Background(), 1<<20, "journalctl", args...)
		if err == nil && strings.TrimSpace(string(out)) == message {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("newest entry %q, %v, want %q", out, err, message)
		}
	}
}

// Log sends an entry to journald. It blocks while journald is behind, so nothing is lost.
func (j *Journal) Log(e Entry) error {
	var data []byte
	data = appendField(data, "SYSLOG_IDENTIFIER", e.Identifier)
	data = appendField(data, "MESSAGE", e.Message)
	for name, value := range e.More {
		data = appendField(data, name, value)
	}
	sender := unix.UnixCredentials(&unix.Ucred{Pid: int32(cmp.Or(e.PID, os.Getpid())), Uid: e.UID, Gid: e.UID})
	if len(data) <= maxDatagram {
		return unix.Sendmsg(j.socket, data, sender, nil, 0)
	}
	return j.logFile(data, sender)
}

// maxDatagram is the length of the longest entry that is sent as a datagram; longer ones go as a sealed file.
const maxDatagram = 100 << 10

// logFile sends an entry that is too long for a datagram.
func (j *Journal) logFile(data, sender []byte) error {
	fd, err := unix.MemfdCreate("entry", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, data); err != nil {
		return err
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return err
	}
	return unix.Sendmsg(j.socket, nil, append(sender, unix.UnixRights(fd)...), nil, 0)
}

// appendField appends a field in the native protocol, whose fields are those of the export format.
func appendField(data []byte, name, value string) []byte {
	if !strings.Contains(value, "\n") {
		return append(data, name+"="+value+"\n"...)
	}
	data = append(data, name+"\n"...)
	for shift := 0; shift < 64; shift += 8 {
		data = append(data, byte(len(value)>>shift))
	}
	return append(data, value+"\n"...)
}

// Rotate makes journald begin new journal files.
func (j *Journal) Rotate() error { return syscall.Kill(j.process.Pid(), syscall.SIGUSR2) }

// Vacuum deletes all journal files except the newest files of them.
func (j *Journal) Vacuum(files int) error {
	_, err := run.Output(context.Background(), 1<<20, "journalctl", append(j.Args(), fmt.Sprintf("--vacuum-files=%d", files))...)
	return err
}
