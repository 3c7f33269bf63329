package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/exempt"
	"mef/internal/lists"
	"mef/internal/names"
	"mef/internal/prefixset"
)

// A listKeeper has the operator's lists: who is never banned, by the files of the whitelist directory and by command, and who always is, by
// the files of the blacklist directory. They belong to the keeper.
type listKeeper struct {
	white, black       []conf.ListFile
	whiteErr, blackErr string // why a directory could not be read

	added  map[string]added // allow entries of commands, by text
	names  *names.Keeper    // DNS names of the allow list
	saved  map[string]string
	expiry *time.Timer // when the next of added ends

	listed  map[netip.Prefix]uint64 // bans of blacklist files that are in force, each with a hash of its record
	applied prefixset.Set           // the allow list as it is in force: the bans inside it are lifted
	full    conf.Pos                // from this entry on the blacklist has more than lists.MaxBlocked; zero: there is room for all
	watch   *watch
	told    string // the mistakes that have been logged
}

func (e *loop) newLists() listKeeper {
	expiry := time.NewTimer(time.Hour)
	expiry.Stop()
	return listKeeper{added: make(map[string]added), names: names.New(names.Options{Log: e.log}), saved: make(map[string]string),
		expiry: expiry, listed: make(map[netip.Prefix]uint64), watch: newWatch(e.log)}
}

// Notes in mef.db begin with these words.
const (
	noteAllow = "allow " // and an entry: an added
	noteName  = "name "  // and a DNS name: a names.Answer

	noteWatching = "watching" // since when bans are only said: a time.Time
)

// recall takes over what was saved, and reads the files. It is for the start, before any goroutine runs.
func (d *daemon) recall(notes map[string]string) {
	known := make(map[string]names.Answer)
	_ = json.Unmarshal([]byte(notes[noteWatching]), &d.watching) // without one, bans were made
	for note, text := range notes {
		if entry, ok := strings.CutPrefix(note, noteAllow); ok {
			var a added
			if json.Unmarshal([]byte(text), &a) == nil {
				d.lists.added[entry] = a
			}
		} else if name, ok := strings.CutPrefix(note, noteName); ok {
			var a names.Answer
			if json.Unmarshal([]byte(text), &a) == nil {
				known[name] = a
				d.lists.saved[note] = text
			}
		}
	}
	d.lists.names.Know(known)
	d.readLists()
	d.allowList = d.lists.items(time.Now())
	d.lists.applied = union(d.allowList)
	d.setFacts(func(f *exempt.Facts) { f.Allowed = d.lists.applied })
}

// readLists reads the files of both directories.
func (d *daemon) readLists() {
	l, paths := &d.lists, d.cfg.Paths
	read := func(dir string, before []conf.ListFile) ([]conf.ListFile, string) {
		files, err := conf.ReadList(dir, before)
		if err != nil {
			return files, err.Error()
		}
		return files, ""
	}
	l.white, l.whiteErr = read(paths.WhitelistDir, l.white)
	l.black, l.blackErr = read(paths.BlacklistDir, l.black)
}

// mistakes are what the files have wrong.
func (l *listKeeper) mistakes() (all []string) {
	for _, err := range []string{l.whiteErr, l.blackErr} {
		if err != "" {
			all = append(all, err)
		}
	}
	for _, f := range slices.Concat(l.white, l.black) {
		for _, err := range f.Errors {
			all = append(all, err.Error())
		}
	}
	return all
}

// entriesOf returns the entries of files.
func entriesOf(files []conf.ListFile) (all []conf.Entry) {
	for _, f := range files {
		all = append(all, f.Entries...)
	}
	return all
}

// allowEntries returns every entry of the allow list that counts at now.
func (l *listKeeper) allowEntries(now time.Time) []conf.Entry {
	all := entriesOf(l.white)
	for text, a := range l.added {
		if !a.over(now) {
			all = append(all, conf.Entry{Text: text})
		}
	}
	return all
}

// An allowItem is what one entry of the allow list comes to.
type allowItem struct {
	text, source string
	set          prefixset.Set
}

