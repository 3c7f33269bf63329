//go:build integration

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netnstest"
)

// TestLoadWhileRulesAreTried refuses what would confirm them without anybody's yes: systemctl reload mef, say.
func TestLoadWhileRulesAreTried(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "rules are on trial") {
		t.Errorf("mef load: exit status %d\n%s", status, out)
	}
	s.open(ssh, web)
	s.must("rollback")
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d after it was rolled back", status)
	}
	s.open(ssh)
}

// TestClearEndsTheTrial leaves nobody who would load rules afterwards, and remembers that these were not confirmed.
func TestClearEndsTheTrial(t *testing.T) {
	s := tried(t)
	cmd := s.try("5m")
	guard := s.guard()
	s.must("clear")
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d after mef clear", status)
	}
	s.ends(guard)
	if table := s.table(); table != "" {
		t.Errorf("there are rules after mef clear:\n%s", table)
	}
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "and not confirmed") {
		t.Errorf("mef load: exit status %d\n%s", status, out)
	}
	s.open(ssh)
}

// TestRestartEndsTheTrial has systemd restart mef.service during a trial: it starts with the rules that were confirmed last.
func TestRestartEndsTheTrial(t *testing.T) {
	for _, setting := range []string{"", "rules_on_stop=keep\n"} {
		t.Run(setting, func(t *testing.T) {
			s := tried(t)
			conf, err := os.ReadFile(s.path("mef.conf"))
			if err != nil {
				t.Fatal(err)
			}
			s.write("mef.conf", string(conf)+setting)
			cmd := s.try("5m")
			s.told()
			s.systemd("12 mef.service restart running")
			s.must("clear", "--on-stop")
			if status := wait(t, cmd); status != 1 {
				t.Errorf("apply ended with status %d after the restart", status)
			}
			s.open(ssh)
			if out := s.must("load", "--boot"); !strings.Contains(out, "and not confirmed") {
				t.Errorf("mef load --boot:\n%s", out)
			}
			s.open(ssh)
		})
	}
}

// systemd has a systemd run, as far as mef can see, which has these jobs.
func (s *server) systemd(jobs string) {
	s.Helper()
	s.write("systemctl", "#!/bin/sh\ncase $1 in\nlist-jobs) echo '"+jobs+"';;\nshow) echo running;;\nesac\n")
	path, err := exec.LookPath("systemctl")
	if err != nil {
		netnstest.Missing(s.T, err.Error())
	}
	if err := os.Chmod(s.path("systemctl"), 0o755); err != nil {
		s.Fatal(err)
	}
	bind(s.T, s.path("systemctl"), path)
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { unix.Unmount("/run", unix.MNT_DETACH) })
	if err := os.MkdirAll("/run/systemd/system", 0o755); err != nil {
		s.Fatal(err)
	}
}

// smallDisk keeps the state of a host on a disk that is soon full.
func (s *server) smallDisk() {
	s.Helper()
	if err := os.Mkdir(s.path("state-firewall"), 0o700); err != nil {
		s.Fatal(err)
	}
	if err := unix.Mount("tmpfs", s.path("state-firewall"), "tmpfs", 0, "size=512k,mode=700"); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { unix.Unmount(s.path("state-firewall"), unix.MNT_DETACH) })
}

// fill leaves not a byte on the disk.
func (s *server) fill() {
	s.Helper()
	f, err := os.Create(s.path("state-firewall/others"))
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = f.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		s.Fatal(err)
	}
}

// TestBootWithAFullDisk loads the file as ever, or the last good rules, and reports what could not be kept.
func TestBootWithAFullDisk(t *testing.T) {
	s := newServer(t)
	s.smallDisk()
	s.rules(ssh)
	s.must("apply", "--yes")
	s.fill()
	s = s.reboot()
	s.rules(ssh, web)
	if out := s.must("load"); !strings.Contains(out, "no space left on device") {
		t.Errorf("mef load says nothing of the disk:\n%s", out)
	}
	s.open(ssh, web)
	s.write("mef.rules", "policy dir=in action=no\n")
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "last good rules") {
		t.Errorf("mef load of a broken file: exit status %d\n%s", status, out)
	}
	s.open(ssh)
}

