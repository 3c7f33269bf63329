package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/hostwatch"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// The configurator is the state of the goroutine that changes a running daemon: its configuration, the lists, the facts about the host, and
// the sources. It may wait for files and for the kernel, which the engine must not do; it changes the engine's state by functions on the
// engine's goroutine, between two batches. It does one thing at a time, so an older allow set never replaces a newer one.
type configurator struct {
	*parts
	cfg     *conf.Config // as pipeline.State has it
	load    func() (*conf.Config, error)
	level   *slog.LevelVar            // follows the configuration; nil: it was chosen otherwise
	hangups <-chan os.Signal          // each has the configuration read again
	owed    map[ban.Key]time.Duration // bans that an operator wants lifted, until the kernel showed that they are gone, and the grace asked for
	off     bool                      // mefctl off was run since the last start
	gone    []ban.Key                 // bans that were in force when the daemon last ran, and are not to be any more
}

func newConfigurator(p *parts, cfg *conf.Config, opt Options) *configurator {
	return &configurator{parts: p, cfg: cfg, load: opt.Load, level: opt.Level, hangups: opt.Hangups, owed: make(map[ban.Key]time.Duration)}
}

// run does what is asked of the configurator until ctx is done.
func (c *configurator) run(ctx context.Context, calls <-chan owner.Call[*configurator]) error {
	c.sources.Follow(ctx)
	defer c.sources.End()
	var helpers errgroup.Group
	helpers.Go(func() error { return c.lists.Run(ctx) })
	helpers.Go(func() error { return c.VerifyClaims(ctx, c.lists.Verify) })
	defer func() { _ = helpers.Wait() }() // both end with ctx, and well
	c.clearOff(ctx)
	c.rereadLists(ctx)
	close(c.applied)
	_ = c.fulfil(ctx, liftEarlier) // has been logged
	_ = c.fulfil(ctx, liftLapsed)
	for {
		select {
		case <-ctx.Done():
			return nil
		case call := <-calls:
			call(ctx, c)
		case <-c.lists.FilesChanged():
			c.rereadLists(ctx)
		case <-c.relist:
			_ = c.fulfil(ctx, applyLists)
		case <-c.lists.NamesChanged():
			_ = c.fulfil(ctx, applyLists)
		case <-c.lists.EntryEnds():
			_ = c.fulfil(ctx, applyLists)
		case <-c.window.Lapses():
			c.expire(ctx)
		case <-c.due.Due():
			c.due.Retry(ctx)
		case sig := <-c.hangups:
			_, _ = c.reload(ctx, sig.String()) // has been logged
		}
	}
}

// restore takes up what must hold again first: how far each source had been read, the lists, and the bans in force. The rest is that of
// pipeline.Saved.Count.
func (b *built) restore(now time.Time) {
	c, s := b.configurator, b.state
	off, err := confirm.Off(b.stateIn)
	if err != nil {
		b.Log.Warn("cannot read whether mefctl off was run; saved bans are restored", "err", err)
	}
	if c.off = !off.IsZero(); c.off {
		b.saved.SwitchedOff(s, off)
	}
	allow := c.restoreLists(s, b.saved.Notes, b.guard)
	c.gone = formerBlacklist(b.saved)
	b.restoreDetectors(b.saved.Notes)
	c.resumeWindow(s, now)
	if b.Observing() {
		return // what the kernel holds ends by itself, or is lifted if a window has lapsed
	}
	c.gone = append(c.gone, b.saved.Split(s, allow.Set)...)
	b.restored = b.saved.Bans
	c.Enforcer.Restore(b.restored)
}

// clearOff forgets that mefctl off was run, once the bans that it lifted are forgotten on disk.
func (c *configurator) clearOff(ctx context.Context) {
	if !c.off || owner.Do(ctx, c.Engine, (*pipeline.State).Save) != nil || c.Saver.Flush(ctx) != nil {
		return // the next start lifts them again
	}
	if err := confirm.ClearOff(c.stateIn); err != nil {
		c.Log.Warn("clear the record of mefctl off", "err", err)
	}
}

// setHost has the kernel let through what this host needs, ahead of every ban.
func (c *configurator) setHost(ctx context.Context, h hostwatch.Host) error {
	facts, err := owner.Query(ctx, c.Engine, func(s *pipeline.State) engine.Facts {
		s.Engine.SetAccounts(h.AccountNames(engine.AccountName))
		return s.SetFacts(h.SetFacts)
	})
	if err == nil {
		err = c.Enforcer.Allow(ctx, facts.Reachable())
	}
	_ = c.fulfil(ctx, applyLists) // an entry of the blacklist may be one of this host's own addresses now
	return err
}

// What must come to hold in the kernel, and stays due until it does; see package duty.
const (
	liftEarlier = "lift bans of an earlier run"
	liftLapsed  = "lift the bans of an unconfirmed trial"
	liftAsked   = "lift bans as asked"
	applyLists  = "apply the lists"
)

// fulfil does a duty, and has it tried again later if it fails.
func (c *configurator) fulfil(ctx context.Context, what string) error {
	return c.due.Do(ctx, what, map[string]func(context.Context) error{
		liftEarlier: c.liftEarlier,
		liftLapsed:  c.liftLapsed,
		liftAsked:   c.liftOwed,
		applyLists:  c.lists.Apply,
	}[what])
}

// reportDuty logs that a duty has failed, or that it is done after all.
func (p *parts) reportDuty(what string, err error) {
	if err == nil {
		p.Log.Info("done", "what", what)
		return
	}
	p.Log.Error("not done yet; trying again", "what", what, "err", err)
	p.Records.Add(control.Record{Time: time.Now(), Event: "error", Reason: fmt.Sprintf("%s: %v; trying again", what, err)})
}
