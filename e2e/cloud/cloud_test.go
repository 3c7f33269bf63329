//go:build integration

package cloud_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// programs builds the programs and returns their directory.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "mef/cmd/mefdaemon", "mef/cmd/mefctl", "mef/cmd/mefcloud")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// A process is a program in a namespace.
type process struct {
	*exec.Cmd
	log string // the file with what it prints
}

// start starts a program. It is killed when the test ends, and then its output is logged if the test has failed.
func start(t *testing.T, ns *netnstest.NS, log, program string, args ...string) *process {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := &process{exec.Command(program, args...), log}
	p.Stdout, p.Stderr = out, out
	ns.Do(func() { err = p.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.end(os.Kill)
		if text, err := os.ReadFile(log); t.Failed() && err == nil {
			t.Logf("%s:\n%s", filepath.Base(log), text)
		}
	})
	return p
}

// end ends the program, if it still runs.
func (p *process) end(sig os.Signal) {
	if p.ProcessState == nil {
		_ = p.Process.Signal(sig)
		_ = p.Wait() // says how it ended
	}
}

// A host is one that mefdaemon protects.
type host struct {
	*testing.T
	ns       *netnstest.NS
	dir, bin string
	addr     string // towards attackers
	daemon   *process
}

// begin starts mefdaemon on a host with a log of its own.
func begin(t *testing.T, ns *netnstest.NS, name, bin, addr string) *host {
	t.Helper()
	h := &host{t, ns, filepath.Join(t.TempDir(), name), bin, addr, nil}
	conf := fmt.Sprintf("[global]\nrules_dir=%[1]s/rules.d\ncache_dir=%[1]s/state\ncontrol_socket=%[1]s/run/socket\nwhitelist_dir=%[1]s/whitelist\nblacklist_dir=%[1]s/blacklist\n"+
		"community_report=true\ncommunity_cloud_protection=true\n", h.dir)
	rule := fmt.Sprintf("[rule]\nprograms=prog\nservice_ports=22\nenabled=true\nsource=file\nfiles=%s/auth.log\nfailregex=^bad login from <HOST> as alice\\.example$\nmaxretry=3\n", h.dir)
	for path, text := range map[string]string{"mef.conf": conf, "rules.d/test.conf": rule, "rules.d/slow.conf": strings.NewReplacer("programs=prog", "programs=slow", "maxretry=3", "maxretry=9").Replace(rule), "auth.log": "", "state/.keep": "", "run/.keep": "", "whitelist/.keep": "", "blacklist/.keep": ""} {
		path = filepath.Join(h.dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	h.daemon = start(t, ns, filepath.Join(h.dir, "mefdaemon.log"), filepath.Join(bin, "mefdaemon"), "-config", filepath.Join(h.dir, "mef.conf"))
	h.until("the daemon answers", func() error {
		_, err := h.ask("status", "--json")
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 { // it answers, and finds faults of this small machine
			return nil
		}
		return err
	})
	ns.Echo(t, "tcp", ":22")
	return h
}

// ask runs mefctl.
func (h *host) ask(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(h.bin, "mefctl"), append([]string{"--config", filepath.Join(h.dir, "mef.conf")}, args...)...).Output()
	return string(out), err
}

// mefctl runs mefctl, which must succeed.
func (h *host) mefctl(args ...string) string {
	h.Helper()
	out, err := h.ask(args...)
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		h.Fatalf("mefctl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (h *host) until(what string, check func() error) {
	h.Helper()
	if err := netnstest.Poll(check); err != nil {
		h.Fatalf("%s: %v", what, err)
	}
}

// attacked writes the log lines of an attack, of which the rule bans an address after three.
func (h *host) attacked(from string) { h.failed("prog", from, 3) }

// failed writes log lines of a program.
func (h *host) failed(program, from string, times int) {
	h.Helper()
	f, err := os.OpenFile(filepath.Join(h.dir, "auth.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.Fatal(err)
	}
	for range times {
		_, err2 := fmt.Fprintf(f, "%s host %s[1]: bad login from %s as alice.example\n", time.Now().Format("Jan _2 15:04:05"), program, from)
		err = errors.Join(err, err2)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		h.Fatal(err)
	}
}

// drops waits until the host drops what comes from an address, or no longer does.
func (h *host) drops(from *netnstest.NS, addr string, want bool) {
	h.Helper()
	h.until(fmt.Sprintf("%s is dropped: %v", addr, want), func() error {
		err := from.Try("tcp", addr, h.addr+":22")
		if want && err == nil {
			return errors.New("it gets an answer")
		} else if want {
			return nil
		}
		return err
	})
}

// cloud answers mefctl cloud status.
func (h *host) cloud() (c control.Cloud) {
	h.Helper()
	if err := json.Unmarshal([]byte(h.mefctl("cloud", "status", "--json")), &c); err != nil {
		h.Fatal(err)
	}
	return c
}

// What attacks one host of an operator is dropped by the kernel of the others before its first packet reaches a service there. A host that was away,
// and a server that was killed, catch up; a server that is away costs nothing; what is lifted is lifted everywhere; and nothing that is sent names
// users, lines or the host.
func testHostsShareBans(t *testing.T, bin string) {
	f := newFleet(t, bin, filepath.Join(t.TempDir(), "cloud"))
	first, second, third, attacker, serve, server, dir := f.hosts[0], f.hosts[1], f.hosts[2], f.attacker, f.serve, f.server, f.dir
	second.drops(attacker, "198.51.100.7", false)
	first.attacked("198.51.100.7")
	for _, h := range f.hosts {
		h.drops(attacker, "198.51.100.7", true)
	}
	if why := second.mefctl("why", "198.51.100.7"); !strings.Contains(why, "BANNED") || !strings.Contains(why, "banned it by rule test (login)") {
		t.Errorf("mefctl why on the second host does not name the first:\n%s", why)
	}
	second.until("no report of another's evidence", func() error {
		if c := second.cloud(); c.Sent != 0 {
			return fmt.Errorf("the second host has sent %d reports of what it did not see", c.Sent)
		}
		return nil
	})

	first.mefctl("bans", "delete", "198.51.100.7")
	second.drops(attacker, "198.51.100.7", false)
	third.drops(attacker, "198.51.100.7", false)

	// The server hangs, and is killed: each host bans alone meanwhile, and what was banned arrives afterwards.
	if err := server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	first.attacked("198.51.100.8")
	first.drops(attacker, "198.51.100.8", true)
	server.end(os.Kill)
	first.attacked("198.51.100.9")
	first.drops(attacker, "198.51.100.9", true)
	second.drops(attacker, "198.51.100.9", false)
	serve()
	second.drops(attacker, "198.51.100.8", true)
	second.drops(attacker, "198.51.100.9", true)

	second.mefctl("cloud", "leave")
	second.drops(attacker, "198.51.100.9", false)
	first.drops(attacker, "198.51.100.9", true)

	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, secret := range []string{"alice", "bad login", "203.0.113.2", "203.0.114.2"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("the server has %q in %s", secret, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
