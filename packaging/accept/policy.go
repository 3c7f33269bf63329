package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// An admin is root, who logs in over ssh by a key.
type admin struct{ key ssh.Signer }

// newAdmin makes a key for root, and returns its line for authorized_keys.
func newAdmin() (a admin, line string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return a, "", err
	}
	if a.key, err = ssh.NewSignerFromKey(private); err != nil {
		return a, "", err
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return a, "", err
	}
	return a, string(ssh.MarshalAuthorizedKey(sshPublic)), nil
}

// A session is a command that root runs on a terminal, over a connection of its own.
type session struct {
	client *ssh.Client
	ended  chan error
	out    bytes.Buffer // to be read once it has ended
}

// types starts a command as an operator does. The command still runs when types returns.
func (a admin) types(ctx context.Context, from, command string) (*session, error) {
	client, err := connect(ctx, from, "root", ssh.PublicKeys(a.key))
	if err != nil {
		return nil, err
	}
	s, err := client.NewSession()
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	t := &session{client: client, ended: make(chan error, 1)}
	s.Stdout = &t.out      // a terminal shows errors too
	_, err = s.StdinPipe() // stays open, as while an operator hesitates
	if err == nil {
		err = s.RequestPty("xterm", 25, 80, nil)
	}
	if err == nil {
		err = s.Start(command)
	}
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	go func() { t.ended <- s.Wait() }()
	return t, nil
}

