package decide

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/duration"
	"mef/internal/event"
)

// reached reports which limit was reached: "5 failures in 3m12s (limit 5 in 10m)".
func (q *question) reached() string {
	if q.cause.score {
		return q.scoreReached()
	}
	if q.cause.user {
		return fmt.Sprintf("%d failures of user %q in %s (limit %d in %s of one user)", q.t.UserAttempts, q.t.Event.User,
			duration.Span(q.t.Event.Time.Sub(q.t.UserFirst)), q.t.UserLimit, duration.Span(q.t.Rule.FindTime))
	}
	if q.t.Event.Episode != nil {
		return q.episode()
	}
	attempts, word := q.t.Attempts, "failures"
	if q.cause.class == ban.Unverified {
		attempts += q.t.Unverified
		word = "unverified failures"
	}
	if attempts == 1 {
		word = strings.TrimSuffix(word, "s")
	}
	return fmt.Sprintf("%d %s in %s (%s)", attempts, word, duration.Span(q.t.Event.Time.Sub(q.t.First)), q.limit())
}

// episode returns what many lines amount to: "9 different paths, 12 answers that count in 10m".
func (q *question) episode() string {
	text := q.t.Event.Episode.Text
	if n := q.t.Attempts + q.t.Unverified; n > 1 || q.t.Limit > 1 {
		text = fmt.Sprintf("%d times (limit %d in %s), at last %s", n, q.t.Limit, duration.Span(q.t.Rule.FindTime), text)
	}
	return text
}

// throughWords reports that a ban has no effect where the source's requests come through a proxy.
func (q *question) throughWords() string {
	if !q.t.Event.Unreachable() {
		return ""
	}
	return fmt.Sprintf("its requests come through the proxy %s, which a ban of its own packets does not stop", q.t.Event.Episode.Through)
}

func (q *question) limit() string {
	window := duration.Span(q.t.Rule.FindTime)
	if q.t.Surge.Sources == 0 {
		return fmt.Sprintf("limit %d in %s", q.t.Limit, window)
	}
	return fmt.Sprintf("limit %d in %s instead of %d, because %s", q.t.Limit, window, q.t.Rule.MaxRetry, q.surge())
}

// surge reports what attack the source takes part in.
func (q *question) surge() string {
	switch s := q.t.Surge; {
	case s.User:
		return strconv.Itoa(s.Sources) + " sources are trying user " + strconv.Quote(q.t.Event.User)
	case s.Net.IsValid():
		return fmt.Sprintf("%d sources of %s are trying", s.Sources, s.Net)
	default:
		return fmt.Sprintf("%d sources are trying where %d are usual", s.Sources, s.Usual)
	}
}

// scoreReached returns "score 104 (limit 100): attempts at dovecot 4, sshd 4, vsftpd 3".
func (q *question) scoreReached() string {
	score, word := q.t.Verified(), "score"
	if q.cause.class == ban.Unverified {
		score = q.t.Score + q.t.Listed + q.t.ScoreUnverified
		word = "score with unverified points"
	}
	var room [256]byte
	number := func(s []byte, n int) []byte { return strconv.AppendInt(s, int64(n), 10) }
	s := number(append(append(room[:0], word...), ' '), event.Points(score))
	s = append(number(append(s, " (limit "...), q.t.ScoreLimit), ')')
	for i, p := range q.t.Parts {
		if i == 0 {
			s = append(s, ": attempts at "...)
		} else {
			s = append(s, ", "...)
		}
		s = number(append(append(s, p.Rule...), ' '), p.Attempts)
	}
	s = append(s, q.listed()...)
	if n := q.t.Name; n.Text != "" {
		s = strconv.AppendQuote(append(s, "; user "...), q.t.Event.User)
		s = append(append(s, ": "...), n.Text...)
		if n.Networks > 0 {
			s = append(number(append(s, ", tried by "...), n.Networks), " other networks"...)
		}
	}
	if q.t.Surge.Aimed() {
		s = append(append(s, "; "...), q.surge()...)
	}
	if q.t.Spread {
		s = append(s, "; many users tried once or twice each, and nobody has logged in from here"...)
	}
	if q.t.Days > 0 {
		s = fmt.Appendf(s, "; failures on %d days, and nobody has logged in from here", q.t.Days)
	}
	return string(s)
}

