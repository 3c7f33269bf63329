package daemon

import (
	"cmp"
	"context"
	"fmt"
	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce/kernel"
	"mef/internal/engine"
	"mef/internal/hostwatch"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// applied is what of the operator's lists is in force.
type applied struct {
	allowed lists.Allow    // the bans inside it are lifted
	blocked []netip.Prefix // networks of the blacklist that are banned, ascending
	fresh   []freshBlock   // what of them came into force while bans may have to be lifted because nobody confirms
	observe bool           // they were applied in observe mode, in which nothing begins
	told    string         // the mistakes that have been logged
	notable string         // what of the blacklist has been logged as left out
}

// A freshBlock is what came into force at a time.
type freshBlock struct {
	at       time.Time
	prefixes []netip.Prefix
}

// A listReport is what status and why show of the lists, without waiting for the configurator. It is never changed once it is published.
type listReport struct {
	allowed      []lists.Item // what the allow list is made of
	mistakes     []string
	leftOut      int // entries of blacklist files that ban nobody
	heldBack     int // others that would ban an administrator
	leftOutNames int // DNS names of the allow list that are not looked up
}

// publish replaces the report that others see.
func (c *configurator) publish() {
	r := c.report
	c.listed.Store(&r)
}

// explain adds to why an address is never banned where the operator wrote so.
func (r *listReport) explain(addr netip.Addr, never string) string {
	if r == nil || never == "" {
		return never
	}
	for _, item := range r.allowed {
		if item.Set.Contains(addr) {
			return fmt.Sprintf("%s (%s, %s)", never, item.Text, item.Source)
		}
	}
	return never
}

// noteListed is the note in mef.db of the networks of the blacklist that are banned: see lists.Pack.
const noteListed = "listed"

// loadNotes takes over the notes of an earlier run, and reads the files.
func (c *configurator) loadNotes(s *pipeline.State, notes map[string]string, guard *hostwatch.Guard) {
	c.lists.Load(notes)
	c.lists.Read(c.cfg.Paths)
	allow := c.lists.Allow()
	c.report.allowed, c.applied.allowed = allow.Items, allow
	c.publish()
	c.applied.blocked = lists.Unpack(notes[noteListed])
	c.kernel.RestoreServed(notes[noteServed])
	admins := guard.Load(notes[noteAdmins])
	s.SetFacts(func(f *engine.Facts) {
		f.Allowed = allow.Set
		f.SetAdmins(nil, admins, "")
	})
}

// restoreLists makes the blacklist part of the bans of an earlier run, whose slice it takes over. It returns the others of them, and the
// keys of bans whose entry is gone, or whose addresses are allowed now.
func (c *configurator) restoreLists(s *pipeline.State, before []ban.Ban, now time.Time) (others []ban.Ban, gone []ban.Key) {
	facts := s.Engine.Facts()
	block := c.lists.Block(&facts)
	c.report.leftOut, c.report.heldBack = block.LeftOut, block.Held
	c.publish()
	began, ended := lists.Diff(c.applied.blocked, block.Prefixes)
	gone = keysOfPrefixes(ended)
	// In place: there may be many bans, few of them from lists.
	others = slices.DeleteFunc(before, func(b ban.Ban) bool {
		switch {
		case b.Rule == ban.ByList:
			s.Forget(b.Key) // an earlier version saved them one by one
			if !lists.Has(block.Prefixes, b.Prefix) {
				gone = append(gone, b.Key)
			}
			return true
		case lists.Within(b.Prefix, facts.Allowed):
			s.Forget(b.Key)
			gone = append(gone, b.Key)
			return true
		}
		return false
	})
	c.setBlocked(block.Prefixes, began, now)
	for some := range slices.Chunk(block.Prefixes, listedAtOnce) {
		c.Enforcer.Restore(listedBans(some, now))
	}
	s.Engine.SetBlocked(block.Prefixes)
	return others, gone
}

// setBlocked takes note of what of the blacklist is in force now, and what of that is new.
func (c *configurator) setBlocked(prefixes, began []netip.Prefix, now time.Time) {
	c.applied.blocked = prefixes
	switch {
	case c.window.Load() == nil && now.Sub(c.since) > armedLate:
		c.applied.fresh = nil // arming now would not reach back to it
	case len(began) > 0:
		c.applied.fresh = append(c.applied.fresh, freshBlock{now, began})
	}
}

func keysOfPrefixes(prefixes []netip.Prefix) []ban.Key {
	keys := make([]ban.Key, len(prefixes))
	for i, p := range prefixes {
		keys[i] = ban.Key{Prefix: p}
	}
	return keys
}

// listedBans returns the bans of networks of the blacklist, without their records: see lists.Records.
func listedBans(prefixes []netip.Prefix, now time.Time) []ban.Ban {
	bans := make([]ban.Ban, len(prefixes))
	for i, p := range prefixes {
		bans[i] = ban.Ban{Key: ban.Key{Prefix: p}, Start: now, Rule: ban.ByList}
	}
	return bans
}

// rereadLists reads the files of lists again and applies them.
func (c *configurator) rereadLists(ctx context.Context) {
	c.lists.Watch(ctx, c.cfg.Paths, c.cfg.WhitelistReload, c.cfg.BlacklistReload)
	c.lists.Read(c.cfg.Paths)
	mistakes := c.lists.Mistakes()
	told := strings.Join(mistakes, "\n")
	if told != c.applied.told {
		c.applied.told = told
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
		c.Records.Add(control.Record{Time: now, Event: "allow-end", Prefix: e.Entry, Author: e.Author, Note: e.Note, Reason: "it has expired"})
	}
	c.SaveNotes(notes)
	allow, mistakes := c.lists.Allow(), c.lists.Mistakes()
	if namesLeftOut > c.report.leftOutNames {
		c.Log.Error("DNS names of the allow list ignored: too many", "most", lists.MaxNames, "left out", namesLeftOut)
	}
	c.report.allowed, c.report.mistakes, c.report.leftOutNames = allow.Items, mistakes, namesLeftOut
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
	c.applied.allowed = allow
	return c.applyBlock(ctx, c.lists.Block(&facts), now)
}

// liftWithin lifts the bans whose addresses an allow list has in whole, and the one that is applied had not. Wider ones stay: the kernel lets the allowed addresses
// through ahead of them.
func (c *configurator) liftWithin(ctx context.Context, allow lists.Allow) error {
	allowed := allow.Set.Subtract(c.applied.allowed.Set)
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
	if err := c.lift(ctx, 0, keys); err != nil {
		return err
	}
	c.unlist(keys)
	for _, b := range shown {
		rec := unbanRecord(b, time.Now())
		rec.Reason = "now an entry of the allow list"
		c.Records.Add(rec)
	}
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

// lift ends bans, in the kernel first, and forgets them. grace is as in Enforcer.Unban.
func (c *configurator) lift(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	if len(keys) == 0 {
		return nil
	}
	err := c.Enforcer.Unban(ctx, grace, keys...)
	if err != nil && !kernel.IsUnread(err) {
		return err
	}
	return cmp.Or(c.Lifted(ctx, time.Now(), keys), err)
}

// liftFor lifts bans for an operator. If that fails, it is tried again.
func (c *configurator) liftFor(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	for _, k := range keys {
		c.owed[k] = max(grace, c.owed[k])
	}
	if err := c.fulfil(ctx, liftAsked); err != nil {
		return fmt.Errorf("%w; mefdaemon tries again until they are lifted", err)
	}
	return nil
}

// liftOwed lifts what operators want lifted.
func (c *configurator) liftOwed(ctx context.Context) error {
	by := make(map[time.Duration][]ban.Key)
	for k, grace := range c.owed {
		by[grace] = append(by[grace], k)
	}
	for grace, keys := range by {
		if err := c.lift(ctx, grace, keys); err != nil {
			return err
		}
		for _, k := range keys {
			delete(c.owed, k)
		}
	}
	return nil
}

// unlist takes note that bans of the blacklist are not in force any more, so that they come back when the lists are next applied, if
// they are still asked for then.
func (c *configurator) unlist(keys []ban.Key) {
	gone := make(map[netip.Prefix]bool, len(keys))
	for _, k := range keys {
		if k.Ports == "" && k.Class == ban.Verified {
			gone[k.Prefix] = true
		}
	}
	// Not in place: others may hold the slice.
	c.applied.blocked = slices.DeleteFunc(slices.Clone(c.applied.blocked), func(p netip.Prefix) bool { return gone[p] })
	c.SaveNotes(map[string]string{noteListed: lists.Pack(c.applied.blocked)})
}

// listedAtOnce is how many bans of a list are handed to the kernel at a time, so that other bans need not wait.
const listedAtOnce = 2000

// applyBlock makes the bans of the blacklist those that its files ask for.
func (c *configurator) applyBlock(ctx context.Context, block lists.Block, now time.Time) error {
	before, next := c.applied.blocked, block.Prefixes
	observe := c.Observing()
	if observe { // nothing begins, but what is in force ends with its entry
		next = slices.DeleteFunc(next, func(p netip.Prefix) bool { return !lists.Has(before, p) })
	}
	began, gone := lists.Diff(before, next)
	if c.applied.observe && !observe {
		began = next // the kernel may have lost some that were not put back
	}
	c.applied.observe = observe
	c.report.leftOut, c.report.heldBack = block.LeftOut, block.Held
	c.publish()
	if err := owner.Do(ctx, c.Engine, func(s *pipeline.State) { s.Engine.SetBlocked(next) }); err != nil {
		return err
	}
	c.logNotable(block)
	for some := range slices.Chunk(began, listedAtOnce) {
		if err := c.Enforcer.Ban(ctx, listedBans(some, now)...); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		if err := c.Enforcer.Unban(ctx, 0, keysOfPrefixes(gone)...); err != nil {
			still := slices.Concat(next, gone) // what is gone from the files is in force until it is lifted
			slices.SortFunc(still, func(a, b netip.Prefix) int { return ban.Key{Prefix: a}.Compare(ban.Key{Prefix: b}) })
			c.setBlocked(still, began, now)
			return err
		}
	}
	c.setBlocked(next, began, now)
	if len(began)+len(gone) == 0 {
		return nil
	}
	c.SaveNotes(map[string]string{noteListed: lists.Pack(next)})
	c.Memory.Changed(len(began) + len(gone))
	text := fmt.Sprintf("%d networks banned, %d lifted; %d in force", len(began), len(gone), len(next))
	c.Log.Info("the blacklist has changed", "banned", len(began), "lifted", len(gone), "in force", len(next))
	c.Records.Add(control.Record{Time: now, Event: "list", Rule: ban.ByList, Reason: text})
	return nil
}

// logNotable logs the first few entries of the blacklist that ban nobody, when they change.
func (c *configurator) logNotable(block lists.Block) {
	text := strings.Join(block.Notable, "\n")
	if text == c.applied.notable {
		return
	}
	c.applied.notable = text
	for _, entry := range block.Notable {
		c.Log.Warn("blacklist entry has no effect", "entry", entry, "ignored in total", block.LeftOut, "suspended in total", block.Held)
	}
}

// listedRecords returns what is known of bans by the blacklist.
func (c *configurator) listedRecords(_ context.Context, keys []ban.Key) map[ban.Key]ban.Ban {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k ban.Key) bool { return !c.isListed(k) })
	if len(keys) == 0 {
		return nil
	}
	records := c.lists.Records(keys)
	for _, f := range c.applied.fresh {
		for _, p := range f.prefixes {
			if b, ok := records[ban.Key{Prefix: p}]; ok {
				b.Start = f.at
				records[b.Key] = b
			}
		}
	}
	return records
}

