// Package feeds keeps lists of addresses that others publish: it downloads them now and then, refuses what cannot be meant, and keeps the
// last good copy on disk, which counts until there is a newer one.
//
// A publisher makes mistakes and can be broken into, and an outage of its server looks like an empty list. A new version is therefore read to its
// end and compared with the last one before any of it counts; see Keeper.judge for what is refused. Addresses that no host
// elsewhere has are subtracted from every feed and counted; those of this host and of the allow list are subtracted where a feed is
// applied.
package feeds

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/conf"
	"mef/internal/owner"
	"mef/internal/prefixset"
)

// Options of a Keeper.
type Options struct {
	Dir     string         // where copies are kept; made when the first is saved
	Roots   *x509.CertPool // certificates that are trusted; nil: those of this host
	Version string         // of the program, told to servers
	Log     *slog.Logger
}

// A Keeper keeps feeds. Run does the work; all methods may be called from any goroutine.
type Keeper struct {
	dir     string
	fetcher *fetcher
	log     *slog.Logger
	changed chan struct{} // one message stands for all that changed
	wake    chan struct{} // a feed may be due
	updates chan update

	mu    sync.Mutex
	feeds map[string]*feed // enabled or not
}

// An update is a request to fetch a feed now.
type update struct {
	name  string
	force bool
	done  chan<- error
}

// A feed is the state of one.
type feed struct {
	conf.Feed
	list       *prefixset.Packed // nil if there is none, or the feed is not enabled
	copy       copyOf
	subtracted float64 // addresses that no host elsewhere has, of both families
	err        string  // why the last attempt failed; empty if it did not
	tried      time.Time
	next       time.Time
	failures   int
}

// A copyOf describes the copy of a feed on disk. It is saved beside it.
type copyOf struct {
	validators
	URL     string    `json:"url"`
	At      time.Time `json:"at"` // of the last time when the server had this version
	Size    int64     `json:"size"`
	Entries int       `json:"entries"`
	Wrong   int       `json:"wrong,omitempty"`
}

// New returns a Keeper without feeds.
func New(opt Options) *Keeper {
	return &Keeper{dir: opt.Dir, fetcher: newFetcher(opt.Roots, "mef/"+opt.Version), log: opt.Log, changed: make(chan struct{}, 1),
		wake: make(chan struct{}, 1), updates: make(chan update), feeds: make(map[string]*feed)}
}

// Configure replaces the feeds. Copies of those that are enabled are read from disk, so that they count at once and without a network; a
// feed whose way of reading has changed is read again.
func (k *Keeper) Configure(feeds []conf.Feed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.feeds
	k.feeds = make(map[string]*feed, len(feeds))
	for _, c := range feeds {
		f := &feed{Feed: c}
		old := before[c.Name]
		switch {
		case old != nil && c.Enabled && old.Enabled && old.sameText(c):
			kept := *old
			kept.Feed = c
			f = &kept
		case c.Enabled:
			k.load(f)
		}
		k.feeds[c.Name] = f
	}
	owner.Wake(k.changed)
	owner.Wake(k.wake)
}

// sameText reports whether the copy of a feed means the same with another configuration.
func (f *feed) sameText(c conf.Feed) bool {
	return f.URL == c.URL && f.Format == c.Format && f.Column == c.Column && f.Member == c.Member && f.MaxShare == c.MaxShare && f.MaxSize == c.MaxSize
}

// path returns the file of a copy; its description is in path + ".json".
func (k *Keeper) path(name string) string { return filepath.Join(k.dir, name) }

// load reads the copy of a feed from disk. A copy from another address is of no use.
func (k *Keeper) load(f *feed) {
	var about copyOf
	text, err := os.ReadFile(k.path(f.Name) + ".json")
	if err == nil {
		err = json.Unmarshal(text, &about)
	}
	if err != nil || about.URL != f.URL {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.log.Warn("the copy of a feed cannot be used", "feed", f.Name, "err", err)
		}
		return
	}
	parsed, err := k.read(k.path(f.Name), f)
	if err == nil {
		about.Entries, about.Wrong = parsed.Entries, parsed.Wrong
		f.subtracted, err = judge(&parsed, f, false)
	}
	if err != nil {
		f.err = fmt.Sprintf("the copy on disk: %v", err)
		return
	}
	f.list, f.copy = parsed.List, about
	f.next = about.At.Add(jitter(f.Refresh))
	if about.At.After(time.Now()) {
		f.next = time.Time{} // the clock was wrong then
	}
}

// read parses a file.
func (k *Keeper) read(path string, f *feed) (Parsed, error) {
	file, err := os.Open(path)
	if err != nil {
		return Parsed{}, err
	}
	defer file.Close()
	return Parse(file, f.Feed)
}

// jitter returns about d, so that not all hosts ask at the same time.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1))
}

// How many entries a feed must have, before or now, and how many addresses of a family (of IPv6: /64 networks), for its growth to mean
// anything.
const (
	manyEntries   = 100
	manyAddresses = 1 << 16
)