// items returns what the entries of the allow list come to.
func (l *listKeeper) items(now time.Time) []allowItem {
	answers := l.names.Answers()
	var items []allowItem
	for _, entry := range l.allowEntries(now) {
		item := allowItem{text: entry.Text, source: entry.Pos.String()}
		if a, ok := l.added[entry.Text]; ok && entry.Pos.File == "" {
			item.source = fmt.Sprintf("%s by %s", control.ByCommand, a.Author)
		}
		if prefixes, ok := entry.Prefixes(); ok {
			item.set = prefixset.New(prefixes...)
		} else {
			item.set = hosts(answers[foldName(entry.Text)].Addrs)
		}
		items = append(items, item)
	}
	return items
}

// union returns the addresses of all items.
func union(items []allowItem) prefixset.Set {
	var ranges []prefixset.Range
	for _, item := range items {
		ranges = append(ranges, item.set.Ranges()...)
	}
	return prefixset.FromRanges(ranges)
}

// dnsNames returns the DNS names among entries, in lower case and without the dot at the end.
func dnsNames(all []conf.Entry) []string {
	var list []string
	for _, entry := range all {
		if _, ok := entry.Prefixes(); !ok {
			list = append(list, foldName(entry.Text))
		}
	}
	return list
}

func foldName(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

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
	if d.leftOutNames > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d DNS names of the allow list are left out: there are more than %d", d.leftOutNames, names.MaxNames))
	}
	some(d.lists.warnNames(time.Now()), "names without an address")
}

// reread reads the files again and puts in force what they say.
func (d *daemon) reread(ctx context.Context) {
	d.watchLists(ctx)
	d.readLists()
	mistakes := d.lists.mistakes()
	told := strings.Join(mistakes, "\n")
	if told != d.lists.told {
		d.lists.told = told
		for _, m := range mistakes[:min(len(mistakes), 20)] {
			d.log.Error("line of a list left out", "error", m, "mistakes in all", len(mistakes))
		}
		if len(mistakes) > 0 {
			d.records.Add(control.Record{Time: time.Now(), Event: "error", Reason: fmt.Sprintf("lists: %s", mistakes[0])})
		}
	}
	d.relist(ctx)
}

// relist puts in force what the lists say now.
func (d *daemon) relist(ctx context.Context) {
	_ = d.fulfil(ctx, applyLists) // has been logged
}

// watchLists has changes of the directories told.
func (d *daemon) watchLists(ctx context.Context) {
	d.lists.watch.at(ctx, []string{d.cfg.Paths.WhitelistDir, d.cfg.Paths.BlacklistDir}, min(d.cfg.WhitelistReload, d.cfg.BlacklistReload))
}

// applyLists puts the lists in force as they are: the kernel lets allowed addresses through first, then their bans are lifted,
// and then the bans of blacklist files follow their files. It runs on the keeper's goroutine.
func (d *daemon) applyLists(ctx context.Context) error {
	now := time.Now()
	d.endAdded(now)
	leftOut := d.lists.names.Want(dnsNames(d.lists.allowEntries(now)))
	items, mistakes := d.lists.items(now), d.lists.mistakes()
	allowed := union(items)
	type sets struct{ reachable, protected prefixset.Set }
	changed, err := query(ctx, d.loop, func() (s sets) {
		facts := d.setFacts(func(f *exempt.Facts) { f.Allowed = allowed })
		d.allowList = items
		d.listMistakes = mistakes
		if leftOut > d.leftOutNames {
			d.log.Error("DNS names of the allow list left out: there are too many", "most", names.MaxNames, "left out", leftOut)
		}
		d.leftOutNames = leftOut
		d.saveObserving(now)
		s.reachable, s.protected = facts.Reachable(), d.neverListed()
		return s
	})
	if err != nil {
		return err
	}
	if err := d.enforcer.Allow(ctx, changed.reachable); err != nil {
		return err
	}
	if err := d.liftWithin(ctx, allowed.Subtract(d.lists.applied)); err != nil {
		return err
	}
	d.lists.applied = allowed
	d.saveNames()
	return d.applyBlack(ctx, changed.protected, now)
}

