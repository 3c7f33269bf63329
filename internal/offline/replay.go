package offline

import (
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/host"
	"mef/internal/lists"
)

// A Replay runs old lines through the daemon's engine, without a kernel. The same lines with the same times always give the same
// decisions.
type Replay struct {
	engine  *engine.Engine
	batch   event.Batch
	emit    func(ban.Ban) error
	onEvent func(ev *event.Event, score float64) error
	outcome *tally
}

// Event is what a line reports of an address.
type Event = event.Event

// Options choose what a replay does.
type Options struct {
	Service  string          // only the rules of this service; empty: all
	WhatIf   bool            // what a ban would have kept from the host does not count
	Accounts map[string]bool // names that exist on the host, as engine.AccountName makes them; true: they can log in
}

// Accounts returns the accounts of this host, for Options.
func Accounts() map[string]bool {
	accounts := map[string]bool{}
	for _, a := range host.Accounts() {
		name := engine.AccountName(a.Name)
		accounts[name] = accounts[name] || a.CanLogIn
	}
	return accounts
}

// NewReplay returns a replay by a configuration: its rules, proxies and lists, and the built-in content delivery networks. It does not
// know the host's own addresses, nor those of DNS names, and nothing is known of earlier logins and bans.
func NewReplay(cfg *conf.Config, opt Options) (*Replay, error) {
	rules, err := rulesOf(cfg.Rules, opt.Service)
	if err != nil {
		return nil, err
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		return nil, err
	}
	facts := engine.FactsFromConf(cfg)
	all := lists.New(lists.Options{})
	all.Read(cfg.Paths)
	facts.Allowed = all.Allow().Set
	settings := engine.FromConf(cfg, set)
	settings.Decide.Observe = false
	settings.WhatIf = opt.WhatIf
	e := engine.New(settings, facts)
	e.SetBlocked(all.Block(&facts).Addrs)
	e.SetAccounts(opt.Accounts)
	return &Replay{engine: e, batch: event.Batch{Stream: "replay"}, outcome: newTally()}, nil
}

// maxBatch is how many lines a replay takes before they are counted.
const maxBatch = 256

// add takes a line, whose text must hold until the next flush. It reports whether that should come now.
func (r *Replay) add(line *event.Line) (full bool) {
	r.batch.Lines = append(r.batch.Lines, *line)
	return len(r.batch.Lines) >= maxBatch
}

// flush counts the lines that were added and calls emit for the bans that they make.
func (r *Replay) flush() error {
	defer func() { r.batch.Lines = r.batch.Lines[:0] }()
	for o := range r.engine.Lines(&r.batch, time.Time{}) {
		r.outcome.add(o)
		if o.Kind == engine.Counted && r.onEvent != nil {
			if err := r.onEvent(o.Event, o.Score); err != nil {
				return err
			}
		}
		if o.Kind == engine.Banned && r.emit != nil {
			if err := r.emit(o.Ban); err != nil {
				return err
			}
		}
	}
	return nil
}

// Summary returns the outcomes of the replay so far.
func (r *Replay) Summary() ReplaySummary { return r.outcome.summary() }

// OnBan makes the replay call emit for every ban that the lines would have made. An error of it ends the replay.
func (r *Replay) OnBan(emit func(ban.Ban) error) { r.emit = emit }

// OnEvent makes the replay call emit for every line that a rule recognizes and that no ban would have kept away, with the score of its source,
// before the ban that it makes. An error of it ends the replay.
func (r *Replay) OnEvent(emit func(ev *Event, score float64) error) { r.onEvent = emit }
