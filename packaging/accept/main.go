// Command accept tests mef on a booted system, from the tarball until it is uninstalled: install, attack, reboot, upgrade,
// uninstall.
//
//	accept TARBALL
//
// The system is a Debian 12, booted with its own systemd, journald and sshd by systemd-nspawn. Its network ends in this process:
//
//	+----------------------------+        +------------------------------------+
//	| Debian 12                  |        | this process: the internet         |
//	|  sshd, mef, mefdaemon host0+--------+ 192.0.2.254, 2001:db8:1::ff        |
//	|   192.0.2.1, 2001:db8:1::1 |        | 203.0.113.0/24, 2001:db8:bad::/48  |
//	+----------------------------+        +------------------------------------+
//
// It changes one folder of this machine, in /var/cache, where the packages of Debian are unpacked once. Processes, mounts, network
// and control groups are private (package lab), and the system writes to memory only, which is released when accept ends, for
// whatever reason. The exit status is 0 if all checks succeed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"mef/internal/lab"
)

// limit is how long accept may take. It takes a minute or two. The first bans must hold to its end, and last ten minutes.
const limit = 9 * time.Minute

func main() {
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: accept TARBALL") }
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	code, err := accept(flag.Arg(0))
	if err != nil {
		fmt.Fprintf(os.Stderr, "accept: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

func accept(tarball string) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if lab.Inside() {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return 0, inside(ctx, tarball)
	}
	if err := unpackDebian(ctx); err != nil {
		return 0, fmt.Errorf("unpack Debian 12: %w", err)
	}
	return lab.Enter()
}

// inside runs the checks in the private world.
func inside(ctx context.Context, tarball string) error {
	tarball, err := filepath.Abs(tarball)
	if err != nil {
		return err
	}
	m, err := newMachine(ctx)
	if err != nil {
		return fmt.Errorf("make the machine: %w", err)
	}
	s := &story{machine: m}
	if err := s.run(ctx, tarball); err != nil {
		return errors.Join(err, s.evidence())
	}
	return nil
}
