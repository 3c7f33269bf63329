//go:build integration

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"mef/internal/lab"
)

// A terminal is one of tmux, in which mefctl top runs.
type terminal struct {
	*scene
	socket string
	raw    string // the file with all that the program wrote
}

// top starts mefctl top in a terminal of 80 columns and 24 lines.
func (s *scene) top(env ...string) *terminal {
	s.Helper()
	dir := s.TempDir()
	x := &terminal{s, filepath.Join(dir, "tmux"), filepath.Join(dir, "raw")}
	s.Cleanup(func() { _, _ = x.command("kill-server") })
	// It begins once all that it writes is copied.
	x.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24",
		fmt.Sprintf("read go; env %s %s top; echo top ended with $?; read end", strings.Join(env, " "), lab.Program("mefctl")))
	x.tmux("pipe-pane", "cat >"+x.raw)
	x.keys("Enter")
	return x
}

func (x *terminal) command(args ...string) (string, error) {
	return x.w.Run(context.WithoutCancel(x.ctx), lab.Command{Path: "/usr/bin/tmux", Args: append([]string{"-S", x.socket}, args...)})
}

func (x *terminal) tmux(args ...string) string {
	x.Helper()
	out, err := x.command(args...)
	if err != nil {
		x.Fatal(err)
	}
	return out
}

// shows waits until the screen has every text, and returns it.
func (x *terminal) shows(texts ...string) (screen string) {
	x.Helper()
	x.until(fmt.Sprintf("a screen with %q", texts), func() error {
		screen = x.tmux("capture-pane", "-p")
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return fmt.Errorf("the screen is\n%s", screen)
			}
		}
		return nil
	})
	return screen
}

func (x *terminal) keys(keys ...string) { x.tmux(append([]string{"send-keys"}, keys...)...) }

// The picture in a terminal: of 80 columns and 24 lines without color and UTF-8, with keys that explain, unban and ban, with names that steer
// terminals, in another size, and across a restart of the daemon.
func TestTop(t *testing.T) {
	s := begin(t, "", nil)
	const evil = "\x1b]0;owned\x07\x1b[2J\u202e\u009b31m"
	s.mefctl("bans", "add", "203.0.113.31", "--for", "2h", "--note", evil+strings.Repeat("A", 900))
	s.fail(ssh, "root", repeat("203.0.113.32", 5)...)
	s.banned("203.0.113.32")

	x := s.top("LC_ALL=C", "TERM=vt100", "NO_COLOR=1")
	screen := x.shows("PROTECTED: ", " packets dropped", "Attempts/s", "sshd", "> 203.0.113.32", "/100", "w why")
	for l := range strings.SplitSeq(screen, "\n") {
		if n := utf8.RuneCountInString(l); n > 80 {
			t.Errorf("a line of %d columns: %q", n, l)
		}
	}
	x.keys("w")
	x.shows("203.0.113.32: BANNED", "lines 1-")
	x.keys("q", "u")
	x.shows("Unban address or network: 203.0.113.32")
	x.keys("Enter")
	x.shows("Lift the bans of 203.0.113.32? (y/n)")
	x.keys("n")
	x.shows("Nothing was changed.")
	s.banned("203.0.113.32")
	x.keys("u", "Enter", "y")
	x.shows("Lifted 1 bans of 203.0.113.32.")
	if bans := s.mefctl("bans", "list"); strings.Contains(bans, "203.0.113.32") {
		t.Errorf("the ban was not lifted:\n%s", bans)
	}
	x.keys("b", "C-u", "203.0.113.33 1h", "Enter", "y")
	x.shows("Banned 203.0.113.33")
	s.banned("203.0.113.33")

	x.tmux("resize-window", "-x", "60", "-y", "18")
	x.shows("PROTECTED: ", "ADDRESS", "ATTEMPTS RULE ~")
	x.tmux("resize-window", "-x", "110", "-y", "30")
	x.keys("f", "203.0.113.32", "Enter")
	x.shows("filter: 203.0.113.32")
	x.keys("Escape")

	s.until("packets that are dropped on the screen", func() error {
		s.silent(lab.SSHPort, "203.0.113.33")
		if screen := x.tmux("capture-pane", "-p"); strings.Contains(screen, "Drops/s") && !regexp.MustCompile(`Drops/s .*highest 0\)`).MatchString(screen) {
			return nil
		}
		return errors.New("no drops")
	})
	s.stop(syscall.SIGTERM)
	x.shows("NO ANSWER from mefdaemon")
	s.start("")
	x.shows("PROTECTED: ", "mefdaemon was restarted at ")
	x.keys("q")
	x.shows("top ended with 0")
	checkRaw(t, x, false)

	x = s.top("LC_ALL=C.UTF-8", "TERM=screen-256color")
	x.shows("PROTECTED: ", "▁")
	x.keys("b", "C-u", "203.0.113.31", "Enter", "n") // whatever is chosen
	x.keys("w")
	x.keys("q")
	checkRaw(t, x, true)
	if out, err := s.w.Mefctl(s.ctx, "top"); err == nil || !strings.Contains(err.Error(), "mefctl top needs a terminal; use mefctl status") {
		t.Errorf("without a terminal: %q, %v", out, err)
	}
}

// checkRaw checks what reached the terminal, byte by byte.
func checkRaw(t *testing.T, x *terminal, color bool) {
	t.Helper()
	raw, err := os.ReadFile(x.raw)
	if err != nil || len(raw) == 0 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	for _, no := range []string{"\x07", "\x1b]", "\u202e", "\u009b"} {
		if strings.Contains(string(raw), no) {
			t.Errorf("%q reached the terminal", no)
		}
	}
	if got := regexp.MustCompile(`\x1b\[([0-9;]*;)?3[0-8][0-9;]*m`).Match(raw); got != color {
		t.Errorf("colors: %v, want %v", got, color)
	}
}
