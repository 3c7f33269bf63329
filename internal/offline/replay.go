package offline

import (
	"io"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/decide"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/logtime"
	"mef/internal/prefixset"
	"mef/internal/track"
)

// A Replay runs old lines through rules, counting and decisions as the daemon would have done, without a kernel. The same
// lines with the same times always give the same decisions.
type Replay struct {
	matcher *Matcher
	tracker *track.Tracker
	limits  decide.Config
	facts   exempt.Facts
	now     time.Time
}

// NewReplay returns a replay by a configuration. The addresses of its whitelist and proxies are never banned; what else the
// daemon would know about its host is not known here.
func NewReplay(cfg *conf.Config, service string) (*Replay, error) {
	matcher, err := ForService(cfg.Rules, service)
	if err != nil {
		return nil, err
	}
	return &Replay{
		matcher: matcher,
		tracker: track.New(track.Config{Rules: track.Rules(cfg.Rules), Score: cfg.Score, Known: cfg.Known, History: cfg.Ban.History,
			IPv6Prefix: cfg.IPv6Prefix}),
		limits: decide.Config{Times: cfg.Ban},
		facts:  exempt.Facts{Allowed: allowed(cfg.Whitelist)},
	}, nil
}

// allowed returns the addresses of list entries that are no names.
func allowed(entries []conf.Entry) prefixset.Set {
	var prefixes []netip.Prefix
	for _, entry := range entries {
		if p, ok := entry.Prefixes(); ok {
			prefixes = append(prefixes, p...)
		}
	}
	return prefixset.New(prefixes...)
}

// Run reads lines and calls emit for every ban that they would have made. A line's time is its own, or that of the line
// before; times never go back. near settles the year of dates without one.
func (r *Replay) Run(in io.Reader, near time.Time, emit func(ban.Ban) error) error {
	r.now = time.Unix(0, 0) // for lines ahead of the first with a time
	stream := event.Batch{Stream: "replay"}
	return r.matcher.lines(in, func(line *event.Line) error {
		if at, ok := logtime.Parse(line.Text, near, time.Local); ok && at.After(r.now) {
			r.now = at
		}
		line.Time = r.now
		b, ok := r.Line(&stream, line)
		if !ok {
			return nil
		}
		return emit(b)
	})
}

// Line counts one line, at line.Time, and returns the ban that it makes, if any.
func (r *Replay) Line(batch *event.Batch, line *event.Line) (ban.Ban, bool) {
	var m filter.Match
	if !r.matcher.view.Match(line, &m) {
		return ban.Ban{}, false
	}
	ev := m.Event(batch, line)
	tally := r.tracker.Observe(&ev)
	d := decide.Decide(&tally, r.limits, r.facts, ev.Time)
	if d.Verdict != decide.Ban {
		return ban.Ban{}, false
	}
	r.tracker.Banned(d.Ban)
	return d.Ban, true
}
