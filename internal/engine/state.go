package engine

import (
	"iter"
	"maps"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
	"mef/internal/track"
)

// Changes returns what of the counted has changed since the last call, to be saved; see track.Tracker.Changes.
func (e *Engine) Changes() []track.Record { return e.tracker.Changes() }

// Import takes over what an earlier run saved, before the first line; see track.Tracker.Import.
func (e *Engine) Import(saved iter.Seq2[[]byte, []byte]) error { return e.tracker.Import(saved) }

// Stats returns how full the tracker is.
func (e *Engine) Stats() track.Stats { return e.tracker.Stats() }

// Rule returns the counts of the rule of that name.
func (e *Engine) Rule(name string) event.RuleCounts {
	if r, ok := e.rules[name]; ok {
		return r.counts
	}
	return e.webRule(name)
}

// Source returns the counts of a source, zero if it has had no line.
func (e *Engine) Source(name string) event.SourceCounts {
	if v, ok := e.views[name]; ok {
		return v.counts
	}
	return event.SourceCounts{}
}

// Spared returns how many bans were not made, or left ports open, by reason.
func (e *Engine) Spared() map[string]uint64 { return maps.Clone(e.spared) }

// An Explanation is what is known of an address, and what keeps it from being banned.
type Explanation struct {
	track.Account
	Neighbors []track.Neighbor
	Never     string    // why it is never banned; empty if it may be
	Through   bool      // the kernel lets it through ahead of every ban
	Web       string    // why its web ports stay open; empty if they need not
	SSH       ban.Ports // the ports that stay open to it for an administrator's live session; empty if there is none
	Requests  []string  // what rules about many requests count for it, a line for each threshold
	Scans     []string  // to how many closed ports it came
	Listings  []string  // what block lists report of it
	Listed    int       // points that this adds to the score
}

// Explain returns what is known of an address, with at most so many neighbors of its network.
func (e *Engine) Explain(addr netip.Addr, now time.Time, neighbors int) Explanation {
	reachable, account := e.facts.Reachable(), e.tracker.Explain(addr, now)
	if e.cfg.Decide.Alone {
		account.Wider = nil
	}
	listings, points := e.explainListings(addr, now, len(account.Known) > 0)
	return Explanation{account, e.tracker.Neighbors(addr, now, neighbors), e.facts.Never(addr),
		reachable.Contains(addr), e.facts.Web(netip.PrefixFrom(addr, addr.BitLen())), e.facts.SSH(addr), e.explainRequests(addr, now), e.explainScans(addr, now), listings, points}
}

// Names returns the dictionary of user names; see track.Tracker.Names.
func (e *Engine) Names(prefix string, limit int, now time.Time) []Name {
	return e.tracker.Names(prefix, limit, now)
}

// ShareNames sets which user names hosts elsewhere see attacked; see track.Tracker.ShareNames.
func (e *Engine) ShareNames(attacked func(name string) bool) { e.tracker.ShareNames(attacked) }

// AttackedNames returns at most so many names that may be reported as attacked; see dictionary.Attackable.
func (e *Engine) AttackedNames(limit int, now time.Time) []string {
	return e.tracker.AttackedNames(limit, now)
}

// UserNames returns the names of this host; see dictionary.Users.
func (e *Engine) UserNames() []string { return e.tracker.UserNames() }

// Alarms returns the logins that may be break-ins, oldest first.
func (e *Engine) Alarms() []track.Alarm { return e.tracker.Alarms() }

// Acknowledge marks alarms as seen, all if no ID is given, and returns how many it marked.
func (e *Engine) Acknowledge(ids ...uint64) int { return e.tracker.Acknowledge(ids...) }

// Attacks returns the distributed attacks under way.
func (e *Engine) Attacks(now time.Time) []track.Attack { return e.tracker.Attacks(now) }
