package selftest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"mef/internal/conf"
	"mef/internal/run"
)

const (
	// childArg begins the one argument of a child, which ends with the value of firewall_backend.
	childArg = "selftest-child="

	// A child that goes on for childTime gives up, and reports how far it came. After spawnTime it is killed.
	childTime = 8 * time.Second
	spawnTime = 10 * time.Second

	// maxResult bounds the output of a child, in bytes.
	maxResult = 64 << 10
)

// Spawn runs the test, over the packet filter that the daemon would use, in a child process: the running program, whose main calls Child first. The caller needs no privilege
// where users may make namespaces; where it may not have any, the result is that the test is impossible. An error means that
// the child did not come back with a result.
func Spawn(ctx context.Context, want conf.Backend) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, spawnTime)
	defer cancel()
	began := time.Now()
	out, err := run.Isolated(ctx, maxResult, childArg+want.String())
	switch {
	case errors.Is(err, run.ErrNoNamespace) && ctx.Err() == nil:
		return Result{Impossible: err.Error(), Took: time.Since(began)}, nil
	case err != nil:
		return Result{}, fmt.Errorf("self-test: %w", err)
	}
	var r Result
	if err := json.Unmarshal(out, &r); err != nil {
		return Result{}, fmt.Errorf("self-test: result of the child: %w", err)
	}
	return r, nil
}

// Child runs the test if args, the arguments of this program, are those that Spawn starts a child with, and writes the result to
// standard output. open is kernel.Open. A main calls it before anything else, and ends with the exit status if handled.
func Child(args []string, open Open) (handled bool, exit int) {
	if len(args) != 1 {
		return false, 0
	}
	backends := []conf.Backend{conf.Automatic, conf.NFTables, conf.IPTables}
	at := slices.IndexFunc(backends, func(b conf.Backend) bool { return args[0] == childArg+b.String() })
	if at < 0 {
		return false, 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), childTime)
	defer cancel()
	if err := json.NewEncoder(os.Stdout).Encode(Run(ctx, open, backends[at])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, 0
}
