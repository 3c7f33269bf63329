package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/hostwatch"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

func (p *parts) facts(ctx context.Context) (engine.Facts, error) {
	return owner.Query(ctx, p.Engine, func(s *pipeline.State) engine.Facts { return s.Engine.Facts() })
}

// publish replaces the report that others see.
func (c *configurator) publish() {
	r := c.report
	c.listed.Store(&r)
}

// noteListed is the note in mef.db of the networks of the blacklist that are banned: see lists.Pack.
const noteListed = "listed"

// loadNotes takes over the notes of an earlier run, and reads the files.
func (c *configurator) loadNotes(s *pipeline.State, notes map[string]string, guard *hostwatch.Guard) {
	c.lists.Load(notes)
	c.lists.Read(c.cfg.Paths)
	c.feeds.Configure(c.cfg.Feeds)
	allow := c.lists.Allow()
	c.report.Allowed, c.applied.Allowed = allow.Items, allow
	c.publish()
	c.applied.Blocked = lists.Unpack(notes[noteListed])
	admins := guard.Load(notes[noteAdmins])
	s.SetFacts(func(f *engine.Facts) {
		f.Allowed = allow.Set
		f.SetAdmins(nil, admins, "")
	})
}

// restoreLists makes the blacklist part of the bans of an earlier run, whose slice it takes over. It returns the others of them, and the
// keys of bans that must end.
func (c *configurator) restoreLists(s *pipeline.State, before []ban.Ban, now time.Time) (others []ban.Ban, end []ban.Key) {
	facts := s.Engine.Facts()
	block := c.lists.Block(&facts)
	c.report.LeftOut, c.report.Held = block.LeftOut, block.Held
	c.publish()
	others, forget, end := c.applied.Split(before, block, facts.Allowed)
	s.Forget(forget...)
	began, _ := lists.Diff(c.applied.Blocked, block.Prefixes)
	c.applied.SetBlocked(block.Prefixes, began, now, c.window.ReachesBack(now))
	for some := range slices.Chunk(block.Prefixes, listedAtOnce) {
		c.Enforcer.Restore(lists.BlockBans(some, now))
	}
	s.Engine.SetBlocked(block.Prefixes)
	return others, end
}

// rereadLists reads the files of lists again and applies them.
func (c *configurator) rereadLists(ctx context.Context) {
	c.lists.Watch(ctx, c.cfg.Paths, c.cfg.WhitelistReload, c.cfg.BlacklistReload)
	c.lists.Read(c.cfg.Paths)
	mistakes := c.lists.Mistakes()
	text := strings.Join(mistakes, "\n")
	if text != c.logged.mistakes {
		c.logged.mistakes = text
		for _, m := range mistakes[:min(len(mistakes), 20)] {
			c.Log.Error("list entry ignored", "error", m, "mistakes in total", len(mistakes))
		}
		if len(mistakes) > 0 {
			c.Records.Add(control.Record{Time: time.Now(), Event: "error", Reason: fmt.Sprintf("lists: %s", mistakes[0])})
		}
	}
	_ = c.fulfil(ctx, applyLists) // has been logged
}

// applyLists applies the lists as they are: the kernel lets allowed addresses through first, then bans of these are lifted, and then
// the bans of the blacklist follow its files. It runs on the configurator's goroutine.
func (c *configurator) applyLists(ctx context.Context) error {
	now := time.Now()
	ended, namesLeftOut, notes := c.lists.Update(now)
	for _, e := range ended {
		c.Records.Add(control.Record{Time: now, Event: disallowed, Prefix: e.Entry, Author: e.Author, Note: e.Note, Reason: "it has expired"})
	}
	c.SaveNotes(notes)
	allow, mistakes := c.lists.Allow(), c.lists.Mistakes()
	if namesLeftOut > c.report.LeftOutNames {
		c.Log.Error("DNS names of the allow list ignored: too many", "most", lists.MaxNames, "left out", namesLeftOut)
	}
	c.report.Allowed, c.report.Mistakes, c.report.LeftOutNames = allow.Items, mistakes, namesLeftOut
	facts, err := owner.Query(ctx, c.Engine, func(s *pipeline.State) engine.Facts {
		s.SaveObserving(now)
		return s.SetFacts(func(f *engine.Facts) { f.Allowed = allow.Set })
	})
	c.publish()
	if err != nil {
		return err
	}
	if err := c.Enforcer.Allow(ctx, facts.Reachable()); err != nil {
		return err
	}
	if err := c.liftWithin(ctx, allow); err != nil {
		return err
	}
	c.applied.Allowed = allow
	return errors.Join(c.applyBlock(ctx, c.lists.Block(&facts), now), c.feeds.Apply(ctx))
}

