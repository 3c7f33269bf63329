package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// bystanders are addresses that an unprivileged user of the machine writes into the system log. None of them has sent a packet.
const bystanders = "198.51.100.2"

// forgeries is a shell script that the user runs. It writes lines of failed logins, a forged success, and so many lines in sshd's name that
// the newest entries of the journal are all forged. Then it writes failures in sshd's name from the user's own unit named ssh.service, by
// journald's native protocol with fields that only journald may set, and by a program of root under another name. rsyslog writes all
// of it to /var/log as well.
const forgeries = `
	for i in $(seq 12); do
		logger -p auth.info -t vsftpd "[pid 1] [root] FAIL LOGIN: Client \"` + bystanders + `1\""
		logger -p auth.info -t sshd "Failed password for root from ` + bystanders + `2 port $i ssh2"
		logger -p mail.info -t postfix/smtpd "warning: unknown[` + bystanders + `3]: SASL LOGIN authentication failed: x"
		logger -p mail.info -t dovecot "imap-login: Disconnected (auth failed, 5 attempts in 9 secs): user=<root>, method=PLAIN, rip=` + bystanders + `4, lip=192.0.2.1, session=<$i>"
		logger -p auth.info -t pure-ftpd "(?@` + bystanders + `5) [WARNING] Authentication failed for user [root]"
		logger -p auth.info -t proftpd "127.0.0.1 (` + bystanders + `6[` + bystanders + `6]) - USER root (Login failed): Incorrect password"
	done
	logger -p auth.info -t sshd "Accepted password for root from 203.0.113.150 port 7 ssh2"
	logger -p auth.info -t vsftpd "[pid 1] [root] OK LOGIN: Client \"203.0.113.150\""
	yes x | head -n 12000 | logger -t sshd
	guess="Failed password for root from ` + bystanders + `7 port 22 ssh2"
	mkdir -p ~/.config/systemd/user
	printf '[Service]\nType=oneshot\nSyslogIdentifier=sshd\nExecStart=/bin/sh -c "for i in 1 2 3 4 5 6; do echo %s; logger -t sshd %s; done"\n' \
		"'$guess'" "'$guess'" >~/.config/systemd/user/ssh.service
	export XDG_RUNTIME_DIR=/run/user/$(id -u)
	systemctl --user daemon-reload && systemctl --user start ssh.service && echo by a unit of his own
	for i in 1 2 3 4 5 6; do
		echo "$guess" | systemd-cat -t sshd
		printf 'SYSLOG_IDENTIFIER=sshd\n_UID=0\n_SYSTEMD_UNIT=ssh.service\nMESSAGE=%s\n' "$guess" | logger --journald
		logger --id=1 -t sshd "$guess"
	done
	bash -c "exec -a sshd su root" </dev/null
	echo forged`

// journals are the ways in which a host keeps its journal. Each script sets one up.
var journals = []struct{ name, set string }{
	{"persistent", "mkdir -p /var/log/journal && rm -f /etc/systemd/journald.conf.d/accept.conf && systemctl restart systemd-journald && journalctl --flush"},
	{"volatile", "mkdir -p /etc/systemd/journald.conf.d && printf '[Journal]\\nStorage=volatile\\n' >/etc/systemd/journald.conf.d/accept.conf && systemctl restart systemd-journald"},
}

// forge has an unprivileged user write to the system log, on a host with rsyslog, with each kind of journal, before and after a restart of
// the daemon: no address is banned, no login is trusted, and a real attacker is banned as before.
func (s *story) forge(ctx context.Context) error {
	if err := s.checks(ctx, "systemctl is-active rsyslog", "test -d /var/log/journal && touch /root/had-journal || true"); err != nil {
		return err
	}
	for i, journal := range journals {
		if err := s.checks(ctx, journal.set, "systemctl restart mefdaemon"); err != nil {
			return fmt.Errorf("%s journal: %w", journal.name, err)
		}
		for round := range 2 {
			attacker := fmt.Sprintf("203.0.113.%d", 20+2*i+round)
			if err := s.forgeOnce(ctx, attacker); err != nil {
				return fmt.Errorf("%s journal, round %d: %w", journal.name, round+1, err)
			}
			if err := s.checks(ctx, "systemctl restart mefdaemon"); err != nil {
				return err
			}
		}
	}
	if err := s.checks(ctx, "seq -f 203.0.113.%.0f 20 23 | mefctl bans delete --file -"); err != nil {
		return err
	}
	if err := s.blind(ctx); err != nil {
		return err
	}
	return s.checks(ctx, "rm -rf /etc/systemd/journald.conf.d /home/"+account+"/.config; test -e /root/had-journal || rm -rf /var/log/journal; rm -f /root/had-journal",
		"systemctl restart systemd-journald mefdaemon")
}

// forgeOnce runs the user's forgeries, and then a real attack, whose ban shows that all lines before it have been read.
func (s *story) forgeOnce(ctx context.Context, attacker string) error {
	if err := s.protected(ctx); err != nil {
		return err
	}
	out, err := run(ctx, user4, forgeries)
	if err == nil && !(strings.Contains(out, "forged") && strings.Contains(out, "by a unit of his own")) {
		err = errors.New(out)
	}
	if err != nil {
		return fmt.Errorf("forge: %w", err)
	}
	err = s.eventually(ctx, "rsyslog has written all of it", func() error {
		return s.checks(ctx, "grep -q 'Accepted password for root from 203.0.113.150' /var/log/auth.log")
	})
	if err != nil {
		return err
	}
	if err := ip(ctx, "address", "replace", attacker, "dev", "lo"); err != nil {
		return err
	}
	if _, err := bruteForce(ctx, attacker); err != nil {
		return err
	}
	return s.checks(ctx,
		"! mefctl bans list --ips-only | grep -F "+bystanders,
		"! mefctl events --json | grep -F '\"addr\":\""+bystanders+"'",
		"! mefctl why 203.0.113.150 | grep 'known logins'",
	)
}

// blind turns the journal off. Status must not say "Protected: yes" then.
func (s *story) blind(ctx context.Context) error {
	if err := s.checks(ctx, "printf '[Journal]\\nStorage=none\\n' >/etc/systemd/journald.conf.d/accept.conf && systemctl restart systemd-journald mefdaemon"); err != nil {
		return err
	}
	return s.eventually(ctx, "without a journal, status says so", func() error {
		return s.checks(ctx, "mefctl status >out; test $? = 1 && grep '^Protected: NO' out && grep -i '^  missing: .*journal' out && rm out")
	})
}
