package offline

import (
	"io"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/lists"
	"mef/internal/logtime"
)

// A Replay runs old lines through the daemon's engine, without a kernel. The same lines with the same times always give the same
// decisions.
type Replay struct {
	engine *engine.Engine
	now    time.Time
}

// NewReplay returns a replay by a configuration: its rules, proxies and lists, and the built-in content delivery networks. It does not
// know the host's own addresses, nor those of DNS names, and nothing is known of earlier logins and bans.
func NewReplay(cfg *conf.Config, service string) (*Replay, error) {
	rules, err := rulesOf(cfg.Rules, service)
	if err != nil {
		return nil, err
	}
	set, errs := filter.Compile(rules)
	if err := errs.Err(); err != nil {
		return nil, err
	}
	facts := engine.FactsFromConf(cfg)
	facts.Allowed = conf.Addrs(cfg.Whitelist)
	settings := engine.FromConf(cfg, set)
	settings.Decide.Observe = false
	e := engine.New(settings, facts)
	listed, _ := lists.Bans(cfg.Blacklist, lists.Never(&facts), time.Unix(0, 0))
	e.Restore(listed...)
	return &Replay{engine: e}, nil
}

// Run reads lines and calls emit for every ban that they would have made. A line's time is its own, or that of the line
// before; times never go back. near settles the year of dates without one.
func (r *Replay) Run(in io.Reader, near time.Time, emit func(ban.Ban) error) error {
	r.now = time.Unix(0, 0) // for lines ahead of the first with a time
	batch := event.Batch{Stream: "replay", Lines: make([]event.Line, 1)}
	return lines(in, func(line *event.Line) error {
		if at, ok := logtime.Parse(line.Text, near, time.Local); ok && at.After(r.now) {
			r.now = at
		}
		line.Time = r.now
		batch.Lines[0] = *line
		for o := range r.engine.Lines(&batch, time.Time{}) {
			if o.Kind == engine.Banned {
				if err := emit(o.Ban); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
