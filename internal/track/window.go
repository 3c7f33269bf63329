package track

import (
	"math"
	"slices"
	"time"

	"mef/internal/event"
	"mef/internal/track/record"
)

// An attempt is one refused login, or several that one line reported. It stands in the window of its rule, or for a while only so
// that further lines about it are recognized. There are very many: it takes 24 bytes.
type attempt struct {
	stamp   int64  // its time in microseconds since 1970, its number (7 bits), and its flags (3 bits)
	user    uint32 // hash of service and name; 0: none
	session uint32 // hash; 0: none
	forms   uint16 // a bit for each form of its rule that has reported it
	others  uint16 // the same of another rule about the same service
	rule    uint16
	points  uint16 // each has added to the score
}

const (
	unverified = 1 << iota // the source may be forged
	excused                // forgiven to a user who belongs here; it counts nowhere
	answered               // a ban has answered it; it counts nowhere

	numberAt = 3  // where the number begins in the stamp
	timeAt   = 10 // and the time
	flagBits = 1<<numberAt - 1

	mostOfAttempt = 1<<(timeAt-numberAt) - 1 // refused logins of one attempt: more than a line can add
)

func stamp(at int64, n int, flags uint8) int64 {
	return at/1e3<<timeAt | int64(n)<<numberAt | int64(flags)
}

// at returns the time in nanoseconds since 1970, which is exact to the microsecond.
func (a *attempt) at() int64 { return a.stamp >> timeAt * 1e3 }

func (a *attempt) n() int { return int(a.stamp >> numberAt & mostOfAttempt) }

func (a *attempt) flags() uint8 { return uint8(a.stamp & flagBits) }

func (a *attempt) is(flag int64) bool { return a.stamp&flag != 0 }

const (
	sessionIdle = 5 * time.Minute  // a session token may mean another session after this
	sessionGap  = 10 * time.Second // lines of different sessions, or of none, may be about the same attempt within this
	closingGap  = 4 * time.Minute  // a line about a whole session follows its attempts within this, where the session is not known

	// maxAnswered is how many attempts of a source are kept that a ban has answered. Otherwise a source that the ban does not keep out, such
	// as one behind a proxy, would fill the memory, and each of its lines be compared with all before.
	maxAnswered = 16
)

// A sum is the number of a source's attempts at one rule.
type sum struct {
	verified, unverified int
	first                int64
}

// sums are the attempts of one source by rule.
type sums struct {
	byRule   []sum
	rules    []uint16 // those whose sum is not zero: few of very many
	answered int      // attempts that a ban has answered
	stale    bool     // attempts have changed since
}

func newSums(rules int) sums { return sums{byRule: make([]sum, rules)} }

func (s *sums) clear() {
	for _, r := range s.rules {
		s.byRule[r] = sum{}
	}
	s.rules, s.answered, s.stale = s.rules[:0], 0, false
}

// add adds an attempt. They come newest first.
func (s *sums) add(a *attempt) {
	switch {
	case a.is(answered):
		s.answered++
		return
	case a.is(excused):
		return
	}
	of := &s.byRule[a.rule]
	if *of == (sum{}) {
		s.rules = append(s.rules, a.rule)
	}
	if a.is(unverified) {
		of.unverified += a.n()
	} else {
		of.verified += a.n()
	}
	of.first = a.at()
}

// limit returns how many attempts at a rule ban a source. Where users log in it grows with their number: each of twenty people
// may mistype twice.
func (t *Tracker) limit(s *source, rule uint16) int {
	limit := t.rules[rule].rule.MaxRetry
	if s.known > 0 && t.cfg.Known.Limits {
		limit += min(100, 5+2*int(s.known))
	}
	return limit
}

// settle brings a source to now: its points decay, and its attempts that are too old, or more than the rule's limit needs,
// are dropped. It leaves the sums of what remains in t.sums.
func (t *Tracker) settle(s *source, now int64) {
	t.decay(s, now)
	t.sums.clear()
	t.drop(s, func(a *attempt) bool {
		if t.obsolete(s, a, now) {
			return true
		}
		t.sums.add(a)
		return false
	})
}

