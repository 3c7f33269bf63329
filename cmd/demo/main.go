//go:build linux

// Command demo shows on one screen what mef does: real attackers guess passwords at a real server, are seen in its log, and are
// dropped by its kernel, while somebody who merely mistypes gets in.
//
// Server and internet are namespaces of this machine (package lab), so nothing of the host is touched. The exit status is 0 if
// every attacker was cut off and nobody else was, and 1 otherwise.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"mef/internal/lab"
)

// interrupted is the exit status after Ctrl-C, as shells give it (128 + SIGINT).
const interrupted = 130

// limit is when the demo gives up. It takes about half of it.
const limit = 55 * time.Second

func main() {
	daemon := flag.String("mefdaemon", "bin/mefdaemon", "the daemon's `program`")
	ctl := flag.String("mefctl", "bin/mefctl", "the operator's `program`")
	flag.Parse()
	if lab.Inside() {
		os.Exit(inside(*daemon, *ctl))
	}
	code, err := lab.Enter()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// inside runs the story in the world and returns the exit status.
func inside(programs ...string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := play(ctx, newTeller(os.Stdout), programs...)
	switch {
	case err == nil:
		return 0
	case errors.Is(context.Cause(ctx), context.Canceled):
		fmt.Fprintln(os.Stderr, "demo: interrupted; nothing is left behind")
		return interrupted
	}
	fmt.Fprintf(os.Stderr, "demo: %v\n", err)
	return 1
}

func play(ctx context.Context, tell *teller, programs ...string) error {
	w, err := lab.New(programs...)
	if err != nil {
		return fmt.Errorf("make the world: %w", err)
	}
	s := &story{world: w, tell: tell}
	if err := s.open(ctx); err != nil {
		return err
	}
	if err := s.attack(ctx); err != nil {
		return err
	}
	return s.close(ctx)
}
