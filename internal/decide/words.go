package decide

import (
	"fmt"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
)

// reached says which limit was reached: "5 failures in 3m12s (limit 5 in 10m)".
func (q *question) reached() string {
	if q.cause.score {
		return q.scoreReached()
	}
	attempts, word := q.t.Attempts, "failures"
	if q.cause.class == ban.Unverified {
		attempts += q.t.Unverified
		word = "unverified failures"
	}
	if attempts == event.Whole(1) {
		word = strings.TrimSuffix(word, "s")
	}
	return fmt.Sprintf("%s %s in %s (%s)", attempts, word, span(q.t.Event.Time.Sub(q.t.First)), q.limit())
}

func (q *question) limit() string {
	window, s := span(q.t.Rule.FindTime), q.t.Surge
	switch {
	case s.Sources == 0:
		return fmt.Sprintf("limit %d in %s", q.t.Limit, window)
	case s.User:
		return fmt.Sprintf("limit %d in %s instead of %d, for %d sources are trying user %q",
			q.t.Limit, window, q.t.Rule.MaxRetry, s.Sources, q.t.Event.User)
	}
	return fmt.Sprintf("limit %d in %s instead of %d, for %d sources are trying where %d are usual",
		q.t.Limit, window, q.t.Rule.MaxRetry, s.Sources, s.Usual)
}

// scoreReached says "score 104 (limit 100): attempts at dovecot 4, sshd 4, vsftpd 3".
func (q *question) scoreReached() string {
	score, word := q.t.Score, "score"
	if q.cause.class == ban.Unverified {
		score += q.t.ScoreUnverified
		word = "score with unverified points"
	}
	s := fmt.Sprintf("%s %d (limit %d)", word, event.Points(score), q.t.ScoreLimit)
	for i, p := range q.t.Parts {
		if i == 0 {
			s += ": attempts at "
		} else {
			s += ", "
		}
		s += p.Rule + " " + p.Attempts.String()
	}
	return s
}

func join(parts ...string) string {
	var given []string
	for _, p := range parts {
		if p != "" {
			given = append(given, p)
		}
	}
	return strings.Join(given, "; ")
}

// span writes a duration as people do: "30d", "2h40m", "3m12s"; at most two units, rounded down.
func span(d time.Duration) string {
	if d < time.Second {
		return "under 1s"
	}
	units := []struct {
		name string
		d    time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	var s string
	for i, u := range units {
		if d < u.d {
			continue
		}
		s = fmt.Sprintf("%d%s", d/u.d, u.name)
		if i+1 < len(units) && d%u.d >= units[i+1].d {
			s += fmt.Sprintf("%d%s", d%u.d/units[i+1].d, units[i+1].name)
		}
		break
	}
	return s
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
