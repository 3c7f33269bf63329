package engine

import (
	"iter"
	"net/netip"
	"time"

	"mef/internal/ban"
	"mef/internal/decide"
	"mef/internal/event"
)

// A Kind is what an Outcome is.
type Kind uint8

// The kinds of outcome.
const (
	Counted      Kind = iota + 1 // Event was counted; Score is what its source has come to
	Banned                       // Ban must be applied, and saved together with the position behind its line
	WouldBan                     // the same, but mode is observe or the rule only reports: Ban is logged, not applied
	Refused                      // Event reached a limit, and its address must not be banned: see Reason
	ClockSetBack                 // the clock was set back to Time
	Blocked                      // a ban would have kept Event from the host, and it does not count (Config.WhatIf)
	Alarm                        // Event is a login that may be a break-in: see Reason
	Verify                       // Claim must be verified, and the answer passed to Answered; there is no Event
	Ask                          // block lists may be asked about the address of Event; what they answer is an event.Listed
)

// An Outcome is one thing that follows from a line or an event. It is valid until the next one; a copy may be kept, but for Event.
type Outcome struct {
	Kind     Kind
	Time     time.Time
	Event    *event.Event // that it follows from; valid until the next line's; copy it to keep it. That of Blocked lacks the texts of its line
	Suspect  int          // those of Event that count towards the score of all own hosts
	Attempts int          // that Event added: what other lines have reported of them is not among them
	Score    float64      // points of the event's source, all services together
	Ban      ban.Ban
	Reason   string
	Claim    Claim // of Verify
}

// Lines returns what follows from the lines of a batch, in order, as they are matched. now is the time by the host's clock; zero
// means that only the times of the lines count, as in a replay. The receiver must not call the engine meanwhile, and still owns the batch. A line that no rule recognizes has no outcome and costs no allocation. If the receiver breaks off, the rest
// of the lines is not read.
func (e *Engine) Lines(b *event.Batch, now time.Time) iter.Seq[*Outcome] {
	return func(yield func(*Outcome) bool) {
		v := e.view(b.Source)
		v.counts.Lines += uint64(len(b.Lines))
		v.counts.Lost += uint64(b.Lost)
		for i := range b.Lines {
			line := &b.Lines[i]
			if v.Match(line, &e.match) {
				v.counts.Matched++
				if !e.matched(b, line, now, yield) {
					return
				}
			}
			if v.web != nil && !e.request(v.web, b, line, now, yield) {
				return
			}
		}
	}
}

// Event returns what follows from an event that is not from a line, such as that of a scan. now is as in Lines.
func (e *Engine) Event(ev *event.Event, now time.Time) iter.Seq[*Outcome] {
	return func(yield func(*Outcome) bool) { e.event("", ev, now, yield) }
}

// matched counts the match of a line and yields what follows. It returns false once yield does.
func (e *Engine) matched(b *event.Batch, line *event.Line, now time.Time, yield func(*Outcome) bool) bool {
	ev := &e.ev
	e.match.Event(ev, b, line)
	if e.cfg.Accept != nil {
		e.match.Texts(ev, &e.names)
	}
	r, more := e.admit(b.Source, ev, now, yield)
	if r == nil {
		return more
	}
	if e.cfg.Accept == nil {
		e.match.Texts(ev, &e.names) // not before: names in what a ban keeps away are of no use
	}
	return e.count(r, ev, now, yield)
}

// event counts an event and yields what follows. It returns false once yield does.
func (e *Engine) event(source string, ev *event.Event, now time.Time, yield func(*Outcome) bool) bool {
	r, more := e.admit(source, ev, now, yield)
	return more && (r == nil || e.count(r, ev, now, yield))
}

// emit yields an outcome.
func (e *Engine) emit(o Outcome, yield func(*Outcome) bool) bool {
	e.out = o
	return yield(&e.out)
}

// admit returns the rule at which an event counts, nil if it does not count, and yields why. It returns false once yield does.
func (e *Engine) admit(source string, ev *event.Event, now time.Time, yield func(*Outcome) bool) (r *rule, more bool) {
	r, ok := e.ruleBy.Get(ev.Rule)
	if !ok || e.cfg.Accept != nil && !e.cfg.Accept(source, ev) {
		return nil, true
	}
	if now.IsZero() {
		now = ev.Time
	}
	if e.newest.setBack(ev.Time, now) {
		e.tracker.SetBack(now)
		if !e.emit(Outcome{Kind: ClockSetBack, Time: now, Event: ev}, yield) {
			return nil, false
		}
	}
	if e.newest.stale(ev, now, r.FindTime) {
		return nil, true
	}
	if e.cfg.WhatIf && ev.Addr.IsValid() && e.tracker.Blocked(ev.Addr, r.ServicePorts, ev.Time) {
		c := &e.counted
		c.Kind, c.Time, c.Event, c.Attempts, c.Score = Blocked, ev.Time, ev, 0, 0
		return nil, yield(c)
	}
	return r, true
}

