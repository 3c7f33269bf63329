// Package pipeline is the engine at work: it hands batches of lines to it and carries out what it decides.
//
//	sources ──► Batches ──► engine ──► enforcer ──► kernel
//	                           │           │
//	                           └─► Records ◄┘ ──► event log, mefctl events
//
// One goroutine, that of Run, has the State: the engine and all that goes with it. Others hand it functions through Pipeline.Engine
// (package owner), so nothing is locked on the way of a line. The other fields of a Pipeline are for everybody.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/eventlog"
	"mef/internal/feed"
	"mef/internal/owner"
	"mef/internal/prefixset"
	"mef/internal/reputation"
	"mef/internal/store"
)

// A Pipeline is what others may use of the engine at work. It lacks its Enforcer until that is set, and its Saver until Open.
type Pipeline struct {
	Engine     owner.Of[*State]
	Enforcer   *enforce.Enforcer
	Saver      *store.Saver
	Records    *eventlog.Log
	Reasons    *Reasons
	Memory     *Memory
	Reputation *reputation.Reputation
	Log        *slog.Logger

	batches   chan *engine.Batch
	observe   atomic.Pointer[string] // why bans are logged and not applied; nil: they are applied
	evictions *evictions
	claims    chan engine.Claim // to be looked up
}

// Options are what a Pipeline is made of.
type Options struct {
	Config   *conf.Config
	Rules    *engine.Rules   // of Config
	Facts    engine.Facts    // of Config and of this host
	Accounts map[string]bool // of this host; see engine.SetAccounts
	// OnLogin, unless nil, is called on the engine's goroutine with every successful login that counts. It must not wait.
	OnLogin func(*engine.Event)
	// OnAttempt, unless nil, is called there with every failure, probe, login and listing that counts, and with the time by the host's clock. It must not
	// wait, and not keep the pointer.
	OnAttempt func(*control.Attempt, time.Time)
	Log       *slog.Logger
}

// queuedBatches is how many batches may wait for the engine. When it is full the sources wait: files and the journal keep
// their lines until they are read.
const queuedBatches = 16

// New returns a Pipeline and its state. Until Run takes the state, the caller has it.
func New(opt Options) (*Pipeline, *State) {
	p := &Pipeline{
		Engine:     owner.New[*State](),
		Records:    eventlog.New(opt.Log),
		Memory:     newMemory(),
		Reputation: reputation.New(opt.Config, opt.Log),
		Log:        opt.Log,
		batches:    make(chan *engine.Batch, queuedBatches),
		evictions:  newEvictions(),
		claims:     make(chan engine.Claim, maxClaims),
	}
	p.Records.Attach("log", eventlog.NewSummary(opt.Log), eventlog.Summarized)
	p.Reasons = newReasons(p.Records, opt.Log)
	s := &State{
		Config:    opt.Config,
		Rules:     opt.Rules,
		Ports:     feed.RestorePorts(""),
		Positions: make(map[string]string),
		p:         p,
		onLogin:   opt.OnLogin,
		onAttempt: opt.OnAttempt,
		unsaved:   unsaved{read: make(map[string]string)},
	}
	settings := s.settings()
	settings.Track.Seed = rand.Uint64()
	s.Engine = engine.New(settings, opt.Facts)
	s.Engine.SetAccounts(opt.Accounts)
	s.attachReports()
	s.attachCloud()
	s.applyMode()
	return p, s
}

// EnforceOptions returns the options of the pipeline's enforcer. allow is what no ban may touch.
func (p *Pipeline) EnforceOptions(allow prefixset.Set) enforce.Options {
	return enforce.Options{Allow: allow, OnResult: p.Reasons.settle, OnEnded: p.evictions.add, OnRepair: p.repaired}
}

// Observing reports whether bans are logged and not applied.
func (p *Pipeline) Observing() bool { return p.observe.Load() != nil }

// WhyObserve returns why bans are logged and not applied, and what to do; "" if they are applied.
func (p *Pipeline) WhyObserve() string {
	if why := p.observe.Load(); why != nil {
		return *why
	}
	return ""
}

// Mode returns "observe" or "enforce".
func (p *Pipeline) Mode() string { return modeName(p.Observing()) }