// end waits for the end of the command and returns its output.
func (t *session) end(ctx context.Context) (out string, err error) {
	defer t.client.Close()
	select {
	case err := <-t.ended:
		return t.out.String(), err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// enabled returns a script that enables the policy's service, and fails unless the output has the given fields.
func enabled(fields string) string {
	return `mefctl enable mef --json >out; cat out; grep -F '` + fields + `' out && rm out`
}

// diskOfItsOwn moves the state of mef to another file system, which is unmounted at shutdown before the rest of the system ends.
const diskOfItsOwn = `mkdir -m 700 /srv/firewall && cat >'/etc/systemd/system/var-lib-mef\x2dfirewall.mount' <<.
[Mount]
What=/srv/firewall
Where=/var/lib/mef-firewall
Type=none
Options=bind
[Install]
RequiredBy=local-fs.target
.
systemctl -q enable --now 'var-lib-mef\x2dfirewall.mount'`

// tryPolicy tries the shipped policy as root over ssh, and kills the whole session, so that the trial cannot be confirmed: a process
// outside the session restores the previous rules.
func (s *story) tryPolicy(ctx context.Context) error {
	err := s.checks(ctx, diskOfItsOwn,
		`sed -i '/comment="web"/s/^#//' /etc/mef/mef.rules && mef check >out && cat out && ! grep -i 'warning\|notice' out && rm out`,
		enabled(`"started":false,"refused":false`),
		"systemctl is-enabled mef && ! systemctl is-active mef && ! nft list table inet mef",
	)
	if err != nil {
		return err
	}
	if err := policed(ctx, false); err != nil {
		return err
	}
	apply, err := s.admin.types(ctx, user4, "mef apply --timeout 6s")
	if err != nil {
		return err
	}
	if err := s.tried(ctx, apply); err != nil {
		return err
	}
	if err := welcome(ctx); err != nil {
		return err
	}
	err = s.checks(ctx,
		"mef load; test $? = 1 && ! systemctl start mef && systemctl reset-failed mef # which would confirm it",
		`scope=$(cat /proc/$(pgrep -fx 'mef apply --timeout 6s')/cgroup | grep -o 'session-.*\.scope$') &&
			systemctl list-units --no-legend 'mef-trial-*.service' | grep -w running && systemctl kill --signal=KILL $scope`)
	if err != nil {
		return err
	}
	if out, err := apply.end(ctx); err == nil || !strings.Contains(out, "Keep these rules? [y/N]") {
		return fmt.Errorf("mef apply ended with %v and printed\n%s", err, out)
	}
	if err := policed(ctx, true); err != nil {
		return fmt.Errorf("just after the session was killed: %w", err)
	}
	if err := s.eventually(ctx, "the previous rules are restored", func() error { return policed(ctx, false) }); err != nil {
		return err
	}
	return s.checks(ctx, "! nft list table inet mef",
		"mef confirm 2>out; test $? = 1 && grep 'not confirmed within 6s' out && rm out",
		enabled(`"started":false,"refused":true`))
}

// tried waits until the policy of an apply is in force.
func (s *story) tried(ctx context.Context, apply *session) error {
	return s.eventually(ctx, "the policy is tried", func() error {
		select {
		case err := <-apply.ended:
			apply.ended <- err // for the next look
			return fmt.Errorf("mef apply ended with %v and printed\n%s", err, apply.out.String())
		default:
			return policed(ctx, true)
		}
	})
}

// keepPolicy confirms the policy from another session, and then controls the service as an operator does.
func (s *story) keepPolicy(ctx context.Context) error {
	apply, err := s.admin.types(ctx, user6, "mef apply --timeout 5m")
	if err != nil {
		return err
	}
	if err := s.tried(ctx, apply); err != nil {
		return err
	}
	confirm, err := s.admin.types(ctx, user4, "mef confirm")
	if err != nil {
		return err
	}
	for _, t := range []*session{confirm, apply} {
		if out, err := t.end(ctx); err != nil || !strings.Contains(out, "Confirmed: ") {
			return fmt.Errorf("a session ended with %v and printed\n%s", err, out)
		}
	}
	err = s.checks(ctx,
		enabled(`"started":true,"refused":false`),
		"systemctl is-active mef && mef status && mefctl rules status",
		"test $(stat -c %U:%a /srv/firewall) = root:711",
		"systemd-analyze security --no-pager --threshold=23 mef",
	)
	if err != nil {
		return err
	}
	return errors.Join(policed(ctx, true), s.stopPolicy(ctx))
}

// others lists every table except that of mef. Elements of mefdaemon's sets, which come and go with packets, are left out.
const others = `nft list tables | grep -vx 'table inet mef' | while read -r _ table; do
	case $table in *mefdaemon) nft -t -s -a list table $table;; *) nft -s -a list table $table;; esac; done`

// gapless is a script during which the policy is in force at every moment.
const gapless = "mefctl reload mef && mefctl restart mef && for i in 1 2 3 4 5 6 7; do systemctl restart mef || exit 1; done"

// stopPolicy stops the service, which removes its own table and nothing else, starts it in every way, and has nftables.service
// flush the whole ruleset in every way. The daemon, which restores its own table, is stopped meanwhile.
func (s *story) stopPolicy(ctx context.Context) error {
	err := s.checks(ctx, "mefctl stop && nft add table ip foreign && nft add chain ip foreign input '{ type filter hook input priority 10; }'",
		others+" >before && mefctl stop mef && "+others+" >after && diff before after && grep foreign after && rm before after",
		"! nft list table inet mef && systemctl is-enabled mef && nft delete table ip foreign")
	if err != nil {
		return err
	}
	for _, step := range []struct {
		script string
		policy bool
	}{
		{"true", false},
		{"mefctl start mef", true},
		{gapless, true},
		{"nft flush ruleset", true}, // mef-watch.service restores it
		{"systemctl start nftables && mefctl reload mef", true},
		// With this, nftables.service itself fails, and mef.service does not.
		{"for i in 1 2 3 4 5 6 7; do systemctl restart nftables; done; systemctl reset-failed nftables", true},
		{"systemctl is-active mef && systemctl restart nftables", true},
		{"echo nonsense >>/etc/mef/mef.rules && systemctl restart mef && systemctl is-active mef && mef status | grep 'Notice: '", true},
		{"systemctl restart nftables && sed -i '/^nonsense$/d' /etc/mef/mef.rules && mefctl reload mef && mef status", true},
		{"systemctl restart nftables", true},
		{"systemctl reload nftables", true},
		{"systemctl stop nftables && ! systemctl is-active mef", false},
		// Without its programs, mef still removes its table.
		{"mefctl start mef && mv /usr/sbin/nft /root && mefctl stop mef; stopped=$?; mv /root/nft /usr/sbin && exit $stopped", false},
		{"mefctl start mef && mefctl disable mef && ! systemctl is-enabled mef", false},
		{"mefctl enable mef", true},
	} {
		run := func(ctx context.Context) error { return s.checks(ctx, step.script) }
		if step.script == gapless {
			run = func(ctx context.Context) error {
				return s.silentDuring(ctx, closedPort, []string{neighbor4, neighbor6, user4, user6}, func(ctx context.Context) error { return s.checks(ctx, gapless) })
			}
		}
		if err := run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.script, err)
		}
		// A restart of nftables.service does not wait for the restart of mef.service that follows.
		if err := s.eventually(ctx, "after "+step.script, func() error { return policed(ctx, step.policy) }); err != nil {
			return err
		}
	}
	return s.checks(ctx, "mefctl start")
}

