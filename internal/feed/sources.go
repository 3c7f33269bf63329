package feed

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/coverage"
	"mef/internal/event"
	"mef/internal/logtime"
	"mef/internal/prefixset"
	"mef/internal/source/journal"
	"mef/internal/source/logfile"
	"mef/internal/source/stdin"
	"mef/internal/source/syslog"
)

// A Config is what Sources go by.
type Config struct {
	Batches   chan<- *event.Batch // to be filled
	Positions map[string]string   // where to go on reading, by Batch.Source: the last Batch.Resume
	Since     time.Duration       // of the journal, where there is no position
	Recent    conf.FileRecent     // of files, where there is no position
	Streams   Streams
	Log       *slog.Logger
}

// Streams are the sources that begin where they are now: syslog sockets, and the standard input.
type Streams struct {
	Syslog  conf.Syslog
	Senders prefixset.Set // of Syslog
	Stdin   bool
}

// StreamsFromConf returns those of mef.conf.
func StreamsFromConf(cfg *conf.Config) Streams {
	return Streams{cfg.Syslog, cfg.SyslogSenders(), cfg.Stdin}
}

// keys names each stream with all that it depends on: those with the same key are the same.
func (s Streams) keys() (keys []string) {
	for _, at := range s.Syslog.Sockets {
		keys = append(keys, fmt.Sprint(syslog.Name(at.Network, at.Address), s.Syslog.Senders))
	}
	if s.Stdin {
		keys = append(keys, stdin.Source)
	}
	return keys
}

// Sources are the followers of what rules read: one for the journal, one for all files, and one for each stream.
type Sources struct {
	coverage.Want
	journal *journal.Follower           // nil where no rule reads the journal
	files   *logfile.Follower           // nil where no rule reads files
	syslog  map[string]*syslog.Listener // by key
	stdin   *stdin.Reader               // nil where it is not read
}

// New makes followers of what the readers want, which go on from the positions. Of the sources before, which may be nil, a follower of the
// same remains.
func New(c Config, r Readers, before *Sources) *Sources {
	w := r.want()
	s := &Sources{Want: w}
	switch {
	case before != nil && before.SameJournal(w):
		s.journal = before.journal
	case w.Journal:
		s.journal = journal.New(journal.Config{UIDs: w.UIDs, Resume: c.Positions[journal.Source], Since: c.Since, Log: c.Log}, c.Batches)
	}
	switch {
	case before != nil && before.SameFiles(w):
		s.files = before.files
	case len(w.Globs) > 0:
		s.files = logfile.New(logfile.Config{
			Globs:  w.Globs,
			Resume: c.Positions,
			Recent: logfile.Recent{Lines: c.Recent.Lines, Window: c.Recent.Window},
			Stamp:  func(line []byte, now time.Time) (time.Time, bool) { return logtime.Parse(line, now, time.Local) },
			Accept: func(path string, uid uint32, mode fs.FileMode) error {
				return w.Accept(path, uid, mode, uint32(os.Geteuid()))
			},
			Log: c.Log,
		}, c.Batches)
	}
	s.addStreams(c, before)
	return s
}

// addStreams makes the listeners of the streams, or takes over those of before.
func (s *Sources) addStreams(c Config, before *Sources) {
	s.syslog = make(map[string]*syslog.Listener)
	for i, at := range c.Streams.Syslog.Sockets {
		key := c.Streams.keys()[i]
		if before != nil && before.syslog[key] != nil {
			s.syslog[key] = before.syslog[key]
			continue
		}
		s.syslog[key] = syslog.New(syslog.Config{Network: at.Network, Address: at.Address, Senders: c.Streams.Senders, Log: c.Log}, c.Batches)
	}
	switch {
	case !c.Streams.Stdin:
	case before != nil && before.stdin != nil:
		s.stdin = before.stdin
	default:
		s.stdin = stdin.New(stdin.Open(), c.Batches)
	}
}

// Prove has an entry go through the journal, if rules read it, so that Status shows what is so now.
func (s *Sources) Prove(ctx context.Context) {
	if s.journal != nil {
		s.journal.Prove(ctx)
	}
}

// Followers are the goroutines of sources. The zero value runs none.
type Followers struct {
	journal, files *following
	streams        map[string]*following // by key
}

// A following is a goroutine that follows a source.
type following struct {
	of    any // the follower it runs
	stop  context.CancelFunc
	ended chan struct{}
}

// Start runs the followers of s that do not run yet.
func (f *Followers) Start(ctx context.Context, s *Sources) {
	if s.journal != nil && (f.journal == nil || f.journal.of != s.journal) {
		f.journal = follow(ctx, s.journal, s.journal.Run)
	}
	if s.files != nil && (f.files == nil || f.files.of != s.files) {
		f.files = follow(ctx, s.files, s.files.Run)
	}
	if f.streams == nil {
		f.streams = make(map[string]*following)
	}
	for key, l := range s.syslog {
		if f.streams[key] == nil {
			f.streams[key] = follow(ctx, l, l.Run)
		}
	}
	if s.stdin != nil && f.streams[stdin.Source] == nil {
		f.streams[stdin.Source] = follow(ctx, s.stdin, s.stdin.Run)
	}
}

