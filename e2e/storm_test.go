//go:build integration

package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/lab"
	"mef/internal/store"
)

const (
	stateDir = "/var/lib/mef"
	stateDB  = stateDir + "/mef.db"
)

// attackers returns n addresses, as of attacker.
func attackers(n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i] = attacker(i)
	}
	return all
}

// holds waits until the daemon reads back n bans from the kernel, as long as their number grows.
func (s *scene) holds(n int) {
	s.Helper()
	for held := -1; held != n; {
		s.until(fmt.Sprintf("%d bans in the kernel", n), func() error {
			status, err := s.mef.Status(s.ctx)
			if err == nil && status.Bans.Total != n && status.Bans.Total <= held {
				err = fmt.Errorf("there are %d", status.Bans.Total)
			}
			if err == nil {
				held = status.Bans.Total
			}
			return err
		})
	}
}

// Ten thousand sources reach the limit in one burst. The time is logged only.
func TestStorm(t *testing.T) {
	s, d := beginFromFile(t)
	s.within(2 * time.Minute)
	all := s.storm(d, number(t, "MEF_E2E_STORM", 10_000))
	s.compare(s.held(), all)
}

// storm has n sources banned, beside those that are.
func (s *scene) storm(d *diary, n int) []netip.Addr {
	s.Helper()
	all, before := attackers(n), s.status().Bans.Total
	began := time.Now()
	if err := d.failed(slices.Concat(all, all, all)...); err != nil {
		s.Fatal(err)
	}
	written := time.Now()
	s.holds(before + n)
	s.Logf("%d sources: all banned %v after the last line was written, which took %v", n, time.Since(written), written.Sub(began))
	return all
}

