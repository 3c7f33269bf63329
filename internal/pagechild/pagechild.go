// Package pagechild runs mefpage, the program that serves the operator's page and the metrics, as a child of the daemon.
//
// What strangers may send bytes to is separated from what may change the packet filter, as in OpenSSH. The daemon opens the listeners and
// reads the files, so that mefpage needs no right to anything: it gives up its capabilities and its access to files, and inherits the
// listeners, its settings on standard input, and a socket. Over this it passes connections to the daemon, which serves on them
// only what the page needs, and only what the role of the page's user permits. When the daemon ends, however it ends, the socket
// is closed, and mefpage ends too.
package pagechild

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/owner"
	"mef/internal/run"
)

// Ready is the first line that mefpage writes, once it serves.
const Ready = "ready"

// How long to wait before what failed is tried again: twice as long after each failure.
const (
	firstWait = time.Second
	lastWait  = time.Minute
	// steady is how long mefpage must have run for its end not to count as one failure more.
	steady = time.Minute
)

// A Child keeps mefpage running as the configuration says. Configure and Status may be called from any goroutine.
type Child struct {
	Program string // the path of mefpage; empty: it is searched for

	log      *slog.Logger
	version  string
	stateDir string
	changed  chan struct{} // holds one message

	mu      sync.Mutex
	cfg     conf.Page
	problem string // why something is not served; empty: all is, or nothing is to be
}

// New returns a Child that Run starts. stateDir is where the daemon keeps its state.
func New(log *slog.Logger, cfg conf.Page, stateDir, version string) *Child {
	return &Child{log: log, cfg: cfg, stateDir: stateDir, version: version, changed: make(chan struct{}, 1)}
}

// Configure has mefpage serve as a configuration says. Files that it names are read again.
func (c *Child) Configure(cfg conf.Page) {
	c.mu.Lock()
	c.cfg = cfg
	c.mu.Unlock()
	owner.Wake(c.changed)
}

// Warnings returns what is wrong with what is to be served, and what to do about it.
func (c *Child) Warnings() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.problem == "" {
		return nil
	}
	return []string{"mefpage: " + c.problem}
}

