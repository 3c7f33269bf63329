package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/eventlog"
	"mef/internal/feed"
	"mef/internal/host"
	"mef/internal/lists"
	"mef/internal/store"
)

// A loop gives batches to the engine and carries out what follows. Everything in it belongs to the goroutine of run, but for what says
// otherwise; others hand it functions: see query.
type loop struct {
	cfg       *conf.Config
	engine    *engine.Engine
	observe   atomic.Bool // bans are reported and not applied; for everybody to read
	watching  time.Time   // since when; zero while bans are applied
	log       *slog.Logger
	enforcer  *enforce.Enforcer
	records   *eventlog.Log
	logPath   string // of the event log; empty: there is none
	reasons   *banRecords
	evictions *evictions

	batches chan *engine.Batch
	calls   chan func()

	set     *engine.Rules
	readers feed.Readers
	origins map[string]bool // of the readers, as they are saved; nil: none are
	// allowList is what the facts' Allowed is made of.
	allowList    []lists.Item
	listMistakes []string
	leftOut      int // entries of blacklist files that ban nobody
	heldBack     int // others that would ban an administrator
	leftOutNames int // DNS names of the allow list that are not looked up
	admins       int // addresses with a live SSH session of an administrator

	window atomic.Pointer[confirm.Window] // nil: not armed; replaced by the configurator
	undone atomic.Pointer[string]         // what is due and why; nil: nothing; replaced by the configurator
	claims chan engine.Claim              // to be looked up; bounded, what does not fit is asked again with a later request
	logins chan login                     // at the SSH server, for the guard; bounded, what does not fit is dropped

	attacks attacks

	saver     *store.Saver
	positions map[string]string // the last Batch.Resume by Batch.Source, of this run or an earlier one
	unsaved   unsaved
	grown     chan struct{} // a save was large
}

// newLoop returns a loop that still lacks its enforcer and the origins of its rules.
func newLoop(cfg *conf.Config, host host.Facts, log *slog.Logger) (*loop, error) {
	set, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	e := &loop{
		cfg:       cfg,
		log:       log,
		records:   eventlog.New(log),
		batches:   make(chan *engine.Batch, queuedBatches),
		calls:     make(chan func()),
		set:       set,
		claims:    make(chan engine.Claim, maxClaims),
		logins:    make(chan login, maxLogins),
		positions: make(map[string]string),
		unsaved:   unsaved{read: make(map[string]string)},
		grown:     make(chan struct{}, 1),
	}
	e.records.Attach("log", eventlog.NewSummary(log), eventlog.Summarized)
	e.reasons, e.evictions = newReasons(e.records, log), newEvictions()
	facts := engine.FactsFromConf(cfg)
	setHost(&facts, host)
	settings := e.settings(cfg, set)
	settings.Track.Seed = rand.Uint64()
	e.engine = engine.New(settings, facts)
	e.engine.SetAccounts(accountNames(host.Accounts))
	e.applyMode()
	return e, nil
}

// openEventLog has the event log written that the configuration asks for.
func (e *loop) openEventLog(cfg *conf.Config) {
	path := ""
	if cfg.EventLog {
		path = cfg.EventLogPath
	}
	if path == e.logPath {
		return
	}
	e.logPath = path
	if path == "" {
		e.records.Attach("event log", nil, nil)
		return
	}
	e.records.Attach("event log", eventlog.NewFile(path), eventlog.Decided)
}

// settings are what the engine goes by.
func (e *loop) settings(cfg *conf.Config, set *engine.Rules) engine.Config {
	s := engine.FromConf(cfg, set)
	s.Reads, s.Accept = e.reads, e.accept
	return s
}

// queuedBatches is how many batches may wait for the engine. When it is full the sources wait: files and the journal keep
// their lines until they are read.
const queuedBatches = 16

// run deals with batches and calls until ctx is done.
func (e *loop) run(ctx context.Context) error {
	for {
		var err error
		select {
		case <-ctx.Done():
			e.save()
			return nil
		case <-e.evictions.wake:
			err = e.processEvictions(ctx)
		case call := <-e.calls:
			err = e.processEvictions(ctx)
			call()
		case b := <-e.batches:
			err = errors.Join(e.processEvictions(ctx), e.batch(ctx, b))
		case <-e.unsaved.due:
			e.save()
		}
		if err != nil {
			return nil // the enforcer has ended: so do we
		}
	}
}

