//go:build linux

package lab

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/textproto"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// The ports of further daemons.
const (
	SMTPPort     = 25
	ProFTPDPort  = 2121
	PureFTPDPort = 2122
	DropbearPort = 2222
	DNSPort      = 53
)

// Unpacked is where scripts/deps unpacks daemons whose packages exclude each other.
const Unpacked = "/usr/local/lib/mef-lab"

const eximConfig = `spool_directory = /run/exim4
log_file_path = /var/log/exim4/%slog
daemon_smtp_ports = 25
host_lookup =
tls_advertise_hosts =
acl_smtp_rcpt = acl_rcpt
begin acl
acl_rcpt:
  accept authenticated = *
  deny message = relay not permitted
begin routers
nowhere:
  driver = redirect
  data = :blackhole:
begin authenticators
plain_server:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{alice}}{eq{$auth3}{%s}}}}
  server_set_id = $auth2
  server_advertise_condition = yes
`

// StartExim starts an Exim that takes mail of alice, and writes its log to /var/log/exim4/mainlog.
func (w *World) StartExim(ctx context.Context) (*Process, error) {
	owner, err := systemAccount("Debian-exim", 997, "/run/exim4")
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"/run/exim4", "/var/log/exim4"} {
		if err := errors.Join(os.MkdirAll(d, 0o750), os.Chown(d, owner.UID, owner.UID)); err != nil {
			return nil, err
		}
	}
	if err := writeFiles(map[string]string{"/etc/exim4/exim4.conf": fmt.Sprintf(strings.Replace(eximConfig, "%slog", "%%slog", 1), Alice.Password)}); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: Unpacked + "/usr/sbin/exim4", Args: []string{"-bdf", "-q30m"}, Unit: "system.slice/exim4.service"})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(SMTPPort) })
}

const proftpdConfig = `ServerName "server"
ServerType standalone
DefaultServer on
UseIPv6 on
UseReverseDNS off
Port %d
User nobody
Group nogroup
AuthOrder mod_auth_unix.c
RequireValidShell off
WtmpLog off
PidFile /run/proftpd.pid
ScoreboardFile /run/proftpd.scoreboard
SystemLog /var/log/proftpd/proftpd.log
SyslogLevel info
DelayTable none
`

// StartProFTPD starts ProFTPD, which writes its log to /var/log/proftpd/proftpd.log, as on Debian.
func (w *World) StartProFTPD(ctx context.Context) (*Process, error) {
	if err := os.MkdirAll("/var/log/proftpd", 0o755); err != nil {
		return nil, err
	}
	if err := writeFiles(map[string]string{"/etc/proftpd/proftpd.conf": fmt.Sprintf(proftpdConfig, ProFTPDPort)}); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{Path: Unpacked + "/usr/sbin/proftpd", Args: []string{"-n", "-q", "-c", "/etc/proftpd/proftpd.conf"}, Unit: "system.slice/proftpd.service"})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(ProFTPDPort) })
}

// StartPureFTPD starts Pure-FTPd, which logs by syslog. It logs a successful login with the user ID of that user.
func (w *World) StartPureFTPD(ctx context.Context) (*Process, error) {
	p, err := w.Start(Command{
		Path: Unpacked + "/usr/sbin/pure-ftpd", Args: []string{"-S", fmt.Sprint(PureFTPDPort), "-l", "unix", "-H", "-E"},
		Unit: "system.slice/pure-ftpd.service",
	})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(PureFTPDPort) })
}

// StartDropbear starts Dropbear's SSH server, which logs by syslog.
func (w *World) StartDropbear(ctx context.Context) (*Process, error) {
	if err := os.MkdirAll("/etc/dropbear", 0o755); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{
		Path: "/usr/sbin/dropbear", Args: []string{"-F", "-R", "-p", fmt.Sprint(DropbearPort)},
		Unit: "system.slice/dropbear.service",
	})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(DropbearPort) })
}

const namedConfig = `options {
  directory "/run/named";
  pid-file "/run/named/pid";
  session-keyfile none;
  listen-on port %[1]d { any; };
  listen-on-v6 port %[1]d { any; };
  allow-recursion { localhost; };
  dnssec-validation no;
};
controls {};
`

