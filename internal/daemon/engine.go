package daemon

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/decide"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/host"
	"mef/internal/source/journal"
	"mef/internal/store"
	"mef/internal/track"
)

// An engine turns batches into bans: it owns the filters, the tracker and what is decided. Everything in it belongs to the
// goroutine of run; others hand it functions through calls.
type engine struct {
	cfg      *conf.Config
	observe  atomic.Bool // mode=observe, for everybody
	watching time.Time   // since when; zero while bans are made
	log      *slog.Logger
	enforcer *enforce.Enforcer
	records  *records
	book     *book
	endings  *endings

	batches chan *event.Batch
	calls   chan func()

	set     *filter.Set
	lives   map[string]*live // by rule name
	views   map[string]*view // by Batch.Source
	tracker *track.Tracker
	newest  time.Time // the latest event's
	limits  decide.Config
	facts   exempt.Facts
	// allowList is what facts.Allowed is made of.
	allowList    []allowItem
	listMistakes []string
	leftOut      int // entries of blacklist files that ban nobody
	leftOutNames int // DNS names of the allow list that are not looked up
	rules        map[string]*ruleCount
	spared       map[string]uint64 // bans that were not made, or left the SSH ports alone, by reason
	admins       int               // addresses with a live SSH session of an administrator

	trial  atomic.Pointer[trial] // nil: not armed; changed by the keeper
	logins chan login            // at the SSH server, for the guard; bounded, what does not fit is dropped

	saver     *store.Saver
	positions map[string]string // the last Batch.Resume by Batch.Source, of this run or an earlier one
	unsaved   unsaved
	grown     chan struct{} // a save was large
}

// A view is what one source's lines are matched against.
type view struct {
	*filter.View
	from    origin
	matched uint64
	lost    uint64
}

// ruleCount is what status says of a rule.
type ruleCount struct{ failures, probes, logins, bans uint64 }

// newEngine returns an engine that still lacks its enforcer and the origins of its rules.
func newEngine(cfg *conf.Config, facts host.Facts, log *slog.Logger) (*engine, error) {
	set, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	var file *eventLog
	if cfg.EventLog {
		file = openEventLog(cfg.EventLogPath, log)
	}
	e := &engine{
		cfg:       cfg,
		log:       log,
		records:   newRecords(log, file),
		batches:   make(chan *event.Batch, queuedBatches),
		calls:     make(chan func()),
		set:       set,
		lives:     make(map[string]*live),
		views:     make(map[string]*view),
		limits:    limits(cfg),
		rules:     make(map[string]*ruleCount),
		spared:    make(map[string]uint64),
		logins:    make(chan login, maxLogins),
		positions: make(map[string]string),
		unsaved:   unsaved{read: make(map[string]string)},
		grown:     make(chan struct{}, 1),
	}
	e.book, e.endings = newBook(e.records), newEndings()
	e.heedMode()
	e.facts.CDNs = exempt.CDNs()
	e.know(facts)
	e.learn(cfg)
	tracking := e.tracking()
	tracking.Seed = rand.Uint64()
	e.tracker = track.New(tracking)
	return e, nil
}

// queuedBatches is how many batches may wait for the engine. When it is full the sources wait: files and the journal keep
// their lines until they are read.
const queuedBatches = 16

// run deals with batches and calls until ctx is done.
func (e *engine) run(ctx context.Context) error {
	for {
		var err error
		select {
		case <-ctx.Done():
			e.save()
			return nil
		case <-e.endings.wake:
			err = e.heedEndings(ctx)
		case call := <-e.calls:
			err = e.heedEndings(ctx)
			call()
		case b := <-e.batches:
			err = errors.Join(e.heedEndings(ctx), e.batch(ctx, b))
		case <-e.unsaved.due:
			e.save()
		}
		if err != nil {
			return nil // the enforcer has ended: so do we
		}
	}
}

// batch deals with one batch and releases it.
func (e *engine) batch(ctx context.Context, b *event.Batch) error {
	defer b.Release()
	v := e.view(b.Source)
	var m filter.Match
	for i := range b.Lines {
		line := &b.Lines[i]
		if !v.Match(line, &m) {
			continue
		}
		v.matched++
		ev := m.Event(b, line)
		if err := e.event(ctx, v.from, b.Source, &ev); err != nil {
			return err
		}
	}
	v.lost += uint64(b.Lost)
	if b.Resume != "" {
		e.unsaved.read[b.Source] = b.Resume
		e.changed(saveLater)
		first := e.positions[b.Source] == ""
		e.positions[b.Source] = b.Resume
		if first {
			// Before its first position is saved, a crash loses more of a source than is read again.
			e.save()
		}
	}
	return nil
}

// view returns the view of a source, made when its first batch arrives.
func (e *engine) view(source string) *view {
	if v, ok := e.views[source]; ok {
		return v
	}
	v := &view{from: inFiles}
	if source == journal.Source {
		v.from = inJournal
		v.View = e.set.View(func(r *conf.Rule) bool { return r.Source != conf.SourceFile })
	} else {
		v.View = e.set.View(func(r *conf.Rule) bool { return reads(r, source) })
	}
	e.views[source] = v
	return v
}