func modeName(observe bool) string {
	if observe {
		return "observe"
	}
	return "enforce"
}

// repaired is called by the enforcer when something had to be restored.
func (p *Pipeline) repaired(r enforce.Repair) {
	by := "" // unknown
	if r.By != "" {
		by = fmt.Sprintf(" by %q", r.By)
	}
	reason := fmt.Sprintf("%q was changed%s; restored in %v", r.Damaged, by, r.Took.Round(time.Microsecond))
	switch {
	case r.Delayed > 0:
		reason = fmt.Sprintf("%q is changed repeatedly%s; it is restored in %v or with the next ban; see mefctl status", r.Damaged, by, r.Delayed)
	case r.Err != nil:
		reason = fmt.Sprintf("%q was changed%s and could not be restored: %v", r.Damaged, by, r.Err)
	}
	p.Records.Add(control.Record{Time: r.Time, Event: "repair", Reason: reason})
}

// A State is what the engine's goroutine has.
type State struct {
	Engine    *engine.Engine
	Config    *conf.Config
	Rules     *engine.Rules // of Config
	Readers   feed.Readers
	Ports     *feed.Ports       // where the services of the rules listen
	Positions map[string]string // the last Batch.Resume by Batch.Source, of this run or an earlier one
	Observing time.Time         // since when bans are logged and not applied; zero: they are applied

	p         *Pipeline
	onLogin   func(*engine.Event)
	onAttempt func(*control.Attempt, time.Time)
	attempt   control.Attempt // the latest, kept here so that it costs no allocation
	now       time.Time       // when the batch at hand came
	origins   map[string]bool // of Readers, as they are saved; nil: none are
	attacks   attacks
	lapsed    bool   // an armed start was not confirmed
	logPath   string // of the event log; empty: there is none
	reporting bool   // bans are reported to others
	unsaved   unsaved
}

// settings returns the configuration of the engine.
func (s *State) settings() engine.Config {
	c := engine.FromConf(s.Config, s.Rules)
	c.Reads = func(rule *conf.Rule, source string) bool { return s.Readers.Reads(rule, source) }
	c.Accept = s.accept
	return c
}

// accept reports whether an event of a source counts.
func (s *State) accept(source string, ev *engine.Event) bool {
	ok := s.Readers.Accept(source, ev)
	if ok && s.onLogin != nil && ev.Kind == engine.Success && ev.Addr.IsValid() {
		s.onLogin(ev)
	}
	return ok
}

// configure replaces the configuration. What was counted, and what was read, stays.
func (s *State) configure(cfg *conf.Config, rules *engine.Rules, readers feed.Readers, h *feed.Host) {
	s.Config, s.Rules, s.Readers = cfg, rules, readers
	s.saveOrigins()
	s.Engine.Configure(s.settings())
	s.Listen(h.Listeners, time.Now())
	s.SetFacts(func(f *engine.Facts) { f.Proxies, f.Docker = cfg.ProxyAddrs(), h.Gateways() })
	s.p.Reputation.Configure(cfg)
	s.attachReports()
	s.attachCloud()
	s.applyMode()
	s.OpenEventLog()
}

// choose finds out what each rule reads on a host, for the first time.
func (s *State) choose(h *feed.Host) {
	now := time.Now()
	s.Readers = feed.Read(s.Config, s.Rules, h, nil, now)
	s.Readers.Moved(s.origins, now)
	s.Readers.Log(s.p.Log)
	s.Listen(h.Listeners, now)
	s.SetFacts(func(f *engine.Facts) { f.Docker = h.Gateways() })
	s.saveOrigins()
	s.forgetContainers(h)
}

// forgetContainers forgets what was read of containers that were removed.
func (s *State) forgetContainers(h *feed.Host) {
	for source := range s.Positions {
		if h.Gone(source) {
			s.forgetSource(source)
		}
	}
}

// forgetSource removes the state of a source that no longer exists.
func (s *State) forgetSource(source string) {
	s.Engine.Forget(source)
	delete(s.Positions, source)
	s.unsaved.read[source] = "" // in the store, too
	s.changed(saveLater)
}