// sumUp leaves in t.sums what settle would, and changes nothing else.
func (t *Tracker) sumUp(s *source, now int64) {
	t.sums.clear()
	for _, a := range slices.Backward(t.attemptsOf(s)) {
		if !t.obsolete(s, &a, now) {
			t.sums.add(&a)
		}
	}
}

// obsolete reports whether an attempt no longer matters, given the sums of all newer ones. Forgeable attempts never push
// out verified ones.
func (t *Tracker) obsolete(s *source, a *attempt, now int64) bool {
	switch {
	case t.tooOld(a, now-a.at()):
		return true
	case a.is(answered):
		return t.sums.answered >= maxAnswered
	case a.is(excused):
		return false
	case a.is(unverified):
		return t.sums.byRule[a.rule].unverified >= t.limit(s, a.rule)
	}
	return t.sums.byRule[a.rule].verified >= t.limit(s, a.rule)
}

// tooOld reports whether an attempt of that age no longer matters.
func (t *Tracker) tooOld(a *attempt, age int64) bool {
	if a.is(answered) {
		return age > int64(sessionIdle)
	}
	window := int64(t.rules[a.rule].rule.FindTime)
	if a.is(excused) {
		return age > max(window, int64(sessionIdle))
	}
	return age > window
}

// attemptsOf returns the attempts of a source, the oldest first, until one is added or dropped.
func (t *Tracker) attemptsOf(s *source) []attempt { return t.attempts.Of(s.attempts) }

// drop removes the attempts that fit. It asks for the newest first.
func (t *Tracker) drop(s *source, fits func(*attempt) bool) {
	all := t.attemptsOf(s)
	left := len(all) // where those that stay begin
	for i := len(all) - 1; i >= 0; i-- {
		if fits(&all[i]) {
			continue
		}
		if left--; left != i {
			all[left] = all[i]
		}
	}
	if left > 0 {
		t.attempts.Cut(&s.attempts, copy(all, all[left:]))
	}
}

// tidied is how many sources each save of the state tidies: it takes a fraction of a millisecond.
const tidied = 4096

// tidy drops attempts of the next sources in turn that are too old to matter. Otherwise those of an attack that is over would be kept until
// their sources fail again.
func (t *Tracker) tidy(sources int) {
	for range min(sources, int(t.sources.Last())) {
		t.tidyPos = t.tidyPos%t.sources.Last() + 1
		t.drop(t.sources.At(t.tidyPos), func(a *attempt) bool { return t.tooOld(a, t.now-a.at()) })
	}
}

// A report is the attempts that a line reports, and what is known of its user.
type report struct {
	subject
	rule     uint16
	session  uint32
	form     uint16 // bit of the event's form
	n        int
	once     bool // an echo: it counts only if no other line of its session does
	verified bool
	days     int  // on which the source has failed, if this is the first failure of one
	overdue  bool // these are too many
	surge    event.Surge
}

func formBit(form uint8) uint16 { return 1 << (form % 16) }

// lookedUpAgain reports whether a service that has reported the user of an attempt as unknown reports the same attempt once more, because it
// looks for users in several databases.
func (t *Tracker) lookedUpAgain(a *attempt, r *report, now int64) bool {
	same := a.rule == r.rule && a.user == r.user && a.user != 0 && a.session == r.session && now-a.at() <= sameLookup
	return same && (r.exists || t.rules[r.rule].inDoubt(now)) && t.unknown.has(r.rule, r.raw, r.session, now)
}

