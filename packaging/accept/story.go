package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"mef/internal/control"
)

// A story is the sequence of checks on one machine.
type story struct {
	*machine
	admin      admin
	files, etc string // before the installation: every path, and a digest of each file of /etc
}

// run runs all checks, up to the first that fails.
func (s *story) run(ctx context.Context, tarball string) error {
	began := time.Now()
	for _, chapter := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Debian 12 boots", s.boot},
		{"a user has an account there", s.settle},
		{"install: starts nothing; /etc/mef is valid as it is", func(ctx context.Context) error { return s.install(ctx, tarball) }},
		{"mefctl enable: protected, and the self-test passes, as user mef with one capability; the operator cannot ban his own address by mistake", s.start},
		{"the operator's page, behind a password, metrics, and the page for blocked customers, by mefpage without rights", s.pages},
		{"guessing root's password by ssh: banned, IPv4 and IPv6, with zero edits; the user gets in", s.attack},
		{"logger, by a user: nobody is banned or known by it, with a persistent and a volatile journal; without a journal, not protected", s.forge},
		{"a log file that only root can read: its attacker is banned, and the event log says so", s.logFile},
		{"not confirmed in time: what was banned since is lifted, and nobody is banned; confirmed: bans again", s.trial},
		{"mefctl stop: bans hold; start, restart, reload: they are known", s.services},
		{"mef apply of the shipped policy, and the whole ssh session killed: a process outside restores the previous rules", s.tryPolicy},
		{"confirmed from another session: mefctl starts it; stop removes its table only; nftables.service takes nothing away", s.keepPolicy},
		{"trials end well: guard killed, services restarted, power cut; a policy that is missing is reported", s.endTrials},
		{"kill -9, and hung: started again by systemd, bans hold", s.survive},
		{"reboot: still banned, and the policy in force, from the last packet to the first", s.reboot},
		{"upgrade while it runs: bans, configuration and policy are kept", s.upgrade},
		{"uninstall: no ban, no policy, no program; install again: bans stay lifted, all else is back", s.reinstall},
		{"uninstall --purge: nothing is left", s.purge},
	} {
		start := time.Now()
		if err := chapter.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", chapter.title, err)
		}
		fmt.Printf("ok %5.1fs  %s\n", time.Since(start).Seconds(), chapter.title)
	}
	fmt.Printf("all checks succeeded in %.0f seconds\n", time.Since(began).Seconds())
	return s.halt(ctx)
}

// settle makes the user's account, and records the state of the system.
func (s *story) settle(ctx context.Context) error {
	if _, err := s.sh(ctx, fmt.Sprintf("useradd -m %s && echo '%s:%s' | chpasswd", account, account, password)); err != nil {
		return err
	}
	if err := welcome(ctx); err != nil {
		return err
	}
	admin, line, err := newAdmin()
	if err != nil {
		return err
	}
	s.admin = admin
	if _, err := s.sh(ctx, "umask 077 && mkdir -p .ssh && echo '"+strings.TrimSpace(line)+"' >.ssh/authorized_keys"); err != nil {
		return err
	}
	s.files, s.etc, err = s.traces(ctx)
	return err
}

// traces returns every path, and a digest of every file below /etc.
func (s *story) traces(ctx context.Context) (files, etc string, err error) {
	if files, err = s.sh(ctx, "find / /run -xdev | sort"); err != nil {
		return "", "", err
	}
	etc, err = s.sh(ctx, "find /etc -type f ! -name '*-' | sort | xargs sha256sum") // passwd- is the previous passwd
	return files, etc, err
}

