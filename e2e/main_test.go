//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/lab"
)

// world is the world in which the tests run, and journald its journald. missing is the reason why there is none.
var (
	world    *lab.World
	journald *lab.Process
	missing  error
)

// programsEnv is the environment variable with the directory of the programs.
const programsEnv = "MEF_E2E_PROGRAMS"

func TestMain(m *testing.M) {
	if lab.Inside() {
		world, missing = newWorld()
		os.Exit(m.Run())
	}
	code, err := enter()
	if err != nil {
		missing = err
		code = m.Run()
	}
	os.Exit(code)
}

// enter builds the programs and runs the tests in a world that has them.
func enter() (code int, err error) {
	dir, err := os.MkdirTemp("", "mef-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir, "mef/cmd/mefdaemon", "mef/cmd/mefctl", "mef/cmd/mefpage")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build the programs: %w", err)
	}
	os.Setenv(programsEnv, dir)
	return lab.Enter()
}

// newWorld makes the world and starts the server's daemons, which all tests use.
func newWorld() (*lab.World, error) {
	dir := os.Getenv(programsEnv)
	w, err := lab.New(filepath.Join(dir, "mefdaemon"), filepath.Join(dir, "mefctl"), filepath.Join(dir, "mefpage"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, start := range []func(context.Context) (*lab.Process, error){
		func(ctx context.Context) (p *lab.Process, err error) {
			journald, err = w.StartJournal(ctx)
			return journald, err
		},
		w.StartSSH, w.StartDovecot, w.StartVSFTPD,
	} {
		if _, err := start(ctx); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// A scene is one test's mefdaemon in the world.
type scene struct {
	*testing.T
	ctx context.Context
	w   *lab.World
	mef *lab.Mef
}

// patience is how long a test waits for what should happen; silence, for what should not. Over veth an answer takes well under
// a millisecond.
const (
	patience = time.Minute
	silence  = 400 * time.Millisecond
)

// begin starts a mefdaemon without saved state, with a configuration and rule files ("sshd.conf": text), until the test ends. Where
// there can be no world the test is skipped, or fails with CI=true.
func begin(t *testing.T, config string, rules map[string]string) *scene {
	t.Helper()
	s := prepare(t)
	for name, text := range rules {
		path := filepath.Join("/etc/mef/rules.d", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s.start(config)
	t.Cleanup(func() { s.stop(os.Kill) })
	return s
}

// prepare does all that begin does before it starts mefdaemon.
func prepare(t *testing.T) *scene {
	t.Helper()
	if missing != nil && os.Getenv("CI") == "true" {
		t.Fatalf("no private world on this machine: %v", missing)
	} else if missing != nil {
		t.Skipf("no private world on this machine: %v", missing)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	s := &scene{t, ctx, world, nil}
	s.forget()
	t.Cleanup(s.forget)
	return s
}

// start starts the daemon, again after a stop.
func (s *scene) start(config string) {
	s.Helper()
	mef, err := s.w.StartMef(s.ctx, config)
	if err != nil {
		s.Fatal(err)
	}
	s.mef = mef
}

// configure replaces the configuration file. A daemon that runs reads it at the next reload.
func (s *scene) configure(config string) {
	s.Helper()
	if err := s.w.Configure(config); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) stop(sig os.Signal) {
	s.Helper()
	if err := s.mef.Process.Stop(sig); err != nil {
		s.Error(err)
	}
	if s.Failed() {
		s.Logf("mefdaemon logged:\n%s", s.mef.Process.Output())
	}
}

// forget removes everything of earlier tests: state, the table, connections, and log lines.
func (s *scene) forget() {
	s.Helper()
	if err := s.w.ForgetMef(); err != nil {
		s.Error(err)
	}
	s.nft("add table inet mefdaemon; delete table inet mefdaemon")
	ctx := context.WithoutCancel(s.ctx)
	if err := s.w.HangUp(ctx); err != nil {
		s.Error(err)
	}
	if err := s.w.ForgetLogs(ctx); err != nil {
		s.Error(err)
	}
}

// nft runs a line of nft's language on the server and returns what it prints.
func (s *scene) nft(line string) string {
	s.Helper()
	out, err := s.w.Run(context.WithoutCancel(s.ctx), lab.Command{Path: "/usr/sbin/nft", Args: []string{line}})
	if err != nil {
		s.Error(err)
	}
	return out
}

// mefctl runs the operator's tool, which must succeed.
func (s *scene) mefctl(args ...string) string {
	s.Helper()
	out, err := s.w.Mefctl(s.ctx, args...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// A guess tries one wrong password for one user and returns the client's error.
type guess func(ctx context.Context, c lab.Client, user string) error

const wrong = "not the password"

func ssh(ctx context.Context, c lab.Client, user string) error {
	_, err := c.SSH(ctx, lab.SSHPort, user, wrong, "")
	return err
}

func imap(ctx context.Context, c lab.Client, user string) error { return c.IMAP(ctx, user, wrong) }

func ftp(ctx context.Context, c lab.Client, user string) error { return c.FTP(ctx, user, wrong) }

// fail guesses once from every given address, at the same time, and requires that each is refused, or that its address is banned: a
// server logs a failure before it answers, so the ban that a guess causes may cut off the answers to it and to others.
func (s *scene) fail(do guess, user string, from ...string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	go s.hangUp(ctx, cancel, from[0])
	errs := make([]error, len(from))
	var wg sync.WaitGroup
	for i, addr := range from {
		wg.Go(func() { errs[i] = do(ctx, s.w.Client(addr), user) })
	}
	wg.Wait()
	for i, addr := range from {
		switch err := errs[i]; {
		case errors.Is(err, lab.ErrDenied):
		case !lab.CutOff(err):
			s.Errorf("%s guesses a password of %s: %v, want a refusal", addr, user, err)
		default:
			s.until(fmt.Sprintf("a ban of %s, whose guess ended with %v", addr, err), func() error { return s.wasBanned(addr) })
		}
	}
}

// wasBanned returns nil if an address is banned, or was by the present daemon.
func (s *scene) wasBanned(addr string) error {
	ip := netip.MustParseAddr(addr)
	why, err := s.mef.Why(s.ctx, ip)
	if err != nil || why.Banned {
		return err
	}
	for _, rec := range s.records() {
		if prefix, err := netip.ParsePrefix(rec.Prefix); err == nil && rec.Event == "ban" && prefix.Contains(ip) {
			return nil
		}
	}
	return fmt.Errorf("%s: %s", addr, why.Verdict)
}

// hangUp ends guesses whose answer a ban has cut off.
func (s *scene) hangUp(ctx context.Context, cancel func(), from string) {
	tick := time.NewTicker(silence)
	defer tick.Stop()
	for wasBanned := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if wasBanned {
			cancel()
		}
		why, err := s.mef.Why(ctx, netip.MustParseAddr(from))
		wasBanned = err == nil && why.Banned
	}
}

// repeat returns an address n times.
func repeat(addr string, n int) []string { return slices.Repeat([]string{addr}, n) }

// banned waits until a prefix is banned, as the daemon reads it back from the kernel, and returns the ban.
func (s *scene) banned(prefix string) control.Ban {
	s.Helper()
	var found control.Ban
	s.until("a ban of "+prefix, func() error {
		bans, err := s.mef.Bans(s.ctx)
		if err != nil {
			return err
		}
		for _, b := range bans {
			if b.Prefix == prefix && b.Kernel {
				found = b
				return nil
			}
		}
		return fmt.Errorf("the bans are %v", prefixes(bans))
	})
	return found
}

func prefixes(bans []control.Ban) []string {
	var out []string
	for _, b := range bans {
		out = append(out, b.Prefix+" ports "+b.Ports+" ("+b.Rule+")")
	}
	return out
}

// until polls check until it returns nil, and ends the test if that takes too long.
func (s *scene) until(what string, check func() error) {
	s.Helper()
	end := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) || s.ctx.Err() != nil {
			s.Fatalf("waiting for %s: %v", what, err)
		}
		<-tick.C
	}
}

// notBanned fails the test if any of the addresses is banned, was banned for a moment, or would be in enforce mode.
func (s *scene) notBanned(addrs ...string) {
	s.Helper()
	for _, rec := range s.records() {
		prefix, err := netip.ParsePrefix(rec.Prefix)
		if err != nil {
			continue
		}
		for _, addr := range addrs {
			if prefix.Contains(netip.MustParseAddr(addr)) {
				s.Errorf("%s is in %s, for which there is a record %s: %s", addr, prefix, rec.Event, rec.Reason)
			}
		}
	}
	for _, addr := range addrs {
		why, err := s.mef.Why(s.ctx, netip.MustParseAddr(addr))
		if err != nil || why.Banned {
			s.Errorf("why %s: banned %v, %q, %v; want not banned", addr, why.Banned, why.Verdict, err)
		}
	}
}

// records returns all records of the daemon so far.
func (s *scene) records() []control.Record {
	s.Helper()
	var all []control.Record
	caught := errors.New("caught up")
	err := s.mef.Follow(s.ctx, func(rec control.Record) error {
		if rec.Event == control.Caught {
			return caught
		}
		all = append(all, rec)
		return nil
	})
	if !errors.Is(err, caught) {
		s.Fatalf("read events: %v", err)
	}
	return all
}

// reaches fails the test unless clients at these addresses can connect to the port.
func (s *scene) reaches(port int, from ...string) {
	s.Helper()
	s.probe(lab.Reached, port, from...)
}

// silent fails the test unless nothing answers clients at these addresses at the port: a ban drops, it does not refuse.
func (s *scene) silent(port int, from ...string) {
	s.Helper()
	s.probe(lab.TimedOut, port, from...)
}

func (s *scene) probe(want lab.Outcome, port int, from ...string) {
	s.Helper()
	wait := silence
	if want == lab.Reached {
		wait = patience
	}
	for _, addr := range from {
		if got, err := s.w.Client(addr).Probe(s.ctx, port, wait); got != want || err != nil {
			s.Errorf("%s connects to port %d: %q, %v; want %q", addr, port, got, err, want)
		}
	}
}

// table returns what the kernel holds of mefdaemon's table, "" if it is not there.
func (s *scene) table() string {
	s.Helper()
	if !strings.Contains(s.nft("list tables"), "table inet mefdaemon") {
		return ""
	}
	return s.nft("list table inet mefdaemon")
}