// claim returns how many of a report's attempts other lines have reported already, and notes that this line has reported them
// too. Lines of one form never report an attempt twice, so an attempt is taken by each form once: however lines are matched,
// at least as many attempts remain as any one form has reported.
func (t *Tracker) claim(s *source, r *report, now int64) (claimed int) {
	t.close = t.close[:0]
	closest := unrelated
	all := t.attemptsOf(s)
	for i := len(all) - 1; i >= 0; i-- {
		a := &all[i]
		if now-a.at() > int64(sessionIdle) {
			break // and all that follow are older
		}
		if r.n == 1 && !r.once && a.rule == r.rule && a.session != r.session && a.user != r.user && a.user != 0 && r.user != 0 {
			continue // most are of another session and user: closeness would report unrelated
		}
		if closeness := t.closeness(a, r, now); closeness != unrelated {
			t.close = append(t.close, candidate{i, closeness})
			closest = min(closest, closeness)
		}
	}
	for ; closest <= mayBeSame; closest++ {
		for _, c := range t.close {
			if c.closeness != closest || claimed >= r.n {
				continue
			}
			a := &all[c.attempt]
			forms := &a.forms
			if a.rule != r.rule {
				forms = &a.others
			}
			if r.once {
				t.adopt(s, a, r, now)
				return r.n
			}
			if *forms&r.form == 0 || t.lookedUpAgain(a, r, now) {
				*forms |= r.form
				claimed += a.n()
				t.adopt(s, a, r, now)
			}
		}
	}
	return min(claimed, r.n)
}

// A candidate is an attempt that a report may be about.
type candidate struct {
	attempt   int // its place among those of the source
	closeness int
}

// How close a report is to an attempt.
const (
	sameUserInSession = iota
	sameSession
	mayBeSame
	unrelated
)

func (t *Tracker) closeness(a *attempt, r *report, now int64) int {
	age := time.Duration(now - a.at())
	sameUser := a.user == r.user || a.user == 0 || r.user == 0
	if a.rule != r.rule && !sameUser {
		sameUser = a.user^t.rules[a.rule].service == r.user^t.rules[r.rule].service
	}
	switch {
	case a.rule != r.rule && (r.once || !t.together(a.rule, r.rule)), a.is(unverified) == r.verified:
		return unrelated
	case a.session == r.session && a.session != 0 && a.rule == r.rule:
		if age > sessionIdle {
			return unrelated
		} else if sameUser {
			return sameUserInSession
		}
		return sameSession
	case r.once:
		if a.session != 0 && r.session != 0 || age > sessionGap {
			return unrelated
		}
	case !sameUser && r.n == 1:
		return unrelated
	case a.session != 0 && r.session != 0 || a.rule != r.rule:
		if age > sessionGap || a.forms == 0 { // what an echo reported is of its session
			return unrelated
		}
	case age > closingGap:
		return unrelated
	}
	return mayBeSame
}

// together reports whether two rules may report the same attempt: those of one set of ports, as Dovecot's and Postfix's, where one
// asks the other whether a password is right.
func (t *Tracker) together(a, b uint16) bool {
	ports := t.rules[a].rule.Ports
	return ports != "" && ports == t.rules[b].rule.Ports
}

// adopt adds to an attempt what another line reports of it.
func (t *Tracker) adopt(s *source, a *attempt, r *report, now int64) {
	if r.session != 0 && a.rule == r.rule {
		a.session = r.session
	}
	if r.user == 0 || a.is(answered) || !r.verified {
		return
	}
	points := t.pointsOf(s, &r.subject, r.rule)
	if r.exists && t.lookedUpAgain(a, r, now) {
		t.correct(s, a, r, points, now)
		return
	}
	if r.standing >= absent && a.is(excused) { // an earlier line did not report that
		a.stamp &^= excused
		t.sums.stale = true
		if r.login != nil {
			r.login.Spent = max(0, r.login.Spent-float32(a.n()))
			t.logins.Touch(r.login)
		}
	}
	moved := a.user != r.user
	if moved {
		if a.user != 0 && r.standing < absent {
			return
		}
		if !a.is(excused) {
			t.charge(s, a.user, nil, -float32(a.points)*float32(a.n()), false)
			a.points = 0
		}
		a.user = r.user
		if t.excuse(s, &r.subject, now) {
			a.stamp |= excused
			t.sums.stale = true
		}
	}
	if more := points - int(a.points); more > 0 && !a.is(excused) && (moved || r.standing >= contested) {
		t.chargeAll(s, r, more*a.n())
		a.points = uint16(points)
	}
}