// askListed is listedRecords for others.
func (d *daemon) askListed(ctx context.Context, keys []ban.Key) map[ban.Key]ban.Ban {
	records, _ := owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (map[ban.Key]ban.Ban, error) {
		return c.listedRecords(ctx, keys), nil
	})
	return records
}

// isListed reports whether a ban is in force because the blacklist asks for it.
func (c *configurator) isListed(k ban.Key) bool {
	return k.Ports == "" && k.Class == ban.Verified && lists.Has(c.applied.blocked, k.Prefix)
}

// warn adds to a status what is wrong with lists. names are names without an address.
func (r *listReport) warn(s *control.Status, names []string) {
	some := func(all []string, what string) {
		const most = 5
		s.Warnings = append(s.Warnings, all[:min(len(all), most)]...)
		if more := len(all) - most; more > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%d more %s; mefctl lists shows them", more, what))
		}
	}
	some(r.mistakes, "mistakes in lists")
	if r.leftOut > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d entries of blacklist files are ignored; mefctl lists blacklist shows why", r.leftOut))
	}
	if r.heldBack > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d entries of blacklist files are suspended, because they contain an address from which an administrator logged in; "+
			"mefctl lists blacklist shows them", r.heldBack))
	}
	if r.leftOutNames > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d DNS names of the allow list are ignored: there are more than %d", r.leftOutNames, lists.MaxNames))
	}
	some(names, "names without an address")
}