// batch deals with one batch and releases it.
func (e *loop) batch(ctx context.Context, b *engine.Batch) error {
	defer b.Release()
	for o := range e.engine.Lines(b, time.Now()) {
		if err := e.carryOut(ctx, o); err != nil {
			return err
		}
	}
	if b.Gone {
		e.engine.Forget(b.Source)
		delete(e.positions, b.Source)
		e.unsaved.read[b.Source] = "" // in the store, too
		e.changed(saveLater)
	}
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

// carryOut does what an outcome asks for. The error is that of ctx, or of an enforcer that has ended.
func (e *loop) carryOut(ctx context.Context, o engine.Outcome) error {
	switch o.Kind {
	case engine.Counted:
		e.changed(saveSoon)
		e.records.Add(eventRecord(o.Event, o.Score))
		e.noteAttacks(o.Time)
	case engine.Banned:
		// Saved together with the position behind the deciding line, so that a crash before the kernel has it is made good
		// when the daemon starts again.
		e.unsaved.bans = append(e.unsaved.bans, o.Ban)
		return e.enforcer.Ban(ctx, o.Ban)
	case engine.WouldBan:
		e.records.Add(banRecord("would-ban", o.Ban))
	case engine.Refused:
		e.records.Add(control.Record{Time: o.Time, Event: "refused", Rule: o.Event.Rule, Service: o.Event.Service,
			Addr: o.Event.Addr.String(), Reason: o.Reason})
	case engine.Alarm:
		e.changed(saveSoon)
		e.log.Warn("login alarm", "user", o.Event.User, "addr", o.Event.Addr, "service", o.Event.Service, "reason", o.Reason)
		e.records.Add(control.Record{Time: o.Time, Event: "login-alarm", Rule: o.Event.Rule, Service: o.Event.Service,
			Addr: o.Event.Addr.String(), User: o.Event.User, Reason: o.Reason, Evidence: []string{o.Event.Line}})
	case engine.Verify:
		select {
		case e.claims <- o.Claim:
		default:
		}
	case engine.ClockSetBack:
		e.log.Warn("the clock was set back: what was noted by it since then counts as of now", "to", o.Time)
	}
	return nil
}

// accept reports whether an event of a source counts.
func (e *loop) accept(source string, ev *engine.Event) bool {
	ok := e.readers.Accept(source, ev)
	if ok {
		e.onLogin(ev)
	}
	return ok
}

// reads reports whether a rule reads the lines of a source.
func (e *loop) reads(rule *conf.Rule, source string) bool { return e.readers.Reads(rule, source) }

// choose finds out what each rule reads, for the first time.
func (e *loop) choose(h *feed.Host) {
	now := time.Now()
	e.readers = feed.Read(e.cfg, e.set, h, nil, now)
	e.readers.Moved(e.origins, now)
	e.readers.Log(e.log)
}

// saveOrigins saves where each rule reads, so that after a restart one that reads elsewhere begins at that moment.
func (e *loop) saveOrigins() {
	origins := e.readers.Origins()
	if maps.Equal(origins, e.origins) {
		return
	}
	e.origins = origins
	note, err := json.Marshal(origins)
	if err != nil {
		e.log.Error("save where rules read", "err", err)
		return
	}
	e.saver.Save(store.Update{Notes: map[string]string{noteOrigins: string(note)}})
}

// feedConfig returns what the sources go by, to go on where the engine stopped reading.
func (e *loop) feedConfig() feed.Config {
	return feed.Config{Batches: e.batches, Positions: e.positions, Since: e.cfg.JournalSince, Recent: e.cfg.FileRecent, Log: e.log}
}

func eventRecord(ev *engine.Event, score float64) control.Record {
	rec := control.Record{Time: ev.Time, Event: ev.Kind.String(), Rule: ev.Rule, Service: ev.Service, Host: ev.Host,
		User: ev.User, Count: ev.Count, Score: score}
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

// end is a time in answers: null for never.
func end(until time.Time) *time.Time {
	if until.IsZero() {
		return nil
	}
	return &until
}
