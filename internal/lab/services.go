//go:build linux

package lab

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// The ports of the daemons.
const (
	FTPPort  = 21
	SSHPort  = 22
	IMAPPort = 143
	authPort = 12345 // where Dovecot answers Postfix, by loopback alone
)

// StartJournal starts systemd-journald, which keeps its journal in memory and reads the world's /dev/log.
func (w *World) StartJournal(ctx context.Context) (*Process, error) {
	return w.StartJournalWith(ctx, "volatile")
}

// StartJournalWith is StartJournal with another storage, a value of Storage= in journald.conf(5). journald forwards all messages to a
// syslog daemon too, if one runs.
func (w *World) StartJournalWith(ctx context.Context, storage string) (*Process, error) {
	var id [16]byte
	rand.Read(id[:])
	err := writeFiles(map[string]string{
		"/etc/machine-id": hex.EncodeToString(id[:]) + "\n",
		// Kernel messages and the audit system belong to the host.
		"/etc/systemd/journald.conf":   "[Journal]\nStorage=" + storage + "\nReadKMsg=no\nAudit=\nForwardToSyslog=yes\nForwardToWall=no\n",
		"/run/systemd/journal/flushed": "", // journald may write to /var at once
	})
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"/run/systemd/journal", "/run/log/journal"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	p, err := w.Start(Command{Path: "/lib/systemd/systemd-journald", Unit: "system.slice/systemd-journald.service"})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error {
		conn, err := net.Dial("unixgram", "/dev/log")
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// rsyslogConfig is the part of Debian's for authentication and mail.
const rsyslogConfig = `module(load="imuxsock" SysSock.Name="/run/systemd/journal/syslog")
$RepeatedMsgReduction off
auth,authpriv.*	/var/log/auth.log
mail.*	-/var/log/mail.log
`

// StartRsyslog starts rsyslogd, which writes what journald forwards to /var/log/auth.log and mail.log.
func (w *World) StartRsyslog(ctx context.Context) (*Process, error) {
	if err := writeFiles(map[string]string{"/etc/rsyslog.conf": rsyslogConfig}); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: "/usr/sbin/rsyslogd", Args: []string{"-n", "-iNONE"}, Unit: "system.slice/rsyslog.service"})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error {
		_, err := os.Stat("/run/systemd/journal/syslog")
		return err
	})
}

