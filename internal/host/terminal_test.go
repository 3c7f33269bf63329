//go:build linux

package host

import (
	"os"
	"testing"
)

func TestTerminal(t *testing.T) {
	for path, want := range map[string]bool{"/dev/ptmx": true, "/dev/null": false, "/proc/self/status": false} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if os.IsPermission(err) {
			f, err = os.Open(path)
		}
		if err != nil {
			t.Skipf("this machine has no %s: %v", path, err)
		}
		defer f.Close()
		if got := Terminal(f); got != want {
			t.Errorf("%s is a terminal: %v, want %v", path, got, want)
		}
	}
}
