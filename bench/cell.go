package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A cell contains one program under test: a network namespace, so that its firewall is not the host's, and a control group, so that
// its CPU time and memory, with those of all its children, are known.
type cell struct {
	group  string      // path of the control group
	fd     *os.File    // the same, open
	thread chan func() // runs in the namespace
	watch  *watcher    // nil without a watcher
}

// newCell makes a cell. want reports which nftables sets hold bans; nil: they are not watched.
func newCell(name string, want func(table, set string) bool) (*cell, error) {
	root, err := cgroupRoot()
	if err != nil {
		return nil, err
	}
	c := &cell{group: filepath.Join(root, fmt.Sprintf("bench-%d-%s", os.Getpid(), name)), thread: make(chan func())}
	if err := os.Mkdir(c.group, 0o755); err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	if c.fd, err = os.Open(c.group); err != nil {
		return nil, fmt.Errorf("open control group: %w", err)
	}
	ready := make(chan error)
	go c.serve(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	if want != nil {
		c.do(func() { c.watch, err = newWatcher(want) })
	}
	return c, err
}

// serve owns the thread that is in the namespace. The thread ends with it, because it cannot be used outside the namespace.
func (c *cell) serve(ready chan<- error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- fmt.Errorf("new network namespace (are we root?): %w", err)
		return
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		ready <- fmt.Errorf("ip link set lo up: %w: %s", err, out)
		return
	}
	close(ready)
	for f := range c.thread {
		f()
	}
}

// do runs f in the namespace. Processes and sockets that it starts or opens stay there.
func (c *cell) do(f func()) {
	done := make(chan struct{})
	c.thread <- func() { f(); close(done) }
	<-done
}

// start starts cmd in the cell.
func (c *cell) start(cmd *exec.Cmd) (err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(c.fd.Fd())}
	c.do(func() { err = cmd.Start() })
	return err
}

// close kills the processes in the cell and removes it.
func (c *cell) close() error {
	if c.watch != nil {
		c.watch.close()
	}
	close(c.thread)
	os.WriteFile(filepath.Join(c.group, "cgroup.kill"), []byte("1"), 0)
	defer c.fd.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(c.group)
		if err == nil || errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			return err
		}
	}
}

// cpu returns the CPU time used in the cell so far.
func (c *cell) cpu() time.Duration {
	stat, err := os.ReadFile(filepath.Join(c.group, "cpu.stat"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(stat)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(n) * time.Microsecond
		}
	}
	return 0
}

// pids returns the processes that run in the cell.
func (c *cell) pids() []int {
	list, _ := os.ReadFile(filepath.Join(c.group, "cgroup.procs"))
	var pids []int
	for field := range strings.FieldsSeq(string(list)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// status returns the sum of a field of /proc/PID/status over the cell's processes, in bytes: "VmRSS" is the resident memory,
// where pages that processes share count once for each; "VmHWM" is its maximum.
func (c *cell) status(field string) int64 {
	var sum int64
	for _, pid := range c.pids() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if _, rest, ok := bytes.Cut(text, []byte("\n"+field+":")); ok {
			kib, _ := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
			sum += kib << 10
		}
	}
	return sum
}

// wakeups returns how often any thread of the cell's processes was put on a CPU so far.
func (c *cell) wakeups() int64 {
	var sum int64
	for _, pid := range c.pids() {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, path := range threads {
			stat, _ := os.ReadFile(path)
			if fields := strings.Fields(string(stat)); len(fields) == 3 {
				n, _ := strconv.ParseInt(fields[2], 10, 64)
				sum += n
			}
		}
	}
	return sum
}

// cgroupRoot returns where control groups of version 2 are mounted.
func cgroupRoot() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("control groups of version 2 are not mounted; they tell the CPU time of a program with its children")
}