// TestDiskFillsWhileRulesAreTried takes them back nevertheless.
func TestDiskFillsWhileRulesAreTried(t *testing.T) {
	s := newServer(t)
	s.smallDisk()
	s.rules(ssh)
	s.must("apply", "--yes")
	s.rules(ssh, web)
	out, err := os.Create(s.path("out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd, _ := s.shortTrial(func(timeout string) *exec.Cmd {
		cmd := s.command("apply", "--timeout", timeout)
		cmd.Stdout = out
		return cmd
	}, ssh, web)
	err = netnstest.Poll(func() error {
		if text, _ := os.ReadFile(out.Name()); !strings.Contains(string(text), "Loaded.") {
			return errors.New("the command does not know yet that rules are loaded")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.fill()
	s.open(ssh)
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d", status)
	}
	if out, _ := s.mef("status"); !strings.Contains(out, "In force: yes") {
		t.Errorf("status says that somebody else changed the rules:\n%s", out)
	}
}

// TestConfirmWithAFullDisk keeps the rules of the trial, at the next boot too.
func TestConfirmWithAFullDisk(t *testing.T) {
	s := newServer(t)
	s.smallDisk()
	s.rules(ssh)
	s.must("apply", "--yes")
	s.rules(ssh, web)
	cmd := s.try("5m")
	s.told()
	s.fill()
	s.must("confirm")
	if status := wait(t, cmd); status != 0 {
		t.Errorf("apply ended with status %d after it was confirmed", status)
	}
	s.must("status")
	s = s.reboot()
	s.write("mef.rules", "policy dir=in action=no\n")
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "last good rules") {
		t.Errorf("mef load of a broken file: exit status %d\n%s", status, out)
	}
	s.open(ssh, web)
}

// TestRollbackWithAFullDisk goes back nevertheless, and permanently.
func TestRollbackWithAFullDisk(t *testing.T) {
	s := newServer(t)
	s.smallDisk()
	s.rules(ssh)
	s.must("apply", "--yes")
	s.rules(ssh, web)
	s.must("apply", "--yes")
	s.fill()
	s.must("rollback")
	s.open(ssh)
	if out, _ := s.mef("status"); !strings.Contains(out, "In force: yes") {
		t.Errorf("status after a rollback with a full disk:\n%s", out)
	}
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "and not confirmed") {
		t.Errorf("mef load: exit status %d\n%s", status, out)
	}
	s.open(ssh)
}

// TestRollbackIsCutShort has the rules exchanged by whoever comes next.
func TestRollbackIsCutShort(t *testing.T) {
	for name, renamed := range map[string][][2]string{
		"nothing is confirmed": {{"confirmed", "swapped"}},
		"nothing was before":   {{"confirmed", "swapped"}, {"previous", "confirmed"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := tried(t)
			s.must("apply", "--yes")
			for _, names := range renamed {
				if err := os.Rename(s.path("state-firewall/"+names[0]), s.path("state-firewall/"+names[1])); err != nil {
					t.Fatal(err)
				}
			}
			s = s.reboot()
			s.write("mef.rules", "policy dir=in action=no\n")
			if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "last good rules") {
				t.Errorf("mef load: exit status %d\n%s", status, out)
			}
			s.open(ssh)
			s.must("rollback")
			s.open(ssh, web)
		})
	}
}

// TestAllRefusedPoliciesAreRemembered tries two that nobody confirms. Neither is loaded at boot, until it is confirmed.
func TestAllRefusedPoliciesAreRemembered(t *testing.T) {
	s := tried(t)
	for _, ports := range [][]string{{ssh, web}, {web}} {
		s.rules(ports...)
		if out, status := s.mef("apply", "--timeout", "1s"); status != 1 {
			t.Fatalf("exit status %d\n%s", status, out)
		}
	}
	for _, ports := range [][]string{{web}, {ssh, web}} {
		s.rules(ports...)
		if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "and not confirmed") {
			t.Errorf("exit status %d\n%s", status, out)
		}
		s.open(ssh)
	}
	s.must("apply", "--yes")
	s.must("load")
	s.open(ssh, web)
	s.must("rollback")
	s.must("rollback")
	s.must("load") // what was rolled back, and forth
	s.open(ssh, web)
}

