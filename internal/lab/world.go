//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A World is the server and the internet. A process has at most one, which ends with the process.
type World struct {
	Server   *Namespace // this process's own
	Internet *Namespace

	mu        sync.Mutex
	runs      map[int]*Process // what Start started and has not ended, by process ID
	container *Namespace       // nil before the first call of Container
}

// New sets up the world in which this process runs, which Enter must have made. It starts no daemon. programs are
// files that are copied into the world (see Program).
func New(programs ...string) (*World, error) {
	if !Inside() {
		return nil, errors.New("not inside a world: call Enter first")
	}
	if err := privateMounts(programs); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte("server")); err != nil {
		return nil, fmt.Errorf("set host name: %w", err)
	}
	if err := addAccounts(Alice, Mallory); err != nil {
		return nil, fmt.Errorf("add accounts: %w", err)
	}
	server, internet, err := buildNetwork()
	if err != nil {
		return nil, err
	}
	err = writeFiles(map[string]string{
		"/etc/resolv.conf": "nameserver " + Router4.String() + "\n",
		"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n" + Server4.String() + " server\n",
		"/etc/hostname":    "server\n",
	})
	if err != nil {
		return nil, err
	}
	return &World{Server: server, Internet: internet, runs: make(map[int]*Process)}, nil
}

// A Command is a program to run on the server.
type Command struct {
	Path  string
	Args  []string
	Stdin string
	Env   []string // besides PATH and LC_ALL
	Unit  string   // control group: "system.slice/ssh.service"; empty: that of this process
	As    *Account // nil: root
}

// cmd turns a Command into one of package exec. The file is the control group, to be closed after the start; it may be nil.
func (c Command) cmd(ctx context.Context) (*exec.Cmd, *os.File, error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(c.Stdin)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Env = append(cmd.Env, c.Env...)
	// A session of its own, so that Ctrl-C reaches only the program that runs the world.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.As != nil {
		cmd.Env = append(cmd.Env, "HOME="+c.As.Home(), "USER="+c.As.Name)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.As.UID), Gid: uint32(c.As.UID)}
	}
	if c.Unit == "" {
		return cmd, nil, nil
	}
	group, err := openUnit(c.Unit)
	if err != nil {
		return nil, nil, err
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(group.Fd())
	return cmd, group, nil
}

// Run runs a program to its end and returns its standard output. If the program fails, the error has its standard error.
func (w *World) Run(ctx context.Context, c Command) (string, error) {
	cmd, group, err := c.cmd(ctx)
	if err != nil {
		return "", err
	}
	defer group.Close()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(c.Path), strings.Join(c.Args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// A Process is a program that keeps running.
type Process struct {
	world *World

	name string
	log  string
	unit string // its control group, as in Command
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	err  error         // how it ended; read it after done
}

// Start starts a program. Its output goes to a file, see Output.
func (w *World) Start(c Command) (*Process, error) {
	name := filepath.Base(c.Path)
	cmd, group, err := c.cmd(context.Background())
	if err != nil {
		return nil, err
	}
	defer group.Close()
	path := filepath.Join(dir, "log", name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{world: w, name: name, log: path, unit: c.Unit, cmd: cmd, done: make(chan struct{})}
	w.mu.Lock()
	w.runs[cmd.Process.Pid] = p
	w.mu.Unlock()
	go func() {
		p.err = cmd.Wait()
		w.mu.Lock()
		delete(w.runs, cmd.Process.Pid)
		w.mu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// running returns the main processes of a unit.
func (w *World) running(unit string) (processes []*Process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.runs {
		if p.unit == unit {
			processes = append(processes, p)
		}
	}
	return processes
}

// Output returns what all processes of this name have printed so far.
func (p *Process) Output() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Stop stops a daemon: it sends a signal to the main process and waits until it has ended, and then kills whatever else is in its
// control group: sessions, workers, and a daemon that replaced it there. Nothing of it listens, writes or holds a file afterwards. A main
// process that does not end within a minute is killed, which is an error.
func (p *Process) Stop(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var err error
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
		err = fmt.Errorf("%s did not end within %s of %s", p.name, patience, sig)
	}
	if p.unit == "" {
		return err
	}
	return errors.Join(err, p.world.endUnit(context.Background(), p.unit))
}

// patience is how long a daemon may take to be ready or to end. They take well under a second.
const patience = time.Minute

// waitFor calls check every few milliseconds until it succeeds, and returns its last error when patience is over, ctx is done or ended,
// which may be nil, is closed.
func waitFor(ctx context.Context, ended <-chan struct{}, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// ready waits until check succeeds. It gives up when the process ends, and after a while.
func (p *Process) ready(ctx context.Context, check func() error) error {
	err := waitFor(ctx, p.done, check)
	if err == nil {
		return nil
	}
	select {
	case <-p.done:
		return fmt.Errorf("%s ended (%v) before it was ready: %w\n%s", p.name, p.err, err, p.Output())
	default:
		return fmt.Errorf("%s is not ready: %w\n%s", p.name, err, p.Output())
	}
}

// Together runs functions at the same time and returns their errors once all have ended.
func Together(fns ...func() error) error {
	errs := make([]error, len(fns))
	var wg sync.WaitGroup
	for i, fn := range fns {
		wg.Go(func() { errs[i] = fn() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
