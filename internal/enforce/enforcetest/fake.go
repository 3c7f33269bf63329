// Package enforcetest tests packet filters behind an enforce.Enforcer: a fake one in memory, and the promises that every
// Backend keeps, as tests that run over the fake and over the kernel alike.
package enforcetest

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/prefixset"
)

// A Fake is a packet filter in memory. The zero value is an empty one, without table. It may be used from any goroutine.
type Fake struct {
	mu                sync.Mutex
	built             bool
	allow             prefixset.Set
	grace             map[netip.Prefix]time.Time // zero: permanent
	except            map[netip.Prefix]time.Time // zero: permanent
	bans              map[ban.Key]time.Time
	notices           []func(enforce.Notice)
	refuse            func(k ban.Key, held int) error
	err               error
	writeErr, readErr error
	readsUntil        int // writes until which reads do not fail by readErr
	writes            int
	dumps             int
	late              bool
	unseen            []ban.Key
	lists             map[string]enforce.List
	lost              []string // lists that LoseList lost
	drops             enforce.Drops
}

// Lose loses everything, as if by nft flush ruleset.
func (f *Fake) Lose(by string) {
	f.mu.Lock()
	f.lose()
	f.mu.Unlock()
	f.notify(by)
}

func (f *Fake) lose() {
	f.built, f.allow, f.grace, f.except, f.bans, f.lists = false, prefixset.Set{}, nil, nil, nil, nil
}

// Break loses what bans belong in, as if a set were deleted, and leaves the elements of others. Nobody is told.
func (f *Fake) Break() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.built = false
}

// LoseAfterCheck loses everything as Lose does, but only behind the next Check, which still finds it whole. Nobody is told.
func (f *Fake) LoseAfterCheck() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late = true
}

// Overlook makes the next Held of everything pass over a ban, as the kernel does while others end.
func (f *Fake) Overlook(k ban.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unseen = append(f.unseen, k)
}

// LoseBan loses one ban. If by is empty, nobody is told.
func (f *Fake) LoseBan(k ban.Key, by string) {
	f.mu.Lock()
	delete(f.bans, k)
	f.mu.Unlock()
	if by != "" {
		f.notify(by)
	}
}

// LoseList loses the entries of a list.
func (f *Fake) LoseList(name, by string) {
	f.mu.Lock()
	f.lists[name] = enforce.List{Name: name}
	f.lost = append(f.lost, name)
	f.mu.Unlock()
	f.notify(by)
}

// SetList implements enforce.Backend. It takes two steps.
func (f *Fake) SetList(l enforce.List) func(context.Context) (bool, error) {
	begun := false
	return func(context.Context) (done bool, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if err := cmp.Or(f.err, f.writeErr); err != nil {
			return false, err
		}
		switch {
		case !f.built:
			return false, errNoTable
		case !begun:
			begun = true
			return false, nil
		case l.Addrs.Len() == 0:
			delete(f.lists, l.Name)
		default:
			if f.lists == nil {
				f.lists = map[string]enforce.List{}
			}
			f.lists[l.Name] = l
		}
		f.writes++
		return true, nil
	}
}

// KeepLists implements enforce.Backend.
func (f *Fake) KeepLists(_ context.Context, names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.lists, func(name string, _ enforce.List) bool { return !slices.Contains(names, name) })
	return cmp.Or(f.err, f.writeErr)
}

// Lists implements enforce.Backend.
func (f *Fake) Lists(context.Context) (all []enforce.HeldList, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.lists)) {
		all = append(all, enforce.HeldList{Name: name, Entries: f.lists[name].Addrs.Len()})
	}
	return all, f.err
}

// Drops implements enforce.Backend. A Fake drops nothing by itself; SetDrops says what.
func (f *Fake) Drops(context.Context) (enforce.Drops, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drops, f.err
}

// SetDrops sets what Drops returns.
func (f *Fake) SetDrops(d enforce.Drops) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drops = d
}

// List returns the addresses of a list, nil if there is none of that name.
func (f *Fake) List(name string) *prefixset.Packed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists[name].Addrs
}

// Listed implements enforce.Backend.
func (f *Fake) Listed(_ context.Context, addr netip.Addr) (names []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.lists)) {
		if f.lists[name].Addrs.Contains(addr) {
			names = append(names, name)
		}
	}
	return names, f.err
}

func (f *Fake) notify(by string) {
	f.mu.Lock()
	notices := slices.Clone(f.notices)
	f.mu.Unlock()
	for _, changed := range notices {
		changed(enforce.Notice{By: by})
	}
}

// Refuse makes the filter refuse bans with the error that fn returns for them, told how many it holds.
func (f *Fake) Refuse(fn func(k ban.Key, held int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = fn
}

// Fail makes everything fail with err until it is called with nil.
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// FailWrites makes what changes something fail with err, until it is called with nil.
func (f *Fake) FailWrites(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writeErr = err
}

// FailReads makes what reads single bans fail with err from the next transaction on, until it is called with nil.
func (f *Fake) FailReads(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readErr, f.readsUntil = err, f.writes
}

// Writes returns how many transactions there were.
func (f *Fake) Writes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// Dumps returns how often all bans were read.
func (f *Fake) Dumps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dumps
}

