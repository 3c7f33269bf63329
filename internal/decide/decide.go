// Package decide turns a tally into a ban, or says why there is none.
//
// Decisions are pure functions of the tally (which carries the source's history and the bans in force), the configuration,
// the facts about this host, and now. Every ban carries its arithmetic as a sentence, so that a person can check it.
package decide

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/event"
)

// A Config says how long bans last, and whether there are any.
type Config struct {
	Times   conf.BanTimes
	Observe bool // nothing is banned, only said
}

// A Verdict is what a decision comes to.
type Verdict string

// The verdicts. After Ban the tracker wants to be told by Banned; after Observe, Detect and Refused by Detected, so that the
// next one is reported after as many attempts again.
const (
	None    Verdict = ""         // no limit is reached
	Ban     Verdict = "ban"      // Decision.Ban is to be put in force
	Observe Verdict = "observe"  // it would be, but mode=observe
	Detect  Verdict = "detect"   // it would be, but the rule only reports
	Covered Verdict = "covered"  // a ban in force does as much already
	Repeat  Verdict = "repeated" // this very line has been decided on before
	Refused Verdict = "refused"  // the address is never banned
)

// A Decision is what Decide makes of a tally.
type Decision struct {
	Verdict Verdict
	Ban     ban.Ban // the ban, or the one it would be
	Reason  string  // Ban.Reason; for Refused, what was reached and why nothing follows
}

// shortBan is the longest ban of a source that may be forged, and of one that people share: an error then costs little.
const shortBan = 10 * time.Minute

// servicePorts are the ports of the services that we ship rules for, for bans that must leave other ports alone where the
// rule names none.
var servicePorts = map[string]ban.Ports{
	"sshd":    "22",
	"dovecot": mailPorts,
	"postfix": mailPorts,
	"vsftpd":  "20-21",
}

// mailPorts are those of all mail services: a guesser at IMAP goes on at SMTP with the same names.
const mailPorts = "25,110,143,465,587,993,995,4190"

// Decide decides about the tally's event, at the time now.
func Decide(t *event.Tally, cfg Config, facts Facts, now time.Time) Decision {
	var first Decision
	for i, c := range causes(t) {
		d := (&question{t, cfg, facts, now, c}).decide()
		if d.Verdict != Covered {
			return d
		}
		if i == 0 {
			first = d
		}
	}
	return first
}

// A cause is a limit that was reached.
type cause struct {
	score bool // the score's; else the rule's
	class ban.Class
}

// causes returns the limits that the tally reaches, the one whose ban does most first.
func causes(t *event.Tally) []cause {
	if t.Rule == nil || t.Event.Kind == event.Success {
		return nil
	}
	rule := t.RuleReached()
	score := t.ScoreReached() && t.Rule.Action != conf.ActionDetect
	if !rule && !score {
		return nil
	}
	var out []cause
	if rule && t.Attempts >= event.Whole(t.Limit) {
		out = append(out, cause{false, ban.Verified})
	}
	if score && event.Points(t.Score) >= t.ScoreLimit {
		out = append(out, cause{true, ban.Verified})
		if t.Rule.Ports != "" {
			slices.Reverse(out)
		}
	}
	if rule {
		out = append(out, cause{false, ban.Unverified})
	}
	if score {
		out = append(out, cause{true, ban.Unverified})
	}
	return out
}

// A question is a cause with all that the answer depends on.
type question struct {
	t     *event.Tally
	cfg   Config
	facts Facts
	now   time.Time
	cause cause
}

func (q *question) decide() Decision {
	addr := q.t.Event.Addr
	prefix, widthReason := q.width()
	ports, portsReason, some := q.ports()
	until, count, timeReason := q.until()
	b := ban.Ban{
		Key:      ban.Key{Prefix: prefix, Ports: ports, Class: q.cause.class},
		Start:    q.now,
		Until:    until,
		Rule:     q.t.Rule.Name,
		Service:  q.t.Event.Service,
		Count:    count,
		Reason:   join(q.reached(), widthReason, portsReason, timeReason),
		Evidence: q.evidence(),
	}
	if q.cause.score {
		b.Rule = ban.ByScore
	}
	b.ID = id(b.Rule, prefix, q.t.Event)
	if why := q.facts.Never(addr); why != "" {
		return Decision{Refused, b, join(q.reached(), fmt.Sprintf("%s is never banned: %s", addr, why))}
	}
	if !some {
		return Decision{Refused, b, join(q.reached(), portsReason)}
	}
	return Decision{q.verdict(&b), b, b.Reason}
}

// id names a ban after the line that decided it, so that the same line read twice is the same ban.
func id(rule string, p netip.Prefix, ev *event.Event) string {
	if ev.Position.Stream == "" { // not a line: the moment names it
		return fmt.Sprintf("%s %s %d", rule, p, ev.Time.UnixNano())
	}
	return fmt.Sprintf("%s %s %s:%d", rule, p, ev.Position.Stream, ev.Position.Offset)
}

func (q *question) verdict(b *ban.Ban) Verdict {
	h := event.Hash(b.ID)
	switch {
	case slices.ContainsFunc(q.t.History, func(p event.Past) bool { return p.ID == h }),
		slices.ContainsFunc(q.t.InForce, func(f event.Held) bool { return f.ID == h }):
		return Repeat
	case slices.ContainsFunc(q.t.InForce, func(f event.Held) bool { return covers(f, b) }):
		return Covered
	case q.t.Rule.Action == conf.ActionDetect:
		return Detect
	case q.cfg.Observe:
		return Observe
	}
	return Ban
}