// correct counts an attempt anew whose user the service has reported as unknown and then as existing.
func (t *Tracker) correct(s *source, a *attempt, r *report, points int, now int64) {
	t.doubt(r.rule, now)
	if a.is(excused) {
		return
	}
	if t.excuse(s, &r.subject, now) {
		a.stamp |= excused
		t.sums.stale = true
		points = 0
	}
	if less := int(a.points) - points; less > 0 {
		t.charge(s, a.user, nil, -float32(less)*float32(a.n()), true)
		a.points = uint16(points)
	}
}

// count enters n attempts. More than the rule's limit never matter.
func (t *Tracker) count(s *source, r *report, n int, flags uint8, now int64) {
	each := 0
	switch {
	case t.rules[r.rule].rule.Detect || flags&(excused|answered) != 0:
	case !r.verified:
		flags |= unverified
		s.unverified += float32(t.cfg.Score.Unverified * n)
	default:
		each = t.pointsOf(s, &r.subject, r.rule)
		switch {
		case r.overdue:
			each = max(each, t.scoreLimit(s))
		case r.guessed || n == 1 && t.lone(s, &r.subject, now):
			each = 0
		default:
			each *= r.days
		}
		more := each
		if r.standing == absent { // the same name again is weaker evidence
			more = int(t.rules[r.rule].points)
		}
		t.chargeAll(s, r, each+(n-1)*more)
	}
	t.sums.stale = t.sums.stale || flags&answered == 0
	a := attempt{user: r.user, session: r.session, rule: r.rule, points: uint16(min(each, math.MaxUint16))}
	if !r.once {
		a.forms = r.form
	}
	if n = min(n, t.limit(s, r.rule)); n > 0 {
		a.stamp = stamp(now, n, flags)
		t.attempts.Append(&s.attempts, a)
	}
}

func (t *Tracker) chargeAll(s *source, r *report, points int) {
	t.charge(s, r.user, r.login, float32(points), r.standing >= absent)
	if r.login != nil {
		t.logins.Touch(r.login)
	}
}

// recount counts failures that were forgiven to a user, because more followed faster than a device or a person makes them.
func (t *Tracker) recount(s *source, r *report, now int64) (n int) {
	points := int(t.rules[r.rule].points)
	all := t.attemptsOf(s)
	for i := len(all) - 1; i >= 0; i-- {
		a := &all[i]
		if a.rule == r.rule && a.user == r.user && a.is(excused) && now-a.at() <= int64(t.rules[r.rule].rule.FindTime) {
			a.stamp &^= excused
			t.sums.stale = true
			a.points = uint16(points)
			t.chargeAll(s, r, points*a.n())
			n += a.n()
		}
	}
	return n
}

// tried reports whether a source has tried a user lately, at whatever rule.
func (t *Tracker) tried(s *source, user uint32) bool {
	for _, a := range t.attemptsOf(s) {
		if a.user == user {
			return true
		}
	}
	return t.credited(s, user)
}

// attemptsBy returns how many attempts of a user at a rule count, and when the oldest was.
func (t *Tracker) attemptsBy(s *source, rule uint16, user uint32, now int64) (n int, first time.Time) {
	oldest := int64(0)
	for _, a := range slices.Backward(t.attemptsOf(s)) {
		if a.rule == rule && a.user == user && a.flags() == 0 && now-a.at() <= int64(t.rules[rule].rule.FindTime) {
			n += a.n()
			oldest = a.at()
		}
	}
	return n, record.Moment(oldest)
}

// triedAt reports whether attempts at a rule are counted.
func (t *Tracker) triedAt(s *source, rule uint16) bool {
	for _, a := range t.attemptsOf(s) {
		if a.rule == rule {
			return true
		}
	}
	return false
}

// partsOf appends what the last settle found to buf, by name of rule.
func (t *Tracker) partsOf(buf []event.Part) []event.Part {
	for _, r := range t.sums.rules {
		sum := &t.sums.byRule[r]
		buf = append(buf, event.Part{Rule: t.rules[r].rule.Name, Attempts: sum.verified + sum.unverified})
	}
	sortParts(buf)
	return buf
}
