package offline

import (
	"bytes"
	"io"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/filter"
	"mef/internal/lists"
	"mef/internal/logtime"
	"mef/internal/prefixset"
)

// A Replay runs old lines through the daemon's engine, without a kernel. The same lines with the same times always give the same
// decisions.
type Replay struct {
	engine *engine.Engine
}

// NewReplay returns a replay by a configuration: its rules, proxies and lists, and the built-in content delivery networks. It does not
// know the host's own addresses, nor those of DNS names, and nothing is known of earlier logins and bans.
func NewReplay(cfg *conf.Config, service string, whatIf bool) (*Replay, error) {
	rules, err := rulesOf(cfg.Rules, service)
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
	settings.WhatIf = whatIf
	e := engine.New(settings, facts)
	e.SetBlocked(prefixset.New(all.Block(&facts).Prefixes...))
	return &Replay{engine: e}, nil
}

// Run reads lines and calls emit for every ban that they would have made. A line's time is its own, or that of the line
// before. near settles the year of dates without one.
func (r *Replay) Run(in io.Reader, near time.Time, emit func(ban.Ban) error) error {
	c := clock{now: time.Unix(0, 0)} // for lines ahead of the first with a time
	batch := event.Batch{Stream: "replay", Lines: make([]event.Line, 1)}
	one := func(line event.Line, at time.Time) error {
		line.Time = at
		batch.Lines[0] = line
		for o := range r.engine.Lines(&batch, time.Time{}) {
			if o.Kind == engine.Banned {
				if err := emit(o.Ban); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var held event.Line // whose date the next one has to confirm
	var heldAt time.Time
	release := func(next time.Time) error {
		if heldAt.IsZero() {
			return nil
		}
		at := c.settle(heldAt, next)
		heldAt = time.Time{}
		return one(held, at)
	}
	err := lines(in, func(line *event.Line) error {
		at, ok := logtime.Parse(line.Text, near, time.Local)
		if !ok {
			if err := release(heldAt); err != nil {
				return err
			}
			return one(*line, c.now)
		}
		if err := release(at); err != nil {
			return err
		}
		if c.strange(at) {
			heldAt, held = at, event.Line{Text: bytes.Clone(line.Text), Offset: line.Offset}
			return nil
		}
		return one(*line, c.tick(at))
	})
	if err != nil {
		return err
	}
	return release(heldAt)
}
