// Package lists holds the lists of addresses: those that are never banned, by files of the whitelist directory and by command, those that
// always are, by files of the blacklist directory, and those that others publish.
//
// The files are read once and again when they change. DNS names of the allow list are kept resolved by package names. Their result is
// one Allow and one Block. A Block, like a feed, is one object from its files to the kernel, however many entries it has.
package lists

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/exempt"
	"mef/internal/lists/feeds"
	"mef/internal/lists/names"
	"mef/internal/prefixset"
)

// Lists are the lists of a host. They belong to one goroutine; Run, Verify, Feeds, Warn, Explain, Listed and Place may be called from any.
type Lists struct {
	host         Host
	log          *slog.Logger
	allow, block directory
	added        map[string]added // allow entries of commands, by text
	names        *names.Keeper    // DNS names of the allow list
	saved        map[string]string
	expiry       *time.Timer // runs until the next of added ends
	watch        *watch
	feeds        *Feeds

	allowed prefixset.Set     // what was applied last: the bans inside it are lifted
	blocked *prefixset.Packed // in force
	report  atomic.Pointer[report]
	logged  struct{ mistakes, notable string }
}

// A directory has the files of one list.
type directory struct {
	path  string
	files []listFile
	err   string // why the directory cannot be read
}

// MaxNames is how many DNS names of the allow list are looked up.
const MaxNames = names.MaxNames

// Options of Lists. The zero value is good for a program that only reads the files.
type Options struct {
	Servers []string      // name servers, host:port; none: those in /etc/resolv.conf
	Timeout time.Duration // of one question to one of them; 0: 2 s
	Log     *slog.Logger  // nil discards

	StateDir string // has the copies of feeds, in a directory of their own
	Version  string // of the program
}

// New returns Lists without entries.
func New(opt Options) *Lists {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	expiry := time.NewTimer(time.Hour)
	expiry.Stop()
	return &Lists{log: opt.Log, added: make(map[string]added), names: names.New(names.Options{Servers: opt.Servers, Timeout: opt.Timeout, Log: opt.Log}), saved: make(map[string]string), expiry: expiry, watch: newWatch(opt.Log),
		feeds: newFeeds(feeds.Options{Dir: filepath.Join(opt.StateDir, "feeds"), Version: opt.Version, Log: opt.Log})}
}

// Feeds returns the lists that others publish.
func (l *Lists) Feeds() *Feeds { return l.feeds }

// Run watches the directories, resolves names and fetches feeds until ctx is done.
func (l *Lists) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.watch.run(ctx) })
	g.Go(func() error { return l.names.Run(ctx) })
	g.Go(func() error { return l.feeds.Run(ctx) })
	return g.Wait()
}

// Watch has changes of the directories reported, and the files read from time to time nevertheless. A directory whose time is 0 is
// left alone. It returns once they are watched, so that a read after it misses no change. Run must be running.
func (l *Lists) Watch(ctx context.Context, paths conf.Paths, whitelist, blacklist time.Duration) {
	const never = 24 * time.Hour
	every := never
	var dirs []string
	for _, d := range []struct {
		path  string
		every time.Duration
	}{{paths.WhitelistDir, whitelist}, {paths.BlacklistDir, blacklist}} {
		if d.every > 0 {
			dirs = append(dirs, d.path)
			every = min(every, d.every)
		}
	}
	l.watch.at(ctx, dirs, every)
}

// FilesChanged receives when files may have changed, so that Read is due.
func (l *Lists) FilesChanged() <-chan struct{} { return l.watch.changed }

// Verify reports whether an address is one of a search engine's crawler; see names.Keeper.Verify. It may be called from any goroutine.
func (l *Lists) Verify(ctx context.Context, addr netip.Addr, domains []string) (bool, error) {
	return l.names.Verify(ctx, addr, domains)
}

// NamesChanged receives when the addresses of names have changed, so that Allow returns something else.
func (l *Lists) NamesChanged() <-chan struct{} { return l.names.Changed() }

// EntryEnds receives when an entry that was added for a time is over, so that Allow returns something else.
func (l *Lists) EntryEnds() <-chan time.Time { return l.expiry.C }

// Read reads the files that have changed since they were last read.
func (l *Lists) Read(paths conf.Paths) {
	l.allow.read(paths.WhitelistDir, byEntry)
	l.block.read(paths.BlacklistDir, asSet)
}

func (d *directory) read(path string, keep format) {
	files, err := readDir(path, d.files, keep)
	d.path, d.files, d.err = path, files, ""
	if err != nil {
		d.err = err.Error()
	}
}