// Apply implements enforce.Backend.
func (f *Fake) Apply(_ context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmp.Or(f.err, f.writeErr); err != nil {
		return nil, err
	}
	if !f.built {
		return nil, errNoTable
	}
	return f.apply(c)
}

type fakeError string

func (e fakeError) Error() string { return string(e) }

const errNoTable = fakeError("no table")

func (f *Fake) apply(c enforce.Changes) (failed []enforce.Failure, err error) {
	f.writes++
	now := time.Now()
	if c.Allow != nil {
		f.allow = *c.Allow
	}
	if err := set(f.grace, c.Grace, now); err != nil {
		return nil, err
	}
	if err := set(f.except, c.Except, now); err != nil {
		return nil, err
	}
	for _, b := range c.Bans {
		if b.Remove {
			delete(f.bans, b.Key)
			continue
		}
		if f.refuse != nil {
			if err := f.refuse(b.Key, len(f.bans)); err != nil {
				failed = append(failed, enforce.Failure{Key: b.Key, Err: err})
				continue
			}
		}
		if f.bans[b.Key], err = end(b.Timeout, now); err != nil {
			return nil, err
		}
	}
	return failed, nil
}

func set(ends map[netip.Prefix]time.Time, changes []enforce.Element, now time.Time) (err error) {
	for _, e := range changes {
		if delete(ends, e.Prefix); !e.Remove {
			if ends[e.Prefix], err = end(e.Timeout, now); err != nil {
				return err
			}
		}
	}
	return nil
}

func end(t enforce.Timeout, now time.Time) (time.Time, error) {
	ms, err := t.Milliseconds()
	if err != nil || ms == 0 {
		return time.Time{}, err
	}
	return now.Add(time.Duration(ms) * time.Millisecond), nil
}

// Rebuild implements enforce.Backend.
func (f *Fake) Rebuild(_ context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmp.Or(f.err, f.writeErr); err != nil {
		return nil, err
	}
	f.built, f.allow = true, prefixset.Set{}
	f.grace, f.except, f.bans = map[netip.Prefix]time.Time{}, map[netip.Prefix]time.Time{}, map[ban.Key]time.Time{}
	return f.apply(c)
}

// Check implements enforce.Backend.
func (f *Fake) Check(context.Context) (enforce.Check, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var c enforce.Check
	for _, until := range f.bans {
		if until.IsZero() || until.After(time.Now()) {
			c.Bans++
		}
	}
	if !f.built {
		c.Damaged = []string{"table"}
	}
	c.Lists, f.lost = f.lost, nil
	if f.late {
		f.late = false
		f.lose()
	}
	return c, f.err
}

// Held implements enforce.Backend.
func (f *Fake) Held(_ context.Context, keys ...ban.Key) (enforce.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	s := enforce.State{Allow: f.allow, Grace: elements(f.grace, now), Except: elements(f.except, now)}
	for k, until := range f.bans {
		wanted := slices.Contains(keys, k) || len(keys) == 0 && !slices.Contains(f.unseen, k)
		if wanted && (until.IsZero() || until.After(now)) {
			s.Bans = append(s.Bans, enforce.Held{Key: k, Until: until})
		}
	}
	if len(keys) == 0 {
		f.unseen = nil
		f.dumps++
	}
	slices.SortFunc(s.Bans, func(a, b enforce.Held) int { return a.Key.Compare(b.Key) })
	if len(keys) > 0 && f.writes > f.readsUntil {
		return s, cmp.Or(f.err, f.readErr)
	}
	return s, f.err
}

func elements(ends map[netip.Prefix]time.Time, now time.Time) (es []enforce.Element) {
	for p, until := range ends {
		if until.IsZero() || until.After(now) {
			es = append(es, enforce.Element{Prefix: p, Timeout: enforce.TimeoutUntil(until, now)})
		}
	}
	return es
}

// Names implements enforce.Backend.
func (f *Fake) Names() enforce.Names {
	return enforce.Names{Filter: "memory", Table: "table of a test"}
}

// SetOf implements enforce.Backend.
func (f *Fake) SetOf(k ban.Key) string { return k.String() }

// Configure implements enforce.Backend.
func (f *Fake) Configure(enforce.Settings) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Detection implements enforce.Backend.
func (f *Fake) Detection() (enforce.Detection, error) { return enforce.Detection{}, nil }

// LoseException loses one exception. Nobody is told.
func (f *Fake) LoseException(addr netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.except, netip.PrefixFrom(addr, addr.BitLen()))
}

// Watch implements enforce.Backend.
func (f *Fake) Watch(ctx context.Context, changed func(enforce.Notice)) error {
	f.mu.Lock()
	f.notices = append(f.notices, changed)
	f.mu.Unlock()
	changed(enforce.Notice{})
	<-ctx.Done()
	return nil
}
