package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// ErrNoNamespace means that this machine does not allow a network namespace. Errors of Isolated wrap it.
var ErrNoNamespace = errors.New("network namespaces are not available")

// Isolated is Output for the program that is running: it starts the same executable again, even if the file has been replaced
// since, with args and in a network namespace that is new and empty, so that nothing it does reaches the host's interfaces
// and packet filter. Where we lack CAP_SYS_ADMIN, it gets a user namespace as well, in which it is root.
func Isolated(ctx context.Context, limit int, args ...string) ([]byte, error) {
	p, err := startIsolated(ctx, args, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	if errors.Is(err, syscall.EPERM) {
		p, err = startIsolated(ctx, args, &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		})
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNamespace, err)
	}
	return p.output(limit)
}

func startIsolated(ctx context.Context, args []string, attr *syscall.SysProcAttr) (*Process, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0] // else error messages would call it "exe"
	return start(cmd, attr)
}
