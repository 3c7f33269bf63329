package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/conf/rulefile"
	"mef/internal/control"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/kernel"
	"mef/internal/feed"
	"mef/internal/filter"
	"mef/internal/history"
	"mef/internal/lists"
	"mef/internal/notify"
	"mef/internal/owner"
	"mef/internal/pagechild"
	"mef/internal/pipeline"
	"mef/internal/sdnotify"
)

// patience is how long a test waits for what should happen.
const patience = time.Minute

// withoutJournald is a host on which all files are believed, and of whose services nothing is known.
var withoutJournald = &feed.Host{Shared: func(string) bool { return false }, Files: feed.Files, Program: func(string) bool { return false }}

// A house is a daemon over a packet filter in memory, with everything it reads in one directory.
type house struct {
	*testing.T
	*daemon
	dir    string
	filter *enforcetest.Fake
	dns    string // a name server; there is none unless a test starts it
	end    func() // ends the daemon, which start starts again
	docker string // Docker's directory; there is none unless a test makes it

	maxBans int
}

// settle starts a daemon that has no shipped rule. Of the text of its mef.conf and its files, HERE is the directory.
func settle(t *testing.T, settings string, files map[string]string) *house {
	t.Helper()
	h := &house{T: t}
	h.settle(settings, files)
	return h
}

func (h *house) settle(settings string, files map[string]string) {
	h.Helper()
	t := h.T
	h.dir, h.filter, h.dns = t.TempDir(), new(enforcetest.Fake), "127.0.0.1:1"
	for _, sub := range []string{"rules", "allow", "deny", "state", "log"} {
		if err := os.Mkdir(filepath.Join(h.dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shipped, err := rulefile.Shipped(filter.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range shipped {
		h.write("rules/"+r.Name+".conf", "[rule]\nenabled=false\n")
	}
	for name, text := range files {
		h.write(name, text)
	}
	h.configure(settings)
	h.start()
}

// write replaces a file at once, as an editor does.
func (h *house) write(name, text string) {
	h.Helper()
	path := filepath.Join(h.dir, name)
	text = strings.ReplaceAll(text, "HERE", h.dir)
	if err := errors.Join(os.WriteFile(path+"~", []byte(text), 0o600), os.Rename(path+"~", path)); err != nil {
		h.Fatal(err)
	}
}

func (h *house) configure(settings string) {
	h.write("mef.conf", "[global]\nrules_dir=HERE/rules\nwhitelist_dir=HERE/allow\nblacklist_dir=HERE/deny\ncache_dir=HERE/state\n"+
		"control_socket=HERE/sock\n"+settings)
}

// build returns the daemon before it runs.
func (h *house) build() *built {
	h.Helper()
	load := func() (*conf.Config, error) {
		return mefconf.Loader{Shipped: filter.Shipped(), SkipLists: true}.Load(filepath.Join(h.dir, "mef.conf"))
	}
	cfg, err := load()
	if err != nil {
		h.Fatal(err)
	}
	b, err := build(cfg, Options{Log: quiet(), Load: load, Manager: (*sdnotify.Manager)(nil), Notify: notify.New(cfg.Notify, quiet()), History: history.New("test", cfg.Paths.StateDir, quiet()), Page: pagechild.New(quiet(), cfg.Page, cfg.Paths.StateDir, "test"), Firewall: func(*conf.Config) []string { return nil }}, machine{
		filter: func(p *pipeline.Pipeline, s *pipeline.State) *kernel.Kernel {
			facts := s.Engine.Facts()
			opt := p.EnforceOptions(facts.Reachable())
			opt.MaxBans = h.maxBans
			return kernel.Over(h.filter, quiet(), opt)
		},
		look:  func(context.Context) *feed.Host { return h.look() },
		names: lists.Options{Servers: []string{h.dns}, Timeout: 10 * time.Second},
	})
	if err != nil {
		h.Fatal(err)
	}
	return b
}

// look returns the host as it is now.
func (h *house) look() *feed.Host {
	if h.docker == "" {
		return withoutJournald
	}
	now, docker := *withoutJournald, feed.LookAtContainers(h.docker)
	now.Containers, now.ContainersError, now.Listeners = docker.Containers, docker.ContainersError, docker.Listeners
	return &now
}

// start runs the daemon until the test ends.
func (h *house) start() {
	h.Helper()
	b := h.build()
	h.daemon = b.daemon
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- b.run(ctx, func(ctx context.Context) error {
			g, ctx := errgroup.WithContext(ctx)
			b.decide(ctx, g)
			return g.Wait()
		})
	}()
	h.end = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			h.Errorf("the daemon ended: %v", err)
		}
	})
	h.Cleanup(func() { h.end() })
}