// judge subtracts the addresses that no host elsewhere has from a parsed feed, and returns how many these were, or why the feed cannot be
// meant. With compare, its size is compared with that of the copy of f, which it replaces.
func judge(p *Parsed, f *feed, compare bool) (subtracted float64, err error) {
	all := p.List
	p.List = all.Subtract(special)
	for _, v6 := range []bool{false, true} {
		subtracted += all.Addresses(v6) - p.List.Addresses(v6)
		if share := p.List.Addresses(v6) / public(v6) * 100; share > float64(f.MaxShare) {
			return 0, fmt.Errorf("it covers %.0f percent of all public %s addresses, more than %d (max_share)", share, family(v6), f.MaxShare)
		}
	}
	if p.List.Len() == 0 {
		return 0, errors.New("it has no public address")
	}
	if !compare {
		return subtracted, nil
	}
	for _, size := range []struct {
		before, now, many float64
		of                string
	}{
		{float64(f.copy.Entries), float64(p.Entries), manyEntries, "entries"},
		{f.list.Addresses(false), p.List.Addresses(false), manyAddresses, "IPv4 addresses"},
		{f.list.Networks64(), p.List.Networks64(), manyAddresses, "IPv6 networks (/64)"},
	} {
		var change string
		switch {
		case max(size.before, size.now) < size.many:
		case size.now > 10*size.before:
			change = "grown from %.0f %s to %.0f, more than tenfold"
		case 10*size.now < size.before:
			change = "shrunk from %.0f %s to %.0f, less than a tenth"
		}
		if change != "" {
			return 0, fmt.Errorf("it has "+change+"; mefctl feeds update %s --force accepts that", size.before, size.of, size.now, f.Name)
		}
	}
	return subtracted, nil
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// Run fetches feeds when they are due, one after the other, until ctx is done.
func (k *Keeper) Run(ctx context.Context) error {
	k.removeLeftovers()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-k.updates:
			u.done <- k.update(ctx, u.name, u.force)
		case <-k.wake:
		case <-timer.C:
			if name := k.due(time.Now()); name != "" {
				_ = k.update(ctx, name, false) // is in its state
			}
		}
		timer.Reset(k.wait(time.Now()))
	}
}

// due returns the enabled feed that is due for longest; "" if none is.
func (k *Keeper) due(now time.Time) (name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var first time.Time
	for _, f := range k.feeds {
		if f.Enabled && !f.next.After(now) && (name == "" || f.next.Before(first)) {
			name, first = f.Name, f.next
		}
	}
	return name
}

// wait returns the time until the next feed is due.
func (k *Keeper) wait(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	least := time.Hour
	for _, f := range k.feeds {
		if f.Enabled {
			least = min(least, max(0, f.next.Sub(now)))
		}
	}
	return least
}

// Pauses after failures, each twice the one before.
const (
	firstRetry = time.Minute
	lastRetry  = 6 * time.Hour
)

// update fetches a feed and takes over its new version, unless that is refused: then the copy there is stays. With force, only
// what is no list, and a list that covers too much, is refused.
func (k *Keeper) update(ctx context.Context, name string, force bool) error {
	k.mu.Lock()
	f := k.feeds[name]
	if f == nil || !f.Enabled {
		k.mu.Unlock()
		return fmt.Errorf("feed %s is not enabled", name)
	}
	was := *f
	k.mu.Unlock()
	now := time.Now()
	next, err := k.renew(ctx, &was, force)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if f = k.feeds[name]; f == nil || !f.Enabled || !f.sameText(was.Feed) {
		owner.Wake(k.wake)
		return fmt.Errorf("feed %s: its configuration has changed meanwhile", name)
	}
	f.tried = now
	if err != nil {
		f.failures++
		f.next = now.Add(jitter(min(firstRetry<<min(f.failures-1, 10), lastRetry, f.Refresh)))
		if f.err != err.Error() {
			k.log.Warn("feed not updated", "feed", name, "url", f.URL, "err", err, "entries in force", f.list.Len())
		}
		f.err = err.Error()
		return fmt.Errorf("%s: %w", f.URL, err)
	}
	f.failures, f.err, f.next = 0, "", now.Add(jitter(f.Refresh))
	isNew := next.list != f.list
	f.list, f.copy, f.subtracted = next.list, next.copy, next.subtracted
	if isNew {
		k.log.Info("feed updated", "feed", name, "entries", f.copy.Entries, "bytes", f.copy.Size)
		owner.Wake(k.changed)
	}
	return nil
}

