package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/feed"
	"mef/internal/lists"
)

// The configurator is the one goroutine that changes, while the daemon runs, what it goes by: the configuration, the lists, the
// facts about the host, and which sources are followed. It may wait for files and for the kernel, which the engine must not;
// what the engine owns it changes by functions on the engine's goroutine, between two batches. Doing one thing at a time, it
// never lets an older allow set replace a newer one.
type configurator struct {
	asked     chan func(context.Context) // has no room: whoever asks waits, and its context ends the wait
	hangups   <-chan os.Signal           // each has the configuration read again
	lapse     *time.Timer                // runs while the daemon is armed
	followers feed.Followers
	lists     *lists.Lists
	applied   applied

	adminsChanged chan struct{}             // holds one message: lists may have to be applied anew
	recentAdmins  map[netip.Addr]time.Time  // of an earlier run, for the guard
	owed          map[ban.Key]time.Duration // bans that an operator wants lifted, until the kernel showed that they are gone, and the grace asked for
	due           due
}

// keep does what is asked of the configurator until ctx is done.
func (d *daemon) keep(ctx context.Context) error {
	d.followers.Start(ctx, d.sources)
	defer d.followers.Wait()
	var helpers errgroup.Group
	helpers.Go(func() error { return d.lists.Run(ctx) })
	helpers.Go(func() error { return d.verifyClaims(ctx) })
	defer func() { _ = helpers.Wait() }() // both end with ctx, and well
	d.clearOff(ctx)
	d.reread(ctx)
	_ = d.fulfil(ctx, liftEarlier) // has been logged
	_ = d.fulfil(ctx, liftLapsed)
	for {
		select {
		case <-ctx.Done():
			return nil
		case ask := <-d.asked:
			ask(ctx)
		case <-d.lists.FilesChanged():
			d.reread(ctx)
		case <-d.adminsChanged:
			d.relist(ctx)
		case <-d.lists.NamesChanged():
			d.relist(ctx)
		case <-d.lists.EntryEnds():
			d.relist(ctx)
		case <-d.lapse.C:
			d.expire(ctx)
		case <-d.due.timer.C:
			d.retry(ctx)
		case sig := <-d.hangups:
			_, _ = d.reload(ctx, sig.String()) // has been logged
		}
	}
}

// allow changes what the engine knows of addresses that must stay reachable, and has the kernel let them through ahead of
// every ban.
func (d *daemon) allow(ctx context.Context, change func(*engine.Facts)) error {
	facts, err := query(ctx, d.loop, func() engine.Facts { return d.setFacts(change) })
	if err != nil {
		return err
	}
	return d.enforcer.Allow(ctx, facts.Reachable())
}

// Reload reads the configuration again and puts it in force, if it has no mistakes.
func (d *daemon) Reload(ctx context.Context, author string) (control.Reloaded, error) {
	return ask(ctx, &d.configurator, func(ctx context.Context) (control.Reloaded, error) { return d.reload(ctx, author) })
}

// Requests cross goroutines as values. A caller may go away at any moment, because its client did; what it asked for is then done
// all the same, later, and the result goes into a channel that nobody reads. So a function that is handed to another goroutine
// returns what the caller wants, and never writes to the caller's variables.

// query runs fn on the engine's goroutine, between two batches, and returns its result. The error is that of ctx.
func query[T any](ctx context.Context, e *loop, fn func() T) (T, error) {
	result := make(chan T, 1)
	var none T
	select {
	case e.calls <- func() { result <- fn() }:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case v := <-result:
		return v, nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// do is query for what only changes the engine.
func (e *loop) do(ctx context.Context, fn func()) error {
	_, err := query(ctx, e, func() struct{} { fn(); return struct{}{} })
	return err
}

// ask runs fn on the configurator's goroutine and returns its result. The context of fn is the configurator's: once begun, fn goes on to its end
// even if the caller has gone.
func ask[T any](ctx context.Context, k *configurator, fn func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	result := make(chan outcome, 1)
	var none T
	select {
	case k.asked <- func(ctx context.Context) {
		v, err := fn(ctx)
		result <- outcome{v, err}
	}:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case o := <-result:
		return o.value, o.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// A duty is something that must come to hold in the kernel. If it fails, it stays due and is tried again until it holds; status shows
// why it does not meanwhile. Duties belong to the configurator.
type duty string

const (
	liftEarlier duty = "lift bans of an earlier run"
	liftLapsed  duty = "lift the bans that nobody confirmed"
	liftAsked   duty = "lift bans as asked"
	applyLists  duty = "apply the lists"
)

// Between two attempts, at first and at most.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// due are the duties that failed when last tried.
type due struct {
	failed map[duty]error
	timer  *time.Timer // to the next attempt; running while any is due
	wait   time.Duration
}

func newDue() due {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return due{failed: make(map[duty]error), timer: t}
}

// fulfil does a duty, and has it tried again later if it fails.
func (d *daemon) fulfil(ctx context.Context, what duty) error {
	var err error
	switch what {
	case liftEarlier:
		err = d.liftEarlier(ctx)
	case liftLapsed:
		err = d.liftLapsed(ctx)
	case liftAsked:
		err = d.liftOwed(ctx)
	case applyLists:
		err = d.applyLists(ctx)
	}
	if ctx.Err() != nil {
		return err // the daemon ends
	}
	_, again := d.due.failed[what]
	switch {
	case err == nil && again:
		d.log.Info("done after all", "what", string(what))
		delete(d.due.failed, what)
	case err != nil && !again:
		d.log.Error("not done yet; trying again", "what", string(what), "err", err)
		d.records.Add(control.Record{Time: time.Now(), Event: "error", Reason: fmt.Sprintf("%s: %v; trying again", what, err)})
	}
	if err != nil {
		d.due.failed[what] = err
	}
	switch {
	case len(d.due.failed) == 0:
		d.due.timer.Stop()
		d.due.wait = 0
	case d.due.wait == 0:
		d.due.wait = retryFirst
		d.due.timer.Reset(d.due.wait)
	}
	d.undone.Store(d.due.text())
	return err
}

// retry tries again what is due.
func (d *daemon) retry(ctx context.Context) {
	for _, what := range slices.Sorted(maps.Keys(d.due.failed)) {
		_ = d.fulfil(ctx, what) // has been logged
	}
	if len(d.due.failed) > 0 {
		d.due.wait = min(2*d.due.wait, retryMost)
		d.due.timer.Reset(d.due.wait)
	}
}

// text returns what is due and why, nil if nothing is.
func (d *due) text() *string {
	if len(d.failed) == 0 {
		return nil
	}
	var all []string
	for _, what := range slices.Sorted(maps.Keys(d.failed)) {
		all = append(all, fmt.Sprintf("%s: %v", what, d.failed[what]))
	}
	text := strings.Join(all, "; ")
	return &text
}
