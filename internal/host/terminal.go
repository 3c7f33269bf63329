//go:build linux

package host

import (
	"os"

	"golang.org/x/sys/unix"
)

// Terminal reports whether f is a terminal, at which somebody may answer a question. Other character devices, such as /dev/null,
// are not.
func Terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
