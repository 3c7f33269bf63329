package track

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/event"
	"mef/internal/ordered"
	"mef/internal/track/dictionary"
	"mef/internal/track/logins"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

// An Alarm is a login that succeeded and may be a break-in: from an address that attacked, or for a name that was being guessed,
// where its user had never logged in.
type Alarm struct {
	ID       uint64     `json:"id"`
	Time     time.Time  `json:"time"`
	Addr     netip.Addr `json:"addr"`
	User     string     `json:"user"`
	Service  string     `json:"service"`
	Reason   string     `json:"reason"`
	Evidence []string   `json:"evidence"` // raw lines, oldest first; quote them
	Acked    bool       `json:"acked"`

	flags uint8
}

const (
	maxAlarms = 200 // kept

	// alarmScore is which part of the limit an address must have reached by other names for its login to be an alarm.
	alarmScore = 0.5
	alarmLimit = 100 // if the score bans nobody
	// alarmSources is how many sources must have tried a name within a day.
	alarmSources = 5
	// maxGuessed is how many alarms a day an address may raise where users log in whose names are being guessed.
	maxGuessed = 20
)

// alarm returns why a success is an alarm, "" if it is none. It is called before the success changes anything.
func (t *Tracker) alarm(ev *event.Event, of logins.Pair, s *source, k netkey.Key, now int64) string {
	if !t.cfg.LoginAlarms {
		return ""
	}
	if l := t.logins.Get(of); l != nil {
		if n := t.logins.GuessedWith(l, now); n > 0 && t.cfg.Score.Sprays && !t.alarmedLately(ev) {
			return fmt.Sprintf("login of %q after a failure %s ago, and %d users failed from here within a day and have not logged in since: their names are being guessed",
				of.User, time.Duration(now-l.At).Round(time.Second), n)
		}
		return ""
	}
	var reasons []string
	if s != nil {
		aside := *s
		f := t.fade(&aside, now)
		user := t.userHash(of.Service, of.User)
		others := aside.score - aside.probes
		for _, c := range t.usersOf(s) {
			if c.user == user {
				others -= float32(c.points * f)
			}
		}
		if l := t.logins.Guest(logins.Pair{From: k, Service: of.Service, User: of.User}); l != nil {
			others -= l.Points
		}
		limit := cmp.Or(t.cfg.Score.Ban, alarmLimit)
		if float64(others) >= alarmScore*float64(limit) {
			reasons = append(reasons, fmt.Sprintf("the address tried other names (%d points of %d)", event.Points(float64(others)), limit))
		}
	}
	t.pasts = t.past(t.pasts[:0], k, now)
	bans := 0
	for _, p := range t.pasts {
		if !p.Lifted {
			bans++
		}
	}
	if bans > 0 {
		reasons = append(reasons, fmt.Sprintf("the address was banned before (%d)", bans))
	}
	if n := t.names.Get(of.User); n != nil {
		if sources := n.Sources(now); sources >= alarmSources {
			reasons = append(reasons, fmt.Sprintf("%d addresses tried this name within a day", sources))
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	return fmt.Sprintf("first login of %q from here, and %s", of.User, strings.Join(reasons, ", and "))
}

// raise keeps an alarm.
func (t *Tracker) raise(ev *event.Event, reason string, lines []string) {
	if len(t.alarms) >= maxAlarms {
		t.dropAlarm(t.leastAlarm())
	}
	t.lastAlarm++
	t.alarms = append(t.alarms, Alarm{ID: t.lastAlarm, Time: record.Moment(t.now), Addr: ev.Addr, User: strings.Clone(ev.User), Service: ev.Service,
		Reason: reason, Evidence: append(slices.Clone(lines), ev.Evidence()), flags: dirty})
	t.alarmsChanged = true
}

// leastAlarm returns which alarm is dropped for another: the oldest of those acknowledged, otherwise of the user who has most. Whoever has an
// account here could raise any number with it and push out those of other users.
func (t *Tracker) leastAlarm() (least int) {
	if i := slices.IndexFunc(t.alarms, func(a Alarm) bool { return a.Acked }); i >= 0 {
		return i
	}
	of := map[string]int{}
	for i := range t.alarms {
		of[dictionary.AccountName(t.alarms[i].User)]++
	}
	most := 0
	for i := range t.alarms {
		if n := of[dictionary.AccountName(t.alarms[i].User)]; n > most {
			least, most = i, n
		}
	}
	return least
}

func (t *Tracker) dropAlarm(i int) {
	if t.alarms[i].flags&stored != 0 {
		t.goneAlarms = append(t.goneAlarms, t.alarms[i].ID)
	}
	t.alarms = slices.Delete(t.alarms, i, i+1)
}

// alarmedLately reports whether within a day there was an alarm about the login of an event, or as many as one address may raise: while the
// names of its users are being guessed, each of them who logs in would raise more, and other alarms would be lost among these.
func (t *Tracker) alarmedLately(ev *event.Event) bool {
	n := 0
	for i := range t.alarms {
		a := &t.alarms[i]
		if a.Addr != ev.Addr || a.Time.UnixNano() <= t.now-day {
			continue
		}
		if n++; n >= maxGuessed || a.User == ev.User && a.Service == ev.Service {
			return true
		}
	}
	return false
}

// Alarms returns the alarms, oldest first. The result is the caller's.
func (t *Tracker) Alarms() []Alarm { return slices.Clone(t.alarms) }

// Acknowledge marks alarms as seen by an operator: those of the given IDs, or all if there are none. It returns how many it marked.
func (t *Tracker) Acknowledge(ids ...uint64) (n int) {
	for i := range t.alarms {
		a := &t.alarms[i]
		if a.Acked || len(ids) > 0 && !slices.Contains(ids, a.ID) {
			continue
		}
		a.Acked = true
		a.flags |= dirty
		t.alarmsChanged = true
		n++
	}
	return n
}

func sortAlarms(alarms []Alarm) {
	ordered.Sort(alarms, func(a, b Alarm) int { return cmp.Compare(a.ID, b.ID) })
}
