package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/lists"
	"mef/internal/store"
)

// applied is what of the operator's lists is in force. It belongs to the configurator.
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

// Notes in mef.db, beside those of package lists.
const (
	noteListed   = "listed"   // networks of the blacklist that are banned: see lists.Pack
	noteOrigins  = "origins"  // where each rule reads: a map as of feed.Readers.Origins
	noteWatching = "watching" // since when bans are logged and not applied: a time.Time
)

// recall takes over the lists of an earlier run, and reads the files. It is for the start, before any goroutine runs.
func (d *daemon) loadNotes(notes map[string]string) {
	d.lists.Load(notes)
	d.lists.Read(d.cfg.Paths)
	allow := d.lists.Allow()
	d.allowList, d.applied.allowed = allow.Items, allow
	d.applied.blocked = lists.Unpack(notes[noteListed])
	_ = json.Unmarshal([]byte(notes[noteAdmins]), &d.recentAdmins) // without one, no administrator is known
	admins := slices.Collect(maps.Keys(d.recentAdmins))
	d.setFacts(func(f *engine.Facts) {
		f.Allowed = allow.Set
		f.SetAdmins(nil, admins, "")
	})
	_ = json.Unmarshal([]byte(notes[noteOrigins]), &d.origins)   // without one, rules begin where sources do
	_ = json.Unmarshal([]byte(notes[noteWatching]), &d.watching) // without one, bans were applied
}

// restoreLists makes the blacklist part of the bans of an earlier run, whose slice it takes over. It returns the others of them, and the
// keys of bans whose entry is gone, or whose addresses are allowed now.
func (d *daemon) restoreLists(before []ban.Ban, now time.Time) (others []ban.Ban, gone []ban.Key) {
	facts := d.engine.Facts()
	block := d.lists.Block(&facts)
	d.leftOut, d.heldBack = block.LeftOut, block.Held
	began, ended := lists.Diff(d.applied.blocked, block.Prefixes)
	gone = keysOfPrefixes(ended)
	// In place: there may be many bans, few of them from lists.
	others = slices.DeleteFunc(before, func(b ban.Ban) bool {
		switch {
		case b.Rule == ban.ByList:
			d.unsaved.lifted = append(d.unsaved.lifted, b.Key) // an earlier version saved them one by one
			if !lists.Has(block.Prefixes, b.Prefix) {
				gone = append(gone, b.Key)
			}
			return true
		case lists.Within(b.Prefix, facts.Allowed):
			d.unsaved.lifted = append(d.unsaved.lifted, b.Key)
			gone = append(gone, b.Key)
			return true
		}
		return false
	})
	d.setBlocked(block.Prefixes, began, now)
	for some := range slices.Chunk(block.Prefixes, listedAtOnce) {
		d.enforcer.Restore(listedBans(some, now))
	}
	d.engine.SetBlocked(block.Prefixes)
	return others, gone
}