// follow starts a goroutine that runs until it is stopped. A follower never fails: it tries again.
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
// behind: it has nothing to hand over, and hands nothing over once it was stopped.
const stopTimeout = 5 * time.Second

// Stop ends the followers of s that are not the same for other readers and streams. Everything they have handed over is in the queue then.
func (f *Followers) Stop(s *Sources, next Readers, streams Streams) {
	w := next.want()
	for key, stream := range f.streams {
		if !slices.Contains(streams.keys(), key) {
			stream.end()
			delete(f.streams, key)
		}
	}
	if !s.SameJournal(w) {
		f.journal.end()
		f.journal = nil
	}
	if !s.SameFiles(w) {
		f.files.end()
		f.files = nil
	}
}

// Wait returns when the followers have ended, whose context is done.
func (f *Followers) Wait() {
	f.journal.end()
	f.files.end()
	for _, stream := range f.streams {
		stream.end()
	}
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

// Status returns how each source fares and which rules it serves, and what keeps lines from being read in time. A glob that names no
// file is left out where its rules do without.
func (s *Sources) Status(r Readers, counts func(source string) event.SourceCounts) (out []control.Source, missing []string) {
	if s.journal != nil {
		st := s.journal.Status()
		src := control.Source{Name: journal.Source, State: string(st.State), Reason: st.Reason,
			Last: moment(st.LastLine), Rules: r.names(func(r *coverage.Reader) bool { return r.Journal })}
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
				src.Rules = r.names(func(r *coverage.Reader) bool {
					return slices.Contains(r.Globs, st.Glob) && (r.Rule.Source == conf.SourceFile || !r.Journal && len(r.Own) == 0)
				})
				if len(src.Rules) == 0 {
					continue
				}
			} else {
				src.Rules = r.names(func(r *coverage.Reader) bool { return r.ReadsFile(st.Path) })
			}
			if st.Lag > 0 {
				src.Lag = fmt.Sprintf("%d bytes", st.Lag)
			}
			switch {
			case st.Denied && len(src.Rules) > 0:
				missing = append(missing, fmt.Sprintf("%s cannot be read, which rule %s needs: %s; to allow it, grant CAP_DAC_READ_SEARCH: see read-logs.conf in the documentation of mef", src.Name, strings.Join(src.Rules, ", "), st.Reason))
			case st.Behind > tooLate && len(src.Rules) > 0:
				missing = append(missing, fmt.Sprintf("%s is read %v late", src.Name, st.Behind.Round(time.Second)))
			}
			out = append(out, src)
		}
	}
	streams, lacking := s.streamStatus(r)
	out, missing = append(out, streams...), append(missing, lacking...)
	for i := range out {
		c := counts(out[i].Name)
		out[i].Lines, out[i].Matched, out[i].Lost = c.Lines, c.Matched, c.Lost
		out[i].Name = r.nameOf(out[i].Name)
	}
	return out, missing
}

// nameOf returns the name under which a status shows a source: that of the container whose output it is.
func (r Readers) nameOf(source string) string {
	for _, reader := range r {
		if name := reader.Container(source); name != "" {
			return "container " + name
		}
	}
	return source
}

// streamStatus is Status for streams.
func (s *Sources) streamStatus(r Readers) (out []control.Source, missing []string) {
	for _, key := range slices.Sorted(maps.Keys(s.syslog)) {
		l := s.syslog[key]
		st := l.Status()
		src := control.Source{Name: l.Name(), State: "active", Reason: st.Reason, Last: moment(st.LastLine),
			Rules: r.names(func(r *coverage.Reader) bool { return r.ReadsStream(conf.SourceSyslog) })}
		switch {
		case !st.Active:
			src.State = "waiting"
			missing = append(missing, src.Name+" is not read: "+st.Reason)
		case st.Refused > 0:
			src.Reason = fmt.Sprintf("%d messages and connections of hosts that are not in syslog_senders were refused", st.Refused)
		}
		out = append(out, src)
	}
	if s.stdin != nil {
		last, reason := s.stdin.Status()
		src := control.Source{Name: stdin.Source, State: "active", Reason: reason, Last: moment(last),
			Rules: r.names(func(r *coverage.Reader) bool { return r.ReadsStream(conf.SourceStdin) })}
		if reason != "" {
			src.State = "waiting"
			missing = append(missing, "the standard input is not read: "+reason)
		}
		out = append(out, src)
	}
	return out, missing
}

// names returns the rules that are not off and whose readers are as wished.
func (r Readers) names(wished func(*coverage.Reader) bool) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if r := r[name]; !r.Off && wished(r) {
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
