package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/event"
	"mef/internal/logtime"
	"mef/internal/source/journal"
	"mef/internal/source/logfile"
)

// sources are the followers: one for the journal, one for all files.
type sources struct {
	journal *journal.Follower // nil where no rule reads the journal
	files   *logfile.Follower // nil where no rule reads files
}

// seenAge is how recent a service's entries must be for the journal to be its source.
const seenAge = 30 * 24 * time.Hour

// newSources makes what has to be followed for the rules.
func newSources(e *engine) *sources {
	var globs []string
	wantJournal := false
	for _, l := range e.lives {
		wantJournal = wantJournal || l.rule.Source != conf.SourceFile
		if l.from != inJournal {
			globs = append(globs, l.rule.Files...)
		}
	}
	s := new(sources)
	if wantJournal {
		s.journal = journal.New(journal.Config{Resume: e.positions[journal.Source], Since: e.cfg.JournalSince, Log: e.log}, e.batches)
	}
	slices.Sort(globs)
	if globs = slices.Compact(globs); len(globs) > 0 {
		s.files = logfile.New(logfile.Config{
			Globs:  globs,
			Resume: e.positions,
			Recent: logfile.Recent{Lines: e.cfg.FileRecent.Lines, Window: e.cfg.FileRecent.Window},
			Stamp:  func(line []byte, now time.Time) (time.Time, bool) { return logtime.Parse(line, now, time.Local) },
			Log:    e.log,
		}, e.batches)
	}
	return s
}

// choose finds out where each rule's lines come from. programs are those that log to the journal.
func (e *engine) choose(programs []string, found func(glob string) bool) {
	for i := range e.cfg.Rules {
		rule := &e.cfg.Rules[i]
		if !rule.Enabled {
			continue
		}
		e.rules[rule.Name] = new(ruleCount)
		l := newLive(rule, func(program string) bool { return e.set.Covers(rule.Name, program) }, programs, found)
		e.lives[rule.Name] = l
		e.log.Info("rule", "name", rule.Name, "from", l.from.String(), "reason", l.reason)
	}
}

// inJournal returns the programs whose entries in the journal some rule with source=auto believes.
func (e *engine) inJournal(ctx context.Context) []string {
	anyAuto := func(ok func(rule string) bool) bool {
		return slices.ContainsFunc(e.cfg.Rules, func(r conf.Rule) bool {
			return r.Enabled && r.Source == conf.SourceAuto && ok(r.Name)
		})
	}
	programs, err := journal.Seen(ctx, journal.Options{}, seenAge,
		func(program string) bool {
			return anyAuto(func(rule string) bool { return e.set.Covers(rule, program) })
		},
		func(entry *event.Entry) bool {
			return anyAuto(func(rule string) bool { return e.set.Believes(rule, entry) })
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

func (s *sources) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.journal != nil {
		g.Go(func() error { return s.journal.Run(ctx) })
	}
	if s.files != nil {
		g.Go(func() error { return s.files.Run(ctx) })
	}
	return g.Wait()
}

// status says of each source how it fares and which rules it serves.
func (s *sources) status(e *engine) []control.Source {
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
		if v, ok := e.views[out[i].Name]; ok {
			out[i].Matched = v.matched
			out[i].Lost += v.lost
		}
	}
	return out
}

// rulesOf names the rules whose lines come from a source now.
func (e *engine) rulesOf(from origin, path string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(e.lives)) {
		l := e.lives[name]
		if l.from != from || from == inFiles && !reads(l.rule, path) && !slices.Contains(l.rule.Files, path) {
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