// opener is a statement that opens the closed port. A trial of it shows in whether the port answers.
const opener = "rule dir=in action=accept proto=tcp dport=" + closedPort

// opens begins a trial of a policy that opens the closed port as well. The apply that it returns waits for the end.
func (s *story) opens(ctx context.Context, timeout string) (*session, error) {
	if err := s.checks(ctx, "sed -i '1i "+opener+"' /etc/mef/mef.rules"); err != nil {
		return nil, err
	}
	apply, err := s.admin.types(ctx, user4, "mef apply --timeout "+timeout)
	if err != nil {
		return nil, err
	}
	return apply, s.eventually(ctx, "the policy is tried", func() error { return policed(ctx, false) })
}

// endTrials ends trials in ways in which systemd has a part, while the confirmed policy keeps the port closed: the guard and the command are
// killed, nftables.service flushes the ruleset, and the power fails. Meanwhile status reports a policy that is missing.
func (s *story) endTrials(ctx context.Context) error {
	const guards = "systemctl list-units --no-legend --plain 'mef-trial-*.service' | cut -d' ' -f1"
	for _, end := range []struct{ how, timeout, script string }{
		{"the guard and the command are killed", "8s", "systemctl kill --signal=KILL $(" + guards + ") $(cat /proc/$(pgrep -fx 'mef apply --timeout 8s')/cgroup | grep -o 'session-.*\\.scope$')"},
		{"reload is refused, restart ends the trial", "5m", "! systemctl reload mef && ! mefctl reload mef && systemctl restart mef && systemctl is-active mef"},
		{"nftables.service is restarted", "5m", "systemctl restart nftables"},
	} {
		apply, err := s.opens(ctx, end.timeout)
		if err != nil {
			return fmt.Errorf("%s: %w", end.how, err)
		}
		if err := s.checks(ctx, end.script); err != nil {
			return err
		}
		if err := s.eventually(ctx, "after "+end.how, func() error { return policed(ctx, true) }); err != nil {
			return err
		}
		if out, err := apply.end(ctx); err == nil {
			return fmt.Errorf("%s: mef apply succeeded and printed\n%s", end.how, out)
		}
		if err := s.checks(ctx, "! mef confirm", "sed -i '/^"+opener+"$/d' /etc/mef/mef.rules && mefctl reload mef && mef status"); err != nil {
			return fmt.Errorf("%s: %w", end.how, err)
		}
	}
	err := s.checks(ctx, "systemctl stop mef-watch && nft delete table inet mef")
	if err != nil {
		return err
	}
	err = s.eventually(ctx, "status reports that the policy is missing", func() error {
		return s.checks(ctx, "mefctl status >out; test $? = 1 && grep '^Protected: NO' out && grep 'table inet mef' out && rm out")
	})
	if err != nil {
		return err
	}
	return errors.Join(s.checks(ctx, "mefctl reload mef && systemctl start mef-watch"), s.powerCut(ctx))
}

// powerCut has the power fail during a trial. The machine boots with the rules that were confirmed last, and reports why.
func (s *story) powerCut(ctx context.Context) error {
	apply, err := s.opens(ctx, "5m")
	if err != nil {
		return err
	}
	if err := s.unplug(ctx); err != nil {
		return err
	}
	apply.client.Close()
	if err := s.boot(ctx); err != nil {
		return err
	}
	return errors.Join(policed(ctx, true), s.checks(ctx,
		"systemctl is-active mef && mef status | grep 'Notice: .*not confirmed'",
		"journalctl -b -u mef | grep 'not confirmed'",
		"sed -i '/^"+opener+"$/d' /etc/mef/mef.rules && mefctl reload mef && mef status"))
}

// policyHolds returns an error unless the policy is in force, unchanged.
func (s *story) policyHolds(ctx context.Context) error {
	return errors.Join(s.checks(ctx, "systemctl is-active mef && mef status"), policed(ctx, true))
}