// A hundred thousand sources are banned, and one transaction restores all of them. Packets of the last banned source show when.
func TestRestoreMany(t *testing.T) {
	n := number(t, "MEF_E2E_RESTORE", 100_000)
	s, d := beginFromFile(t)
	s.within(6 * time.Minute)
	const from, free = "203.0.113.233", "198.51.100.233"
	all := attackers(n - 1)
	for _, addr := range all { // one after the other: no tracker remembers so many at once
		if err := d.failed(addr, addr, addr); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	s.holds(n - 1)
	t.Logf("%d sources: all banned %v after the last line was written", n-1, time.Since(began))
	s.failed(d, from)
	all = append(all, netip.MustParseAddr(from))
	s.stop(syscall.SIGTERM)
	s.nft("delete table inet mefdaemon")
	if info, err := os.Stat(stateDB); err != nil || info.Size() > store.DefaultMaxSize {
		t.Errorf("the store: %v, %v", info, err)
	}
	probers := s.probers(from, free)
	s.arrivals(probers[0], 100)
	began = time.Now()
	s.start(everyFailure)
	s.holds(n)
	t.Logf("%d bans: the last packet of one who is banned arrived %v after the daemon was started", n, time.Unix(0, probers[0].last.Load()).Sub(began))
	s.compare(s.held(), all)

	// Once more, over a table that holds them all.
	probers[0].arrived.Store(0)
	s.stop(os.Kill)
	began = time.Now()
	s.start(everyFailure)
	t.Logf("over a table that has them all the daemon is ready after %v", time.Since(began))
	s.holds(n)
	s.answersSoon(from)
	s.gaps(probers, "through a crash", 100)
	s.compare(s.held(), all)
}

// answersSoon measures mefctl why. With so many bans it should take less than a tenth of a second on an idle machine. The shortest of
// several runs depends least on other load.
func (s *scene) answersSoon(addr string) {
	s.Helper()
	var took []time.Duration
	for range 9 {
		began := time.Now()
		if why := s.mefctl("why", addr); !strings.HasPrefix(why, addr+": BANNED by sshd\n") {
			s.Fatalf("why %s says\n%s", addr, why)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	s.Logf("mefctl why took from %v to %v, median %v", took[0], took[8], took[4])
	if took[0] > time.Second/2 {
		s.Errorf("mefctl why took %v and more, want less than 100ms", took[0])
	}
}

// Without its saved state the daemon keeps the bans that the kernel holds, logs a warning, and continues.
func TestDamagedStore(t *testing.T) {
	for name, damage := range map[string]func() error{
		"overwritten": func() error {
			f, err := os.OpenFile(stateDB, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte(strings.Repeat("not a database ", 2000)), 0)
			return errors.Join(err, f.Close())
		},
		"cut short": func() error { return os.Truncate(stateDB, 5000) },
		"a directory instead": func() error {
			return errors.Join(os.Remove(stateDB), os.Mkdir(stateDB, 0o755))
		},
		"lost": func() error { return os.RemoveAll(stateDir) },
	} {
		t.Run(name, func(t *testing.T) {
			s, d := beginFromFile(t)
			const byLog, byHand, fresh = "203.0.113.230", "203.0.113.231", "203.0.113.232"
			s.failed(d, byLog)
			s.mefctl("bans", "add", byHand, "--for", "1h")
			s.stop(os.Kill)
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			before := len(s.mef.Process.Output())
			s.start(everyFailure)
			if b := s.banned(byHand); b.Rule != "unknown" || b.Until == nil {
				t.Errorf("without the store %s is banned by %q until %v; want of unknown origin, and not forever", byHand, b.Rule, b.Until)
			}
			s.until("the reason of the ban of "+byLog+", from the log", func() error {
				if b := s.banned(byLog); b.Rule != "sshd" || b.Count != 1 {
					return fmt.Errorf("it is ban number %d, by %q", b.Count, b.Rule)
				}
				return nil
			})
			s.silent(lab.SSHPort, byLog, byHand)
			if out := s.mef.Process.Output()[before:]; name != "lost" && !strings.Contains(out, "level=WARN") {
				t.Errorf("no warning about the store:\n%s", out)
			}
			s.failed(d, fresh)
			s.mefctl("bans", "delete", byHand)
			s.reaches(lab.SSHPort, byHand)
			s.silent(lab.SSHPort, fresh)
		})
	}
}

// failed writes enough failures of addresses for a ban, and waits until they are banned.
func (s *scene) failed(d *diary, addrs ...string) {
	s.Helper()
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		if err := d.failed(slices.Repeat([]netip.Addr{addr}, limit)...); err != nil {
			s.Fatal(err)
		}
	}
	for _, text := range addrs {
		s.banned(text)
	}
}

// With a full disk the daemon saves no state but still bans. It saves everything once there is space.
func TestDiskFull(t *testing.T) {
	s, d := beginFromFile(t)
	s.stop(syscall.SIGTERM)
	const size = 8 << 20
	if err := unix.Mount("tmpfs", stateDir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop(os.Kill)
		if err := unix.Unmount(stateDir, 0); err != nil {
			t.Error(err)
		}
	})
	s.start(everyFailure)
	s.failed(d, "203.0.113.240")
	filler := filepath.Join(stateDir, "filler")
	if err := os.WriteFile(filler, make([]byte, size), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v, want no space left", err)
	}
	all := attackers(1000) // too many for the room that the file has left inside
	if err := d.failed(slices.Concat(all, all, all)...); err != nil {
		t.Fatal(err)
	}
	s.holds(1 + len(all))
	s.until("status to report that nothing is saved", func() error {
		status, err := s.mef.Status(s.ctx)
		if err == nil && (status.Store.Problem == "" || !slices.ContainsFunc(status.Warnings, func(w string) bool { return strings.Contains(w, "not saved") })) {
			err = fmt.Errorf("the store is %+v, warnings %q", status.Store, status.Warnings)
		}
		return err
	})
	s.failed(d, "203.0.113.241")
	s.silent(lab.SSHPort, "203.0.113.240", "203.0.113.241")

	// After a crash the kernel has bans that the store lacks; their reasons come from the log.
	s.stop(os.Kill)
	s.start(everyFailure)
	s.holds(2 + len(all))
	s.failed(d, "203.0.113.242")

	if err := os.Remove(filler); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	s.within(2 * time.Minute)
	s.until("the state to be saved again", func() error {
		status, err := s.mef.Status(s.ctx)
		if err == nil && (status.Store.Problem != "" || status.Store.Pending > 0) {
			err = fmt.Errorf("the store is %+v", status.Store)
		}
		return err
	})
	s.stop(syscall.SIGTERM)
	s.nft("delete table inet mefdaemon")
	s.start(everyFailure)
	s.compare(s.held(), append(all, netip.MustParseAddr("203.0.113.240"), netip.MustParseAddr("203.0.113.241"), netip.MustParseAddr("203.0.113.242")))
}

// A source that moves from network to network has the wider network banned. Lifting that ban keeps the narrow ones.
func TestWidening(t *testing.T) {
	s := begin(t, "", nil)
	attacked := func(network string) {
		t.Helper()
		for _, host := range []string{"1", "2"} {
			s.fail(ssh, "root", repeat(network+host, 5)...)
		}
	}
	for _, network := range []string{"2001:db8:bad0:ab00::", "2001:db8:bad0:ab01::"} {
		attacked(network)
		s.banned(network + "/64") // two addresses of it attacked
	}
	const same, other = "2001:db8:bad0:ab77::1", "2001:db8:bad0:ac00::1"
	s.reaches(lab.SSHPort, same, other)
	attacked("2001:db8:bad0:ab02::")
	const wide = "2001:db8:bad0:ab00::/56"
	if b := s.banned(wide); !strings.Contains(b.Reason, wide) {
		t.Errorf("%s is banned because %q; want the reason for the width", wide, b.Reason)
	}
	s.silent(lab.SSHPort, same, "2001:db8:bad0:ab02::1")
	s.reaches(lab.SSHPort, other)
	s.mefctl("bans", "delete", wide)
	s.reaches(lab.SSHPort, same)
	s.silent(lab.SSHPort, "2001:db8:bad0:ab00::1", "2001:db8:bad0:ab01::1")
}
