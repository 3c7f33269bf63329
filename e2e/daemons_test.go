//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"mef/internal/control"
	"mef/internal/lab"
)

// A loginTest is a daemon to log in at.
type loginTest struct {
	rule, program string
	start         func(*lab.World, context.Context) (*lab.Process, error)
	login         func(lab.Client, context.Context, string, string) error
	silent        bool // a login that succeeds is not logged, or by a process of the user, who is not believed
	probe         bool // a refusal is a probe, of nobody
}

// The shipped rule of each daemon reads the log line of a refused and of a successful login, in both address families, trusts its
// writer, and finds the address and the user.
func TestDaemonsLoginsAreSeen(t *testing.T) {
	ftp := func(port int) func(lab.Client, context.Context, string, string) error {
		return func(c lab.Client, ctx context.Context, user, password string) error {
			return c.FTPAt(ctx, port, user, password)
		}
	}
	web := func(port int) func(lab.Client, context.Context, string, string) error {
		return func(c lab.Client, ctx context.Context, user, password string) error {
			return c.WebLogin(ctx, port, user, password)
		}
	}
	for _, tt := range []loginTest{
		{rule: "exim", program: "exim4", start: (*lab.World).StartExim, login: lab.Client.SMTP},
		{rule: "postfix", program: "postfix", start: (*lab.World).StartPostfix, login: lab.Client.SMTP},
		{rule: "proftpd", program: "proftpd", start: (*lab.World).StartProFTPD, login: ftp(lab.ProFTPDPort)},
		{rule: "pure-ftpd", program: "pure-ftpd", start: (*lab.World).StartPureFTPD, login: ftp(lab.PureFTPDPort), silent: true},
		{rule: "dropbear", program: "/usr/sbin/dropbear", start: (*lab.World).StartDropbear, login: func(c lab.Client, ctx context.Context, user, password string) error {
			_, err := c.SSH(ctx, lab.DropbearPort, user, password, "id -un")
			return err
		}},
		{rule: "nginx", program: "nginx", start: (*lab.World).StartNginx, login: web(lab.NginxPort), silent: true},
		{rule: "apache", program: "apache2", start: (*lab.World).StartApache, login: web(lab.ApachePort), silent: true},
		{rule: "mariadb-audit", program: "mariadbd", start: (*lab.World).StartMariaDB, login: lab.Client.MariaDB},
		{rule: "postgresql", program: "../lib/postgresql/15/bin/postgres", start: (*lab.World).StartPostgres, login: lab.Client.Postgres},
		{rule: "bind", program: "named", start: (*lab.World).StartBIND, probe: true, login: func(c lab.Client, ctx context.Context, _, password string) error {
			if password != wrong {
				return nil // the name server lets nobody in
			}
			return c.Query(ctx, "www.example.org")
		}},
	} {
		t.Run(tt.rule, tt.run)
	}
}

func (tt loginTest) run(t *testing.T) {
	s := beginWith(t, tt.program, tt.start)
	refused, user := "failure", "alice"
	if tt.probe {
		refused, user = "probe", ""
	}
	for _, from := range []string{"203.0.113.7", "2001:db8:bad0::7"} {
		if err := tt.login(s.w.Client(from), s.ctx, "alice", wrong); !errors.Is(err, lab.ErrDenied) {
			t.Errorf("wrong password from %s: %v, want a refusal", from, err)
		}
		s.sees(control.Record{Event: refused, Rule: tt.rule, Addr: from, User: user})
		if err := tt.login(s.w.Client(from), s.ctx, "alice", lab.Alice.Password); err != nil {
			t.Errorf("right password from %s: %v", from, err)
		}
		if !tt.silent && !tt.probe {
			s.sees(control.Record{Event: "success", Rule: tt.rule, Addr: from, User: "alice"})
		}
	}
}