// readOnly lets nobody write any more where the state is kept, though files may be open.
func (s *server) readOnly() {
	s.Helper()
	state := s.path("state-firewall")
	if err := unix.Mount(state, state, "", unix.MS_BIND, ""); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { unix.Unmount(state, unix.MNT_DETACH) })
	if err := unix.Mount("", state, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		s.Fatal(err)
	}
}

// TestDiskIsReadOnly loads and removes rules, which needs no disk.
func TestDiskIsReadOnly(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	s.must("apply", "--yes")
	s.readOnly()
	s.must("clear")
	s.open(ssh, web)
	s.must("load")
	s.open(ssh)
}

// TestDiskBecomesReadOnlyWhileRulesAreTried takes them back nevertheless.
func TestDiskBecomesReadOnlyWhileRulesAreTried(t *testing.T) {
	s := tried(t)
	cmd, _ := s.shortTrial(s.apply(), ssh, web)
	s.readOnly()
	s.open(ssh)
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d", status)
	}
}

// TestBootWithoutAFolder loads the file where nothing can be kept at all.
func TestBootWithoutAFolder(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	s.write("state-firewall", "no folder\n")
	if out := s.must("load"); !strings.Contains(out, "state of the firewall: ") {
		t.Errorf("mef load says nothing of its folder:\n%s", out)
	}
	s.open(ssh)
	for _, args := range [][]string{{"check"}, {"show"}, {"trace", "dir=in", "proto=tcp"}} {
		s.must(args...) // as for somebody who is not root
	}
	s.write("mef.rules", "policy dir=in action=no\n")
	if out, status := s.mef("load"); status != 1 || !strings.Contains(out, "only the rescue rules") {
		t.Errorf("mef load of a broken file: exit status %d\n%s", status, out)
	}
	s.open(ssh)
}

// TestWithoutNamesOfProtocols is a host without the package that has /etc/protocols.
func TestWithoutNamesOfProtocols(t *testing.T) {
	s := newServer(t)
	if _, err := os.Stat("/etc/protocols"); err == nil {
		bind(t, os.DevNull, "/etc/protocols")
	}
	s.write("mef.rules", policyFor(ssh)+"rule dir=in action=accept proto=udp\nrule dir=in action=accept proto=tcp sport=80\nrule dir=in action=drop proto=tcp\n")
	s.must("apply", "--yes")
	s.open(ssh)
}

// TestFormatKeepsTheOwner has root put a file in order that belongs to somebody else.
func TestFormatKeepsTheOwner(t *testing.T) {
	const somebody = 1000
	s := newServer(t)
	s.write("mef.rules", "policy action=drop dir=in\n")
	if err := os.Chown(s.path("mef.rules"), somebody, somebody); err != nil {
		t.Skip(err) // we are root in a namespace only
	}
	s.must("fmt", "--write")
	info, err := os.Stat(s.path("mef.rules"))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != somebody || owner.Gid != somebody {
		t.Errorf("the file belongs to %d:%d now", owner.Uid, owner.Gid)
	}
}

// TestNotesAreCutShort has a power cut leave nothing in the files that report what is loaded.
func TestNotesAreCutShort(t *testing.T) {
	for _, names := range [][]string{{"loaded.json"}, {"loaded.rules"}, {"loaded.json", "loaded.rules"}} {
		s := tried(t)
		for _, name := range names {
			s.write("state-firewall/"+name, "")
		}
		s = s.reboot()
		if out, status := s.mef("status"); status != 1 || !strings.Contains(out, "In force: NO") {
			t.Errorf("%v: mef status: exit status %d\n%s", names, status, out)
		}
		s.must("plan")
		s.must("apply", "--yes")
		s.must("status")
		s.open(ssh, web)
	}
}

