package engine

import (
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/decide"
)

// Manual makes the ban that an operator asks for; r.Known is filled in. Nothing is counted before Banned is called. The error reports why
// the ban must not be.
func (e *Engine) Manual(r decide.Request, now time.Time) (ban.Ban, error) {
	r.Known = e.tracker.KnownWithin(r.Prefix)
	return decide.Manual(r, e.facts, now)
}

// Banned records an operator's ban that is in force.
func (e *Engine) Banned(b ban.Ban) { e.tracker.Banned(b) }

// Restore records bans in force that no event here has led to: those of an earlier run, and those of lists.
func (e *Engine) Restore(bans ...ban.Ban) {
	for _, b := range bans {
		e.tracker.Restore(b)
	}
}

// Lifted records bans that an operator lifted: what led to them is forgiven.
func (e *Engine) Lifted(now time.Time, keys ...ban.Key) {
	for _, k := range keys {
		e.tracker.Unbanned(k, now)
	}
}

// maxCrowds bounds how many networks are banned whole at a time.
const maxCrowds = 100

// Evicted records bans that ended early, for want of room or because the kernel refused them. If full, it returns bans of the
// most crowded networks, which make the bans inside them needless: they are to be put in force and saved.
func (e *Engine) Evicted(now time.Time, full bool, keys ...ban.Key) (bans []ban.Ban) {
	for _, k := range keys {
		e.tracker.Ended(k, now)
	}
	if !full || e.cfg.Decide.Alone {
		return nil
	}
	for _, crowd := range e.tracker.Crowds(now, decide.CrowdedAt, maxCrowds) {
		if b, ok := decide.Crowd(crowd.Wider, crowd.Until, e.facts, now); ok {
			e.tracker.Restore(b) // it is in the history of no source
			bans = append(bans, b)
		}
	}
	return bans
}

// Targeted reports whether a user name is that of an account on this host, other than root, which everybody tries.
func (e *Engine) Targeted(user string) bool {
	name := AccountName(user)
	return name != "root" && e.tracker.IsAccount(name)
}

// InForce returns the bans in force on an address, narrowest first.
func (e *Engine) InForce(addr netip.Addr, now time.Time) []ban.Active {
	return e.tracker.InForce(addr, now)
}
