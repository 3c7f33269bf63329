// Package decide turns a tally into a ban, or reports why there is none.
//
// Decisions are pure functions of the tally (which carries the source's history and the bans in force), the configuration,
// the facts about this host, and now. Every ban carries its arithmetic as a sentence, so that a person can check it.
package decide

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/exempt"
)

// A Config determines how long bans last, and whether they are applied.
type Config struct {
	Times   conf.BanTimes
	Observe bool // bans are reported and not applied
	Alone   bool // addresses are banned, never networks
}

// A Verdict is the result of a decision.
type Verdict string

// The verdicts. After Ban, the caller calls Tracker.Banned; after Observe, Detect and Refused, Tracker.Detected, so that the next one is
// reported after as many attempts again.
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
	Ban     ban.Ban // the ban, or the one it would be; for Covered and Repeat without ID, reason and evidence
	Reason  string  // Ban.Reason; for Refused, what was reached and why nothing follows; empty for Covered and Repeat
}

// shortBan is the longest ban of a source that may be forged, and of one that people share: an error then costs little.
const shortBan = 10 * time.Minute

// Decide decides about the tally's event, at the time now.
//
// Most events past a limit come from sources that are banned already, their lines still under way or their log read late. So
// the verdict is worked out first, without allocating, and the texts are written only if they are used.
func Decide(t *event.Tally, cfg Config, facts *exempt.Facts, now time.Time) Decision {
	var first Decision
	var room [4]cause
	all := causes(room[:0], t, cfg.Times)
	if len(all) == 0 {
		return first
	}
	never := facts.Never(t.Event.Addr)
	for i, c := range all {
		d := decide(question{t, cfg, c, now}, facts, never)
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
	score bool // the score's; otherwise the rule's
	user  bool // the rule's for one user name
	class ban.Class
}

// causes appends the limits that the tally reaches to out, the one whose ban does most first.
func causes(out []cause, t *event.Tally, times conf.BanTimes) []cause {
	if t.Rule == nil || t.Event.Kind == event.Success {
		return out
	}
	rule := t.RuleReached()
	score := t.ScoreReached() && !t.Rule.Detect && !t.Event.Unreachable()
	switch {
	case rule && t.Attempts >= t.Limit:
		out = append(out, cause{class: ban.Verified})
	case t.UserReached():
		out = append(out, cause{user: true, class: ban.Verified})
	}
	if score && event.Points(t.Verified()) >= t.ScoreLimit {
		out = append(out, cause{score: true, class: ban.Verified})
		if t.Rule.Ports != "" || firstLength(t, times, true) > firstLength(t, times, false) {
			slices.Reverse(out)
		}
	}
	if rule {
		out = append(out, cause{class: ban.Unverified})
	}
	if score {
		out = append(out, cause{score: true, class: ban.Unverified})
	}
	return out
}

// A question is a cause with all that the answer depends on, facts about the host excepted.
type question struct {
	t     *event.Tally
	cfg   Config
	cause cause
	now   time.Time
}

// An answer is what a question comes to: a ban without its texts, and what they are written from.
type answer struct {
	ban   ban.Ban
	never string // why the address is never banned

	alone string    // what else is in the source's network, so that only the address is banned
	whole bool      // the source's network is banned, for more than one address of it
	wide  ban.Wider // the network banned in place of the source's

	asked    ban.Ports // the ports to ban, before
	session  bool      // the SSH ports stay open, for an administrator's session
	web      string    // why the web ports stay open
	portless bool      // and no other port is left to ban

	length time.Duration // of a ban of an ordinary source
	factor int           // of that, times the first one's
	capped bool          // and that would have been longer
}

func decide(q question, facts *exempt.Facts, never string) Decision {
	a := q.answer(facts)
	if a.never = never; never == "" && q.cause.class == ban.Unverified && q.knownSource() {
		a.never = "users log in from it, and the source of these packets may be forged"
	}
	verdict := Refused
	if a.never == "" && !a.portless {
		verdict = q.verdict(&a.ban)
	}
	if verdict == Covered || verdict == Repeat {
		return Decision{Verdict: verdict, Ban: a.ban}
	}
	tally := *q.t // texts are written from this copy, so that the caller's need not be on the heap
	q.t = &tally
	b := q.write(&a)
	return Decision{verdict, b, q.reason(&a, b.Reason)}
}

// answer works out what the ban would be.
func (q *question) answer(facts *exempt.Facts) (a answer) {
	a.ban.Prefix = q.width(&a, facts)
	a.ban.Except = q.except(a.ban.Prefix)
	a.ban.Ports = q.ports(&a, facts)
	a.ban.Class = q.cause.class
	a.ban.Start = q.now
	a.ban.Until, a.ban.Count = q.until(&a)
	a.ban.Rule = q.t.Rule.Name
	if q.cause.score {
		a.ban.Rule = ban.ByScore
	}
	a.ban.Service = q.t.Event.Service
	return a
}

// write returns the ban with its texts.
func (q *question) write(a *answer) ban.Ban {
	b := a.ban
	b.ID = string(appendID(nil, &b, q.t.Event))
	b.Reason = join(q.reached(), q.throughWords(), q.widthWords(a), q.portsWords(a), q.untilWords(a))
	b.Evidence = q.evidence()
	b.Listed = q.t.Event.Kind == event.Listed || q.cause.score && event.Points(q.t.Score) < q.t.ScoreLimit && q.t.Listed > 0
	return b
}

// reason returns what is reported of the decision as a whole: the reason for the ban, or why there is none.
func (q *question) reason(a *answer, ofBan string) string {
	switch {
	case a.never != "":
		return join(q.reached(), fmt.Sprintf("%s is never banned: %s", q.t.Event.Addr, a.never))
	case a.portless:
		return join(q.reached(), q.portsWords(a))
	}
	return ofBan
}

// appendID appends the name of a ban to buf: it is called after the line that decided it, so that the same line read twice is
// the same ban.
func appendID(buf []byte, b *ban.Ban, ev *event.Event) []byte {
	buf = append(append(buf, b.Rule...), ' ')
	buf = append(b.Prefix.AppendTo(buf), ' ')
	if ev.Position.Stream == "" { // not a line: the moment names it
		return strconv.AppendInt(buf, ev.Time.UnixNano(), 10)
	}
	buf = append(append(buf, ev.Position.Stream...), ':')
	return strconv.AppendUint(buf, ev.Position.Offset, 10)
}

func (q *question) verdict(b *ban.Ban) Verdict {
	var room [256]byte
	h := event.Hash(appendID(room[:0], b, q.t.Event))
	switch {
	case slices.ContainsFunc(q.t.History, func(p ban.Past) bool { return p.ID == h }),
		slices.ContainsFunc(q.t.InForce, func(f ban.Active) bool { return f.ID == h }):
		return Repeat
	case slices.ContainsFunc(q.t.InForce, func(f ban.Active) bool { return covers(f, b) }):
		return Covered
	case q.t.Rule.Detect, q.t.Event.Unreachable():
		return Detect
	case q.cfg.Observe:
		return Observe
	}
	return Ban
}

// covers reports whether a ban in force makes b needless. A longer ban extends a shorter one; one of the same length does
// not, or every line that was still under way when the ban began would push its end.
func covers(f ban.Active, b *ban.Ban) bool {
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

// width chooses what to ban. A network is not banned for what one address of it did: the address comes first, its network once a
// second address tries, and networks around that when enough of them are banned. Addresses from which users log in are left out
// of a network's ban. Where others must stay reachable, the address alone is banned.
func (q *question) width(a *answer, facts *exempt.Facts) netip.Prefix {
	addr, source := q.t.Event.Addr, q.t.Source
	alone := netip.PrefixFrom(addr, addr.BitLen())
	if source.IsSingleIP() {
		return source
	}
	if q.cfg.Alone {
		return alone
	}
	if a.alone = q.bystander(facts, source); a.alone != "" {
		return alone
	}
	chosen := alone
	if a.whole = q.t.Several && !slices.Contains(q.t.KnownAddrs, addr); a.whole {
		chosen = source
	}
	if q.cause.class == ban.Unverified || q.t.Event.Kind == event.Listed || slices.Contains(q.t.KnownAddrs, addr) {
		return chosen // a forger could choose the neighbors too, and a list has only this address
	}
	for _, w := range q.t.Wider {
		if w.Reached() && q.bystander(facts, w.Prefix) == "" {
			chosen, a.wide = w.Prefix, w
		}
	}
	return chosen
}

// knownSource reports whether users log in from the source: from the very address, or of IPv6 from its network, in which a device changes its
// address every day.
func (q *question) knownSource() bool {
	return q.t.KnownUsers > 0 || slices.Contains(q.t.KnownAddrs, q.t.Event.Addr)
}

// bystander returns what in p must stay reachable and cannot be left out of a ban, "" if nothing.
func (q *question) bystander(facts *exempt.Facts, p netip.Prefix) string {
	if why := facts.Inside(p); why != "" {
		return why
	}
	if len(q.t.KnownAddrs) >= ban.MaxExcept {
		return "very many known logins"
	}
	return ""
}

// except returns the known addresses within a banned network.
func (q *question) except(p netip.Prefix) (out []netip.Addr) {
	if p.IsSingleIP() {
		return nil
	}
	for _, addr := range q.t.KnownAddrs {
		if p.Contains(addr) {
			out = append(out, addr)
		}
	}
	return out
}

// ports chooses the ports to ban.
func (q *question) ports(a *answer, facts *exempt.Facts) (ports ban.Ports) {
	if !q.cause.score {
		ports = q.t.Rule.Ports
	}
	if q.t.Shared || q.cause.score && (q.t.KnownUsers > 0 || unproven(q.t)) || q.oneOfMany() {
		ports = q.t.Rule.Ports
		if ports == "" {
			ports = q.t.Rule.ServicePorts
		}
	}
	a.asked = ports
	open := facts.SSH(q.t.Event.Addr)
	a.session = open != "" && ports.Overlaps(open)
	if a.session {
		ports = a.leaveOpen(ports, open)
	}
	open = exempt.WebPorts
	if q.t.Rule.ServicePorts != "" && q.t.Rule.ServicePorts.Overlaps(open) {
		open = open.With(q.t.Rule.Listens) // a web server's other ports
	}
	if a.web = facts.Web(a.ban.Prefix); a.web != "" && !a.portless && ports.Overlaps(open) {
		return a.leaveOpen(ports, open)
	}
	a.web = ""
	return ports
}

// oneOfMany reports whether a source is banned only because others try the same user: it may be that user, who mistyped meanwhile.
func (q *question) oneOfMany() bool { return !q.cause.score && q.t.Surge.User }

// leaveOpen returns the ports that are left to ban.
func (a *answer) leaveOpen(ports, open ban.Ports) ban.Ports {
	left, some := ports.Without(open)
	a.portless = !some
	return left
}

// until returns when the ban ends and how many bans the source has had, this one included.
func (q *question) until(a *answer) (end time.Time, count int) {
	base := firstLength(q.t, q.cfg.Times, q.cause.score)
	count = 1 + q.repeats(q.cfg.Times.History)
	switch {
	case q.cause.class == ban.Unverified:
		return q.now.Add(min(base, shortBan)), 1
	case q.t.Shared:
		return q.now.Add(min(base, shortBan)), count
	case q.permanent():
		return time.Time{}, count
	}
	a.length, a.factor, a.capped = grow(base, count, q.cfg.Times)
	return q.now.Add(a.length), count
}

// firstLength returns how long the first ban lasts.
func firstLength(t *event.Tally, times conf.BanTimes, score bool) time.Duration {
	switch {
	case score && (t.KnownUsers > 0 || unproven(t)):
		return times.First // its users suffer with it
	case score && t.Absent*2 >= t.Score && t.Score > 0:
		return cmp.Or(times.Names, times.First)
	case score:
		return cmp.Or(times.Score, times.First)
	}
	return cmp.Or(t.Rule.BanTime, times.First)
}

// unproven reports whether a source may be one from which users log in: it failed at a service that does not report who does, with names
// that may be those of users.
func unproven(t *event.Tally) bool {
	return t.Rule.Lenient && t.Event.Kind == event.Failure && t.Name.Networks == 0 && t.Absent*2 < t.Score
}

// permanent reports whether the rule's threshold for a ban without end is reached.
func (q *question) permanent() bool {
	e := q.t.Rule.Escalation
	return !q.cause.score && e.Threshold > 0 && 1+q.repeats(e.Window) >= e.Threshold
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

// grow returns how long the count-th ban lasts: base by a factor, or the cap, which it reports. A base above the cap stays as
// it is.
func grow(base time.Duration, count int, times conf.BanTimes) (d time.Duration, factor int, capped bool) {
	d, factor = base, 1
	limit, growth := max(times.Cap, base), max(1, times.Growth)
	if growth == 1 {
		return d, factor, false
	}
	for range count - 1 {
		factor *= growth
		if d > limit/time.Duration(growth) {
			return limit, factor, true
		}
		d *= time.Duration(growth)
	}
	return d, factor, false
}

// evidence returns the lines of the tally, the deciding one last.
func (q *question) evidence() []string {
	lines := slices.Clone(q.t.Evidence)
	if e := q.t.Event.Episode; e != nil && !q.cause.score {
		lines = slices.Clone(e.Lines)
	}
	if line := q.t.Event.Evidence(); line != "" && (len(lines) == 0 || lines[len(lines)-1] != line) {
		lines = append(lines, line)
	}
	return lines[max(0, len(lines)-ban.MaxEvidence):]
}
