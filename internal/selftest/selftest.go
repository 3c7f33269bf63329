// Package selftest proves, on this machine and with real packets, that a ban blocks.
//
// It builds a small world of two network namespaces, a server and its peer, joined by a virtual cable, and lets the code that
// guards this host (an enforce.Enforcer over its packet filter) ban addresses of the peer there. A kind of ban is proven if
// what it covers gets through before, vanishes and is counted while the ban holds, and gets through again once it is lifted,
// while everything else gets through all the time.
//
// The addresses are those set aside for documentation (RFC 5737, RFC 3849). The namespaces have no names: they are held by a
// file descriptor alone, and no longer exist with the cable and the table when the process ends, however it ends. Spawn therefore runs
// the test in a child process, which Child is the other end of.
//
// Whether the table that guards this host holds what it should is not asked here: the daemon knows, and its status reports it.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"mef/internal/conf"
	"mef/internal/enforce"
)

// A Result is what a self-test found.
type Result struct {
	// OK means that every step succeeded.
	OK bool `json:"ok"`

	// Impossible reports why this machine does not let the test run; nothing is known then, and OK is false. Empty if it ran.
	Impossible string `json:"impossible,omitempty"`

	Steps []Step        `json:"steps,omitempty"`
	Took  time.Duration `json:"took_ns"`
}

// A Step is one thing that was tried.
type Step struct {
	Name   string `json:"name"` // as in "IPv6 ban of one port"
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what was seen, a sentence without a full stop
}

// Failed reports whether the test ran and found something wrong.
func (r Result) Failed() bool { return !r.OK && r.Impossible == "" }

// Problem returns in a line what is wrong, "" if nothing is.
func (r Result) Problem() string {
	if r.Impossible != "" {
		return "not possible on this host: " + r.Impossible
	}
	var wrong []string
	for _, s := range r.Steps {
		if !s.OK {
			wrong = append(wrong, s.Name+": "+s.Detail)
		}
	}
	return strings.Join(wrong, "; ")
}

// An Open opens the packet filter of a network namespace, as the daemon does: kernel.Open.
type Open func(netns int, want conf.Backend, log *slog.Logger, settings enforce.Settings) (enforce.Backend, error)

// Run makes the test in namespaces of its own; it needs CAP_SYS_ADMIN and CAP_NET_ADMIN over the present one. A ctx that ends
// early makes steps fail.
func Run(ctx context.Context, open Open, want conf.Backend) Result {
	return test(ctx, open, want, func(b enforce.Backend) enforce.Backend { return b })
}

// test is Run with what wrap makes of the backend.
func test(ctx context.Context, open Open, want conf.Backend, wrap func(enforce.Backend) enforce.Backend) Result {
	began := time.Now()
	r := try(ctx, open, want, wrap)
	r.OK = r.Impossible == "" && r.Problem() == ""
	r.Took = time.Since(began)
	return r
}

func try(ctx context.Context, open Open, want conf.Backend, wrap func(enforce.Backend) enforce.Backend) Result {
	w, err := newWorld(ctx)
	if err != nil {
		return Result{Impossible: err.Error()}
	}
	defer w.close()
	b, err := open(w.server.fd(), want, slog.New(slog.DiscardHandler), enforce.Settings{Log: drops})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return Result{Impossible: err.Error()}
	case err != nil:
		return Result{Steps: []Step{step(tableStep, "", err)}}
	}
	return Result{Steps: prove(ctx, w, wrap(b), !b.Names().Uncounted)}
}

// drops are logged as in the default table, so that the same rules are tried. The kernel writes nothing of other namespaces
// into its log, unless nf_log_all_netns is set.
var drops = conf.DropLog{Enabled: true, Prefix: "MEF_SELFTEST_", Level: "debug", Rate: 1, Burst: 1}

// tableStep is the step about the table as a whole.
const tableStep = "table"

func step(name, detail string, err error) Step {
	if err != nil {
		detail = err.Error()
	}
	return Step{Name: name, OK: err == nil, Detail: detail}
}

// prove tries every kind of ban, all at once, and looks at the table when nothing is left in it.
func prove(ctx context.Context, w *world, b enforce.Backend, counters bool) []Step {
	t := &trial{world: w, enforcer: enforce.New(b, enforce.Options{}), counters: counters}
	running, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error, 1)
	go func() { stopped <- t.enforcer.Run(running) }()

	steps := make([]Step, len(families)*len(kinds))
	var wg sync.WaitGroup
	for i := range steps {
		wg.Go(func() { steps[i] = t.try(ctx, families[i/len(kinds)], i%len(kinds)) })
	}
	wg.Wait()
	state, err := t.enforcer.Held(ctx)
	stop()
	if stopErr := <-stopped; stopErr != nil {
		err = stopErr // why nothing else worked
	}
	return append(steps, step(tableStep, "whole, and empty again", errors.Join(err, whole(ctx, b, state))))
}

// whole returns an error unless nothing is damaged and no ban is left.
func whole(ctx context.Context, b enforce.Backend, left enforce.State) error {
	check, err := b.Check(ctx)
	switch {
	case err != nil:
		return err
	case len(check.Damaged) > 0:
		return fmt.Errorf("missing or changed, and not restored: %s", strings.Join(check.Damaged, ", "))
	case len(left.Bans) > 0:
		return fmt.Errorf("still in force at the end: %s", left.Bans[0].Key)
	}
	return nil
}