// entries calls do for every entry of the files, in order, until it returns false.
func (d *directory) entries(do func(f *listFile, e *conf.Entry) bool) {
	for i := range d.files {
		for j := range d.files[i].Entries {
			if !do(&d.files[i], &d.files[i].Entries[j]) {
				return
			}
		}
	}
}

// Mistakes returns what is wrong with the files: lines that are no entries, and what cannot be read.
func (l *Lists) Mistakes() (all []string) {
	for _, d := range []*directory{&l.allow, &l.block} {
		if d.err != "" {
			all = append(all, d.err)
		}
	}
	for _, d := range []*directory{&l.allow, &l.block} {
		for _, f := range d.files {
			for _, err := range f.Errors {
				all = append(all, err.Error())
			}
		}
	}
	return all
}

// Names of notes in the saved state begin with these words.
const (
	noteAllow = "allow " // and an entry: an added
	noteName  = "name "  // and a DNS name: a names.Answer
)

// load takes over what an earlier run saved: notes of Allow, Add and Delete. Others are passed over.
func (l *Lists) load(notes map[string]string) {
	l.feeds.load(notes)
	known := make(map[string]names.Answer)
	for note, text := range notes {
		if entry, ok := strings.CutPrefix(note, noteAllow); ok {
			var a added
			if json.Unmarshal([]byte(text), &a) == nil {
				l.added[entry] = a
			}
		} else if name, ok := strings.CutPrefix(note, noteName); ok {
			var a names.Answer
			if json.Unmarshal([]byte(text), &a) == nil {
				known[name] = a
				l.saved[note] = text
			}
		}
	}
	l.names.Know(known)
}

// Events about entries of the allow list.
const (
	Allowed    = "allow"
	Disallowed = "allow-end"
)

// Names of the lists in answers.
const (
	AllowList = "whitelist"
	BlockList = "blacklist"
)

// Show returns the lists: all, or the one of that name.
func (l *Lists) Show(ctx context.Context, only string, facts *exempt.Facts) (control.Lists, error) {
	// Programs that read JSON want lists, if empty ones.
	out := control.Lists{Files: []control.ListFile{}, Entries: []control.Entry{}}
	switch only {
	case "", AllowList, BlockList, control.InKernel:
	default:
		return out, refuse("no list %q; there are %s and %s", only, AllowList, BlockList)
	}
	if only == "" || only == AllowList {
		l.showAllow(&out)
	}
	if only == "" || only == BlockList {
		l.showBlock(&out, facts)
	}
	var err error
	if only == "" {
		if out.Feeds, err = l.feeds.Enabled(ctx); err == nil {
			out.Access, err = l.feeds.accessShown(ctx)
		}
	}
	if err == nil && only != AllowList {
		out.Kernel, err = l.feeds.held(ctx)
	}
	return out, err
}

// showFiles appends the files of a list to an answer.
func (d *directory) showFiles(out *control.Lists, list string) {
	if d.err != "" {
		out.Files = append(out.Files, control.ListFile{List: list, Path: d.path, Errors: []string{d.err}})
	}
	for i := range d.files {
		f := &d.files[i]
		shown := control.ListFile{List: list, Path: f.Path, Size: f.Size, Modified: f.Modified, Entries: f.count}
		for _, err := range f.Errors {
			shown.Errors = append(shown.Errors, err.Error())
		}
		out.Files = append(out.Files, shown)
	}
}

func showEntry(list string, e *conf.Entry) control.Entry {
	return control.Entry{List: list, Entry: e.Text, Source: e.Pos.String(), Note: e.Note}
}

// showAllow appends the allow list to an answer.
func (l *Lists) showAllow(out *control.Lists) {
	l.allow.showFiles(out, AllowList)
	answers := l.names.Answers()
	l.allow.entries(func(_ *listFile, e *conf.Entry) bool {
		shown := showEntry(AllowList, e)
		if _, ok := e.Prefixes(); !ok {
			shown.Resolved = showName(answers, foldName(e.Text))
		}
		out.Entries = append(out.Entries, shown)
		return true
	})
	for _, text := range slices.Sorted(maps.Keys(l.added)) {
		out.Entries = append(out.Entries, l.showAdded(text, l.added[text]))
	}
}

func refuse(format string, args ...any) error {
	return &control.Error{Message: fmt.Sprintf(format, args...)}
}

func hosts(addrs []netip.Addr) prefixset.Set {
	prefixes := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return prefixset.New(prefixes...)
}