// setBlocked takes note of what of the blacklist is in force now, and what of that is new.
func (d *daemon) setBlocked(prefixes, began []netip.Prefix, now time.Time) {
	d.applied.blocked = prefixes
	switch {
	case d.window.Load() == nil && now.Sub(d.since) > armedLate:
		d.applied.fresh = nil // arming now would not reach back to it
	case len(began) > 0:
		d.applied.fresh = append(d.applied.fresh, freshBlock{now, began})
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

// reread reads the files of lists again and applies them.
func (d *daemon) reread(ctx context.Context) {
	d.lists.Watch(ctx, d.cfg.Paths, d.cfg.WhitelistReload, d.cfg.BlacklistReload)
	d.lists.Read(d.cfg.Paths)
	mistakes := d.lists.Mistakes()
	told := strings.Join(mistakes, "\n")
	if told != d.applied.told {
		d.applied.told = told
		for _, m := range mistakes[:min(len(mistakes), 20)] {
			d.log.Error("list entry ignored", "error", m, "mistakes in all", len(mistakes))
		}
		if len(mistakes) > 0 {
			d.records.Add(control.Record{Time: time.Now(), Event: "error", Reason: fmt.Sprintf("lists: %s", mistakes[0])})
		}
	}
	d.relist(ctx)
}

// relist applies the lists.
func (d *daemon) relist(ctx context.Context) {
	_ = d.fulfil(ctx, applyLists) // has been logged
}

// applyLists applies the lists as they are: the kernel lets allowed addresses through first, then bans of these are lifted, and then
// the bans of the blacklist follow its files. It runs on the configurator's goroutine.
func (d *daemon) applyLists(ctx context.Context) error {
	now := time.Now()
	ended, namesLeftOut, notes := d.lists.Update(now)
	for _, e := range ended {
		d.records.Add(control.Record{Time: now, Event: "allow-end", Prefix: e.Entry, Author: e.Author, Note: e.Note, Reason: "its time is over"})
	}
	d.saveNotes(notes)
	allow, mistakes := d.lists.Allow(), d.lists.Mistakes()
	facts, err := query(ctx, d.loop, func() engine.Facts {
		if namesLeftOut > d.leftOutNames {
			d.log.Error("DNS names of the allow list left out: there are too many", "most", lists.MaxNames, "left out", namesLeftOut)
		}
		d.allowList, d.listMistakes, d.leftOutNames = allow.Items, mistakes, namesLeftOut
		d.saveObserving(now)
		return d.setFacts(func(f *engine.Facts) { f.Allowed = allow.Set })
	})
	if err != nil {
		return err
	}
	if err := d.enforcer.Allow(ctx, facts.Reachable()); err != nil {
		return err
	}
	if err := d.liftWithin(ctx, allow); err != nil {
		return err
	}
	d.applied.allowed = allow
	return d.applyBlock(ctx, d.lists.Block(&facts), now)
}

func (d *daemon) saveNotes(notes map[string]string) {
	if len(notes) > 0 {
		d.saver.Save(store.Update{Notes: notes})
	}
}

// liftWithin lifts the bans whose addresses an allow list has in whole, and the one that is applied had not. Wider ones stay: the kernel lets the allowed addresses
// through ahead of them.
func (d *daemon) liftWithin(ctx context.Context, allow lists.Allow) error {
	allowed := allow.Set.Subtract(d.applied.allowed.Set)
	if allowed.Len() == 0 {
		return nil
	}
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return err
	}
	var keys []ban.Key
	var lift enforce.State
	for _, held := range state.Bans {
		if lists.Within(held.Prefix, allowed) {
			keys = append(keys, held.Key)
			lift.Bans = append(lift.Bans, held)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	shown := d.reasons.show(ctx, lift, d.listedRecords)
	if err := d.lift(ctx, 0, keys); err != nil {
		return err
	}
	d.unlist(keys)
	for _, b := range shown {
		rec := unbanRecord(b, time.Now())
		rec.Reason = "now an entry of the allow list"
		d.records.Add(rec)
	}
	return nil
}

// liftEarlier lifts bans that were in force when the daemon last ran, and are not to be any more.
func (d *daemon) liftEarlier(ctx context.Context) error {
	if err := d.enforcer.Unban(ctx, 0, d.gone...); err != nil {
		return err
	}
	d.gone = nil
	return nil
}

// lift ends bans, in the kernel first, and forgets them. grace is as in Enforcer.Unban.
func (d *daemon) lift(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	if len(keys) == 0 {
		return nil
	}
	err := d.enforcer.Unban(ctx, grace, keys...)
	if err != nil && !errors.Is(err, enforce.ErrUnread) {
		return err
	}
	return cmp.Or(d.noteLifted(ctx, time.Now(), keys), err)
}

// liftFor lifts bans for an operator. If that fails, it is tried again.
func (d *daemon) liftFor(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	for _, k := range keys {
		d.owed[k] = max(grace, d.owed[k])
	}
	if err := d.fulfil(ctx, liftAsked); err != nil {
		return fmt.Errorf("%w; mefdaemon tries again until they are lifted", err)
	}
	return nil
}

// liftOwed lifts what operators want lifted.
func (d *daemon) liftOwed(ctx context.Context) error {
	by := make(map[time.Duration][]ban.Key)
	for k, grace := range d.owed {
		by[grace] = append(by[grace], k)
	}
	for grace, keys := range by {
		if err := d.lift(ctx, grace, keys); err != nil {
			return err
		}
		for _, k := range keys {
			delete(d.owed, k)
		}
	}
	return nil
}

// unlist takes note that bans of the blacklist are not in force any more, so that they come back when the lists are next applied, if
// they are still asked for then.
func (d *daemon) unlist(keys []ban.Key) {
	gone := make(map[netip.Prefix]bool, len(keys))
	for _, k := range keys {
		if k.Ports == "" && k.Class == ban.Verified {
			gone[k.Prefix] = true
		}
	}
	// Not in place: others may hold the slice.
	d.applied.blocked = slices.DeleteFunc(slices.Clone(d.applied.blocked), func(p netip.Prefix) bool { return gone[p] })
	d.saveNotes(map[string]string{noteListed: lists.Pack(d.applied.blocked)})
}

// listedAtOnce is how many bans of a list are handed to the kernel at a time, so that other bans need not wait.
const listedAtOnce = 2000

// applyBlock makes the bans of the blacklist those that its files ask for.
func (d *daemon) applyBlock(ctx context.Context, block lists.Block, now time.Time) error {
	before, next := d.applied.blocked, block.Prefixes
	observe := d.observe.Load()
	if observe { // nothing begins, but what is in force ends with its entry
		next = slices.DeleteFunc(next, func(p netip.Prefix) bool { return !lists.Has(before, p) })
	}
	began, gone := lists.Diff(before, next)
	if d.applied.observe && !observe {
		began = next // the kernel may have lost some that were not put back
	}
	d.applied.observe = observe
	err := d.do(ctx, func() {
		d.leftOut, d.heldBack = block.LeftOut, block.Held
		d.engine.SetBlocked(next)
	})
	if err != nil {
		return err
	}
	d.logNotable(block)
	for some := range slices.Chunk(began, listedAtOnce) {
		if err := d.enforcer.Ban(ctx, listedBans(some, now)...); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		if err := d.enforcer.Unban(ctx, 0, keysOfPrefixes(gone)...); err != nil {
			still := slices.Concat(next, gone) // what is gone from the files is in force until it is lifted
			slices.SortFunc(still, func(a, b netip.Prefix) int { return ban.Key{Prefix: a}.Compare(ban.Key{Prefix: b}) })
			d.setBlocked(still, began, now)
			return err
		}
	}
	d.setBlocked(next, began, now)
	if len(began)+len(gone) == 0 {
		return nil
	}
	d.saveNotes(map[string]string{noteListed: lists.Pack(next)})
	if len(began)+len(gone) > manyChanges {
		d.grew()
	}
	text := fmt.Sprintf("%d networks banned, %d lifted; %d in force", len(began), len(gone), len(next))
	d.log.Info("the blacklist has changed", "banned", len(began), "lifted", len(gone), "in force", len(next))
	d.records.Add(control.Record{Time: now, Event: "list", Rule: ban.ByList, Reason: text})
	return nil
}

// logNotable logs the first few entries of the blacklist that ban nobody, when they change.
func (d *daemon) logNotable(block lists.Block) {
	text := strings.Join(block.Notable, "\n")
	if text == d.applied.notable {
		return
	}
	d.applied.notable = text
	for _, entry := range block.Notable {
		d.log.Warn("blacklist entry bans nobody", "entry", entry, "left out in all", block.LeftOut, "held back in all", block.Held)
	}
}

// A lookup returns what is known of bans by the blacklist.
type lookup func(context.Context, []ban.Key) map[ban.Key]ban.Ban

// listedRecords is the lookup on the configurator's goroutine.
func (d *daemon) listedRecords(_ context.Context, keys []ban.Key) map[ban.Key]ban.Ban {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k ban.Key) bool { return !d.listed(k) })
	if len(keys) == 0 {
		return nil
	}
	records := d.lists.Records(keys)
	for _, f := range d.applied.fresh {
		for _, p := range f.prefixes {
			if b, ok := records[ban.Key{Prefix: p}]; ok {
				b.Start = f.at
				records[b.Key] = b
			}
		}
	}
	return records
}

// askListed is the lookup on any other goroutine.
func (d *daemon) askListed(ctx context.Context, keys []ban.Key) map[ban.Key]ban.Ban {
	records, _ := ask(ctx, &d.configurator, func(ctx context.Context) (map[ban.Key]ban.Ban, error) { return d.listedRecords(ctx, keys), nil })
	return records
}

// listed reports whether a ban is in force because the blacklist asks for it.
func (d *daemon) listed(k ban.Key) bool {
	return k.Ports == "" && k.Class == ban.Verified && lists.Has(d.applied.blocked, k.Prefix)
}

// placeOf returns the entry of the blacklist that asks for a ban.
func (d *daemon) placeOf(k ban.Key) string {
	if b, ok := d.lists.Records([]ban.Key{k})[k]; ok {
		return strings.TrimPrefix(b.Reason, "listed in ")
	}
	return "the blacklist"
}

// Allow adds an entry to the allow list. It returns once the kernel lets its addresses through and their bans are lifted; a DNS
// name has none yet then.
func (d *daemon) Allow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	now := time.Now()
	entry, err := ask(ctx, &d.configurator, func(ctx context.Context) (control.Entry, error) {
		entry, notes, err := d.lists.Add(req, now)
		if err != nil {
			return entry, err
		}
		d.saveNotes(notes)
		err = d.fulfil(ctx, applyLists)
		return d.lists.Entry(entry.Entry), err
	})
	if err != nil {
		return control.Entry{}, err
	}
	d.flush(ctx)
	d.records.Add(control.Record{Time: now, Event: "allow", Prefix: entry.Entry, Until: entry.Until, Author: entry.Author, Note: entry.Note})
	return entry, nil
}