// Listen takes over what listens on a host, for the bans from now on.
func (s *State) Listen(listeners []feed.Listener, now time.Time) {
	changed := feed.LookAtPorts(s.Ports, s.Config.Rules, s.Rules, listeners, now)
	if text, due := s.Ports.Save(changed, now); due {
		s.p.SaveNotes(map[string]string{notePorts: text})
	}
	if !changed {
		return
	}
	before := make(map[string]ban.Ports)
	for _, r := range s.Config.Rules {
		before[r.Name] = s.Engine.Ports(r.Name)
	}
	s.Engine.SetListening(s.Ports.All())
	for i := range s.Config.Rules {
		r := &s.Config.Rules[i]
		if now := s.Engine.Ports(r.Name); now != before[r.Name] {
			s.p.Log.Info("bans follow the service", "rule", r.Name, "ports", control.ShowPorts(now), "reason", s.Ports.Reason(r))
		}
	}
}

// SetFacts changes who must stay reachable, and returns it as it is then.
func (s *State) SetFacts(change func(*engine.Facts)) engine.Facts {
	f := s.Engine.Facts()
	change(&f)
	s.Engine.SetFacts(f)
	return f
}

// SetLapsed has bans logged and not applied because an armed start was not confirmed, or ends that.
func (s *State) SetLapsed(lapsed bool) {
	s.lapsed = lapsed
	s.applyMode()
}

// applyMode switches the engine between enforce and observe.
func (s *State) applyMode() {
	var why *string
	switch {
	case s.lapsed:
		why = new("the trial was not confirmed in time, so bans are not applied; run mefctl confirm first")
	case s.Config.Observe:
		why = new("mode=observe applies no bans; set mode=enforce in " + s.Config.Path)
	}
	s.p.observe.Store(why)
	s.Engine.SetObserve(why != nil)
}

// attachReports has bans reported to others, if the configuration asks for it.
func (s *State) attachReports() {
	reports := s.p.Reputation.Reports
	if on := reports.On(); on == s.reporting {
		return
	} else if s.reporting = on; !on {
		s.p.Records.Attach("reports", nil, nil)
		return
	}
	s.p.Records.Attach("reports", reports, func(event string) bool { return event == "ban" })
}

// attachCloud has bans reported to the community server, or shared with the operator's other hosts, if the configuration asks for it.
func (s *State) attachCloud() {
	if !s.Config.Community.Report && !(s.Config.Community.Protection && s.Config.Community.Fleet) {
		s.p.Records.Attach("community server", nil, nil)
		return
	}
	s.p.Records.Attach("community server", s.p.Reputation.Cloud, func(event string) bool { return event == "ban" || event == "unban" })
}

// OpenEventLog has the event log written that the configuration asks for.
func (s *State) OpenEventLog() {
	path := ""
	if s.Config.EventLog {
		path = s.Config.EventLogPath
	}
	if path == s.logPath {
		return
	}
	s.logPath = path
	if path == "" {
		s.p.Records.Attach("event log", nil, nil)
		return
	}
	s.p.Records.Attach("event log", eventlog.NewFile(path), eventlog.Decided)
}

// feedConfig returns what sources go by that go on where the engine stopped reading.
func (s *State) feedConfig() feed.Config {
	return feed.Config{Batches: s.p.batches, Positions: s.Positions, Since: s.Config.JournalSince, Recent: s.Config.FileRecent, Streams: feed.StreamsFromConf(s.Config), Log: s.p.Log}
}

// Run deals with batches, and with calls of Pipeline.Engine, until ctx is done. It has the state from now on.
func (p *Pipeline) Run(ctx context.Context, s *State) error {
	for {
		var err error
		select {
		case <-ctx.Done():
			s.Save()
			return nil
		case <-p.evictions.wake:
			err = s.processEvictions(ctx)
		case call := <-p.Engine.Calls():
			err = s.processEvictions(ctx)
			call(ctx, s)
		case b := <-p.batches:
			err = errors.Join(s.processEvictions(ctx), s.Lines(ctx, b))
		case <-s.unsaved.due:
			s.Save()
		}
		if err != nil {
			return nil // the enforcer has ended: so do we
		}
	}
}

// drain deals with the batches that are waiting.
func (s *State) drain(ctx context.Context) error {
	for range len(s.p.batches) {
		if err := s.Lines(ctx, <-s.p.batches); err != nil {
			return err
		}
	}
	return nil
}

