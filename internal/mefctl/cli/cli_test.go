package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// How long something lasts, and how long ago it was, from no end to less than a second.
func TestTimes(t *testing.T) {
	at := func(d time.Duration) *time.Time { t := noon.Add(d); return &t }
	for _, tt := range []struct {
		at                *time.Time
		left, lasts, past string
	}{
		{nil, "until lifted", "until lifted", "never"},
		{at(90 * time.Minute), "1h30m", "1h30m left", "now"},
		{at(400 * time.Millisecond), "now", "now left", "now"},
		{at(600 * time.Millisecond), "1s", "1s left", "now"},
		{at(0), "now", "now left", "now"},
		{at(-3 * time.Minute), "now", "now left", "3m ago"},
		{new(time.Time), "now", "now left", "never"},
	} {
		if got := cli.Left(tt.at, noon); got != tt.left {
			t.Errorf("Left(%v) = %q, want %q", tt.at, got, tt.left)
		}
		if got := cli.Lasts(tt.at, noon); got != tt.lasts {
			t.Errorf("Lasts(%v) = %q, want %q", tt.at, got, tt.lasts)
		}
		if got := cli.Ago(tt.at, noon); got != tt.past {
			t.Errorf("Ago(%v) = %q, want %q", tt.at, got, tt.past)
		}
	}
	if got := cli.Lasting(nil); got != "until lifted" {
		t.Errorf("Lasting(nil) = %q", got)
	}
	if got, want := cli.Lasting(&noon), "until "+noon.Local().Format(time.DateTime); got != want {
		t.Errorf("Lasting = %q, want %q", got, want)
	}
	if got, want := cli.Moment(noon), noon.Local().Format(time.DateTime); got != want {
		t.Errorf("Moment = %q, want %q", got, want)
	}
}

// Text from attackers cannot reach the terminal as it is.
func TestQuoted(t *testing.T) {
	if got, want := cli.Quoted([]string{"a\x1b[2Jb", "c\nd"}, "  "), "  \"a\\x1b[2Jb\"\n  \"c\\nd\"\n"; got != want {
		t.Errorf("Quoted = %q, want %q", got, want)
	}
	if got, want := cli.QuotedList([]string{"a", "b\r"}), `"a", "b\r"`; got != want {
		t.Errorf("QuotedList = %s, want %s", got, want)
	}
}

func TestKernel(t *testing.T) {
	k := control.Kernel{Backend: "nftables", Table: "table inet mefdaemon", Elements: 7, Present: true, Matches: true}
	damaged := k
	damaged.Matches, damaged.Problems, damaged.Repairs = false, []string{"a set is missing", "a chain too"}, 2
	for want, k := range map[string]control.Kernel{
		"nftables: table inet mefdaemon is MISSING":                                                                         {Backend: "nftables", Table: "table inet mefdaemon"},
		"nftables: table inet mefdaemon holds 7 bans, as it should be":                                                      k,
		"nftables: table inet mefdaemon holds 7 bans, NOT as it should be: a set is missing; a chain too; repaired 2 times": damaged,
	} {
		if got := cli.Kernel(k); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	n := uint64(12)
	if cli.Packets(nil) != "-" || cli.Packets(&n) != "12" || cli.OnPorts("all") != "on all ports" || cli.OnPorts("22,80") != "on ports 22,80" {
		t.Error("counters or ports are shown in other words")
	}
}

// The daemon is found by its configuration, whatever else is wrong there.
func TestClient(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mef.conf")
	if err := os.WriteFile(path, []byte("[global]\nbantme=3\ncontrol_socket="+dir+"/sock\nrules_file=/srv/mef.rules\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &cli.Global{Config: path}
	client, err := g.Client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Status(context.Background()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("without a daemon: %v, want ErrNotRunning", err)
	}
	settings, err := g.Settings()
	if err == nil || !strings.Contains(err.Error(), `unknown key "bantme"`) || settings.Firewall.RulesFile != "/srv/mef.rules" {
		t.Errorf("settings %+v, %v; want the keys that are right, and the mistake", settings.Firewall, err)
	}
	if _, err := (&cli.Global{Config: dir + "/none.conf"}).Client(); err == nil {
		t.Error("a configuration that does not exist: no error")
	}
}

// Input is the file on the command line; without one, or with "-", standard input.
func TestInput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	if err := os.WriteFile(path, []byte("of the file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{{nil, "of standard input"}, {[]string{"-"}, "of standard input"}, {[]string{path}, "of the file"}} {
		cmd := new(cobra.Command)
		cmd.SetIn(strings.NewReader("of standard input"))
		in, err := cli.Input(cmd, tt.args)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err := errors.Join(err, in.Close()); err != nil || string(text) != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.args, text, err, tt.want)
		}
	}
	if _, err := cli.Input(new(cobra.Command), []string{path + ".none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that does not exist: %v", err)
	}
}

// People get sentences, programs JSON.
func TestPrint(t *testing.T) {
	for json, want := range map[bool]string{false: "two bans\n", true: "2"} {
		var out bytes.Buffer
		cmd := new(cobra.Command)
		cmd.SetOut(&out)
		g := &cli.Global{JSON: json}
		if err := g.Print(cmd, 2, func(w io.Writer) { io.WriteString(w, "two bans\n") }); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("json %v: %q, want %q", json, got, want)
		}
	}
}