// liftWithin lifts the bans whose addresses an allow list has in whole, and the one that is applied had not. Wider ones stay: the kernel lets the allowed addresses
// through ahead of them.
func (c *configurator) liftWithin(ctx context.Context, allow lists.Allow) error {
	allowed := allow.Set.Subtract(c.applied.Allowed.Set)
	if allowed.Len() == 0 {
		return nil
	}
	state, err := c.Enforcer.Held(ctx)
	if err != nil {
		return err
	}
	var keys []ban.Key
	lift := state
	lift.Bans = nil
	for _, held := range state.Bans {
		if lists.Within(held.Prefix, allowed) {
			keys = append(keys, held.Key)
			lift.Bans = append(lift.Bans, held)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	shown := c.Reasons.Show(ctx, lift, c.listedRecords)
	if err := c.Lift(ctx, 0, keys); err != nil {
		return err
	}
	c.unblock(keys)
	c.ReportLifted(lift.Bans, shown, control.Record{Reason: "now an entry of the allow list"})
	return nil
}

// liftEarlier lifts bans that were in force when the daemon last ran, and are not to be any more.
func (c *configurator) liftEarlier(ctx context.Context) error {
	if err := c.Enforcer.Unban(ctx, 0, c.gone...); err != nil {
		return err
	}
	c.gone = nil
	return nil
}

// liftFor lifts bans for an operator, unless the blacklist asks for them, and returns how many these were. If that fails, it is tried again.
func (c *configurator) liftFor(ctx context.Context, grace time.Duration, keys []ban.Key) (listed int, err error) {
	for _, k := range keys {
		if c.applied.IsBlocked(k) {
			listed++
			continue
		}
		c.owed[k] = max(grace, c.owed[k])
	}
	if err := c.fulfil(ctx, liftAsked); err != nil {
		return listed, fmt.Errorf("%w; mefdaemon tries again until they are lifted", err)
	}
	return listed, nil
}

// liftOwed lifts what operators want lifted.
func (c *configurator) liftOwed(ctx context.Context) error {
	by := make(map[time.Duration][]ban.Key)
	for k, grace := range c.owed {
		if c.applied.IsBlocked(k) { // by now
			delete(c.owed, k)
			continue
		}
		by[grace] = append(by[grace], k)
	}
	for grace, keys := range by {
		if err := c.Lift(ctx, grace, keys); err != nil {
			return err
		}
		for _, k := range keys {
			delete(c.owed, k)
		}
	}
	return nil
}

// unblock notes that bans of the blacklist are not in force any more; see lists.Applied.Unblock.
func (c *configurator) unblock(keys []ban.Key) {
	c.applied.Unblock(keys)
	c.saveBlocked()
}

func (c *configurator) saveBlocked() {
	c.SaveNotes(map[string]string{noteListed: lists.Pack(c.applied.Blocked)})
}

// listedAtOnce is how many bans of a list are handed to the kernel at a time, so that other bans need not wait.
const listedAtOnce = 2000

// applyBlock makes the bans of the blacklist those that its files ask for.
func (c *configurator) applyBlock(ctx context.Context, block lists.Block, now time.Time) error {
	next, began, gone := c.applied.Next(block, c.Observing())
	c.report.LeftOut, c.report.Held = block.LeftOut, block.Held
	c.publish()
	if err := owner.Do(ctx, c.Engine, func(s *pipeline.State) { s.Engine.SetBlocked(next) }); err != nil {
		return err
	}
	block.LogNotable(c.Log, &c.logged.notable)
	for some := range slices.Chunk(began, listedAtOnce) {
		if err := c.Enforcer.Ban(ctx, lists.BlockBans(some, now)...); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		if err := c.Enforcer.Unban(ctx, 0, lists.BlockKeys(gone)...); err != nil {
			still := slices.Concat(next, gone) // what is gone from the files is in force until it is lifted
			slices.SortFunc(still, func(a, b netip.Prefix) int { return ban.Key{Prefix: a}.Compare(ban.Key{Prefix: b}) })
			c.applied.SetBlocked(still, began, now, c.window.ReachesBack(now))
			return err
		}
	}
	c.applied.SetBlocked(next, began, now, c.window.ReachesBack(now))
	if len(began)+len(gone) == 0 {
		return nil
	}
	c.saveBlocked()
	c.Memory.Changed(len(began) + len(gone))
	text := fmt.Sprintf("%d networks banned, %d lifted; %d in force", len(began), len(gone), len(next))
	c.Log.Info("the blacklist has changed", "banned", len(began), "lifted", len(gone), "in force", len(next))
	c.Records.Add(control.Record{Time: now, Event: "list", Rule: ban.ByList, Reason: text})
	return nil
}

// listedRecords returns what is known of bans by the blacklist.
func (c *configurator) listedRecords(_ context.Context, keys []ban.Key) map[ban.Key]ban.Ban {
	return c.applied.Records(c.lists, keys)
}

// listsForRequests answers about the lists on other goroutines.
func (d *daemon) listsForRequests() pipeline.Lists {
	return pipeline.Lists{
		Records: func(ctx context.Context, keys []ban.Key) map[ban.Key]ban.Ban {
			records, _ := owner.Query(ctx, d.config, func(c *configurator) map[ban.Key]ban.Ban { return c.listedRecords(ctx, keys) })
			return records
		},
		Places: func(ctx context.Context, keys []ban.Key) (map[ban.Key]string, error) {
			return owner.Query(ctx, d.config, func(c *configurator) map[ban.Key]string { return c.applied.Places(c.lists, keys) })
		},
		Lift: func(ctx context.Context, grace time.Duration, keys []ban.Key) (int, error) {
			return owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (int, error) { return c.liftFor(ctx, grace, keys) })
		},
	}
}