// Written returns when the sender of a journal message wrote it (_SOURCE_REALTIME_TIMESTAMP, which syslog(3) always sends). If several
// messages have the same text, it is the time of the last.
func (w *World) Written(ctx context.Context, message string) (time.Time, error) {
	out, err := w.Run(ctx, Command{Path: "/usr/bin/journalctl", Args: []string{"--output=json", "--since=-2min", "--reverse"}})
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(out) {
		var entry struct {
			Message any    `json:"MESSAGE"` // numbers where it is no text
			Micros  string `json:"_SOURCE_REALTIME_TIMESTAMP"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			return time.Time{}, fmt.Errorf("journal: %w", err)
		}
		if entry.Message == message {
			micros, err := strconv.ParseInt(entry.Micros, 10, 64)
			return time.UnixMicro(micros), err
		}
	}
	return time.Time{}, fmt.Errorf("the journal has no message %q", message)
}

// ForgetLogs empties the journal and removes the daemons' log files, as if nothing had happened yet. journald must run. Daemons that
// write these files must not, except vsftpd.
func (w *World) ForgetLogs(ctx context.Context) error {
	// Vacuuming keeps the file that is written to. So journald first writes all it has received and then begins a new file.
	for _, arg := range []string{"--sync", "--rotate", "--vacuum-time=1us"} {
		if _, err := w.Run(ctx, Command{Path: "/usr/bin/journalctl", Args: []string{arg}}); err != nil {
			return err
		}
	}
	if err := os.Remove(vsftpdLog); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return removeAll("/var/log/exim4", "/var/log/proftpd", "/var/log/nginx", "/var/log/apache2", "/var/log/mysql", "/var/log/postgresql")
}

func removeAll(paths ...string) error {
	var errs []error
	for _, path := range paths {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// sshdConfig is Debian's, except for the limit on unauthenticated connections: tests make many at once.
const sshdConfig = `Port %d
HostKey %s
UsePAM yes
KbdInteractiveAuthentication no
X11Forwarding no
PrintMotd no
MaxStartups 200
PidFile none
`

// pam is the PAM configuration of every service here: the password decides, at once. With Debian's, every wrong guess would take two
// seconds.
const pam = "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_unix.so\n"

// StartSSH starts an OpenSSH server.
func (w *World) StartSSH(ctx context.Context) (*Process, error) {
	key, err := newHostKey()
	if err != nil {
		return nil, err
	}
	const keyFile = "/etc/ssh/ssh_host_ed25519_key"
	err = writeFiles(map[string]string{
		"/etc/ssh/sshd_config": fmt.Sprintf(sshdConfig, SSHPort, keyFile),
		"/etc/pam.d/sshd":      pam,
		keyFile:                key,
	})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: "/usr/sbin/sshd", Args: []string{"-D"}, Unit: "system.slice/ssh.service"})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(SSHPort) })
}

// StartOwnSSH starts an sshd that a local user runs himself, on a port of his choice. It logs as the system's sshd does.
func (w *World) StartOwnSSH(ctx context.Context, as Account, port int) (*Process, error) {
	key, err := newHostKey()
	if err != nil {
		return nil, err
	}
	keyFile, config := as.Home()+"/own_key", as.Home()+"/sshd_config"
	text := fmt.Sprintf("Port %d\nHostKey %s\nUsePAM no\nStrictModes no\nPidFile none\n", port, keyFile)
	if err := writeFiles(map[string]string{config: text, keyFile: key}); err != nil {
		return nil, err
	}
	if err := os.Chown(keyFile, as.UID, as.UID); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: "/usr/sbin/sshd", Args: []string{"-D", "-f", config}, Unit: as.Session(), As: &as})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(port) })
}

// StartSSHOn starts another OpenSSH server of the system, after StartSSH, at another port, as the unit ssh@PORT.service.
func (w *World) StartSSHOn(ctx context.Context, port int) (*Process, error) {
	p, err := w.Start(Command{Path: "/usr/sbin/sshd", Args: []string{"-D", "-p", strconv.Itoa(port)}, Unit: fmt.Sprintf("system.slice/ssh@%d.service", port)})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(port) })
}

func newHostKey() (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(block)), nil
}

// dovecotConfig is in the format of Dovecot 2.3. It logs by syslog, the default. It turns off the delays after failed logins, which
// would also delay other clients.
const dovecotConfig = `protocols = imap
listen = *, ::
ssl = no
disable_plaintext_auth = no
mail_location = maildir:~/Maildir
first_valid_uid = 1000
passdb {
  driver = pam
  args = failure_show_msg=yes dovecot
}
userdb {
  driver = passwd
}
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  inet_listener {
    address = 127.0.0.1
    port = %d
  }
}
`

const dovecotUnit = "system.slice/dovecot.service"

// StartDovecot starts a Dovecot that serves IMAP and checks passwords for Postfix. It replaces a Dovecot that runs.
func (w *World) StartDovecot(ctx context.Context) (*Process, error) {
	if err := w.endUnit(ctx, dovecotUnit); err != nil {
		return nil, err
	}
	err := writeFiles(map[string]string{"/etc/dovecot/dovecot.conf": fmt.Sprintf(dovecotConfig, authPort), "/etc/pam.d/dovecot": pam})
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"/run/dovecot", "/var/lib/dovecot"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	p, err := w.Start(Command{Path: "/usr/sbin/dovecot", Args: []string{"-F"}, Unit: dovecotUnit})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(IMAPPort) })
}

// vsftpdConfig is Debian's, without the settings that need files of the host.
const vsftpdConfig = `listen=NO
listen_ipv6=YES
anonymous_enable=NO
local_enable=YES
use_localtime=YES
xferlog_enable=YES
delay_failed_login=0
secure_chroot_dir=/run/vsftpd/empty
pam_service_name=vsftpd
`

// vsftpdLog is where vsftpd writes by default (vsftpd_log_file).
const vsftpdLog = "/var/log/vsftpd.log"

// StartVSFTPD starts vsftpd, which writes its log to /var/log/vsftpd.log. PAM logs failures in the journal too.
func (w *World) StartVSFTPD(ctx context.Context) (*Process, error) {
	err := writeFiles(map[string]string{"/etc/vsftpd.conf": vsftpdConfig, "/etc/pam.d/vsftpd": pam})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll("/run/vsftpd/empty", 0o755); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: "/usr/sbin/vsftpd", Args: []string{"/etc/vsftpd.conf"}, Unit: "system.slice/vsftpd.service"})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(FTPPort) })
}

// listening returns nil if a TCP socket of the server listens on port, by the kernel's table (proc_pid_net(5)). A connection
// would leave a line in the daemon's log.
func listening(port int) error {
	const listen = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/thread-self/net/" + table)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) > 3 && strings.HasSuffix(fields[1], suffix) && fields[3] == listen {
				return f.Close()
			}
		}
		f.Close()
	}
	return fmt.Errorf("nothing listens on port %s", strconv.Itoa(port))
}
