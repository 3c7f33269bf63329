package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
)

func TestManagerSaysWhatToDoInstead(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mefdaemon.service"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := manager{root: true, systemd: true, unitDir: []string{"/nowhere", dir}, config: conf.DefaultPath}
	for name, tt := range map[string]struct {
		change  func(*manager)
		verb    string
		service string
		want    string // part of the error; "" if it can be done
	}{
		"all is well":           {nil, "start", "mefdaemon", ""},
		"no systemd":            {func(m *manager) { m.systemd = false }, "start", "mefdaemon", "start it by hand: mefdaemon --config /etc/mef/mef.conf"},
		"no systemd to stop by": {func(m *manager) { m.systemd = false }, "stop", "mefdaemon", "mefctl off stops the daemon"},
		"another configuration": {func(m *manager) { m.config = "/x.conf" }, "restart", "mefdaemon", "start it by hand: mefdaemon --config /x.conf"},
		"not root":              {func(m *manager) { m.root = false }, "disable", "mefdaemon", "mefctl disable needs root"},
		"no static policy":      {nil, "restart", "mef", "mef.service is not installed"},
		"policy by hand":        {func(m *manager) { m.systemd = false }, "enable", "mef", "systemd does not run on this host; mef --config /etc/mef/mef.conf load"},
		"no policy by hand":     {func(m *manager) { m.systemd = false }, "stop", "mef", "systemd does not run on this host; mef --config /etc/mef/mef.conf clear"},
		"another policy":        {func(m *manager) { m.config = "/x.conf" }, "enable", "mef", "the service mef reads only /etc/mef/mef.conf"},
		"nothing is installed":  {func(m *manager) { m.unitDir = nil }, "start", "mefdaemon", "run make install as root"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			if tt.change != nil {
				tt.change(&m)
			}
			err := m.can(tt.verb, tt.service)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s %s: %v, want %q", tt.verb, tt.service, err, tt.want)
			}
		})
	}
}

// Where systemd runs the daemon, mefctl off ends it also if nobody answers at the socket.
func TestManagerStopsAnyway(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mefdaemon.service"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	silent, refused := errors.New("no answer"), errors.New("exit status 1")
	absent := fmt.Errorf("%w: nothing answers", control.ErrNotRunning)
	for name, tt := range map[string]struct {
		systemd bool
		reason  error // why the daemon was not stopped by its socket
		outcome error // of systemctl
		calls   int
		want    string
	}{
		"it was stopped":         {true, nil, nil, 0, "<nil>"},
		"it does not answer":     {true, silent, nil, 1, "<nil>"},
		"it is between restarts": {true, absent, nil, 1, absent.Error()},
		"it cannot be stopped":   {true, silent, refused, 1, "no answer; exit status 1"},
		"no systemd":             {false, silent, nil, 0, "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			m := manager{root: true, systemd: tt.systemd, unitDir: []string{dir}, config: conf.DefaultPath, call: func(_ context.Context, args ...string) error {
				if calls++; strings.Join(args, " ") != "stop mefdaemon.service" {
					t.Errorf("systemctl %q", args)
				}
				return tt.outcome
			}}
			if got := fmt.Sprint(m.stopAnyway(t.Context(), tt.reason)); got != tt.want || calls != tt.calls {
				t.Errorf("%s, after %d calls of systemctl; want %s, after %d", got, calls, tt.want, tt.calls)
			}
		})
	}
}

func TestManagerCallsSystemctl(t *testing.T) {
	var got []string
	m := manager{call: func(_ context.Context, args ...string) error { got = args; return nil }}
	for _, v := range append(serviceVerbs, reloadPolicy) {
		if v.done[policy] == "" || v.verb != "reload" && v.done[daemon] == "" {
			t.Errorf("%s says nothing of a service", v.verb)
		}
		if err := m.do(t.Context(), "mefdaemon", v.args...); err != nil {
			t.Fatal(err)
		}
		if want := strings.Join(append(v.args, "mefdaemon.service"), " "); strings.Join(got, " ") != want {
			t.Errorf("%s: systemctl %q, want %q", v.verb, got, want)
		}
	}
}