// Disallow deletes an entry that was added by command.
func (d *daemon) Disallow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	entry, err := ask(ctx, &d.configurator, func(ctx context.Context) (control.Entry, error) {
		entry, notes, err := d.lists.Delete(req)
		if err != nil {
			return entry, err
		}
		d.saveNotes(notes)
		return entry, d.fulfil(ctx, applyLists)
	})
	if err != nil {
		return control.Entry{}, err
	}
	d.flush(ctx)
	d.records.Add(control.Record{Time: time.Now(), Event: "allow-end", Prefix: entry.Entry, Author: req.Author})
	return entry, nil
}

// Lists returns the lists: both, or the one of that name.
func (d *daemon) Lists(ctx context.Context, only string) (control.Lists, error) {
	if only != "" && only != lists.AllowList && only != lists.BlockList {
		return control.Lists{}, refuse("no list %q; there are %s and %s", only, lists.AllowList, lists.BlockList)
	}
	return ask(ctx, &d.configurator, func(ctx context.Context) (control.Lists, error) {
		// Programs that read JSON want lists, if empty ones.
		out := control.Lists{Files: []control.ListFile{}, Entries: []control.Entry{}}
		if only != lists.BlockList {
			d.lists.ShowAllow(&out)
		}
		if only == lists.AllowList {
			return out, nil
		}
		facts, err := query(ctx, d.loop, d.engine.Facts)
		if err != nil {
			return out, err
		}
		d.lists.ShowBlock(&out, &facts)
		return out, nil
	})
}

