package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/feed"
	"mef/internal/hostwatch"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// The configurator is what the one goroutine has that changes, while the daemon runs, what it goes by: the configuration, the lists, the
// facts about the host, and which sources are followed. It may wait for files and for the kernel, which the engine must not;
// what the engine has it changes by functions on the engine's goroutine, between two batches. Doing one thing at a time, it
// never lets an older allow set replace a newer one.
type configurator struct {
	*parts
	cfg       *conf.Config // as pipeline.State has it
	load      func() (*conf.Config, error)
	level     *slog.LevelVar   // follows the configuration; nil: it was chosen otherwise
	hangups   <-chan os.Signal // each has the configuration read again
	since     time.Time        // the start of the daemon
	lapse     *time.Timer      // runs while the daemon is armed
	followers feed.Followers
	lists     *lists.Lists
	applied   applied
	report    listReport                // published in parts.listed
	owed      map[ban.Key]time.Duration // bans that an operator wants lifted, until the kernel showed that they are gone, and the grace asked for
	due       due
	off       bool      // mefctl off was run since the last start
	gone      []ban.Key // bans that were in force when the daemon last ran, and are not to be any more
}

func newConfigurator(p *parts, cfg *conf.Config, l *lists.Lists, opt Options, now time.Time) *configurator {
	lapse := time.NewTimer(time.Hour)
	lapse.Stop()
	return &configurator{parts: p, cfg: cfg, load: opt.Load, level: opt.Level, hangups: opt.Hangups, since: now, lapse: lapse, lists: l,
		owed: make(map[ban.Key]time.Duration), due: newDue()}
}

// run does what is asked of the configurator until ctx is done.
func (c *configurator) run(ctx context.Context, calls <-chan owner.Call[*configurator]) error {
	c.followers.Start(ctx, c.sources.Load())
	defer c.followers.Wait()
	var helpers errgroup.Group
	helpers.Go(func() error { return c.lists.Run(ctx) })
	helpers.Go(func() error { return c.VerifyClaims(ctx, c.lists.Verify) })
	defer func() { _ = helpers.Wait() }() // both end with ctx, and well
	c.clearOff(ctx)
	c.rereadLists(ctx)
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
		case <-c.lapse.C:
			c.expire(ctx)
		case <-c.due.timer.C:
			c.retry(ctx)
		case sig := <-c.hangups:
			_, _ = c.reload(ctx, sig.String()) // has been logged
		}
	}
}

// restore takes up what must hold again first: how far each source had been read, the lists, and the bans in force. The rest is that of
// pipeline.Saved.Count.
func (b *built) restore(now time.Time) {
	c, s := b.configurator, b.state
	before := b.forgetOff(b.saved.Bans)
	c.loadNotes(s, b.saved.Notes, b.guard)
	c.resumeWindow(s, now)
	if b.Observing() {
		c.applied.observe = true
		return // what the kernel holds ends by itself, or is lifted if a window has lapsed
	}
	listed := c.applied.blocked
	b.restored, c.gone = c.restoreLists(s, before, now)
	if !slices.Equal(listed, c.applied.blocked) {
		c.SaveNotes(map[string]string{noteListed: lists.Pack(c.applied.blocked)})
	}
	c.Enforcer.Restore(b.restored)
}

// forgetOff returns the bans of an earlier run without those from before an operator ran mefctl off: they are lifted, and stay so.
func (b *built) forgetOff(bans []ban.Ban) []ban.Ban {
	at, err := confirm.Off(b.stateIn)
	if err != nil {
		b.Log.Warn("cannot read whether mefctl off was run; saved bans are restored", "err", err)
	}
	if at.IsZero() {
		return bans
	}
	b.configurator.off = true
	bans = slices.DeleteFunc(bans, func(old ban.Ban) bool {
		if old.Rule == ban.ByList || old.Start.After(at) {
			return false
		}
		b.forgiven = append(b.forgiven, old.Key)
		return true
	})
	b.state.Forget(b.forgiven...)
	return bans
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

// A duty is something that must come to hold in the kernel. If it fails, it stays due and is tried again until it holds; status shows
// why it does not meanwhile. Duties belong to the configurator.
type duty string

const (
	liftEarlier duty = "lift bans of an earlier run"
	liftLapsed  duty = "lift the bans of an unconfirmed trial"
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
func (c *configurator) fulfil(ctx context.Context, what duty) error {
	var err error
	switch what {
	case liftEarlier:
		err = c.liftEarlier(ctx)
	case liftLapsed:
		err = c.liftLapsed(ctx)
	case liftAsked:
		err = c.liftOwed(ctx)
	case applyLists:
		err = c.applyLists(ctx)
	}
	if ctx.Err() != nil {
		return err // the daemon ends
	}
	_, again := c.due.failed[what]
	switch {
	case err == nil && again:
		c.Log.Info("done", "what", string(what))
		delete(c.due.failed, what)
	case err != nil && !again:
		c.Log.Error("not done yet; trying again", "what", string(what), "err", err)
		c.Records.Add(control.Record{Time: time.Now(), Event: "error", Reason: fmt.Sprintf("%s: %v; trying again", what, err)})
	}
	if err != nil {
		c.due.failed[what] = err
	}
	switch {
	case len(c.due.failed) == 0:
		c.due.timer.Stop()
		c.due.wait = 0
	case c.due.wait == 0:
		c.due.wait = retryFirst
		c.due.timer.Reset(c.due.wait)
	}
	c.undone.Store(c.due.text())
	return err
}

// retry tries again what is due.
func (c *configurator) retry(ctx context.Context) {
	for _, what := range slices.Sorted(maps.Keys(c.due.failed)) {
		_ = c.fulfil(ctx, what) // has been logged
	}
	if len(c.due.failed) > 0 {
		c.due.wait = min(2*c.due.wait, retryMost)
		c.due.timer.Reset(c.due.wait)
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