func (c *Child) report(err error) {
	problem := ""
	if err != nil {
		problem = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	c.mu.Lock()
	news := problem != "" && problem != c.problem
	c.problem = problem
	c.mu.Unlock()
	if news {
		c.log.Warn("mefpage", "problem", problem)
	}
}

func (c *Child) config() conf.Page {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg
}

// Run starts mefpage whenever it should run and does not, until ctx is done. s answers its requests.
func (c *Child) Run(ctx context.Context, s control.Service) error {
	wait := firstWait
	for ctx.Err() == nil {
		began := time.Now()
		again, err := c.once(ctx, s)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			c.report(nil)
			wait = firstWait
		default:
			c.report(err)
		}
		if again {
			continue
		}
		if err == nil { // nothing is to be served
			select {
			case <-ctx.Done():
			case <-c.changed:
			}
			continue
		}
		if time.Since(began) > steady {
			wait = firstWait
		}
		select {
		case <-ctx.Done():
		case <-c.changed:
		case <-time.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
	return nil
}

var errNotInstalled = errors.New("the program mefpage is not installed beside mefdaemon; install it, or clear page and metrics")

// once serves until ctx is done, the settings change (then again is true) or mefpage fails. It returns no error if nothing is to be served.
// What cannot be served is reported, left out, and tried again; the rest is served.
func (c *Child) once(ctx context.Context, s control.Service) (again bool, err error) {
	settings, problem := c.Read(ctx)
	files, closeAll, wrong := listen(&settings)
	defer closeAll()
	problem = errors.Join(problem, wrong)
	if errors.Is(problem, run.ErrNotFound) {
		return false, errNotInstalled
	} else if len(settings.Services) == 0 {
		return false, problem
	}
	ours, theirs, err := pair(syscall.SOCK_SEQPACKET)
	if err != nil {
		return false, err
	}
	defer ours.Close()
	text, err := json.Marshal(settings)
	if err != nil {
		theirs.Close()
		return false, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p, err := run.Serve(ctx, text, append([]*os.File{theirs}, files...), c.program())
	theirs.Close()
	if errors.Is(err, run.ErrNotFound) {
		return false, errNotInstalled
	} else if err != nil {
		return false, err
	}
	var served sync.WaitGroup
	served.Go(func() { _ = control.ServeFor(ctx, newPassed(ours), s, permit) }) // ends with ctx, or with mefpage
	ended := make(chan error, 1)
	go func() {
		c.read(p.Stdout, problem)
		ended <- p.Wait()
	}()
	digest := settings.digest()
	var retry <-chan time.Time
	if problem != nil {
		ticker := time.NewTicker(lastWait)
		defer ticker.Stop()
		retry = ticker.C
	}
	for {
		select {
		case err = <-ended:
			stop()
			served.Wait()
			return false, fmt.Errorf("mefpage ended, and is started again: %w", orEnd(err))
		case <-c.changed:
			if next, err := c.Read(ctx); problem == nil && err == nil && next.digest() == digest {
				continue
			}
			again = true
		case <-retry:
			if !c.better(ctx, &settings) {
				continue
			}
			again = true
		case <-ctx.Done():
		}
		stop() // kills it
		<-ended
		served.Wait()
		return again, nil
	}
}

// better reports whether a service could be served now that is not among those that are.
func (c *Child) better(ctx context.Context, served *Settings) bool {
	next, _ := c.Read(ctx)
	for _, s := range next.Services {
		if slices.ContainsFunc(served.Services, func(old Service) bool { return old.Address == s.Address && old.Kind == s.Kind }) {
			continue
		}
		if l, err := open(s); err == nil {
			l.Close()
			return true
		}
	}
	return false
}

func orEnd(err error) error {
	if err == nil {
		return errors.New("without a reason")
	}
	return err
}

// read logs what mefpage writes, a line at a time, until it ends. problem is why it does not serve everything; nil if it does.
func (c *Child) read(from io.Reader, problem error) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if line := lines.Text(); line == Ready {
			c.report(problem)
			c.log.Info("mefpage serves")
		} else {
			c.log.Info("mefpage", "text", line)
		}
	}
	_, _ = io.Copy(io.Discard, from) // a line that is too long: mefpage must not block
}

// program returns the path of mefpage: beside the program that runs, otherwise where programs are.
func (c *Child) program() string {
	if c.Program != "" {
		return c.Program
	}
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), "mefpage")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside
		}
	}
	return "mefpage"
}

// listen opens a listener for each service, and removes those services from s that have none. The error says why.
func listen(s *Settings) (files []*os.File, closeAll func(), err error) {
	var opened []io.Closer
	closeAll = func() {
		for _, o := range opened {
			o.Close()
		}
	}
	s.Services = slices.DeleteFunc(s.Services, func(one Service) bool {
		l, wrong := open(one)
		if wrong != nil {
			err = errors.Join(err, explain(one, wrong))
			return true
		}
		opened = append(opened, l)
		f, wrong := l.(interface{ File() (*os.File, error) }).File()
		if wrong != nil {
			err = errors.Join(err, wrong)
			return true
		}
		opened = append(opened, f)
		files = append(files, f)
		return false
	})
	return files, closeAll, err
}

// open opens the listener of a service. Everybody may connect to a unix socket: the kernel says who does, and mefpage decides by groups.
func open(s Service) (net.Listener, error) {
	if !s.Unix {
		return net.Listen("tcp", s.Address)
	}
	l, err := control.ListenPrivate(s.Address, s.Kind)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(s.Address, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// explain adds what to do about a listener that cannot be opened.
func explain(s Service, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s=%s: another program listens there; set another port, or stop that program", s.Kind, strings.TrimPrefix(s.Address, ":"))
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s=%s: this host does not have that address", s.Kind, s.Address)
	case errors.Is(err, syscall.EACCES) && !s.Unix:
		return fmt.Errorf("%s=%s: permission denied; set a port from 1024 on", s.Kind, s.Address)
	}
	return fmt.Errorf("%s=%s: %w; the daemon may create sockets in /run/mef", s.Kind, s.Address, err)
}
