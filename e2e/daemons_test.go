//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"mef/internal/control"
	"mef/internal/lab"
)

// A refused and a successful login at each daemon, in both families, is what the daemon's log makes of it: the shipped rule reads
// the line, believes who wrote it, and finds the address and the user.
func TestDaemonsLoginsAreSeen(t *testing.T) {
	login := func(port int) func(context.Context, lab.Client, string, string) error {
		return func(ctx context.Context, c lab.Client, user, password string) error {
			return c.FTPAt(ctx, port, user, password)
		}
	}
	for _, tt := range []struct {
		rule, program string
		start         func(*lab.World, context.Context) (*lab.Process, error)
		login         func(ctx context.Context, c lab.Client, user, password string) error
		asUser        bool // a success is logged by a process of the user, who is not believed
	}{
		{"exim", lab.Unpacked + "/usr/sbin/exim4", (*lab.World).StartExim, func(ctx context.Context, c lab.Client, user, password string) error {
			return c.SMTP(ctx, user, password)
		}, false},
		{"proftpd", lab.Unpacked + "/usr/sbin/proftpd", (*lab.World).StartProFTPD, login(lab.ProFTPDPort), false},
		{"pure-ftpd", lab.Unpacked + "/usr/sbin/pure-ftpd", (*lab.World).StartPureFTPD, login(lab.PureFTPDPort), true},
		{"dropbear", "/usr/sbin/dropbear", (*lab.World).StartDropbear, func(ctx context.Context, c lab.Client, user, password string) error {
			_, err := c.SSH(ctx, lab.DropbearPort, user, password, "id -un")
			return err
		}, false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if _, err := os.Stat(tt.program); err != nil && os.Getenv("CI") != "true" {
				t.Skipf("%v: scripts/deps test installs it", err)
			}
			s := begin(t, "", nil)
			p, err := tt.start(s.w, s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Stop(syscall.SIGTERM)
			for _, from := range []string{"203.0.113.7", "2001:db8:bad0::7"} {
				if err := tt.login(s.ctx, s.w.Client(from), "alice", wrong); !errors.Is(err, lab.ErrDenied) {
					t.Errorf("wrong password from %s: %v, want a refusal", from, err)
				}
				s.sees(control.Record{Event: "failure", Rule: tt.rule, Addr: from, User: "alice"})
				if err := tt.login(s.ctx, s.w.Client(from), "alice", lab.Alice.Password); err != nil {
					t.Errorf("right password from %s: %v", from, err)
				}
				if !tt.asUser {
					s.sees(control.Record{Event: "success", Rule: tt.rule, Addr: from, User: "alice"})
				}
			}
		})
	}
}

// sees waits for a record of this kind, rule, address and user.
func (s *scene) sees(want control.Record) {
	s.Helper()
	s.until(fmt.Sprintf("a %s of %s at %s from %s", want.Event, want.User, want.Rule, want.Addr), func() error {
		for _, rec := range s.records() {
			if rec.Event == want.Event && rec.Rule == want.Rule && rec.Addr == want.Addr && rec.User == want.User {
				return nil
			}
		}
		return errors.New("no such record")
	})
}
