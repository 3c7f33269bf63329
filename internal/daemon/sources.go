package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/coverage"
	"mef/internal/engine"
	"mef/internal/host"
	"mef/internal/logtime"
	"mef/internal/source/journal"
	"mef/internal/source/logfile"
)

// sources are the followers: one for the journal, one for all files.
type sources struct {
	coverage.Want
	journal *journal.Follower // nil where no rule reads the journal
	files   *logfile.Follower // nil where no rule reads files
}

// newSources makes followers of what is wanted, which begin where the engine stopped reading. Of the sources before, which may
// be nil, a follower of the same remains.
func newSources(e *loop, w coverage.Want, before *sources) *sources {
	s := &sources{Want: w}
	switch {
	case before != nil && before.SameJournal(w):
		s.journal = before.journal
	case w.Journal:
		s.journal = journal.New(journal.Config{UIDs: w.UIDs, Resume: e.positions[journal.Source], Since: e.cfg.JournalSince, Log: e.log}, e.batches)
	}
	switch {
	case before != nil && before.SameFiles(w):
		s.files = before.files
	case len(w.Globs) > 0:
		s.files = logfile.New(logfile.Config{
			Globs:  w.Globs,
			Resume: e.positions,
			Recent: logfile.Recent{Lines: e.cfg.FileRecent.Lines, Window: e.cfg.FileRecent.Window},
			Stamp:  func(line []byte, now time.Time) (time.Time, bool) { return logtime.Parse(line, now, time.Local) },
			Accept: func(path string, uid uint32, mode fs.FileMode) error {
				return w.Accept(path, uid, mode, uint32(os.Geteuid()))
			},
			Log: e.log,
		}, e.batches)
	}
	return s
}

// lookAround returns what is known of logs and services of this host now. It does not wait for long: journalctl has a few seconds.
func lookAround(ctx context.Context, log *slog.Logger) *coverage.Host {
	h := &coverage.Host{Journald: host.JournaldRuns(), Files: files, Units: host.Units(), Program: host.ProgramInstalled}
	syslog := host.ReadSyslogFiles()
	for _, path := range syslog.Unreadable {
		log.Warn("cannot read which files the syslog daemon fills", "path", path)
	}
	h.Shared = syslog.Has
	var err error
	if h.Listeners, err = host.Listeners(); err != nil {
		log.Debug("cannot list what listens here", "err", err)
	}
	if h.Journald {
		if h.Logged, err = journal.Units(ctx, journal.Options{}); err != nil && !errors.Is(err, journal.ErrNoJournal) {
			log.Warn("look for services in the journal", "err", err)
		}
	}
	return h
}

// files returns the files that a glob names.
func files(glob string) []string {
	found, _ := filepath.Glob(glob)
	return found
}

// readersOf returns the readers of a configuration's rules. What the running ones know of records stays.
func (e *loop) readersOf(cfg *conf.Config, set *engine.Rules, h *coverage.Host) map[string]*coverage.Reader {
	readers := coverage.Read(cfg.Rules, set, h)
	for name, r := range readers {
		if old := e.readers[name]; old != nil {
			r.Inherit(old)
		}
	}
	return readers
}

// choose finds out what each rule reads, for the first time.
func (e *loop) choose(h *coverage.Host) {
	e.readers = e.readersOf(e.cfg, e.set, h)
	for _, name := range slices.Sorted(maps.Keys(e.readers)) {
		r := e.readers[name]
		level := slog.LevelInfo
		if r.Off {
			level = slog.LevelDebug
		}
		e.log.Log(context.Background(), level, "rule", "name", name, "reads", r.Live(), "reason", r.Reason())
	}
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
func (f *followers) stop(s *sources, w coverage.Want) {
	if !s.SameJournal(w) {
		f.journal.end()
		f.journal = nil
	}
	if !s.SameFiles(w) {
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

// tooLate is how late lines may be read before the host no longer counts as protected.
const tooLate = 5 * time.Second

// status returns how each source fares and which rules it serves, and what keeps lines from being read in time. A glob that names no
// file is left out where its rules do without.
func (s *sources) status(e *loop) (out []control.Source, missing []string) {
	if s.journal != nil {
		st := s.journal.Status()
		src := control.Source{Name: journal.Source, State: string(st.State), Reason: st.Reason,
			Last: moment(st.LastLine), Rules: e.rulesOf(func(r *coverage.Reader) bool { return r.Journal })}
		if st.Lag > 0 {
			src.Lag = st.Lag.Round(time.Millisecond).String()
		}
		switch {
		case st.State != journal.Active:
			missing = append(missing, "the journal is not read: "+st.Reason)
		case st.Lag > tooLate:
			missing = append(missing, fmt.Sprintf("the journal is read %v late", st.Lag.Round(time.Second)))
		}
		out = append(out, src)
	}
	if s.files != nil {
		for _, st := range s.files.Status() {
			src := control.Source{Name: st.Path, State: string(st.State), Reason: st.Reason,
				Last: moment(st.LastLine)}
			if st.Path == "" {
				src.Name = st.Glob
				src.Rules = e.rulesOf(func(r *coverage.Reader) bool {
					return slices.Contains(r.Globs, st.Glob) && (r.Rule.Source == conf.SourceFile || !r.Journal && len(r.Own) == 0)
				})
				if len(src.Rules) == 0 {
					continue
				}
			} else {
				src.Rules = e.rulesOf(func(r *coverage.Reader) bool { return r.ReadsFile(st.Path) })
			}
			if st.Lag > 0 {
				src.Lag = fmt.Sprintf("%d bytes", st.Lag)
			}
			switch {
			case st.Denied && len(src.Rules) > 0:
				missing = append(missing, fmt.Sprintf("%s cannot be read, which rule %s needs: %s; read-logs.conf in the documentation of mef says how to allow it", src.Name, strings.Join(src.Rules, ", "), st.Reason))
			case st.Behind > tooLate && len(src.Rules) > 0:
				missing = append(missing, fmt.Sprintf("%s is read %v late", src.Name, st.Behind.Round(time.Second)))
			}
			out = append(out, src)
		}
	}
	for i := range out {
		counts := e.engine.Source(out[i].Name)
		out[i].Lines, out[i].Matched, out[i].Lost = counts.Lines, counts.Matched, counts.Lost
	}
	return out, missing
}

// rulesOf names the rules that are not off and whose readers are as wished.
func (e *loop) rulesOf(wished func(*coverage.Reader) bool) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(e.readers)) {
		if r := e.readers[name]; !r.Off && wished(r) {
			names = append(names, name)
		}
	}
	return names
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
