package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mef/internal/control"
	"mef/internal/selftest"
)

// reporter is a daemon that only tells its status.
type reporter struct {
	control.Service
	status control.Status
}

func (r reporter) Status(context.Context) (control.Status, error) { return r.status, nil }

// TestSelftestAsksForTheLiveTable shows what an operator reads when the packets vanished as they should.
func TestSelftestAsksForTheLiveTable(t *testing.T) {
	kernel := control.Kernel{Backend: "nftables", Table: "table inet mefdaemon", Present: true, Elements: 3, Matches: true}
	damaged := kernel
	damaged.Matches, damaged.Problems = false, []string{"set ban4_32 is missing"}
	for name, tt := range map[string]struct {
		status control.Status
		want   string
	}{
		"as it should be": {control.Status{Mode: "enforce", Kernel: kernel},
			"  ok      live table: nftables: table inet mefdaemon holds 3 bans, as it should\n"},
		"damaged": {control.Status{Mode: "enforce", Kernel: damaged},
			"  FAILED  live table: nftables: table inet mefdaemon holds 3 bans, NOT as it should: set ban4_32 is missing\n"},
		"gone": {control.Status{Mode: "enforce", Kernel: control.Kernel{Backend: "nftables", Table: "table inet mefdaemon"}},
			"  FAILED  live table: nftables: table inet mefdaemon is MISSING\n"},
		"observing": {control.Status{Mode: "observe"},
			"  ok      live table: mode=observe, nothing is banned\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &global{config: listen(t, control.Handler(reporter{status: tt.status}))}
			v := verdict{Packets: selftest.Result{OK: true}, Live: g.liveTable(t.Context())}
			v.OK = v.Live.OK
			var out strings.Builder
			v.show(&out)
			headline := "Self-test: bans block, proven in 0s\n"
			if !v.OK {
				headline = "Self-test: FAILED\n"
			}
			if got := out.String(); got != headline+tt.want {
				t.Errorf("output\n%swant\n%s", got, headline+tt.want)
			}
		})
	}
}

// A mending daemon's table is as it should be from the n-th look on.
type mending struct {
	control.Service
	looks *int
	n     int
}

func (m mending) Status(context.Context) (control.Status, error) {
	*m.looks++
	k := control.Kernel{Backend: "nftables", Table: "table inet mefdaemon", Present: true, Matches: *m.looks >= m.n}
	return control.Status{Mode: "enforce", Kernel: k}, nil
}

// The command fails if the live table is not as it should be and stays so; what is mended within a second is none.
func TestSelftestExitStatus(t *testing.T) {
	for name, tt := range map[string]struct{ looks, status int }{
		"as it should be": {1, 0},
		"being mended":    {2, 0},
		"damaged":         {1000, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut strings.Builder
			config := listen(t, control.Handler(mending{looks: new(int), n: tt.looks}))
			status := execute(t.Context(), []string{"--config", config, "selftest"}, strings.NewReader(""), &out, &errOut)
			if status != tt.status || strings.Contains(out.String(), "FAILED") != (tt.status != 0) {
				t.Errorf("exit status %d, want %d; output\n%s%s", status, tt.status, out.String(), errOut.String())
			}
		})
	}
}

// listen answers at a control socket until the test ends and returns a configuration that names it.
func listen(t *testing.T, h http.Handler) (config string) {
	t.Helper()
	config = filepath.Join(t.TempDir(), "mef.conf")
	if err := os.WriteFile(config, []byte("[global]\ncontrol_socket="+listenAt(t, h)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

// listenAt is listen for whoever only needs the socket.
func listenAt(t *testing.T, h http.Handler) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "sock")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return socket
}