// count counts an event at a rule and yields what follows. It returns false once yield does.
func (e *Engine) count(r *rule, ev *event.Event, now time.Time, yield func(*Outcome) bool) bool {
	if !e.addListings(ev) {
		return true
	}
	tally := e.tracker.Observe(ev)
	r.count(ev, tally)
	r.recent.count(ev, tally.Source, tally.New)
	if tally.Alarm != "" && !e.emit(Outcome{Kind: Alarm, Time: ev.Time, Event: ev, Reason: tally.Alarm}, yield) {
		return false
	}
	c := &e.counted
	c.Kind, c.Time, c.Event, c.Attempts, c.Score = Counted, ev.Time, ev, tally.New, tally.Score+tally.Listed
	c.Suspect = suspect(r, ev, tally)
	if e.blocked.Contains(ev.Addr) {
		return yield(c)
	}
	ask, kind := e.mayAsk(ev, tally), Kind(0)
	if tally.Reached() {
		if now.IsZero() {
			now = ev.Time
		}
		d := decide.Decide(tally, e.cfg.Decide, &e.facts, ev.Time)
		kind = e.act(r, ev, &d, now)
		if !yield(c) || kind != 0 && !e.emit(Outcome{Kind: kind, Time: ev.Time, Event: ev, Ban: d.Ban, Reason: d.Reason}, yield) {
			return false
		}
	} else if !yield(c) {
		return false
	}
	return !ask || kind == Banned || e.emit(Outcome{Kind: Ask, Time: ev.Time, Event: ev}, yield)
}

// suspect returns how many failures of an event count against its source on other hosts: not those that can be forged or are forgiven, and none from
// where users log in.
func suspect(r *rule, ev *event.Event, tally *event.Tally) int {
	if ev.Kind != event.Failure || !ev.Verified || r.Detect || tally.KnownUsers > 0 || ev.Unreachable() {
		return 0
	}
	return max(0, tally.New-tally.Forgiven)
}

// act records a decision. It returns what follows from it, 0 if nothing does.
func (e *Engine) act(r *rule, ev *event.Event, d *decide.Decision, now time.Time) Kind {
	switch d.Verdict {
	case decide.Ban:
		e.spare(ev)
		r.counts.Bans++
		e.tracker.Banned(d.Ban)
		if !d.Ban.Permanent() && d.Ban.Until.Before(now) {
			return 0 // of old lines that were read late: it counts as a repeat, and is over
		}
		return Banned
	case decide.Observe, decide.Detect:
		if ev.Unreachable() {
			e.spared[throughProxy]++
		}
		e.tracker.Detected(d.Ban)
		return WouldBan
	case decide.Refused:
		e.spare(ev)
		e.tracker.Detected(d.Ban) // so that it is reported once, not for every further line
		return Refused
	}
	return 0
}

// liveSession is the reason counted for bans that an administrator's live session prevents or narrows.
const liveSession = "an administrator's SSH session"

// throughProxy is the reason counted for sources whose requests come through a proxy.
const throughProxy = "requests through a proxy, which a ban of the client's packets does not stop"

// spare counts why an address was not banned, or not on every port.
func (e *Engine) spare(ev *event.Event) {
	reason := e.facts.Never(ev.Addr)
	if reason == "" {
		reason = e.facts.Web(netip.PrefixFrom(ev.Addr, ev.Addr.BitLen()))
	}
	if reason == "" && e.facts.SSH(ev.Addr) != "" {
		reason = liveSession
	}
	if reason != "" {
		e.spared[reason]++
	}
}

func (r *rule) count(ev *event.Event, tally *event.Tally) {
	switch ev.Kind {
	case event.Failure:
		r.counts.Failures += uint64(tally.New)
		r.counts.Forgiven = uint64(max(0, int64(r.counts.Forgiven)+int64(tally.Forgiven)))
	case event.Probe:
		r.counts.Probes++
	case event.Listed:
		r.counts.Failures++
	case event.Success:
		r.counts.Logins++
	}
}

// newest is the time of the latest event by the clock of the host, in nanoseconds.
type newest int64

// maxSkew is how far the clock must have been set back for the tracker to follow it. Below that, the time of the tracker does not move.
const maxSkew = int64(time.Minute)

// setBack reports whether the clock was set back: an event is earlier than another, whose time is still in the future. n then
// follows the clock.
func (n *newest) setBack(at, now time.Time) bool {
	if int64(*n)-now.UnixNano() <= maxSkew || int64(*n)-at.UnixNano() <= maxSkew {
		return false
	}
	*n = newest(now.UnixNano())
	return true
}

// stale reports whether a failure is too old to count beside later events: a line of a log that is read for the
// first time, older than the rule's findtime. The tracker's time never goes back, so it would count as of now. A clock that was set
// back makes nothing stale.
func (n *newest) stale(ev *event.Event, now time.Time, findTime time.Duration) bool {
	at := ev.Time.UnixNano()
	if at > int64(*n) {
		*n = newest(at)
		return false
	}
	return ev.Kind != event.Success && int64(*n)-at > int64(findTime) && now.UnixNano()-at > int64(findTime)
}
