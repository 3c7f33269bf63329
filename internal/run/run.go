// Package run starts other programs. It is the only one that does.
//
// A program is started directly, never through a shell, with a fixed environment and in a process group of its own, so that
// its children end with it. It is looked up in the system's directories alone: our PATH does not decide
// what we run. Its standard error is kept, within bounds, for the error message; it is quoted there, because a
// program repeats what strangers wrote.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxStderr is how much of a program's standard error is kept, of its beginning and of its end: programs that read
// a text, such as nft, report the first mistake first and then what follows from it; others report the reason last.
const maxStderr = 512

// killWait is how long Wait goes on reading the output of a killed program whose pipe somebody else holds open.
const killWait = time.Second

// ErrNotFound means that a program is not installed. Errors of Start and Output wrap it.
var ErrNotFound = errors.New("program not found")

// A Process is a running program. Its owner reads Stdout to the end and then calls Wait, once.
type Process struct {
	Stdout io.Reader

	cmd    *exec.Cmd
	stderr ends
}

// Start starts the program name, which is an absolute path or a name in one of the system's directories. When ctx is done
// the program and what it started are killed.
func Start(ctx context.Context, name string, args ...string) (*Process, error) {
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	return start(exec.CommandContext(ctx, path, args...), &syscall.SysProcAttr{})
}

// Serve is Start for a program that serves us: it reads stdin, and inherits files, whose descriptors there begin at 3.
func Serve(ctx context.Context, stdin []byte, files []*os.File, name string, args ...string) (*Process, error) {
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.ExtraFiles = bytes.NewReader(stdin), files
	return start(cmd, &syscall.SysProcAttr{})
}

// start starts a program in the one way in which all are started; attr adds namespaces to it.
func start(cmd *exec.Cmd, attr *syscall.SysProcAttr) (*Process, error) {
	p := &Process{cmd: cmd}
	cmd.Env = environment()
	cmd.Dir = "/"
	cmd.Stderr = &p.stderr
	cmd.SysProcAttr = attr
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = p.Kill
	cmd.WaitDelay = killWait
	var err error
	if p.Stdout, err = cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func environment() []string { return []string{"LC_ALL=C", "PATH=" + strings.Join(directories(), ":")} }

// Pid returns the program's process ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill kills the program and everything in its process group.
func (p *Process) Kill() error {
	err := syscall.Kill(-p.Pid(), syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Wait waits for the program to end. The error reports how it ended, unless with status 0, and the end of what it wrote to
// standard error.
func (p *Process) Wait() error {
	err := p.cmd.Wait()
	if err == nil {
		return nil
	}
	text := bytes.TrimSpace(p.stderr.text())
	if len(text) == 0 {
		return fmt.Errorf("%s: %w", p.name(), err)
	}
	return fmt.Errorf("%s: %w: %q", p.name(), err, text)
}

func (p *Process) name() string { return filepath.Base(p.cmd.Args[0]) }

// Output runs the program name and returns what it wrote to standard output, of which more than limit bytes are an error.
func Output(ctx context.Context, limit int, name string, args ...string) ([]byte, error) {
	return Feed(ctx, nil, limit, name, args...)
}

// Feed is Output for a program that reads something from its standard input.
func Feed(ctx context.Context, stdin []byte, limit int, name string, args ...string) ([]byte, error) {
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	p, err := start(cmd, &syscall.SysProcAttr{})
	if err != nil {
		return nil, err
	}
	return p.output(limit)
}

// Stream is Output for a program whose standard input is written by a function while the program reads it. If write returns an error, the
// program is killed and Stream returns that error; if the program fails first, Stream returns the program's. A program that does not read all
// is an error.
func Stream(ctx context.Context, write func(io.Writer) error, limit int, name string, args ...string) ([]byte, error) {
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p, err := start(cmd, &syscall.SysProcAttr{})
	if err != nil {
		return nil, err
	}
	written := make(chan error, 1)
	go func() {
		err := write(stdin)
		if err != nil {
			p.Kill() // before it sees the end of what it reads
		}
		if closing := stdin.Close(); err == nil { // else it may have been closed at the end of the program, which says nothing new
			err = closing
		}
		written <- err
	}()
	out, err := p.output(limit)
	unread := <-written
	if unread != nil && (err == nil || !errors.Is(unread, syscall.EPIPE) && !errors.Is(unread, os.ErrClosed)) {
		return nil, unread
	}
	return out, err
}

// Installed reports whether a program is there to be started.
func Installed(name string) bool {
	_, err := find(name)
	return err == nil
}

// output reads what the program writes, waits for its end, and does the rest of Output.
func (p *Process) output(limit int) ([]byte, error) {
	out, readErr := io.ReadAll(io.LimitReader(p.Stdout, int64(limit)+1))
	if readErr != nil || len(out) > limit {
		p.Kill()
	}
	err := p.Wait()
	if len(out) > limit {
		return nil, fmt.Errorf("%s wrote more than %d bytes", p.name(), limit)
	}
	if err != nil {
		return nil, err
	}
	return out, readErr
}

// directories returns where programs are looked for, in order.
func directories() []string { return []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} }

// find returns the path of the program name.
func find(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, executable(name)
	}
	if strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("start %q: the path is neither absolute nor a plain name", name)
	}
	for _, dir := range directories() {
		if path := filepath.Join(dir, name); executable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("start %q: %w in %s", name, ErrNotFound, strings.Join(directories(), ", "))
}

// executable returns an error wrapping ErrNotFound unless path is a file that somebody may execute.
func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("start %q: %w", path, ErrNotFound)
	}
	return nil
}

// ends is a writer that keeps the beginning and the end of what is written to it.
type ends struct {
	first, last []byte
	cut         bool // something between them is lost
}

func (e *ends) Write(p []byte) (int, error) {
	n := len(p)
	room := min(maxStderr-len(e.first), n)
	e.first = append(e.first, p[:room]...)
	e.last = append(e.last, p[room:]...)
	if extra := len(e.last) - maxStderr; extra > 0 {
		e.last, e.cut = append(e.last[:0], e.last[extra:]...), true
	}
	return n, nil
}

func (e *ends) text() []byte {
	if e.cut {
		return slices.Concat(e.first, []byte(" [...] "), e.last)
	}
	return slices.Concat(e.first, e.last)
}