// listed returns what block lists add to the score: `; 40 points for zen.example (127.0.0.2: "see https://...")`.
func (q *question) listed() (s string) {
	if q.t.Listed == 0 {
		return ""
	}
	for _, l := range q.t.Event.OnLists() {
		if l.Points > 0 {
			s += fmt.Sprintf("; %d points for a listing by %s", l.Points, l)
		}
	}
	return s
}

// widthWords reports why another width was banned than the source's.
func (q *question) widthWords(a *answer) string {
	switch {
	case a.alone != "":
		return fmt.Sprintf("this address alone, because %s contains %s", q.t.Source, a.alone)
	case a.whole && a.wide.Banned == 0:
		return fmt.Sprintf("all of %s, because several of its addresses attacked", q.t.Source)
	case a.wide.Banned > 0:
		return fmt.Sprintf("all of %s, because %d networks in it are banned", a.wide.Prefix, a.wide.Banned)
	}
	return ""
}

// portsWords reports why other ports were banned than the rule's, or none.
func (q *question) portsWords(a *answer) string {
	switch {
	case a.portless && a.web != "":
		return fmt.Sprintf("web ports stay open to %s: it is %s", q.t.Event.Addr, a.web)
	case a.portless:
		return "an administrator is logged in from it over SSH"
	}
	var shared, session, web string
	if q.t.Shared {
		shared = fmt.Sprintf("%d users have logged in from here: ", q.t.KnownUsers)
		if a.asked == "" {
			shared += "all ports, because those of the service are not known"
		} else {
			shared += "ports " + string(a.asked) + " only"
		}
	}
	if shared == "" && q.cause.score && q.t.KnownUsers == 0 && a.asked != "" && unproven(q.t) {
		shared = fmt.Sprintf("ports %s only, because %s does not log logins and users may be behind the address", a.asked, q.t.Rule.Service)
	}
	if shared == "" && q.oneOfMany() && a.asked != "" {
		shared = "ports " + string(a.asked) + " only"
	}
	if a.session {
		session = "not the SSH ports, because an administrator is logged in from it"
	}
	if a.web != "" {
		web = "not the web ports, because it is " + a.web
	}
	return join(shared, session, web, q.listensWords(a))
}

// listensWords reports which ports of the ban the rule does not name.
func (q *question) listensWords(a *answer) string {
	at := q.t.Rule.Listens
	if at == "" || a.ban.Ports == "" || !a.ban.Ports.Covers(at) {
		return ""
	}
	return fmt.Sprintf("port %s too, because %s listens there", at, q.t.Rule.Service)
}

// untilWords reports why the ban lasts as long as it does.
func (q *question) untilWords(a *answer) string {
	length := func() string { return duration.Span(a.ban.Until.Sub(a.ban.Start)) }
	switch {
	case q.cause.class == ban.Unverified:
		return "the source may be forged: new connections only, for " + length()
	case q.t.Shared:
		return "a shared address: for " + length()
	case a.ban.Permanent():
		e := q.t.Rule.Escalation
		return fmt.Sprintf("%s ban in %s (limit %d): permanent", ordinal(1+q.repeats(e.Window)), duration.Span(e.Window), e.Threshold)
	}
	return ordinal(a.ban.Count) + " ban in " + duration.Span(q.cfg.Times.History) + ": " +
		arithmetic(firstLength(q.t, q.cfg.Times, q.cause.score), a.length, a.factor, a.capped)
}

// arithmetic reports how base became length: "10m × 16 = 2h40m".
func arithmetic(base, length time.Duration, factor int, capped bool) string {
	switch {
	case capped:
		return duration.Span(base) + " × " + strconv.Itoa(factor) + ", at most " + duration.Span(length)
	case factor == 1:
		return duration.Span(length)
	}
	return duration.Span(base) + " × " + strconv.Itoa(factor) + " = " + duration.Span(length)
}

func join(parts ...string) string {
	var room [5]string
	given := room[:0]
	for _, p := range parts {
		if p != "" {
			given = append(given, p)
		}
	}
	return strings.Join(given, "; ")
}

func ordinal(n int) string {
	names := [...]string{"first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"}
	if n >= 1 && n <= len(names) {
		return names[n-1]
	}
	suffix := "th"
	if tens := n / 10 % 10; tens != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}