// liftWithin lifts the bans whose addresses have all become allowed. Wider ones stay: the kernel lets the allowed addresses
// through ahead of them.
func (d *daemon) liftWithin(ctx context.Context, allowed prefixset.Set) error {
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
		if within(held.Prefix, allowed) {
			keys = append(keys, held.Key)
			lift.Bans = append(lift.Bans, held)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	shown := d.book.show(ctx, lift)
	if err := d.lift(ctx, keys); err != nil {
		return err
	}
	for _, b := range shown {
		rec := unbanRecord(b, time.Now())
		rec.Reason = "now an entry of the allow list"
		d.records.Add(rec)
	}
	return nil
}

// within reports whether every address of p is in the set.
func within(p netip.Prefix, set prefixset.Set) bool {
	return set.Contains(p.Addr()) && (p.IsSingleIP() || prefixset.New(p).Subtract(set).Len() == 0)
}

// lift ends bans, here and in the kernel, and forgets them.
func (d *daemon) lift(ctx context.Context, keys []ban.Key) error {
	if len(keys) == 0 {
		return nil
	}
	if err := d.enforcer.Unban(ctx, 0, keys...); err != nil {
		return err
	}
	d.book.lift(keys)
	now := time.Now()
	return d.do(ctx, func() {
		d.engine.Lifted(now, keys...)
		d.unsaved.lifted = append(d.unsaved.lifted, keys...)
		d.save()
	})
}

// unlist notes that bans of the blacklist are not in force any more, so that they come back when the lists are next applied.
func (l *listKeeper) unlist(keys []ban.Key) {
	for _, k := range keys {
		if k.Ports == "" && k.Class == ban.Verified {
			delete(l.listed, k.Prefix)
		}
	}
}

// listedAtOnce is how many bans of a list are handed to the engine and the kernel at a time, so that lines need not wait.
const listedAtOnce = 2000

// applyBlack makes the bans of blacklist files those that the files ask for now.
func (d *daemon) applyBlack(ctx context.Context, protected prefixset.Set, now time.Time) error {
	bans, leftOut := lists.Bans(entriesOf(d.lists.black), protected, now)
	if d.observe.Load() { // nothing begins, but what was put in force before ends with its entry
		bans = slices.DeleteFunc(bans, func(b ban.Ban) bool { return d.lists.listed[b.Prefix] == 0 })
	}
	if err := d.do(ctx, func() { d.leaveOut(leftOut) }); err != nil {
		return err
	}
	next, began, again, gone := d.lists.change(bans)
	for some := range slices.Chunk(began, listedAtOnce) {
		if err := d.enforcer.Ban(ctx, some...); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(slices.Concat(began, again), listedAtOnce) {
		err := d.do(ctx, func() {
			d.engine.Restore(some...)
			d.unsaved.bans = append(d.unsaved.bans, some...)
			d.save()
		})
		if err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		if err := d.lift(ctx, gone); err != nil {
			for _, k := range gone { // they are still in force
				next[k.Prefix] = d.lists.listed[k.Prefix]
			}
			d.lists.listed = next
			return err
		}
	}
	d.lists.listed = next
	if len(began)+len(gone) > 0 {
		text := fmt.Sprintf("%d networks banned, %d lifted; %d in force", len(began), len(gone), len(bans))
		d.log.Info("the blacklist has changed", "banned", len(began), "lifted", len(gone), "in force", len(bans))
		d.records.Add(control.Record{Time: now, Event: "list", Rule: ban.ByList, Reason: text})
	}
	return nil
}

// change compares the bans that the blacklist files ask for with those in force. It returns what is to be in force, what of that begins,
// what of it has a new record only, and what ends.
func (l *listKeeper) change(bans []ban.Ban) (next map[netip.Prefix]uint64, began, again []ban.Ban, gone []ban.Key) {
	next = make(map[netip.Prefix]uint64, len(bans))
	for _, b := range bans {
		if _, twice := next[b.Prefix]; twice {
			continue
		}
		sum := recordSum(b)
		next[b.Prefix] = sum
		switch was, there := l.listed[b.Prefix]; {
		case !there:
			began = append(began, b)
		case was != sum:
			again = append(again, b)
		}
	}
	for p := range l.listed {
		if _, still := next[p]; !still {
			gone = append(gone, ban.Key{Prefix: p})
		}
	}
	slices.SortFunc(gone, ban.Key.Compare)
	return next, began, again, gone
}

// recordSum is a checksum of why a listed ban is in force.
func recordSum(b ban.Ban) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, b.Reason, "\n", b.Note)
	return h.Sum64()
}

