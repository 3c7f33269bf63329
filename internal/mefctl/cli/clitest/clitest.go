// Package clitest serves a stand-in for the daemon to tests of commands.
package clitest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"mef/internal/control"
)

// Config serves s at a control socket until the test ends and returns the path of a configuration that names it, with the given lines.
func Config(t *testing.T, s control.Service, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mef.conf")
	if err := os.WriteFile(path, []byte("[global]\ncontrol_socket="+Socket(t, s)+"\n"+lines), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Socket serves s at a control socket until the test ends and returns its path.
func Socket(t *testing.T, s control.Service) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, s) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("control.Serve: %v", err)
		}
	})
	return path
}