func (s *story) install(ctx context.Context, tarball string) error {
	data, err := os.ReadFile(tarball)
	if err != nil {
		return err
	}
	if err := os.WriteFile(root+"/root/mef.tar.gz", data, 0o644); err != nil {
		return err
	}
	if _, err := s.sh(ctx, "mkdir mef && tar -xzf mef.tar.gz -C mef --strip-components=1 && mef/install | grep 'Next: mefctl enable'"); err != nil {
		return err
	}
	return s.checks(ctx,
		"! systemctl is-active mefdaemon mef && ! systemctl is-enabled mefdaemon && ! systemctl is-enabled mef",
		"! nft list tables | grep .",
		"test -z \"$(mefctl config check 2>&1 >/dev/null)\"",
		"! grep -rv --exclude=mef.rules '^#\\|^$\\|^\\[' /etc/mef",
		"man -w mef mef.rules mefdaemon mefctl mef.conf mefdaemon.rules mefdaemon.lists",
		"bash -n /usr/local/share/bash-completion/completions/mefctl && bash -n /usr/local/share/bash-completion/completions/mef",
		"head -c 70000000 /dev/zero >/var/log/mef.log && logrotate --state=/root/rotated /etc/logrotate.d/mef && test ! -s /var/log/mef.log && "+
			"rm /root/rotated /var/log/mef.log.1*",
	)
}