// leaveOut takes note of the entries that are left out, and logs the first few of them.
func (d *daemon) leaveOut(entries []conf.Entry) {
	d.leftOut, d.lists.full = len(entries), conf.Pos{}
	if i := slices.IndexFunc(entries, func(e conf.Entry) bool { return blockError(e, prefixset.Set{}) == "" }); i >= 0 {
		d.lists.full = entries[i].Pos // nothing else is wrong with it
	}
	for _, entry := range entries[:min(len(entries), 10)] {
		why := cmp.Or(blockError(entry, prefixset.Set{}), tooMany)
		d.log.Warn("blacklist entry left out", "at", entry.Pos.String(), "entry", entry.Text, "reason", why, "left out in all", len(entries))
	}
}

// adoptLists merges the bans of the blacklist files into those in force before, whose slice it takes over. It returns those to
// be in force, and the keys of bans whose entry has gone from the files, or whose addresses are allowed now.
func (d *daemon) adoptLists(before []ban.Ban, now time.Time) (inForce []ban.Ban, gone []ban.Key) {
	facts := d.engine.Facts()
	bans, leftOut := lists.Bans(entriesOf(d.lists.black), d.neverListed(), now)
	d.leaveOut(leftOut)
	d.lists.listed, bans, _, _ = d.lists.change(bans)
	// In place, because there may be very many and seldom any of a list.
	inForce = slices.DeleteFunc(before, func(b ban.Ban) bool {
		_, listed := d.lists.listed[b.Prefix]
		if b.Rule == ban.ByList && !listed || b.Rule != ban.ByList && within(b.Prefix, facts.Allowed) {
			gone = append(gone, b.Key)
			return true
		}
		return b.Rule == ban.ByList
	})
	return append(inForce, bans...), gone
}

// liftEarlier lifts bans that were in force when the daemon last ran, and are not to be any more.
func (d *daemon) liftEarlier(ctx context.Context) error {
	if err := d.enforcer.Unban(ctx, 0, d.gone...); err != nil {
		return err
	}
	d.gone = nil
	return nil
}

// saveEveryName is how old a saved answer may be that is still the same.
const saveEveryName = time.Hour

// saveNames saves the last good answers, so that they count after a restart without a resolver.
func (d *daemon) saveNames() {
	notes := make(map[string]string)
	answers := d.lists.names.Answers()
	for name, a := range answers {
		if len(a.Addrs) == 0 {
			continue
		}
		note := noteName + name
		var saved names.Answer
		_ = json.Unmarshal([]byte(d.lists.saved[note]), &saved) // nothing is saved yet
		if slices.Equal(saved.Addrs, a.Addrs) && a.At.Sub(saved.At) < saveEveryName {
			continue
		}
		if text, err := json.Marshal(names.Answer{Addrs: a.Addrs, At: a.At}); err == nil {
			notes[note] = string(text)
		}
	}
	for note := range d.lists.saved {
		if _, wanted := answers[strings.TrimPrefix(note, noteName)]; !wanted {
			notes[note] = ""
		}
	}
	maps.Copy(d.lists.saved, notes)
	maps.DeleteFunc(d.lists.saved, func(_, text string) bool { return text == "" })
	d.saveNotes(notes)
}
