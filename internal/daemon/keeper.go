package daemon

import (
	"context"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/control"
	"mef/internal/exempt"
	"mef/internal/feed"
	"mef/internal/lists"
	"mef/internal/prefixset"
)

// The keeper is the one goroutine that changes, while the daemon runs, what it goes by: the configuration, the lists, the
// facts about the host, and which sources are followed. It may wait for files and for the kernel, which the engine must not;
// what the engine owns it changes by functions on the engine's goroutine, between two batches. Doing one thing at a time, it
// never lets an older allow set replace a newer one.
type keeper struct {
	asked     chan func(context.Context) // has no room: whoever asks waits, and its context ends the wait
	hangups   <-chan os.Signal           // each has the configuration read again
	lapse     *time.Timer                // runs while the daemon is armed
	followers feed.Followers
	lists     *lists.Lists
	applied   applied

	adminsChanged chan struct{}            // holds one message: lists may have to be applied anew
	recentAdmins  map[netip.Addr]time.Time // of an earlier run, for the guard
	due           due
}

// keep does what is asked of the keeper until ctx is done.
func (d *daemon) keep(ctx context.Context) error {
	d.followers.Start(ctx, d.sources)
	defer d.followers.Wait()
	var helpers errgroup.Group
	helpers.Go(func() error { return d.lists.Run(ctx) })
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
func (d *daemon) allow(ctx context.Context, change func(*exempt.Facts)) error {
	set, err := query(ctx, d.loop, func() prefixset.Set {
		f := d.setFacts(change)
		return f.Reachable()
	})
	if err != nil {
		return err
	}
	return d.enforcer.Allow(ctx, set)
}

// Reload reads the configuration again and puts it in force, if it has no mistakes.
func (d *daemon) Reload(ctx context.Context, author string) (control.Reloaded, error) {
	return ask(ctx, &d.keeper, func(ctx context.Context) (control.Reloaded, error) { return d.reload(ctx, author) })
}
