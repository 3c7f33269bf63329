package run

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Detach starts the program that is running again, with args, so that it outlives us and whatever ends us: in a session of its
// own, and where systemd runs, as a unit of that name, in a control group of its own, which is started again if it is killed. Its output goes to the journal then, and
// nowhere else.
func Detach(ctx context.Context, unit string, args ...string) error {
	if exe, err := os.Executable(); err == nil && underSystemd() {
		line := append([]string{"--quiet", "--collect", "--service-type=exec", "--property=Restart=on-failure", "--property=RestartSec=100ms", "--unit=" + unit, "--", exe}, args...)
		if _, err := Output(ctx, 64<<10, "systemd-run", line...); err == nil {
			return nil
		}
		// Not every systemd lets us: a container's, or one without D-Bus.
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s again: %w", cmd.Args[0], err)
	}
	return cmd.Process.Release()
}

// underSystemd reports whether a unit of this machine's systemd would see the network and the files that we see.
func underSystemd() bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return false
	}
	for _, ns := range []string{"net", "mnt", "pid"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		theirs, err2 := os.Readlink("/proc/1/ns/" + ns)
		if err != nil || err2 != nil || ours != theirs {
			return false
		}
	}
	return true
}
