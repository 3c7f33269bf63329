package notify

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/run"
	"mef/internal/webclient"
)

// mailer returns the way by mail: through a mail server, or a program that takes the mail.
func mailer(cfg conf.Notify, host string) way {
	from := cfg.MailFrom
	if from == "" {
		from = "mef@" + host
	}
	return func(ctx context.Context, m *message) outcome {
		text, err := mailText(from, cfg.Mail, m)
		if err != nil {
			return outcome{err: err}
		}
		if cfg.Sendmail != "" {
			_, err = run.Feed(ctx, text, maxOutput, cfg.Sendmail, append([]string{"-i", "-f", from, "--"}, cfg.Mail...)...)
			return outcome{err: err}
		}
		to, err := serverOf(cfg.SMTP)
		if err == nil {
			err = to.send(ctx, &cfg, host, from, text)
		}
		if err != nil {
			return outcome{err: fmt.Errorf("%s: %s", cfg.SMTP, diag.Printable(err.Error()))} // a server's answer may have anything in it
		}
		return outcome{}
	}
}

// mailText returns a mail (RFC 5322) with lines that end as SMTP wants it. The subject and the text are encoded, so that nothing in them
// can begin a header or end the mail.
func mailText(from string, to []string, m *message) ([]byte, error) {
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("From", "mef <"+from+">")
	header("To", strings.Join(to, ", "))
	header("Subject", mime.QEncoding.Encode("utf-8", m.Title))
	header("Date", m.Time.Format(time.RFC1123Z))
	header("Message-ID", fmt.Sprintf("<%s@%s>", strings.ToLower(rand.Text()), m.Host))
	header("Auto-Submitted", "auto-generated")
	if m.Level != info {
		header("Importance", "high")
	}
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	body := quotedprintable.NewWriter(&b)
	if _, err := body.Write([]byte(m.Text + "\n\nmefctl status, mefctl alarms and mefctl events tell more on " + m.Host + ".\n")); err != nil {
		return nil, err
	}
	err := body.Close()
	return b.Bytes(), err
}

// A server is a mail server.
type server struct {
	scheme, name, address string
	trust                 *x509.CertPool // nil: the authorities that this host trusts
}

// serverOf returns the server of a value of smtp=.
func serverOf(value string) (s server, err error) {
	s.scheme, s.address, _ = strings.Cut(value, "://")
	s.name, _, err = net.SplitHostPort(s.address)
	return s, err
}

// local reports whether the server is this host.
func (s *server) local() bool {
	ip := net.ParseIP(s.name)
	return s.name == "localhost" || ip != nil && ip.IsLoopback()
}

// send gives a mail to the server. Except on this host, that must have TLS, and a certificate for its name.
func (s *server) send(ctx context.Context, cfg *conf.Notify, host, from string, text []byte) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(end)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	secure := &tls.Config{ServerName: s.name, RootCAs: s.trust}
	if s.scheme == "smtps" {
		conn = tls.Client(conn, secure)
	}
	c, err2 := smtp.NewClient(conn, s.name)
	if err = errors.Join(err, err2); err != nil {
		return err
	}
	if err := c.Hello(host); err != nil {
		return err
	}
	if s.scheme == "smtp" && !s.local() {
		if has, _ := c.Extension("STARTTLS"); !has {
			return errors.New("it offers no STARTTLS; write smtps://, or the address of a server that has TLS")
		}
		if err := c.StartTLS(secure); err != nil {
			return err
		}
	}
	if cfg.SMTPUser != "" {
		password, err := webclient.ReadKey(cfg.KeyFile)
		if err != nil {
			return err
		}
		if err := c.Auth(smtp.PlainAuth("", cfg.SMTPUser, password, s.name)); err != nil {
			return err
		}
	}
	if err := c.Mail(from); err != nil {
		return err
	}
	for _, to := range cfg.Mail {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // the mail is accepted
	return nil
}
