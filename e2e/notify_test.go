//go:build integration

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/lab"
)

// Administrators learn of a login that may be a break-in: by a web hook, and by a mail that Postfix accepts. A web hook that never answers delays
// neither them nor a ban.
func TestAdministratorsAreNotified(t *testing.T) {
	end := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	t.Cleanup(hangs.Close)
	t.Cleanup(func() { close(end) })
	got := make(chan string, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	}))
	t.Cleanup(hook.Close)

	s := beginWith(t, "postfix", (*lab.World).StartPostfix)
	s.configure(fmt.Sprintf("[global]\n[notify hook]\nurl=%s\n[notify hangs]\nurl=%s\n[notify mail]\nmail=alice@server\nmail_from=mef@server\nsmtp=smtp://127.0.0.1:%d\n", hook.URL, hangs.URL, lab.SMTPPort))
	s.mefctl("reload")
	if out := s.mefctl("notify", "test", "mail"); !strings.HasPrefix(out, "mail works: the message was accepted (mail)") {
		t.Errorf("mefctl notify test mail printed %q", out)
	}
	for _, from := range []string{"203.0.113.21", "203.0.113.22", "203.0.113.23", "203.0.113.24", "203.0.113.25"} {
		s.fail(ssh, "alice", from)
	}
	if _, err := s.w.Client("198.51.100.21").SSH(s.ctx, lab.SSHPort, "alice", lab.Alice.Password, "id -un"); err != nil {
		t.Fatal(err)
	}
	s.until("a message about the login", func() error {
		select {
		case body := <-got:
			var m struct {
				Level  string
				Text   string
				Events []control.Record
			}
			if err := json.Unmarshal([]byte(body), &m); err != nil || m.Level != "alarm" || !strings.Contains(m.Text, `198.51.100.21 has logged in as "alice" (sshd)`) {
				t.Errorf("%v: the message is %s", err, body)
			}
			return nil
		default:
			return errors.New("no message")
		}
	})
	s.until("a mail about the login", func() error {
		if out := s.mefctl("notify", "status"); !strings.Contains(out, "mail by mail, 1 messages sent since start;") {
			return errors.New(out)
		}
		return nil
	})
	s.fail(ssh, "root", repeat("203.0.113.26", 5)...)
	s.banned("203.0.113.26")
}
