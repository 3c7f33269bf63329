package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/logtime"
	"mef/internal/source/journal"
	"mef/internal/source/logfile"
)

// sources are the followers: one for the journal, one for all files.
type sources struct {
	want
	journal *journal.Follower // nil where no rule reads the journal
	files   *logfile.Follower // nil where no rule reads files
}

// A want says what has to be followed.
type want struct {
	entries bool     // the journal's
	globs   []string // sorted
}

// wanted returns what has to be followed for rules that find their lines where lives says.
func wanted(lives map[string]*live) want {
	var w want
	for _, l := range lives {
		w.entries = w.entries || l.rule.Source != conf.SourceFile
		if l.from != inJournal {
			w.globs = append(w.globs, l.rule.Files...)
		}
	}
	slices.Sort(w.globs)
	w.globs = slices.Compact(w.globs)
	return w
}

// seenAge is how recent a service's entries must be for the journal to be its source.
const seenAge = 30 * 24 * time.Hour

// newSources makes followers of what is wanted, which begin where the engine stopped reading. Of the sources before, which may
// be nil, a follower of the same remains.
func newSources(e *loop, w want, before *sources) *sources {
	s := &sources{want: w}
	switch {
	case before != nil && before.entries == w.entries:
		s.journal = before.journal
	case w.entries:
		s.journal = journal.New(journal.Config{Resume: e.positions[journal.Source], Since: e.cfg.JournalSince, Log: e.log}, e.batches)
	}
	switch {
	case before != nil && slices.Equal(before.globs, w.globs):
		s.files = before.files
	case len(w.globs) > 0:
		s.files = logfile.New(logfile.Config{
			Globs:  w.globs,
			Resume: e.positions,
			Recent: logfile.Recent{Lines: e.cfg.FileRecent.Lines, Window: e.cfg.FileRecent.Window},
			Stamp:  func(line []byte, now time.Time) (time.Time, bool) { return logtime.Parse(line, now, time.Local) },
			Log:    e.log,
		}, e.batches)
	}
	return s
}

// choose finds out where each rule's lines come from. programs are those that log to the journal.
func (e *loop) choose(programs []string, found func(glob string) bool) {
	for i := range e.cfg.Rules {
		rule := &e.cfg.Rules[i]
		if !rule.Enabled {
			continue
		}
		l := newLive(rule, func(program string) bool { return e.set.Covers(rule.Name, program) }, programs, found)
		e.lives[rule.Name] = l
		e.log.Info("rule", "name", rule.Name, "from", l.from.String(), "reason", l.reason)
	}
}

// inJournal returns the programs whose entries in the journal some rule of cfg with source=auto believes. set is of these rules.
func (e *loop) inJournal(ctx context.Context, cfg *conf.Config, set *filter.Set) []string {
	anyAuto := func(ok func(rule string) bool) bool {
		return slices.ContainsFunc(cfg.Rules, func(r conf.Rule) bool {
			return r.Enabled && r.Source == conf.SourceAuto && ok(r.Name)
		})
	}
	programs, err := journal.Seen(ctx, journal.Options{}, seenAge,
		func(program string) bool {
			return anyAuto(func(rule string) bool { return set.Covers(rule, program) })
		},
		func(entry *event.Entry) bool {
			return anyAuto(func(rule string) bool { return set.Believes(rule, entry) })
		})
	if err != nil && !errors.Is(err, journal.ErrNoJournal) {
		e.log.Warn("looking for services in the journal", "err", err)
	}
	return slices.Sorted(maps.Keys(programs))
}

// exists reports whether a glob names a file.
func exists(glob string) bool {
	found, err := filepath.Glob(glob)
	return err == nil && len(found) > 0
}

// followers are the goroutines of sources. They belong to the keeper.
type followers struct {
	journal, files *following
}

// A following is a goroutine that follows a source.
type following struct {
	of    any // the follower it runs
	stop  context.CancelFunc
	ended chan struct{}
}

// start runs the followers of s that do not run yet.
func (f *followers) start(ctx context.Context, s *sources) {
	if s.journal != nil && (f.journal == nil || f.journal.of != s.journal) {
		f.journal = follow(ctx, s.journal, s.journal.Run)
	}
	if s.files != nil && (f.files == nil || f.files.of != s.files) {
		f.files = follow(ctx, s.files, s.files.Run)
	}
}

// follow starts a goroutine that runs until it is told to stop. What follows a source never fails: it tries again.
func follow(ctx context.Context, of any, run func(context.Context) error) *following {
	ctx, stop := context.WithCancel(ctx)
	f := &following{of, stop, make(chan struct{})}
	go func() {
		defer close(f.ended)
		_ = run(ctx)
	}()
	return f
}

// stopTimeout is how long a follower may take to stop. One that is stuck in a read of a dead network file system is left
// behind: it has nothing to hand over, and hands nothing over once it was told to stop.
const stopTimeout = 5 * time.Second

// stop ends the followers of s that are not the same for w. Everything they have handed over is in the engine's queue then.
func (f *followers) stop(s *sources, w want) {
	if s.entries != w.entries {
		f.journal.end()
		f.journal = nil
	}
	if !slices.Equal(s.globs, w.globs) {
		f.files.end()
		f.files = nil
	}
}

// wait returns when the followers have ended, whose context is done.
func (f *followers) wait() {
	f.journal.end()
	f.files.end()
}

func (f *following) end() {
	if f == nil {
		return
	}
	f.stop()
	select {
	case <-f.ended:
	case <-time.After(stopTimeout):
	}
}

// status says of each source how it fares and which rules it serves.
func (s *sources) status(e *loop) []control.Source {
	var out []control.Source
	if s.journal != nil {
		st := s.journal.Status()
		src := control.Source{Name: journal.Source, State: string(st.State), Reason: st.Reason, Lines: st.Lines, Lost: st.Lost,
			Last: moment(st.LastLine), Rules: e.rulesOf(inJournal, "")}
		if st.Lag > 0 {
			src.Lag = st.Lag.Round(time.Millisecond).String()
		}
		out = append(out, src)
	}
	if s.files != nil {
		for _, st := range s.files.Status() {
			src := control.Source{Name: st.Path, State: string(st.State), Reason: st.Reason, Lines: st.Lines, Lost: st.Lost,
				Last: moment(st.LastLine)}
			if st.Path == "" {
				src.Name = st.Glob
			}
			src.Rules = e.rulesOf(inFiles, src.Name)
			if st.Lag > 0 {
				src.Lag = fmt.Sprintf("%d bytes", st.Lag)
			}
			out = append(out, src)
		}
	}
	for i := range out {
		counts := e.engine.Source(out[i].Name)
		out[i].Matched = counts.Matched
		out[i].Lost += counts.Lost
	}
	return out
}

// rulesOf names the rules whose lines come from a source now.
func (e *loop) rulesOf(from origin, path string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(e.lives)) {
		l := e.lives[name]
		if l.from != from || from == inFiles && !readsFile(l.rule, path) && !slices.Contains(l.rule.Files, path) {
			continue
		}
		names = append(names, name)
	}
	return names
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
