package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"mef/internal/conf"
)

// A mailServer is a mail server of one message.
type mailServer struct {
	user, password, from string
	to                   []string
	text                 string
}

func (s *mailServer) NewSession(*smtp.Conn) (smtp.Session, error) { return s, nil }
func (s *mailServer) AuthMechanisms() []string                    { return []string{sasl.Plain} }
func (s *mailServer) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if s.user, s.password = user, password; password != "s3cret" {
			return smtp.ErrAuthFailed
		}
		return nil
	}), nil
}
func (s *mailServer) Mail(from string, _ *smtp.MailOptions) error { s.from = from; return nil }
func (s *mailServer) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody@") {
		return &smtp.SMTPError{Code: 550, Message: "no such \x1b user"}
	}
	s.to = append(s.to, to)
	return nil
}
func (s *mailServer) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.text = string(text)
	return err
}
func (s *mailServer) Reset()        {}
func (s *mailServer) Logout() error { return nil }

// certificate returns one for 127.0.0.1 and example.com, and what trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.TLS.Certificates[0], pool
}

// serveMail starts a mail server on an address of loopback.
func serveMail(t *testing.T, s *mailServer, change func(*smtp.Server)) (address string) {
	t.Helper()
	server := smtp.NewServer(s)
	server.Domain, server.AllowInsecureAuth = "mail.example", true
	change(server)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln)
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return ln.Addr().String()
}

func TestMail(t *testing.T) {
	s := new(mailServer)
	address := serveMail(t, s, func(*smtp.Server) {})
	cfg := conf.Notify{Mail: []string{"root@example.org", "ops@example.org"}, SMTP: "smtp://" + address, SMTPUser: "mef", KeyFile: keyFile(t, "s3cret")}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m := hostile()
	if out := mailer(cfg, "mail1")(ctx, m); out.err != nil {
		t.Fatal(out.err)
	}
	if s.user != "mef" || s.password != "s3cret" || s.from != "mef@mail1" || strings.Join(s.to, " ") != "root@example.org ops@example.org" {
		t.Errorf("server got %+v", s)
	}
	got, err := mail.ReadMessage(strings.NewReader(s.text))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
	body, err2 := io.ReadAll(quotedprintable.NewReader(got.Body))
	if err = errors.Join(err, err2); err != nil || subject != m.Title || !strings.HasPrefix(strings.ReplaceAll(string(body), "\r\n", "\n"), m.Text+"\n") || got.Header.Get("X") != "" {
		t.Errorf("%v: subject %q, body %q", err, subject, body)
	}

	for name, tt := range map[string]struct {
		change func(*conf.Notify)
		want   string
	}{
		"recipient": {func(c *conf.Notify) { c.Mail = []string{"nobody@example.org"} }, ": 550 "},
		"password":  {func(c *conf.Notify) { c.KeyFile = keyFile(t, "wrong") }, "Authentication failed"},
		"nobody":    {func(c *conf.Notify) { c.SMTP = "smtp://127.0.0.1:1" }, "connection refused"},
	} {
		wrong := cfg
		tt.change(&wrong)
		if out := mailer(wrong, "mail1")(ctx, m); out.err == nil || !strings.Contains(out.err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, out.err, tt.want)
		}
	}
}

// Only a server on this host may lack TLS: what is sent elsewhere would be read on its way.
func TestMailOnTheNetworkIsEncrypted(t *testing.T) {
	cert, trust := certificate(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	text, err := mailText("mef@mail1", []string{"root@example.org"}, hostile())
	if err != nil {
		t.Fatal(err)
	}
	secure := new(mailServer)
	address := serveMail(t, secure, func(s *smtp.Server) { s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}} })
	plain := new(mailServer)
	open := serveMail(t, plain, func(*smtp.Server) {})
	for _, tt := range []struct {
		what, smtp string
		trust      *x509.CertPool
		want       string
	}{
		{"STARTTLS", address, trust, ""},
		{"an unknown certificate", address, nil, "certificate"},
		{"no TLS", open, trust, "it offers no STARTTLS"},
	} {
		s := server{scheme: "smtp", name: "example.com", address: tt.smtp, trust: tt.trust}
		err := s.send(ctx, &conf.Notify{Mail: []string{"root@example.org"}}, "mail1", "mef@mail1", text)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.what, err, tt.want)
		}
	}
	if secure.text == "" || plain.text != "" {
		t.Errorf("the mail went to the wrong server: %q, %q", secure.text, plain.text)
	}
}

func TestSendmail(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "sendmail")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$*\" >"+dir+"/args\nexec cat >"+dir+"/mail\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out := mailer(conf.Notify{Mail: []string{"root@example.org"}, MailFrom: "a@example.org", Sendmail: script}, "mail1")(t.Context(), hostile()); out.err != nil {
		t.Fatal(out.err)
	}
	args, _ := os.ReadFile(filepath.Join(dir, "args"))
	text, _ := os.ReadFile(filepath.Join(dir, "mail"))
	if string(args) != "-i -f a@example.org -- root@example.org\n" || !strings.Contains(string(text), "From: mef <a@example.org>\r\n") {
		t.Errorf("%s\n%s", args, text)
	}
}