// beginWith begins a scene with a daemon, whose program is in /usr/sbin of the unpacked packages. It is installed before mefdaemon starts,
// which looks for new programs only at long intervals.
func beginWith(t *testing.T, program string, start func(*lab.World, context.Context) (*lab.Process, error)) *scene {
	t.Helper()
	if !strings.HasPrefix(program, "/") {
		program = lab.Unpacked + "/usr/sbin/" + program
	}
	if _, err := os.Stat(program); err != nil && os.Getenv("CI") != "true" {
		t.Skipf("%v: scripts/deps test installs it", err)
	}
	s := prepare(t)
	p, err := start(s.w, s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	s.start("")
	t.Cleanup(func() { s.stop(os.Kill) })
	return s
}

// Into some logs a client without credentials can write whole lines of its choice, with the address of another host. These logs are not
// read, so no line that a client wrote has an effect.
func TestClientsWriteWholeLines(t *testing.T) {
	const victim = "198.51.100.77"
	for _, tt := range []struct {
		loginTest
		log    string // the file
		forged string // the line
		write  func(ctx context.Context, c lab.Client, line string) error
	}{
		{
			loginTest: loginTest{rule: "nginx", program: "nginx", start: (*lab.World).StartNginx, login: func(c lab.Client, ctx context.Context, user, password string) error {
				return c.WebLogin(ctx, lab.NginxPort, user, password)
			}},
			log:    lab.NginxErrorLog,
			forged: `2026/03/01 10:00:00 [error] 33#33: *12 user "root": password mismatch, client: ` + victim + `, server: a, request: "GET / HTTP/1.1", host: "a"`,
			write: func(ctx context.Context, c lab.Client, line string) error {
				_, err := c.HTTP(ctx, lab.NginxPort, "/"+url.PathEscape("\n"+line+"\n"), "", "")
				return err
			},
		},
		{
			loginTest: loginTest{rule: "mariadb-audit", program: "mariadbd", start: (*lab.World).StartMariaDB, login: lab.Client.MariaDB},
			log:       lab.MariaDBErrorLog,
			forged:    "2026-03-01 10:00:00 7 [Warning] Access denied for user 'root'@'" + victim + "' (using password: YES)",
			write: func(ctx context.Context, c lab.Client, line string) error {
				return denied(c.MariaDB(ctx, "x\n"+line+"\n", wrong))
			},
		},
		{
			loginTest: loginTest{rule: "postgresql", program: "../lib/postgresql/15/bin/postgres", start: (*lab.World).StartPostgres, login: lab.Client.Postgres},
			log:       lab.PostgresLog,
			forged:    `2026-03-01 10:00:00 UTC ` + victim + ` x@postgres FATAL:  password authentication failed for user "x"`,
			write: func(ctx context.Context, c lab.Client, line string) error {
				begin, _, _ := strings.Cut(line, "@")
				return denied(c.Postgres(ctx, `x"`+"\n"+begin, wrong)) // the server itself writes the rest
			},
		},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			s := beginWith(t, tt.program, tt.start)
			if err := tt.write(s.ctx, s.w.Client("203.0.113.7"), tt.forged); err != nil {
				t.Fatal(err)
			}
			s.until("the line in "+tt.log, func() error {
				text, err := os.ReadFile(tt.log)
				if err == nil && !strings.Contains("\n"+string(text), "\n"+tt.forged+"\n") {
					err = fmt.Errorf("the log has no line %q:\n%s", tt.forged, text)
				}
				return err
			})
			// A log is read in order: once the next line has an effect, this one has been read.
			if err := tt.login(s.w.Client("203.0.113.9"), s.ctx, "alice", wrong); !errors.Is(err, lab.ErrDenied) {
				t.Errorf("wrong password: %v, want a refusal", err)
			}
			s.sees(control.Record{Event: "failure", Rule: tt.rule, Addr: "203.0.113.9", User: "alice"})
			for _, rec := range s.records() {
				if rec.Addr == victim {
					t.Errorf("a line that a client wrote has an effect: %+v", rec)
				}
			}
		})
	}
}

// denied returns nil for a refusal.
func denied(err error) error {
	if errors.Is(err, lab.ErrDenied) {
		return nil
	}
	return fmt.Errorf("login with a line in the name: %v, want a refusal", err)
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