// StartBIND starts BIND's name server, which answers the server alone, and logs by syslog.
func (w *World) StartBIND(ctx context.Context) (*Process, error) {
	if err := os.MkdirAll("/run/named", 0o755); err != nil {
		return nil, err
	}
	if err := writeFiles(map[string]string{"/etc/bind/named.conf": fmt.Sprintf(namedConfig, DNSPort)}); err != nil {
		return nil, err
	}
	p, err := w.Start(Command{
		Path: Unpacked + "/usr/sbin/named", Args: []string{"-f", "-c", "/etc/bind/named.conf"},
		Env: []string{"LD_LIBRARY_PATH=" + Unpacked + "/usr/lib/x86_64-linux-gnu"}, Unit: "system.slice/named.service",
	})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(DNSPort) })
}

// Query asks the server for an address record by TCP. A refusal wraps ErrDenied.
func (c Client) Query(ctx context.Context, name string) error {
	conn, err := c.Dial(ctx, DNSPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := dns.Client{Net: "tcp"}
	answer, _, err := client.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), &dns.Conn{Conn: conn})
	switch {
	case err != nil:
		return fmt.Errorf("query of %s: %w", name, err)
	case answer.Rcode == dns.RcodeRefused:
		return fmt.Errorf("query of %s: %w", name, ErrDenied)
	}
	return nil
}

const postfixConfig = `compatibility_level = 3.6
queue_directory = /run/postfix
data_directory = /run/postfix-data
daemon_directory = %[1]s/usr/lib/postfix/sbin
command_directory = %[1]s/usr/sbin
import_environment = MAIL_CONFIG LD_LIBRARY_PATH
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = all
mynetworks =
mydestination = server
local_recipient_maps =
local_transport = discard:
alias_maps =
smtpd_peername_lookup = no
smtpd_error_sleep_time = 0
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:%[2]d
smtpd_sasl_security_options = noanonymous
`

// postfixServices is a master.cf with the services that receive a message.
const postfixServices = `smtp      inet n - n - - smtpd
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
discard   unix - - n - - discard
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
anvil     unix - - n - 1 anvil
proxymap  unix - - n - - proxymap
`

// StartPostfix starts a Postfix that asks Dovecot, which must run, about passwords. It logs by syslog.
func (w *World) StartPostfix(ctx context.Context) (*Process, error) {
	owner, err := systemAccount("postfix", 995, "/run/postfix")
	if err != nil {
		return nil, err
	}
	if _, err := systemAccount("postdrop", 994, "/run/postfix"); err != nil {
		return nil, err
	}
	for _, d := range []string{"active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "pid", "private", "public", "saved", "trace"} {
		path := "/run/postfix/" + d
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, owner.UID, owner.UID)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(os.Chown("/run/postfix/pid", 0, 0), os.MkdirAll("/run/postfix-data", 0o700), os.Chown("/run/postfix-data", owner.UID, owner.UID)); err != nil {
		return nil, err
	}
	err = writeFiles(map[string]string{
		"/etc/postfix/main.cf":   fmt.Sprintf(postfixConfig, Unpacked, authPort),
		"/etc/postfix/master.cf": postfixServices,
	})
	if err != nil {
		return nil, err
	}
	p, err := w.Start(Command{
		Path: Unpacked + "/usr/lib/postfix/sbin/master", Args: []string{"-d", "-c", "/etc/postfix"},
		Env: []string{"LD_LIBRARY_PATH=" + Unpacked + "/usr/lib/postfix"}, Unit: "system.slice/postfix.service",
	})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx, func() error { return listening(SMTPPort) })
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// SMTP logs in (RFC 4954, PLAIN) and, if that succeeds, sends a message to itself.
func (c Client) SMTP(ctx context.Context, user, password string) error {
	conn, err := c.Dial(ctx, SMTPPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	reader := textproto.NewReader(bufio.NewReader(conn))
	if _, _, err := reader.ReadResponse(220); err != nil {
		return fmt.Errorf("smtp greeting: %w", err)
	}
	secret := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	for _, step := range []struct {
		line string
		want int
	}{
		{"EHLO client.example", 250}, {"AUTH PLAIN " + secret, 235}, {"MAIL FROM:<alice@server>", 250},
		{"RCPT TO:<alice@server>", 250}, {"DATA", 354}, {"Subject: a\r\n\r\nb\r\n.", 250}, {"QUIT", 221},
	} {
		fmt.Fprintf(conn, "%s\r\n", step.line)
		_, _, err := reader.ReadResponse(step.want)
		var answer *textproto.Error
		if errors.As(err, &answer) && answer.Code == 535 {
			return fmt.Errorf("smtp login as %s: %w: %q", user, ErrDenied, answer.Msg)
		}
		if err != nil {
			return fmt.Errorf("smtp %.4s: %w", step.line, err)
		}
	}
	return nil
}
