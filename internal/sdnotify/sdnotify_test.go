package sdnotify_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/sdnotify"
)

// environment is a getenv.
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if value, ok := strings.CutPrefix(p, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

// listen is a service manager's side of the socket.
func listen(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 4096)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// silent fails the test if a message waits.
func silent(t *testing.T, conn *net.UnixConn) {
	t.Helper()
	buf := make([]byte, 4096)
	conn.SetReadDeadline(time.Now()) // sending is synchronous: what was sent is there
	if n, err := conn.Read(buf); err == nil {
		t.Errorf("the manager heard %q, want nothing", buf[:n])
	}
}

func manager(t *testing.T, pairs ...string) *sdnotify.Manager {
	t.Helper()
	m, err := sdnotify.New(environment(pairs...))
	if err != nil || m == nil {
		t.Fatalf("New = %v, %v; want a manager", m, err)
	}
	return m
}

func TestMessages(t *testing.T) {
	for name, socket := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@mef-sdnotify-test-" + strconv.Itoa(os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			conn := listen(t, socket)
			m := manager(t, "NOTIFY_SOCKET="+socket)
			for _, tt := range []struct {
				send func() error
				want string
			}{
				{func() error { return m.Ready("enforce, 3 bans") }, `^READY=1\nSTATUS=enforce, 3 bans$`},
				{func() error { return m.Status("all\nREADY=0\twell") }, `^STATUS=all READY=0 well$`},
				{func() error { return m.Status(strings.Repeat("é", 150)) }, `^STATUS=é{100}…$`},
				{m.Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*\nSTATUS=.+$`},
				{m.Stopping, `^STOPPING=1\nSTATUS=stopping$`},
			} {
				if err := tt.send(); err != nil {
					t.Fatal(err)
				}
				if got := receive(t, conn); !regexp.MustCompile(tt.want).MatchString(got) {
					t.Errorf("message %q, want %s", got, tt.want)
				}
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	m, err := sdnotify.New(environment("WATCHDOG_USEC=1000"))
	if m != nil || err != nil {
		t.Fatalf("New = %v, %v; want nil, nil", m, err)
	}
	m.Watch(t.Context(), func(context.Context) (string, error) { t.Error("asked"); return "", nil }, nil)
	if err := errors.Join(m.Ready(""), m.Status(""), m.Reloading(), m.Stopping()); err != nil {
		t.Error(err)
	}
}

func TestManagerIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	m := manager(t, "NOTIFY_SOCKET="+path)
	if err := m.Ready(""); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Ready = %v, want an error that names %s", err, path)
	}
}

func TestSenselessEnvironment(t *testing.T) {
	for name, tt := range map[string]struct {
		pair    string
		manager bool
	}{
		"relative path":       {"NOTIFY_SOCKET=notify", false},
		"watchdog a word":     {"WATCHDOG_USEC=often", true},
		"watchdog negative":   {"WATCHDOG_USEC=-5", true},
		"watchdog for aeons":  {"WATCHDOG_USEC=9000000000000000000", true},
		"watchdog every zero": {"WATCHDOG_USEC=0", true},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := sdnotify.New(environment(tt.pair, "NOTIFY_SOCKET=/run/notify"))
			value := strings.SplitN(tt.pair, "=", 2)[1]
			if err == nil || !strings.Contains(err.Error(), strconv.Quote(value)) || (m != nil) != tt.manager {
				t.Errorf("New = %v, %v; want an error quoting %q", m, err, value)
			}
		})
	}
}

func TestWatchdogOfAnotherProcess(t *testing.T) {
	m := manager(t, "NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=1000", "WATCHDOG_PID=1")
	m.Watch(t.Context(), func(context.Context) (string, error) { t.Error("asked"); return "", nil }, nil) // returns at once
}

// TestWatchdog checks that the manager hears of us while we answer, and nothing while we hang or fail.
func TestWatchdog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn := listen(t, path)
	m := manager(t, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=2000", "WATCHDOG_PID="+strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	failures := make(chan error, 1)
	hung := make(chan struct{})
	var calls atomic.Int32
	alive := func(ctx context.Context) (string, error) {
		switch calls.Add(1) {
		case 1:
			return "", errors.New("no engine")
		case 2:
			return "2 bans", nil
		}
		close(hung)
		<-ctx.Done()
		return "", ctx.Err()
	}
	done := make(chan struct{})
	go func() { m.Watch(ctx, alive, func(err error) { failures <- err }); close(done) }()

	if err := <-failures; err.Error() != "no engine" {
		t.Errorf("failed with %v", err)
	}
	if got := receive(t, conn); got != "WATCHDOG=1\nSTATUS=2 bans" {
		t.Errorf("the manager heard %q", got)
	}
	<-hung
	silent(t, conn)
	cancel()
	<-done
	silent(t, conn)
	if len(failures) > 0 {
		t.Errorf("the end counted as a failure: %v", <-failures)
	}
}
