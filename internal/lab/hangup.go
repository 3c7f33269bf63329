//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/sockdiag"
)

// HangUp ends every connection between clients and the server, and the daemons' processes for it. Otherwise a login that a ban
// interrupted continues when the ban is removed, because the kernel sends unacknowledged data again, or it times out two minutes
// later, and the daemon logs that during another test.
func (w *World) HangUp(ctx context.Context) error {
	var ended []sockdiag.Socket
	collect := func() error {
		some, err := destroyAll()
		ended = append(ended, some...)
		return err
	}
	if err := errors.Join(collect(), w.Internet.Do(collect)); err != nil {
		return err
	}
	if err := w.endSessions(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(ended, func(s sockdiag.Socket) bool { return s.Local.Port() == IMAPPort }) {
		return nil
	}
	if running, err := isPopulated(dovecotUnit); err != nil || !running {
		return err
	}
	// A process of Dovecot serves many clients, so nothing shows that it has logged everything about one of them.
	_, err := w.StartDovecot(ctx)
	return err
}

// destroyAll destroys the TCP sockets of the caller's namespace that have a peer on another host, and returns them.
func destroyAll() (ended []sockdiag.Socket, err error) {
	conn, err := sockdiag.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	err = conn.Each(unix.IPPROTO_TCP, sockdiag.All&^sockdiag.Listen, nil, func(s sockdiag.Socket) {
		if !s.Remote.Addr().IsLoopback() {
			ended = append(ended, s)
		}
	})
	for _, s := range ended {
		if gone := conn.Destroy(s); !errors.Is(gone, unix.ENOENT) {
			err = errors.Join(err, gone)
		}
	}
	return ended, err
}

// endSessions kills the processes that sshd and vsftpd have for each client.
func (w *World) endSessions(ctx context.Context) error {
	return waitFor(ctx, nil, func() error {
		left, err := w.sessions()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL)
		}
		return fmt.Errorf("processes %v of sessions do not end when they are killed", left)
	})
}

// sessions returns the processes that sshd and vsftpd have for each client.
func (w *World) sessions() ([]int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var pids []int
	all, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		pid, name := process(filepath.Base(dir))
		if (name == "sshd" || name == "vsftpd") && w.runs[pid] == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// process returns the ID and name of a process, no name if it has ended (proc_pid_stat(5): "PID (NAME) STATE").
func process(id string) (pid int, name string) {
	data, err := os.ReadFile(filepath.Join("/proc", id, "stat"))
	head, state, ok := strings.Cut(string(data), ") ")
	if err != nil || !ok || state[0] == 'Z' {
		return 0, ""
	}
	_, name, _ = strings.Cut(head, " (")
	pid, _ = strconv.Atoi(id)
	return pid, name
}