// TestConfirmReadsTheKernelBack does not confirm rules that somebody has removed during the trial: what let the administrator in was an
// open host.
func TestConfirmReadsTheKernelBack(t *testing.T) {
	for name, change := range map[string][]string{
		"removed": {"flush", "ruleset"},
		"changed": {"add", "rule", "inet", "mef", "input", "tcp", "dport", "25", "accept"},
	} {
		t.Run(name, func(t *testing.T) {
			s := tried(t)
			cmd := s.try("5m")
			if err := netnstest.Poll(func() error { // until the guard has read the rules back
				_, err := os.Stat(s.path("state-firewall/trial/result.json"))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			s.ns.Run(t, "", "nft", change...)
			if out, status := s.mef("confirm"); status != 1 || !strings.Contains(out, "not confirmed: ") || !strings.Contains(out, name) {
				t.Errorf("mef confirm: exit status %d\n%s", status, out)
			}
			if status := wait(t, cmd); status != 1 {
				t.Errorf("apply ended with status %d", status)
			}
			s.open(ssh)
			if out, _ := s.mef("status"); !strings.Contains(out, "In force: yes") {
				t.Errorf("status:\n%s", out)
			}
		})
	}
}

// TestGuardIsReplaced kills the guard of a trial, as systemd starts another one: it goes on with the time that is left.
func TestGuardIsReplaced(t *testing.T) {
	s := tried(t)
	cmd, timeout := s.shortTrial(s.apply(), ssh, web)
	began := time.Now()
	lasts, err := time.ParseDuration(timeout)
	if err != nil {
		t.Fatal(err)
	}
	s.kill(cmd.Process.Pid)
	wait(t, cmd)
	if pid := s.guardNow(); pid != 0 { // otherwise the trial is over
		s.kill(pid)
	}
	time.Sleep(time.Until(began.Add(lasts * 3 / 4))) // so that beginning anew would take longer
	again := time.Now()
	guard := s.command("guard")
	s.start(guard)
	if status := wait(t, guard); status != 0 {
		t.Errorf("the second guard ended with status %d", status)
	}
	if took := time.Since(again); took >= lasts {
		t.Errorf("of a trial of %v the second guard waited for %v, which is all of it", lasts, took)
	}
	s.open(ssh)
}

// TestClearWithoutPrograms removes list the rules that nft has loaded though neither nft nor iptables is there any more.
func TestClearWithoutPrograms(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	s.must("apply", "--yes")
	hide(t, "nft", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore")
	s.must("clear")
	s.open(ssh, web)
	s.must("clear")
}

// TestTrialEndsWithoutPrograms ends the first trial of a host from which nft and iptables are removed meanwhile.
func TestTrialEndsWithoutPrograms(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	cmd := s.command("apply", "--timeout", "5m")
	s.start(cmd)
	s.begun(ssh)
	s.told()
	hide(t, "nft", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore")
	s.must("rollback")
	s.open(ssh, web)
	if status := wait(t, cmd); status != 1 {
		t.Errorf("apply ended with status %d", status)
	}
}

// TestWatch restores the policy after each flush, and leaves alone what mef clear has removed.
func TestWatch(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	s.must("apply", "--yes")
	watch := s.command("watch")
	s.start(watch)
	defer func() {
		watch.Process.Signal(syscall.SIGTERM)
		if status := wait(t, watch); status != 0 {
			t.Errorf("mef watch ended with status %d", status)
		}
	}()
	for range 2 {
		s.ns.Run(t, "", "nft", "flush", "ruleset")
		s.open(ssh)
		s.must("status")
	}
	s.must("clear")
	s.open(ssh, web)
	s.ns.Run(t, "table inet other { }\n", "nft", "-f", "-")
	s.ns.Run(t, "", "nft", "flush", "ruleset")
	s.open(ssh, web)
}

// TestWatchTriesAgain restores a policy that could not be restored at once, without another flush.
func TestWatchTriesAgain(t *testing.T) {
	s := newServer(t)
	s.rules(ssh)
	s.must("apply", "--yes")
	loaded := s.path("state-firewall/loaded.rules")
	if err := os.Rename(loaded, loaded+"~"); err != nil {
		t.Fatal(err)
	}
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	watch := s.command("watch")
	watch.Stderr = said
	s.start(watch)
	defer func() {
		watch.Process.Signal(syscall.SIGTERM)
		wait(t, watch)
	}()
	s.ns.Run(t, "", "nft", "flush", "ruleset")
	err = netnstest.Poll(func() error {
		text, err := os.ReadFile(said.Name())
		if err == nil && !strings.Contains(string(text), "cannot be restored") {
			err = fmt.Errorf("mef watch wrote %q", text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(loaded+"~", loaded); err != nil {
		t.Fatal(err)
	}
	s.open(ssh)
}