// await polls until ok, and fails the test if that takes too long.
func (h *house) await(what string, ok func() bool) {
	h.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// A recorder is a sink that sends every record to a channel.
type recorder chan control.Record

func (recorder) Open() error  { return nil }
func (recorder) Close() error { return nil }

func (r recorder) Write(recs []control.Record) error {
	for _, rec := range recs {
		r <- rec
	}
	return nil
}

// everything returns a channel with every record from now on; it must be read before it is full.
func (h *house) everything() <-chan control.Record {
	all := make(recorder, 1<<19)
	h.Records.Attach("test", all, nil)
	return all
}

const counterRule = "[rule]\nprograms=counter\nsource=file\nfiles=%s\nmaxretry=%d\nfailregex=^refused user (?P<user>[0-9]+) from <HOST>$\nokregex=^accepted user (?P<user>[0-9]+) from <HOST>$\n"

// A scribe writes lines, each with a number of its own, to two files, of which one is rotated now and then.
type scribe struct {
	dir   string
	files [2]*os.File
	lines int
	burst int // lines at a time
}

func (s *scribe) open(i int) (err error) {
	if s.files[i] != nil {
		s.files[i].Close()
	}
	s.files[i], err = os.OpenFile(filepath.Join(s.dir, string("ab"[i])+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return err
}

// write appends n lines to one of the files.
func (s *scribe) write(i, n int) error {
	var text []byte
	for range n {
		s.lines++
		text = fmt.Appendf(text, "%s h counter[1]: refused user %d from 203.0.113.%d\n", time.Now().Format(time.Stamp), s.lines, s.lines%200)
	}
	_, err := s.files[i].Write(text)
	return err
}

// rotate renames the first file and begins another.
func (s *scribe) rotate() error {
	path := filepath.Join(s.dir, "a.log")
	return errors.Join(os.Rename(path, path+".1"), s.open(0))
}

// maxLag is how many lines the daemon may lag behind on a slow machine, before the scribe waits for it: fewer than there are
// between two rotations, of which only the last one's file is kept.
const maxLag = 4000

// scribble writes 200 bursts a second until ctx is done; read tells how many the daemon has read.
func (s *scribe) scribble(ctx context.Context, read *atomic.Int64) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.lines-int(read.Load()) > maxLag {
			continue
		}
		if err := errors.Join(s.write(0, s.burst), s.write(1, s.burst)); err != nil {
			return err
		}
		if turn%50 == 49 {
			if err := s.rotate(); err != nil {
				return err
			}
		}
	}
}

// TestReloadLosesNoLine reloads fifty times, each time with other rules, other limits and other files to follow, while 20,000
// lines a second are written to files that are rotated meanwhile, and while batches wait for the engine. Every line is counted
// once. The short test, for the race detector, has fewer of all.
func TestReloadLosesNoLine(t *testing.T) {
	h := settle(t, "mode=observe\n", map[string]string{"log/a.log": "", "log/b.log": "",
		"rules/counter.conf": fmt.Sprintf(counterRule, "HERE/log/a.log,HERE/log/b.log", 5)})
	h.await("both files are followed", func() bool { return h.active() == 2 })
	records := h.everything()
	reloads, burst := 50, 100
	if testing.Short() {
		reloads, burst = 15, 20
	}
	s := &scribe{dir: h.dir + "/log", burst: burst}
	if err := errors.Join(s.open(0), s.open(1)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error)
	var read atomic.Int64
	go func() { written <- s.scribble(ctx, &read) }()
	var counts []int // by number of the line
	count := func(rec control.Record) {
		if rec.Event != "failure" {
			return
		}
		n, _ := strconv.Atoi(rec.User)
		counts = append(counts, make([]int, max(0, n+1-len(counts)))...)
		counts[n]++
		read.Add(1)
	}
	for i := range reloads {
		globs := []string{"HERE/log/a.log,HERE/log/b.log", "HERE/log/[ab].log"}[i%2]
		h.write("rules/counter.conf", fmt.Sprintf(counterRule, globs, 3+i))
		busy := make(chan error)
		go func() {
			busy <- owner.Do(t.Context(), h.Engine, func(*pipeline.State) { time.Sleep(30 * time.Millisecond) })
		}()
		if _, err := h.Reload(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		if err := <-busy; err != nil {
			t.Fatal(err)
		}
		for range len(records) {
			count(<-records)
		}
	}
	stop()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	for end := time.After(patience); read.Load() < int64(s.lines); {
		select {
		case rec := <-records:
			count(rec)
		case <-end:
			t.Fatalf("%d of %d lines were counted; the first that was not: %d", read.Load(), s.lines, 1+slices.Index(counts[1:], 0))
		}
	}
	t.Logf("%d lines", s.lines)
	for n, times := range counts[1:] {
		if times != 1 {
			t.Fatalf("line %d of %d was counted %d times", n+1, s.lines, times)
		}
	}
}

// active returns how many sources are being read.
func (h *house) active() int {
	n := 0
	for _, src := range h.status().Sources {
		if src.State == "active" {
			n++
		}
	}
	return n
}

func (h *house) status() control.Status {
	h.Helper()
	s, err := h.Status(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	return s
}

// TestReloadKeepsWhatWasCounted: attempts before a reload count with those after it, under the limit that holds then.
func TestReloadKeepsWhatWasCounted(t *testing.T) {
	h := settle(t, "", map[string]string{"log/a.log": "",
		"rules/counter.conf": fmt.Sprintf(counterRule, "HERE/log/a.log", 9)})
	h.await("the file is followed", func() bool { return h.active() == 1 })
	attempts := func(n int) {
		f, err := os.OpenFile(h.dir+"/log/a.log", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for i := range n {
			fmt.Fprintf(f, "%s h counter[1]: refused user %d from 203.0.113.7\n", time.Now().Format(time.Stamp), i)
		}
	}
	failures := func() uint64 { return h.status().Rules[0].Failures }
	attempts(3)
	h.await("three attempts are counted", func() bool { return failures() == 3 })
	h.write("rules/counter.conf", fmt.Sprintf(counterRule, "HERE/log/a.log", 4))
	h.write("rules/another.conf", fmt.Sprintf(counterRule, "HERE/log/none.log", 2))
	r, err := h.Reload(t.Context(), "alice")
	if err != nil || r.Rules != 2 || r.Mode != "enforce" {
		t.Fatalf("reload: %+v, %v", r, err)
	}
	attempts(1)
	h.await("the fourth attempt makes a ban", func() bool {
		bans, err := h.Bans(t.Context())
		return err == nil && len(bans) == 1 && bans[0].Prefix == "203.0.113.7" && bans[0].Kernel
	})
	h.write("rules/counter.conf", "[rule]\nenabled=false\nprograms=counter\nfailregex=^x <HOST>$\n")
	if _, err := h.Reload(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if bans, err := h.Bans(t.Context()); err != nil || len(bans) != 1 || bans[0].Rule != "counter" {
		t.Errorf("bans after the rule went: %v, %v; want the one it made", bans, err)
	}
}

// TestBadReloadChangesNothing: the error is what config check prints, and the configuration before stays in force.
func TestBadReloadChangesNothing(t *testing.T) {
	h := settle(t, "", map[string]string{"rules/counter.conf": fmt.Sprintf(counterRule, "HERE/log/a.log", 9)})
	before := h.status()
	h.configure("mdoe=observe\n")
	h.write("rules/other.conf", "[rule]\nprograms=other\nfailregex=^(?=x)bad <HOST>$\n")
	_, err := h.Reload(t.Context(), "alice")
	refused := new(control.Error)
	if !errors.As(err, &refused) {
		t.Fatalf("Reload = %v, want a refusal", err)
	}
	_, check := mefconf.Load(h.path, filter.Shipped())
	if check == nil || refused.Message != check.Error() {
		t.Errorf("the error is\n%s\nwant\n%v", refused.Message, check)
	}
	if after := h.status(); after.Mode != before.Mode || len(after.Rules) != len(before.Rules) {
		t.Errorf("mode %s and %d rules are in force, want %s and %d", after.Mode, len(after.Rules), before.Mode, len(before.Rules))
	}
}

// TestReloadSwitches goes from one mode to the other, and cannot take the socket along.
func TestReloadSwitches(t *testing.T) {
	h := settle(t, "", nil)
	h.configure("mode=observe\nban_log_enabled=true\nban_log_path=HERE/events.json\n")
	text, err := os.ReadFile(h.path)
	if err != nil {
		t.Fatal(err)
	}
	h.write("mef.conf", strings.Replace(string(text), h.dir+"/sock", h.dir+"/sock2", 1))
	r, err := h.Reload(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s:6:1: control_socket: %q takes effect when mefdaemon is restarted; until then it is %q",
		h.path, h.dir+"/sock2", h.dir+"/sock")
	if len(r.Notices) != 1 || !strings.HasPrefix(r.Notices[0], h.path+":6:") || !strings.HasSuffix(r.Notices[0], want[strings.Index(want, "control"):]) {
		t.Errorf("notices %q, want %q", r.Notices, want)
	}
	if s := h.status(); s.Mode != "observe" || r.Mode != "observe" {
		t.Errorf("mode %s, and %s in the answer; want observe", s.Mode, r.Mode)
	}
	if _, err := h.Ban(t.Context(), control.BanRequest{Prefix: "203.0.113.7"}); err == nil {
		t.Error("a ban was taken in observe mode")
	}
	h.await("the event log has the reload", func() bool {
		events, err := os.ReadFile(h.dir + "/events.json")
		return err == nil && strings.Contains(string(events), `"event":"reload"`)
	})
}