// checks runs scripts that must succeed.
func (s *story) checks(ctx context.Context, scripts ...string) error {
	for _, script := range scripts {
		if out, err := s.sh(ctx, script); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

func (s *story) start(ctx context.Context) error {
	if _, err := s.sh(ctx, "mefctl enable && mefctl confirm && systemctl is-enabled mefdaemon"); err != nil {
		return err
	}
	if err := s.protected(ctx); err != nil {
		return err
	}
	err := s.checks(ctx,
		"systemctl show -P StatusText mefdaemon | grep '^enforce, 0 bans'",
		"test $(stat -c '%U:%G:%a' /run/mef/mefdaemon.sock) = mef:mef:660",
		"test $(stat -c %U:%a /var/lib/mef) = mef:750",
		`pid=$(systemctl show -P MainPID mefdaemon) && cd /proc/$pid &&
			grep "^Uid:	$(id -u mef)	" status && grep "^NoNewPrivs:	1" status && grep "^Seccomp:	2" status &&
			grep "^CapEff:	0000000000001000$" status && grep "^CapBnd:	0000000000001000$" status`,
		"systemd-analyze security --no-pager --threshold=25 mefdaemon",
		"for limit in MemoryHigh MemoryMax TasksMax; do systemctl show -P $limit mefdaemon | grep '^[0-9]'; done",
		"runuser -u "+account+" -- mefctl status; test $? = 1 # not of the group mef",
		"usermod -aG mef "+account+" && runuser -u "+account+" -- mefctl status",
	)
	if err != nil {
		return err
	}
	return s.ownAddress(ctx)
}

// ownAddress has the user, who may now control bans, ban his own address, and checks that a terminal asks root before such a ban.
func (s *story) ownAddress(ctx context.Context) error {
	for _, asks := range []struct{ from, ban, hears string }{
		{user4, user4, user4 + " is the address from which you are logged in: use --force"},
		{user6, "2001:db8:900d::/64", "2001:db8:900d::/64 contains the address from which you are logged in: use --force"},
	} {
		out, err := run(ctx, asks.from, "mefctl bans add "+asks.ban)
		if err == nil && !strings.HasPrefix(out, "mefctl: "+asks.hears) {
			err = fmt.Errorf("mefctl printed %q", out)
		}
		if err != nil {
			return fmt.Errorf("ban of %s asked for from %s: %w", asks.ban, asks.from, err)
		}
	}
	return s.checks(ctx, `export SSH_CONNECTION='198.51.100.77 50000 192.0.2.1 22'
		echo y | script -qec 'mefctl enable' /dev/null >out; cat out
		grep '^Allow 198.51.100.77 for a day' out && rm out &&
		mefctl allow list | grep '^198.51.100.77 .*by mefctl enable' && mefctl allow delete 198.51.100.77 &&
		! mefctl confirm && env -u SSH_CONNECTION mefctl confirm`)
}

// status returns the daemon's status.
func (s *story) status(ctx context.Context) (status control.Status, err error) {
	out, shErr := s.sh(ctx, "mefctl status --json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return status, errors.Join(shErr, err)
	}
	return status, nil // exit status 1 is for a host that is not protected
}

// protected waits until status reports that the host is protected, without warnings.
func (s *story) protected(ctx context.Context) error {
	return s.eventually(ctx, "protected", func() error {
		status, err := s.status(ctx)
		if err == nil && (!status.Protected || len(status.Warnings) > 0 || status.Proof.State != "passed") {
			err = fmt.Errorf("missing %q, warnings %q, self-test %q", status.Missing, status.Warnings, status.Proof.State)
		}
		return err
	})
}

func (s *story) attack(ctx context.Context) error {
	err := attackers(ctx, func(ctx context.Context, from string) error {
		refused, err := bruteForce(ctx, from)
		if err == nil {
			fmt.Printf("           %s was refused %d times and gets no answer now\n", from, refused)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := welcome(ctx); err != nil {
		return err
	}
	return s.checks(ctx, explained(attacker4))
}

// explained returns a script that fails unless mefctl why reports that an attacker is banned, with sshd's lines about him.
func explained(attacker string) string {
	return "mefctl why " + attacker + ` >why; cat why; grep '^` + attacker + `: BANNED by sshd$' why &&
		grep '^ *"\(Failed password for root from ` + attacker +
		`\|pam_unix(sshd:auth): authentication failure;.*rhost=` + attacker + `\) ' why && rm why`
}

// logFile adds a rule for a service that logs to a file of root, and turns the event log on.
func (s *story) logFile(ctx context.Context) error {
	if err := s.checks(ctx,
		"install -D -m 644 /usr/local/share/doc/mef/read-logs.conf /etc/systemd/system/mefdaemon.service.d/read-logs.conf",
		"systemctl daemon-reload && systemctl restart mefdaemon",
		"umask 077; echo start >/var/log/gatekeeper.log",
		`printf '[rule]\nservice=gatekeeper\nsource=file\nfiles=/var/log/gatekeeper.log\nprograms=gatekeeper\n`+
			`failregex=^refused <HOST>$\n' >/etc/mef/rules.d/gatekeeper.conf`,
		"sed -i 's/^#ban_log_enabled=.*/ban_log_enabled=true/' /etc/mef/mef.conf",
		"systemctl reload mefdaemon && systemctl show -P StatusText mefdaemon | grep '^enforce'",
	); err != nil {
		return err
	}
	return s.refuse(ctx, "203.0.113.99", "ban")
}

// refuse has the service log six refusals of an attacker, and waits until the event log has an event about him.
func (s *story) refuse(ctx context.Context, attacker, event string) error {
	err := s.checks(ctx, `for i in 1 2 3 4 5 6; do
		echo "$(date '+%b %e %T') server gatekeeper[7]: refused `+attacker+`" >>/var/log/gatekeeper.log; done`)
	if err != nil {
		return err
	}
	err = s.eventually(ctx, event+" of "+attacker, func() error {
		return s.checks(ctx, fmt.Sprintf(`grep '"%s".*%s' /var/log/mef.log`, event, attacker))
	})
	if err != nil || event != "ban" {
		return err
	}
	return s.eventually(ctx, attacker+" is in the table", func() error {
		return s.checks(ctx, "nft list table inet mefdaemon | grep -F "+attacker)
	})
}

// trial begins a trial with mefctl enable and does not confirm it. Its ten minutes are cut short.
func (s *story) trial(ctx context.Context) error {
	if err := s.checks(ctx, "mefctl disable && ! systemctl is-enabled mefdaemon && ! systemctl is-active mefdaemon",
		"mefctl enable >out && cat out && grep '^mefdaemon bans from now on, on trial' out && rm out && systemctl is-enabled mefdaemon"); err != nil {
		return err
	}
	if err := s.refuse(ctx, "203.0.113.96", "ban"); err != nil {
		return err
	}
	client := control.NewClient(fmt.Sprintf("/proc/%d/root/run/mef/mefdaemon.sock", s.leader))
	if _, err := client.Arm(ctx, control.ArmRequest{For: time.Second}); err != nil {
		return err
	}
	err := s.eventually(ctx, "mefdaemon only watches", func() error {
		return s.checks(ctx, "mefctl status | grep 'mefctl confirm'; mefctl status | grep '^Mode: *observe' && ! mefctl bans list | grep -F 203.0.113.96",
			"mefctl bans list | grep -F 203.0.113.99 # which was banned before")
	})
	if err != nil {
		return err
	}
	if err := s.refuse(ctx, "203.0.113.98", "would-ban"); err != nil {
		return err
	}
	if err := s.checks(ctx, "! nft list table inet mefdaemon | grep -F 203.0.113.98", "mefctl confirm"); err != nil {
		return err
	}
	return s.refuse(ctx, "203.0.113.97", "ban")
}

// services controls the services as an operator does.
func (s *story) services(ctx context.Context) error {
	if err := s.checks(ctx, "mefctl stop && ! systemctl is-active mefdaemon && systemctl is-enabled mefdaemon",
		"mefctl status; test $? = 3"); err != nil {
		return err
	}
	if err := banned(ctx); err != nil {
		return err
	}
	for _, script := range []string{"mefctl start && systemctl is-active mefdaemon", "mefctl restart mefdaemon", "mefctl reload mefdaemon"} {
		if err := s.known(ctx, script); err != nil {
			return err
		}
	}
	return nil
}

// known runs a script, after which the daemon must run and the attackers must be banned, by its status and by their packets.
func (s *story) known(ctx context.Context, script string) error {
	if err := s.checks(ctx, script); err != nil {
		return err
	}
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	if status.Bans.Total != 4 {
		return fmt.Errorf("%d bans, want 4", status.Bans.Total)
	}
	if err := s.checks(ctx, explained(attacker6)); err != nil {
		return err
	}
	if err := welcome(ctx); err != nil { // so that silence means a ban
		return err
	}
	return banned(ctx)
}

// survive kills the daemon, and then stops it with SIGSTOP. A shorter watchdog time-out saves a minute; three seconds without one show that
// the daemon does report to the watchdog.
func (s *story) survive(ctx context.Context) error {
	for restarts, script := range []string{
		`systemctl kill --signal=KILL mefdaemon`,
		`mkdir -p /etc/systemd/system/mefdaemon.service.d &&
			printf '[Service]\nWatchdogSec=2\nRestartSec=1\n' >/etc/systemd/system/mefdaemon.service.d/test.conf &&
			systemctl daemon-reload && systemctl restart mefdaemon && sleep 3 && systemctl is-active mefdaemon &&
			systemctl kill --signal=STOP mefdaemon`,
	} {
		if err := s.checks(ctx, "systemctl reset-failed mefdaemon; "+script); err != nil {
			return err
		}
		if err := banned(ctx); err != nil {
			return err
		}
		err := s.eventually(ctx, "systemd starts it again", func() error {
			return s.checks(ctx, "test $(systemctl show -P NRestarts mefdaemon) = 1 && systemctl is-active mefdaemon")
		})
		if err != nil {
			return fmt.Errorf("time %d: %w", restarts+1, err)
		}
		if err := s.known(ctx, "true"); err != nil {
			return err
		}
	}
	return s.checks(ctx, "rm /etc/systemd/system/mefdaemon.service.d/test.conf && systemctl daemon-reload && systemctl restart mefdaemon")
}

func (s *story) reboot(ctx context.Context) error {
	anew := func(ctx context.Context) error {
		if err := s.halt(ctx); err != nil {
			return err
		}
		return s.boot(ctx)
	}
	err := s.silentDuring(ctx, closedPort, []string{neighbor4, neighbor6}, func(ctx context.Context) error {
		return s.silentDuring(ctx, sshPort, []string{attacker4, attacker6}, anew)
	})
	if err != nil {
		return err
	}
	if err := s.policyHolds(ctx); err != nil {
		return err
	}
	// If units wait for each other in a cycle, systemd does not start one of them.
	if err := s.known(ctx, "systemctl is-active cloud && systemctl is-active systemd-networkd"); err != nil {
		return err
	}
	return s.protected(ctx)
}

// upgrade installs over a running daemon and a policy in force, and again with a configuration that the new version would refuse.
func (s *story) upgrade(ctx context.Context) error {
	const loaded = "(systemctl show -P InvocationID mef; nft -s -a list table inet mef)"
	if err := s.checks(ctx, loaded+" >loaded"); err != nil {
		return err
	}
	if err := s.upgradeDaemon(ctx); err != nil {
		return err
	}
	return errors.Join(s.checks(ctx, loaded+" | diff loaded - && rm loaded"), s.policyHolds(ctx))
}

func (s *story) upgradeDaemon(ctx context.Context) error {
	const pid = "systemctl show -P MainPID mefdaemon >pid"
	if err := s.known(ctx, pid+" && mef/install && test $(cat pid) != $(systemctl show -P MainPID mefdaemon)"); err != nil {
		return err
	}
	return s.known(ctx, pid+` && grep ^ban_log_enabled=true /etc/mef/mef.conf && echo mistake=1 >>/etc/mef/mef.conf &&
		! mef/install && test $(cat pid) = $(systemctl show -P MainPID mefdaemon) &&
		sed -i '$d' /etc/mef/mef.conf && rm pid`)
}

func (s *story) reinstall(ctx context.Context) error {
	if err := s.checks(ctx, "/usr/local/share/mef/uninstall", "! nft list tables | grep .", "! command -v mefdaemon mefctl mef",
		"! systemctl cat mefdaemon mef", "test -s /var/lib/mef/mef.db && grep ^ban_log_enabled=true /etc/mef/mef.conf"); err != nil {
		return err
	}
	if err := policed(ctx, false); err != nil {
		return err
	}
	if err := attackers(ctx, reaches); err != nil {
		return fmt.Errorf("still banned: %w", err)
	}
	if err := s.checks(ctx, "mef/install && mefctl enable && mefctl confirm && mefctl enable mef", "test -z \"$(mefctl bans list --ips-only)\"",
		"mefctl why "+attacker4+" --json | grep '\"history\"'"); err != nil {
		return err
	}
	if err := attackers(ctx, reaches); err != nil {
		return fmt.Errorf("banned again: %w", err)
	}
	return s.policyHolds(ctx)
}

// untold matches paths that the system itself makes, unless they contain mef.
var untold = regexp.MustCompile(`^/(tmp/|run/(systemd|user|credentials|log|motd)|var/log/(journal/|gatekeeper|(mail|user)\.log)|var/lib/systemd/|var/tmp/systemd-)`)

func (s *story) purge(ctx context.Context) error {
	if err := s.checks(ctx, "systemctl -q disable 'var-lib-mef\\x2dfirewall.mount' && umount /var/lib/mef-firewall && rm -r /srv/firewall /etc/systemd/system/var-lib-mef*",
		"/usr/local/share/mef/uninstall --purge", "! nft list ruleset | grep .",
		"! getent passwd mef && ! getent group mef", "! pgrep -l mef", "test -z \"$(systemctl list-units --all --no-legend '*mef*')\""); err != nil {
		return err
	}
	files, etc, err := s.traces(ctx)
	if err != nil {
		return err
	}
	left := append(difference(files, s.files), difference(s.files, files)...)
	left = slices.DeleteFunc(left, func(path string) bool {
		return strings.HasPrefix(path, "/root/mef") || untold.MatchString(path) && !strings.Contains(path, "mef")
	})
	if len(left) > 0 {
		return fmt.Errorf("not as before: %q", left)
	}
	if etc != s.etc {
		return fmt.Errorf("changed in /etc: %q", difference(etc, s.etc))
	}
	return nil
}

// difference returns the lines of a that are not in b.
func difference(a, b string) (lines []string) {
	in := make(map[string]bool)
	for line := range strings.Lines(b) {
		in[line] = true
	}
	for line := range strings.Lines(a) {
		if !in[line] {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// evidence returns an error with the machine's output.
func (s *story) evidence() error {
	ctx := context.Background()
	out, _ := s.sh(ctx, "journalctl --no-pager -n 30 -u mefdaemon -u mef; systemctl status -n 0 mefdaemon mef; mefctl status; mef status; tail -n 20 /var/log/mef.log; nft list ruleset; systemctl --failed")
	boot, _ := os.ReadFile(console)
	return fmt.Errorf("output of the machine:\n%s\n%s", out, boot[max(0, len(boot)-2000):])
}