// covers reports whether a ban in force makes b needless. A longer ban extends a shorter one; one of the same length does
// not, or every line that was still under way when the ban began would push its end.
func covers(f event.Held, b *ban.Ban) bool {
	if f.Prefix.Bits() > b.Prefix.Bits() || !f.Prefix.Contains(b.Prefix.Addr()) || !f.Ports.Covers(b.Ports) {
		return false
	}
	if f.Class == ban.Unverified && b.Class == ban.Verified {
		return false
	}
	if f.Until.IsZero() {
		return true
	}
	return !b.Permanent() && (!b.Until.After(f.Until) || b.Until.Sub(b.Start) <= f.Until.Sub(f.Start))
}

// width chooses what to ban: the source, networks around it when enough of them is banned, or the one address where more
// would hit somebody who must not be.
func (q *question) width() (netip.Prefix, string) {
	addr, source := q.t.Event.Addr, q.t.Source
	if source.IsSingleIP() {
		return source, ""
	}
	if why := q.bystander(source, q.t.KnownInside); why != "" {
		return netip.PrefixFrom(addr, addr.BitLen()), fmt.Sprintf("this address alone, for %s contains %s", source, why)
	}
	if q.cause.class == ban.Unverified {
		return source, "" // a forger could choose the neighbours too
	}
	chosen, reason := source, ""
	for _, w := range q.t.Wider {
		if w.Reached() && q.bystander(w.Prefix, w.Known) == "" {
			chosen, reason = w.Prefix, fmt.Sprintf("all of %s, for %d networks in it are banned", w.Prefix, w.Banned)
		}
	}
	return chosen, reason
}

// bystander says who in p must stay reachable, "" if nobody.
func (q *question) bystander(p netip.Prefix, known int) string {
	if why := q.facts.inside(p); why != "" {
		return why
	}
	if known > 0 {
		return "a known login"
	}
	return ""
}

// ports chooses the ports to ban. ok is false if none is left.
func (q *question) ports() (ports ban.Ports, reason string, ok bool) {
	if !q.cause.score {
		ports = q.t.Rule.Ports
	}
	if q.t.Shared {
		ports = q.t.Rule.Ports
		if ports == "" {
			ports = servicePorts[q.t.Event.Service]
		}
		reason = fmt.Sprintf("%d users have logged in from here: %s", q.t.KnownUsers, portsWords(ports))
	}
	if q.facts.Sessions.Contains(q.t.Event.Addr) {
		if ports, ok = without(ports, q.facts.sshPorts()); !ok {
			return "", "an administrator's SSH session from there is live", false
		}
		reason = join(reason, "not the SSH ports, for an administrator's session from there is live")
	}
	return ports, reason, true
}

func portsWords(p ban.Ports) string {
	if p == "" {
		return "all ports, for those of the service are not known"
	}
	return "ports " + string(p) + " only"
}

// until says when the ban ends, the how manieth of the source it is, and why.
func (q *question) until() (end time.Time, count int, reason string) {
	base := q.cfg.Times.First
	if !q.cause.score && q.t.Rule.BanTime > 0 {
		base = q.t.Rule.BanTime
	}
	count = 1 + q.repeats(q.cfg.Times.History)
	switch {
	case q.cause.class == ban.Unverified:
		d := min(base, shortBan)
		return q.now.Add(d), 1, "the source may be forged: new connections only, for " + span(d)
	case q.t.Shared:
		d := min(base, shortBan)
		return q.now.Add(d), count, "a shared address: for " + span(d)
	case q.permanent():
		e := q.t.Rule.Escalation
		return time.Time{}, count, fmt.Sprintf("%s ban in %s (limit %d): for good", ordinal(1+q.repeats(e.Window)), span(e.Window), e.Threshold)
	}
	d, arithmetic := grow(base, count, q.cfg.Times)
	return q.now.Add(d), count, fmt.Sprintf("%s ban in %s: %s", ordinal(count), span(q.cfg.Times.History), arithmetic)
}

// permanent reports whether the rule's threshold for a ban without end is reached.
func (q *question) permanent() bool {
	e := q.t.Rule.Escalation
	return !q.cause.score && e.Enabled && e.Threshold > 0 && 1+q.repeats(e.Window) >= e.Threshold
}

// repeats counts the source's earlier bans that ended within a time before now: it has come back so often. One that is
// still in force is no repeat, but the same visit.
func (q *question) repeats(within time.Duration) (n int) {
	for _, p := range q.t.History {
		over := !p.Until.IsZero() && !p.Until.After(q.now)
		if over && !p.Joined && !p.Lifted && q.now.Sub(p.Until) <= within {
			n++
		}
	}
	return n
}

// grow returns how long the count-th ban lasts, and the arithmetic: "10m × 16 = 2h40m". A base above the cap stays as it is.
func grow(base time.Duration, count int, times conf.BanTimes) (time.Duration, string) {
	limit, factor := max(times.Cap, base), max(1, times.Growth)
	d, by := base, 1
	for range count - 1 {
		if factor > 1 && d > limit/time.Duration(factor) {
			return limit, fmt.Sprintf("%s × %d, at most %s", span(base), by*factor, span(limit))
		}
		d *= time.Duration(factor)
		by *= factor
	}
	if by == 1 {
		return d, span(d)
	}
	return d, fmt.Sprintf("%s × %d = %s", span(base), by, span(d))
}

// evidence returns the lines of the tally, the deciding one last.
func (q *question) evidence() []string {
	lines := slices.Clone(q.t.Evidence)
	if line := q.t.Event.Line; line != "" && (len(lines) == 0 || lines[len(lines)-1] != line) {
		lines = append(lines, line)
	}
	return lines[max(0, len(lines)-ban.MaxEvidence):]
}