// Lines deals with one batch and releases it. The error is that of ctx, or of an enforcer that has ended.
func (s *State) Lines(ctx context.Context, b *engine.Batch) error {
	defer b.Release()
	s.now = time.Now()
	for o := range s.Engine.Lines(b, s.now) {
		if err := s.carryOut(ctx, o); err != nil {
			return err
		}
	}
	if b.Gone {
		s.forgetSource(b.Source)
	}
	if b.Resume != "" {
		s.unsaved.read[b.Source] = b.Resume
		s.changed(saveLater)
		first := s.Positions[b.Source] == ""
		s.Positions[b.Source] = b.Resume
		if first {
			// Before its first position is saved, a crash loses more of a source than is read again.
			s.Save()
		}
	}
	if len(s.unsaved.bans) >= manyBans {
		s.Save()
	}
	return nil
}

// Event deals with one event that is no log line. The error is that of ctx, or of an enforcer that has ended.
func (s *State) Event(ctx context.Context, ev *engine.Event) error {
	s.now = time.Now()
	for o := range s.Engine.Event(ev, s.now) {
		if err := s.carryOut(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// Packets deals with packets that the packet filter reports. The error is as that of Event.
func (s *State) Packets(ctx context.Context, packets []engine.Packet) error {
	s.now = time.Now()
	for o := range s.Engine.Packets(packets, s.now) {
		if err := s.carryOut(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// carryOut does what an outcome asks for. The error is that of ctx, or of an enforcer that has ended.
func (s *State) carryOut(ctx context.Context, o *engine.Outcome) error {
	p := s.p
	switch o.Kind {
	case engine.Counted:
		s.changed(saveSoon)
		a := &s.attempt
		s.setAttempt(a, o)
		p.Records.Attempt(a)
		if s.onAttempt != nil {
			s.onAttempt(a, s.now)
		}
		if o.Suspect > 0 {
			p.Reputation.Cloud.Suspect(o.Event.Addr, o.Event.Service, o.Suspect)
		}
		s.noteAttacks(o.Time)
	case engine.Banned:
		// Saved together with the position behind the deciding line, so that a crash before the kernel has it is made good
		// when the daemon starts again.
		s.unsaved.bans = append(s.unsaved.bans, o.Ban)
		return p.Enforcer.Ban(ctx, o.Ban)
	case engine.WouldBan:
		p.Records.Add(control.BanRecord("would-ban", o.Ban))
	case engine.Refused:
		p.Records.Add(control.Record{Time: o.Time, Event: "refused", Rule: o.Event.Rule, Service: o.Event.Service,
			Addr: o.Event.Addr.String(), Reason: o.Reason})
	case engine.Alarm:
		s.changed(saveSoon)
		p.Log.Warn("login alarm", "user", o.Event.User, "addr", o.Event.Addr, "service", o.Event.Service, "reason", o.Reason)
		p.Records.Add(control.Record{Time: o.Time, Event: "login-alarm", Rule: o.Event.Rule, Service: o.Event.Service,
			Addr: o.Event.Addr.String(), User: o.Event.User, Reason: o.Reason, Evidence: []string{o.Event.Evidence()}})
	case engine.Verify:
		select {
		case p.claims <- o.Claim:
		default:
		}
	case engine.Ask:
		p.Reputation.Ask(o.Event.Addr, o.Event.Verified)
	case engine.ClockSetBack:
		p.Log.Warn("the clock was set back: events with later times now count as of the present time", "to", o.Time)
	}
	return nil
}

// setAttempt makes a the record of an outcome of kind engine.Counted.
func (s *State) setAttempt(a *control.Attempt, o *engine.Outcome) {
	ev := o.Event
	a.Time, a.Event, a.Addr, a.Count, a.New, a.Score = ev.Time, ev.Kind.String(), ev.Addr, ev.Count, o.Attempts, o.Score
	a.Rule, a.Service, a.Host, a.User, a.Reason = ev.Rule, ev.Service, ev.Host, ev.User, ""
	a.Targeted = s.Engine.Targeted(ev.User)
	if ev.Episode != nil {
		a.Reason = ev.Episode.Text
	}
}
