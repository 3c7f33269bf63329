package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"mef/bench/gen"
	"mef/internal/exempt"
)

// An instance is one run of a product's daemon in a cell, following a log that only the bench writes.
type instance struct {
	*cell
	product *product
	dir     string
	log     *os.File
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process has ended
	begun   time.Time     // just before the process was started
	port    int
	next    uint64       // number of the next unused address
	spared  []exempt.CDN // whose addresses are not used
}

// launch starts the daemon of p with its files in dir, which may hold the state of an earlier instance. bans reports which sets are
// watched; nil: none.
func launch(p *product, dir string, bans func(table, set string) bool) (*instance, error) {
	cell, err := newCell(p.name, bans)
	if err != nil {
		return nil, err
	}
	in := &instance{cell: cell, product: p, dir: dir, done: make(chan struct{}), next: 1 << 24, spared: exempt.CDNs()}
	if err := in.begin(); err != nil {
		cell.close()
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return in, nil
}

// begin opens the log and starts the process.
func (in *instance) begin() (err error) {
	path := filepath.Join(in.dir, "auth.log")
	if in.log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return err
	}
	if in.cmd, err = in.product.daemon(in.dir, path); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(in.dir, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	in.cmd.Stdout, in.cmd.Stderr = out, out
	in.begun = time.Now()
	if err := in.start(in.cmd); err != nil {
		return err
	}
	go func() {
		in.cmd.Wait() // its status does not matter: a pipeline's is that of its last program, which is killed
		close(in.done)
	}()
	return nil
}

// fresh returns an address that this instance has not used before and that mef may ban.
func (in *instance) fresh() netip.Addr {
	for {
		in.next++
		addr := gen.Addr4(in.next)
		if !slices.ContainsFunc(in.spared, func(c exempt.CDN) bool { return c.Networks.Contains(addr) }) {
			return addr
		}
	}
}

// appendFailures appends n failed logins from addr to b.
func (in *instance) appendFailures(b []byte, addr netip.Addr, n int) []byte {
	for range n {
		in.port = (in.port + 1) % 60_000
		b = time.Now().AppendFormat(b, time.Stamp)
		b = append(b, " srv1 sshd[4711]: Failed password for root from "...)
		b = addr.AppendTo(b)
		b = append(b, " port "...)
		b = strconv.AppendInt(b, int64(1024+in.port), 10)
		b = append(b, " ssh2\n"...)
	}
	return b
}

// attack writes the lines that make the product ban addr, in one call, and returns the time just before.
func (in *instance) attack(addr netip.Addr) (time.Time, error) {
	lines := in.appendFailures(nil, addr, in.product.failures)
	at := time.Now()
	_, err := in.log.Write(lines)
	return at, err
}

// ready waits until the daemon bans, trying a new address every second.
func (in *instance) ready(ctx context.Context, limit time.Duration) error {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if _, err := in.attack(in.fresh()); err != nil {
			return err
		}
		if in.watch.waitCount(1, time.Now().Add(time.Second)) > 0 {
			return nil
		}
		select {
		case <-in.done:
			return fmt.Errorf("%s ended on its own: %s", in.product.name, in.tail())
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
	return fmt.Errorf("%s did not ban within %v: %s", in.product.name, limit, in.tail())
}

// caughtUp waits until everything written so far was read: until an address that fails now is banned. It returns how long
// that took.
func (in *instance) caughtUp(limit time.Duration) (time.Duration, bool) {
	addr := in.fresh()
	begun, err := in.attack(addr)
	if err != nil {
		return 0, false
	}
	at, ok := in.watch.wait(addr, begun.Add(limit))
	return at.Sub(begun), ok
}

// tail returns the end of what the daemon printed.
func (in *instance) tail() string {
	out, _ := os.ReadFile(filepath.Join(in.dir, "output"))
	return strconv.Quote(string(out[max(0, len(out)-300):]))
}

// stop ends the daemon as an operator would and closes the cell.
func (in *instance) stop() error {
	for _, pid := range in.pids() {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	var err error
	select {
	case <-in.done:
	case <-time.After(20 * time.Second):
		err = errors.New(in.product.name + " ignored SIGTERM for 20 s")
	}
	return errors.Join(err, in.log.Close(), in.close())
}
