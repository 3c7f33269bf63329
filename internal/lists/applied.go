package lists

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/prefixset"
)

// Applied is what of the lists is in force. It belongs to one goroutine.
type Applied struct {
	Allowed Allow          // the bans inside it are lifted
	Blocked []netip.Prefix // networks of the blacklist that are banned, ascending; never changed in place
	Observe bool           // they were applied in observe mode, in which nothing begins

	fresh []freshBlock // what of Blocked came into force while bans may have to be lifted because nobody confirms
}

// A freshBlock is what came into force at a time.
type freshBlock struct {
	at       time.Time
	prefixes []netip.Prefix
}

// SetBlocked notes what of the blacklist is in force now, and what of that is new. reachesBack means that the new ones may have to be
// lifted because nobody confirms, so that their time matters.
func (a *Applied) SetBlocked(prefixes, began []netip.Prefix, now time.Time, reachesBack bool) {
	a.Blocked = prefixes
	switch {
	case !reachesBack:
		a.fresh = nil
	case len(began) > 0:
		a.fresh = append(a.fresh, freshBlock{now, began})
	}
}

// Unblock notes that bans of the blacklist are not in force any more, so that they come back when the lists are next applied, if they are
// still asked for then.
func (a *Applied) Unblock(keys []ban.Key) {
	gone := make(map[netip.Prefix]bool, len(keys))
	for _, k := range keys {
		if isBlock(k) {
			gone[k.Prefix] = true
		}
	}
	a.Blocked = slices.DeleteFunc(slices.Clone(a.Blocked), func(p netip.Prefix) bool { return gone[p] })
}

// Next returns what of a Block must be in force, what of that must begin, and what must end. In observe mode nothing begins, but what is in
// force ends with its entry.
func (a *Applied) Next(block Block, observe bool) (next, began, gone []netip.Prefix) {
	next = block.Prefixes
	if observe {
		next = slices.DeleteFunc(slices.Clone(next), func(p netip.Prefix) bool { return !Has(a.Blocked, p) })
	}
	began, gone = Diff(a.Blocked, next)
	if a.Observe && !observe {
		began = next // the kernel may have lost some that were not restored
	}
	a.Observe = observe
	return next, began, gone
}

// Split separates bans of an earlier run, whose slice it takes over, from those of the blacklist. It returns those that go on, the keys of
// those whose records must be forgotten, and the keys of bans that must end: their entry is gone, or their addresses are allowed now.
func (a *Applied) Split(before []ban.Ban, block Block, allowed prefixset.Set) (others []ban.Ban, forget, end []ban.Key) {
	_, ended := Diff(a.Blocked, block.Prefixes)
	end = BlockKeys(ended)
	// In place: there may be many bans, few of them from lists.
	others = slices.DeleteFunc(before, func(b ban.Ban) bool {
		switch {
		case b.Rule == ban.ByList:
			forget = append(forget, b.Key) // an earlier version saved them one by one
			if !Has(block.Prefixes, b.Prefix) {
				end = append(end, b.Key)
			}
			return true
		case Within(b.Prefix, allowed):
			forget, end = append(forget, b.Key), append(end, b.Key)
			return true
		}
		return false
	})
	return others, forget, end
}

// IsBlocked reports whether a ban is in force because the blacklist asks for it.
func (a *Applied) IsBlocked(k ban.Key) bool { return isBlock(k) && Has(a.Blocked, k.Prefix) }

// isBlock reports whether a key may be that of a ban by the blacklist.
func isBlock(k ban.Key) bool { return k.Ports == "" && k.Class == ban.Verified }

// blocked returns those of keys that are in force because the blacklist asks for them.
func (a *Applied) blocked(keys []ban.Key) []ban.Key {
	return slices.DeleteFunc(slices.Clone(keys), func(k ban.Key) bool { return !a.IsBlocked(k) })
}

// Records returns what is known of bans by the blacklist, whose entries are in l.
func (a *Applied) Records(l *Lists, keys []ban.Key) map[ban.Key]ban.Ban {
	keys = a.blocked(keys)
	if len(keys) == 0 {
		return nil
	}
	records := l.Records(keys)
	for _, f := range a.fresh {
		for _, p := range f.prefixes {
			if b, ok := records[ban.Key{Prefix: p}]; ok {
				b.Start = f.at
				records[b.Key] = b
			}
		}
	}
	return records
}

// Places returns those of keys that the blacklist asks for, each with the place of the entry in l: lifted, they would come back.
func (a *Applied) Places(l *Lists, keys []ban.Key) map[ban.Key]string {
	places := make(map[ban.Key]string)
	keys = a.blocked(keys)
	for _, k := range keys {
		places[k] = "the blacklist" // its entry may be gone from the file by now
	}
	for k, b := range l.Records(keys) {
		places[k] = strings.TrimPrefix(b.Reason, listedIn)
	}
	return places
}

// BlockKeys returns the keys of the bans of networks of the blacklist.
func BlockKeys(prefixes []netip.Prefix) []ban.Key {
	keys := make([]ban.Key, len(prefixes))
	for i, p := range prefixes {
		keys[i] = ban.Key{Prefix: p}
	}
	return keys
}

// BlockBans returns the bans of networks of the blacklist, without their records: see Records.
func BlockBans(prefixes []netip.Prefix, now time.Time) []ban.Ban {
	bans := make([]ban.Ban, len(prefixes))
	for i, p := range prefixes {
		bans[i] = ban.Ban{Key: ban.Key{Prefix: p}, Start: now, Rule: ban.ByList}
	}
	return bans
}

// A Report is what status and why show of the lists, without waiting for their owner. It is never changed once it is published.
type Report struct {
	Allowed      []Item // what the allow list is made of
	Mistakes     []string
	LeftOut      int // entries of blacklist files that ban nobody
	Held         int // others that would ban an administrator
	LeftOutNames int // DNS names of the allow list that are not looked up
}

// Explain adds to never, why an address is never banned, the entry by which the operator allowed it.
func (r *Report) Explain(addr netip.Addr, never string) string {
	if r == nil || never == "" {
		return never
	}
	for _, item := range r.Allowed {
		if item.Set.Contains(addr) {
			return fmt.Sprintf("%s (%s, %s)", never, item.Text, item.Source)
		}
	}
	return never
}

// Warn adds to a status what is wrong with lists. names are names without an address.
func (r *Report) Warn(s *control.Status, names []string) {
	some := func(all []string, what string) {
		const most = 5
		s.Warnings = append(s.Warnings, all[:min(len(all), most)]...)
		if more := len(all) - most; more > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%d more %s; mefctl lists shows them", more, what))
		}
	}
	some(r.Mistakes, "mistakes in lists")
	if r.LeftOut > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d entries of blacklist files are ignored; mefctl lists blacklist shows why", r.LeftOut))
	}
	if r.Held > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d entries of blacklist files are suspended, because they contain an address from which an administrator logged in; "+
			"mefctl lists blacklist shows them", r.Held))
	}
	if r.LeftOutNames > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d DNS names of the allow list are ignored: there are more than %d", r.LeftOutNames, MaxNames))
	}
	some(names, "names without an address")
}
