//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where the world sees its own control groups.
const cgroupRoot = "/sys/fs/cgroup"

// openUnit returns the control group that systemd would give to a unit, such as "system.slice/ssh.service".
func openUnit(unit string) (*os.File, error) {
	path := filepath.Join(cgroupRoot, unit)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make control group of %s: %w", unit, err)
	}
	return os.Open(path)
}

// endUnit kills every process in a unit's control group and waits until none is left. The kernel calls the group empty once every thread
// has closed its files, so no socket of the unit is left then. A daemon's next start also needs its main process to have been waited for:
// Dovecot refuses to start while its process ID exists.
func (w *World) endUnit(ctx context.Context, unit string) error {
	err := waitFor(ctx, nil, func() error {
		running, err := isPopulated(unit)
		if err != nil || !running {
			return err
		}
		pids, err := os.ReadFile(filepath.Join(cgroupRoot, unit, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, text := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(text); err == nil && pid > 0 {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		return fmt.Errorf("processes of %s do not end when they are killed: %q", unit, pids)
	})
	if err != nil {
		return err
	}
	for _, p := range w.running(unit) {
		<-p.done
	}
	return nil
}

// isPopulated reports whether a unit's control group has a process that has not ended (cgroup.events, cgroups(7)).
func isPopulated(unit string) (bool, error) {
	events, err := os.ReadFile(filepath.Join(cgroupRoot, unit, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Contains(events, []byte("populated 1\n")), err
}
