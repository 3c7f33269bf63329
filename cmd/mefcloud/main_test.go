package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mef/internal/cloud/server"
	"mef/internal/cloud/wire"
	"mef/internal/console/consoletest"
)

// An output is what a command has written, for several goroutines.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *output) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *output) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// serve runs a server until the test ends or stop is called.
func serve(t *testing.T, dir string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log, done := new(output), make(chan int, 1)
	go func() {
		done <- execute(ctx, []string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--name", "cloud.example.org:8443"}, strings.NewReader(""), io.Discard, log)
	}()
	for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), "mefcloud is ready"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the server is not ready:\n%s", log)
		}
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if status := <-done; status != 0 {
			t.Errorf("serve ends with %d:\n%s", status, log)
		}
	})
	t.Cleanup(stop)
	return stop
}

func run(t *testing.T, dir string, args ...string) (status int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	status = execute(t.Context(), append([]string{"--data", dir}, args...), strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

// TestLifeOfAServer goes through what an operator does: first start, invitation, backup, stop, restore.
func TestLifeOfAServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	stop := serve(t, dir)
	status, text, errOut := run(t, dir, "invite")
	inv, err := wire.ParseInvitation(text)
	if status != 0 || err != nil || inv.Server != "cloud.example.org:8443" {
		t.Fatalf("invite: %d %q %q, %v", status, text, errOut, err)
	}
	status, text, _ = run(t, dir, "invite", "--json", "--anchor")
	var invited server.Invited
	if err := json.Unmarshal([]byte(text), &invited); status != 0 || err != nil || invited.Role != "anchor" {
		t.Errorf("invite --anchor: %d %s", status, text)
	}
	if status, text, _ := run(t, dir, "agents"); status != 0 || !strings.HasPrefix(text, "HOST") {
		t.Errorf("agents: %d %q", status, text)
	}
	if status, text, _ := run(t, dir, "appeals"); status != 0 || !strings.HasPrefix(text, "ADDRESS") {
		t.Errorf("appeals: %d %q", status, text)
	}
	for _, wrong := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"revoke", "nobody"}, 1, "no host has this name"},
		{[]string{"appeals", "--accept", "203.0.113.7"}, 1, "not listed"},
		{[]string{"appeals", "--accept", "everything"}, 2, "not an address"},
		{[]string{"never", "add", "everything"}, 1, "write it like"},
		{[]string{"never", "remove", "192.0.2.0/24"}, 1, "not in the list"},
		{[]string{"never", "add", "192.0.2.7", "--note", "two\nlines"}, 1, "one line"},
		{[]string{"invite", "--own", "--anchor"}, 2, "exclude each other"},
		{[]string{"quota", "100", "nobody"}, 1, "no host has this name"},
		{[]string{"quota", "0"}, 1, "from 1 to"},
		{[]string{"quota", "100"}, 0, ""},
		{[]string{"serve"}, 1, "serves this directory"},
	} {
		if status, _, text := run(t, dir, append(wrong.args, flagsOf(wrong.args[0])...)...); status != wrong.status || !strings.Contains(text, wrong.says) {
			t.Errorf("%q: %d %q, want %d and %q", wrong.args, status, text, wrong.status, wrong.says)
		}
	}
	if status, text, errOut := run(t, dir, "never", "add", "192.0.2.7", "--note", "a partner"); status != 0 || text != "added 192.0.2.7/32\n" {
		t.Errorf("never add: %d %q %q", status, text, errOut)
	}
	if status, text, _ := run(t, dir, "never", "list"); status != 0 || !strings.HasPrefix(text, "NETWORK") || !strings.Contains(text, "192.0.2.7/32") || !strings.Contains(text, "a partner") {
		t.Errorf("never list: %d %q", status, text)
	}
	if status, text, _ := run(t, dir, "never", "remove", "192.0.2.7"); status != 0 || text != "removed 192.0.2.7/32\n" {
		t.Errorf("never remove: %d %q", status, text)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if status, _, text := run(t, dir, "backup", backup); status != 0 {
		t.Fatalf("backup: %d %s", status, text)
	}
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup has the mode %v, %v", info.Mode(), err)
	}
	stop()
	if status, _, text := run(t, dir, "agents"); status != 1 || !strings.Contains(text, "mefcloud serve") {
		t.Errorf("without a server: %d %q", status, text)
	}
	if status, _, text := run(t, dir, "restore", backup); status != 1 || !strings.Contains(text, "not empty") {
		t.Errorf("restore over a directory in use: %d %q", status, text)
	}
	second := filepath.Join(t.TempDir(), "second")
	if status, _, text := run(t, second, "restore", backup); status != 0 {
		t.Fatalf("restore: %d %s", status, text)
	}
	serve(t, second)
	_, text, _ = run(t, second, "invite")
	if again, err := wire.ParseInvitation(text); err != nil || again.Pin != inv.Pin || !again.Feed.Equal(inv.Feed) {
		t.Errorf("the restored server has other keys: %v", err)
	}
}

// flagsOf has a second server not take the port of the first.
func flagsOf(command string) []string {
	if command == "serve" {
		return []string{"--listen", "127.0.0.1:0"}
	}
	return nil
}

// TestManualNamesEverything finds each command and flag in mefcloud(8).
func TestManualNamesEverything(t *testing.T) {
	page, err := os.ReadFile("../../man/mefcloud.8")
	if err != nil {
		t.Fatal(err)
	}
	text := consoletest.Plain(page)
	root := newRoot()
	for _, c := range append([]*cobra.Command{root}, root.Commands()...) {
		if c.Name() == "completion" || c.Name() == "help" {
			continue
		}
		if !strings.Contains(text, c.Name()) {
			t.Errorf("mefcloud(8) does not name the command %q", c.Name())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && f.Name != "version" && !strings.Contains(text, "--"+f.Name) {
				t.Errorf("mefcloud(8) does not name --%s of %q", f.Name, c.Name())
			}
		})
	}
}
