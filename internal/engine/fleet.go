package engine

import (
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/decide"
)

// TakeOver returns what follows from the ban of another host: Banned, WouldBan or Refused. The Outcome has no Event.
func (e *Engine) TakeOver(r ban.Shared, now time.Time) Outcome {
	b, err := decide.TakeOver(r, e.tracker.KnownWithin(r.Prefix), e.facts, now)
	switch {
	case err != nil:
		return Outcome{Kind: Refused, Time: now, Reason: err.Error()}
	case e.cfg.Decide.Observe:
		return Outcome{Kind: WouldBan, Time: now, Ban: b}
	}
	e.tracker.Banned(b)
	return Outcome{Kind: Banned, Time: now, Ban: b}
}

// LogsIn reports whether users log in from a prefix.
func (e *Engine) LogsIn(p netip.Prefix) bool { return e.tracker.KnownWithin(p) > 0 }