// warnLists adds to a status what is wrong with lists. It runs on the engine's goroutine.
func (d *daemon) warnLists(s *control.Status) {
	some := func(all []string, what string) {
		const most = 5
		s.Warnings = append(s.Warnings, all[:min(len(all), most)]...)
		if more := len(all) - most; more > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%d more %s; mefctl lists shows them", more, what))
		}
	}
	some(d.listMistakes, "mistakes in lists")
	if d.leftOut > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d entries of blacklist files are left out; mefctl lists blacklist says why", d.leftOut))
	}
	if d.heldBack > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d entries of blacklist files are held back, because they contain an address from which an administrator logged in; "+
			"mefctl lists blacklist shows them", d.heldBack))
	}
	if d.leftOutNames > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d DNS names of the allow list are left out: there are more than %d", d.leftOutNames, lists.MaxNames))
	}
	some(d.lists.Warnings(time.Now()), "names without an address")
}

// Bounds on looking up addresses that say they are a search engine's.
const (
	maxClaims    = 64 // that wait
	claimsAtOnce = 4
)

// verifyClaims finds out whether addresses are those of crawlers, until ctx is done.
func (d *daemon) verifyClaims(ctx context.Context) error {
	var g errgroup.Group
	for range claimsAtOnce {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case c := <-d.claims:
					is, err := d.lists.Verify(ctx, c.Addr, c.Domains)
					if err != nil {
						d.log.Debug("look up a crawler", "addr", c.Addr, "of", c.Name, "err", err)
					}
					_ = d.do(ctx, func() { d.engine.Answered(c, is, err, time.Now()) }) // ctx is done otherwise
				}
			}
		})
	}
	return g.Wait()
}