// A mefdaemon is a control.Service of which enable asks for nothing but its status and to be armed.
type fakeDaemon struct {
	control.Service
	status control.Status
	armed  int
	allow  string

	allowFor time.Duration
}

func (f *fakeDaemon) Status(context.Context) (control.Status, error) { return f.status, nil }
func (f *fakeDaemon) Allow(_ context.Context, req control.AllowRequest) (control.Entry, error) {
	f.allow, f.allowFor = req.Entry, req.For
	return control.Entry{}, nil
}
func (f *fakeDaemon) Arm(context.Context, control.ArmRequest) (control.Armed, error) {
	f.armed++
	return control.Armed{Until: time.Unix(600, 0)}, nil
}

func TestEnableArmsWhatHasJustStarted(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		status control.Status
		armed  int
		says   string
	}{
		"just started":    {control.Status{Mode: "enforce", Since: now}, 1, "mefctl confirm\nbefore"},
		"long running":    {control.Status{Mode: "enforce", Since: now.Add(-time.Hour)}, 0, "there is nothing to confirm"},
		"only watching":   {control.Status{Mode: "observe", Since: now}, 0, "mode=observe"},
		"armed already":   {control.Status{Mode: "enforce", Since: now, Armed: &control.Armed{Until: now}}, 0, "mefctl confirm\nbefore"},
		"never confirmed": {control.Status{Mode: "observe", Since: now, Armed: &control.Armed{Lapsed: true}}, 0, "not confirmed in time"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeDaemon{status: tt.status}
			path := filepath.Join(t.TempDir(), "sock")
			l, err := control.Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- control.Serve(ctx, l, f) }()
			defer func() { stop(); <-done }()
			calls := 0
			m := &manager{root: true, systemd: true, config: conf.DefaultPath, call: func(_ context.Context, args ...string) error {
				calls++
				return nil
			}, unitDir: []string{filepath.Dir(path)}}
			if err := os.WriteFile(filepath.Join(filepath.Dir(path), "mefdaemon.service"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			from := netip.MustParseAddr("192.0.2.7")
			r := &report{From: &from}
			if err := r.begin(ctx, m, control.NewClient(path), true); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			r.showOutcome(&out)
			if f.allow != "192.0.2.7" || f.allowFor != 24*time.Hour || !strings.HasPrefix(out.String(), "192.0.2.7 is on the allow list until ") {
				t.Errorf("allowed %q, said %q", f.allow, out.String())
			}
			if f.armed != tt.armed || calls != 1 || !strings.Contains(out.String(), tt.says) {
				t.Errorf("armed %d times, systemctl called %d times, said %q; want %d, 1 and %q", f.armed, calls, out.String(), tt.armed, tt.says)
			}
		})
	}
}

func TestEnableWithoutDaemonOrSystemd(t *testing.T) {
	err := new(report).begin(t.Context(), &manager{root: true, config: "/x.conf"}, control.NewClient(t.TempDir()+"/none"), false)
	status := new(console.Exit)
	if !errors.As(err, &status) || status.Code != 3 || !strings.Contains(status.Err.Error(), "mefdaemon --config /x.conf, then run mefctl enable again") {
		t.Errorf("enable: %v, want exit status 3 and what to run", err)
	}
}

func TestOfferNeedsSomebodyToAsk(t *testing.T) {
	from := netip.MustParseAddr("192.0.2.7")
	var out strings.Builder
	nobody, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	for _, in := range []io.Reader{strings.NewReader("y\n"), nobody} {
		if (&report{From: &from}).offer(in, &out) || out.Len() > 0 {
			t.Errorf("a script was asked: %q", out.String())
		}
	}
	for answer, want := range map[string]bool{"y\n": true, "Yes\n": true, "n\n": false, "\n": false, "": false, "yours\n": false} {
		if got := asked(strings.NewReader(answer), &out, "May I?"); got != want {
			t.Errorf("answered %q: %v, want %v", answer, got, want)
		}
	}
	if !strings.HasPrefix(out.String(), "May I? [y/N] ") {
		t.Errorf("asked %q", out.String())
	}
}