// renew returns the state of a feed after a successful attempt to fetch it.
func (k *Keeper) renew(ctx context.Context, f *feed, force bool) (*feed, error) {
	if err := os.MkdirAll(k.dir, 0o750); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(k.dir, leftover+"*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name()) // of no effect once it is renamed
	defer file.Close()
	known := f.copy.validators
	if f.list == nil {
		known = validators{}
	}
	got, err := k.fetcher.fetch(ctx, f.URL, known, f.copy.Size, int64(f.MaxSize)<<20, file)
	if err != nil {
		return nil, err
	}
	next := *f
	if got.unchanged {
		next.copy.At = time.Now()
		return &next, k.describe(&next)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	parsed, err := Parse(file, f.Feed)
	if err != nil {
		return nil, err
	}
	if next.subtracted, err = judge(&parsed, f, !force && f.list != nil); err != nil {
		return nil, err
	}
	if err := file.Sync(); err != nil {
		return nil, err
	}
	// If the description does not follow the text, that of an earlier version makes the server send the text again.
	next.copy = copyOf{validators: got.validators, URL: f.URL, At: time.Now(), Size: got.size, Entries: parsed.Entries, Wrong: parsed.Wrong}
	if err := os.Rename(file.Name(), k.path(f.Name)); err != nil {
		return nil, err
	}
	if next.list = parsed.List; parsed.List.Equal(f.list) {
		next.list = f.list
	}
	return &next, k.describe(&next)
}

// leftover begins the names of files that are being written.
const leftover = ".new-"

// describe saves the description of a copy.
func (k *Keeper) describe(f *feed) error {
	text, err := json.Marshal(f.copy)
	if err != nil {
		return err
	}
	return atomicfile.Write(k.path(f.Name)+".json", append(text, '\n'), 0o640)
}

// removeLeftovers removes what an earlier run did not finish.
func (k *Keeper) removeLeftovers() {
	names, _ := filepath.Glob(k.path(leftover) + "*")
	for _, name := range names {
		_ = os.Remove(name)
	}
}

// Update fetches a feed now, and returns once its new version counts, or why it does not. See update about force.
func (k *Keeper) Update(ctx context.Context, name string, force bool) error {
	done := make(chan error, 1)
	select {
	case k.updates <- update{name, force, done}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Changed receives when what Enabled returns has changed.
func (k *Keeper) Changed() <-chan struct{} { return k.changed }

// A Feed is an enabled feed that has a good copy.
type Feed struct {
	conf.Feed
	List *prefixset.Packed // without addresses that no host elsewhere has
}

// Enabled returns the feeds that are enabled and have a good copy, in the order of their names.
func (k *Keeper) Enabled() (all []Feed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(k.feeds)) {
		if f := k.feeds[name]; f.Enabled && f.list != nil {
			all = append(all, Feed{f.Feed, f.list})
		}
	}
	return all
}

// A State describes a feed.
type State struct {
	conf.Feed
	Fetched    time.Time // the last time when the server had the version that counts; zero: there is none
	Tried      time.Time // the last attempt since the start
	Next       time.Time // zero if the feed is not enabled
	Entries    int
	Wrong      int
	Subtracted float64 // addresses that no host elsewhere has
	Size       int64   // bytes
	Err        string  // why the last attempt failed
}

// States returns the state of every feed, in the order of their names.
func (k *Keeper) States() (all []State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(k.feeds)) {
		f := k.feeds[name]
		s := State{Feed: f.Feed, Fetched: f.copy.At, Tried: f.tried, Entries: f.copy.Entries, Wrong: f.copy.Wrong, Subtracted: f.subtracted, Size: f.copy.Size, Err: f.err}
		if f.Enabled {
			s.Next = f.next
		}
		all = append(all, s)
	}
	return all
}

// A Match is an entry of a feed that has an address.
type Match struct {
	conf.Feed
	Fetched time.Time
	Line    int // in the copy, from 1; 0 if it cannot be read
	Text    string
}

// Find returns the entries of enabled feeds that have an address, the first one of each. It reads the copies on disk.
func (k *Keeper) Find(addr netip.Addr) (all []Match) {
	k.mu.Lock()
	for _, name := range slices.Sorted(maps.Keys(k.feeds)) {
		if f := k.feeds[name]; f.Enabled && f.list.Contains(addr) {
			all = append(all, Match{Feed: f.Feed, Fetched: f.copy.At})
		}
	}
	k.mu.Unlock()
	for i := range all {
		m := &all[i]
		file, err := os.Open(k.path(m.Name))
		if err != nil {
			continue
		}
		m.Line, m.Text, err = Line(file, m.Feed, addr)
		file.Close()
		if err != nil {
			m.Line, m.Text = 0, ""
		}
	}
	return all
}

// Problems returns what an operator should know: feeds that are refused or cannot be fetched.
func (k *Keeper) Problems() (all []string) {
	for _, s := range k.States() {
		if !s.Enabled || s.Err == "" {
			continue
		}
		what := "there is no earlier copy"
		if !s.Fetched.IsZero() {
			what = "the copy of " + s.Fetched.Local().Format(time.DateTime) + " stays in force"
		}
		all = append(all, fmt.Sprintf("feed %s: %s: %s; %s", s.Name, s.URL, strings.TrimSpace(s.Err), what))
	}
	return all
}