// reads reports whether path is one of the rule's files.
func reads(r *conf.Rule, path string) bool {
	if r.Source == conf.SourceJournal {
		return false
	}
	for _, glob := range r.Files {
		if ok, err := filepath.Match(glob, path); err == nil && ok {
			return true
		}
	}
	return false
}

// event counts one event and acts on what it amounts to.
func (e *engine) event(ctx context.Context, from origin, source string, ev *event.Event) error {
	l := e.lives[ev.Rule]
	counts, moved := l.counts(from, ev)
	if moved {
		e.log.Info("a rule's lines come from another source now", "rule", ev.Rule, "from", from.String(), "reason", l.reason)
		e.records.add(control.Record{Time: ev.Time, Event: "source", Rule: ev.Rule, Source: source, Reason: l.reason})
	}
	if !counts {
		return nil
	}
	l.remember(ev)
	e.seen(ev)
	e.heedClock(ev, time.Now())
	if e.stale(ev, l.rule.FindTime) {
		return nil
	}
	tally := e.tracker.Observe(ev)
	e.changed(saveSoon)
	e.count(ev, &tally)
	e.records.add(eventRecord(ev, &tally))
	return e.act(ctx, ev, decide.Decide(&tally, e.limits, e.facts, ev.Time))
}

// stale reports whether a failure is too old to say anything beside what has been seen since: a line of a log that is read for
// the first time, older than the rule's findtime. The tracker's time never goes back, so it would count as of now. A clock
// that was set back makes nothing stale.
func (e *engine) stale(ev *event.Event, findTime time.Duration) bool {
	if ev.Time.After(e.newest) {
		e.newest = ev.Time
		return false
	}
	return ev.Kind != event.Success && e.newest.Sub(ev.Time) > findTime && time.Since(ev.Time) > findTime
}

// setBack is by how much the clock must have been set back for the tracker to follow it. Until then its time stands still.
const setBack = time.Minute

// heedClock has the tracker follow a clock that was set back: an event comes from before another, whose time is yet to come.
func (e *engine) heedClock(ev *event.Event, now time.Time) {
	newest := e.newest.Round(0) // what is compared is the time of day
	if newest.Sub(now.Round(0)) <= setBack || newest.Sub(ev.Time.Round(0)) <= setBack {
		return
	}
	e.log.Warn("the clock was set back: what was noted by it since then counts as of now", "from", newest, "to", now)
	e.tracker.SetBack(now)
	e.newest = now
}

// act carries out a decision.
func (e *engine) act(ctx context.Context, ev *event.Event, d decide.Decision) error {
	e.spare(ev, d)
	switch d.Verdict {
	case decide.Ban:
		e.rules[ev.Rule].bans++
		e.tracker.Banned(d.Ban)
		if over(d.Ban, time.Now()) {
			return nil // of old lines, read late: it counts as a repeat, and is over
		}
		// Saved together with the position behind the deciding line, so that a crash before the kernel has it is made good
		// when the daemon starts again.
		e.unsaved.bans = append(e.unsaved.bans, d.Ban)
		return e.enforcer.Ban(ctx, d.Ban)
	case decide.Observe, decide.Detect:
		e.tracker.Detected(d.Ban)
		e.records.add(banRecord("would-ban", d.Ban))
	case decide.Refused:
		e.tracker.Detected(d.Ban) // so that it is said once, not for every further line
		e.records.add(control.Record{Time: ev.Time, Event: "refused", Rule: ev.Rule, Service: ev.Service,
			Addr: ev.Addr.String(), Reason: d.Reason})
	}
	return nil
}

// count counts what status shows: attempts, not the lines that tell of them.
func (e *engine) count(ev *event.Event, tally *event.Tally) {
	c := e.rules[ev.Rule]
	switch ev.Kind {
	case event.Failure:
		if tally.Added > 0 {
			c.failures += uint64(ev.Count)
		}
	case event.Probe:
		c.probes++
	case event.Success:
		c.logins++
	}
}

func eventRecord(ev *event.Event, tally *event.Tally) control.Record {
	rec := control.Record{Time: ev.Time, Event: ev.Kind.String(), Rule: ev.Rule, Service: ev.Service, Host: ev.Host,
		User: ev.User, Count: ev.Count, Score: tally.Score}
	if ev.Addr.IsValid() {
		rec.Addr = ev.Addr.String()
	}
	return rec
}

func banRecord(kind string, b ban.Ban) control.Record {
	return control.Record{Time: b.Start, Event: kind, Rule: b.Rule, Service: b.Service, Prefix: b.Key.Prefix.String(),
		Ports: control.ShowPorts(b.Ports), Class: b.Class.String(), Until: end(b.Until), Reason: b.Reason,
		Evidence: b.Evidence, Author: b.Author, Note: b.Note}
}

func over(b ban.Ban, now time.Time) bool { return !b.Permanent() && b.Until.Before(now) }

// end is a time in answers: null for never.
func end(until time.Time) *time.Time {
	if until.IsZero() {
		return nil
	}
	return &until
}
