package daemon

import (
	"context"
	"fmt"
	"time"

	"mef/internal/control"
	"mef/internal/engine"
)

// Names answers mefctl names.
func (d *daemon) Names(ctx context.Context, prefix string, limit int) ([]control.Name, error) {
	names, err := query(ctx, d.loop, func() []engine.Name { return d.engine.Names(prefix, limit, time.Now()) })
	shown := make([]control.Name, len(names))
	for i, n := range names {
		shown[i] = control.Name{Name: n.Name, Origin: n.Origin, Hot: n.Hot, Protected: n.Protected, Tries: n.Tries, Networks: n.Networks, First: n.First, Last: n.Last}
	}
	return shown, err
}

// Alarms answers mefctl alarms.
func (d *daemon) Alarms(ctx context.Context) ([]control.Alarm, error) {
	alarms, err := query(ctx, d.loop, d.engine.Alarms)
	shown := make([]control.Alarm, len(alarms))
	for i, a := range alarms {
		shown[i] = control.Alarm{ID: a.ID, Time: a.Time, Addr: a.Addr.String(), User: a.User, Service: a.Service, Reason: a.Reason, Evidence: a.Evidence, Acked: a.Acked}
	}
	return shown, err
}

// Acknowledge marks alarms as seen. What was marked is saved with the next state.
func (d *daemon) Acknowledge(ctx context.Context, req control.AckRequest) (control.Acked, error) {
	n, err := query(ctx, d.loop, func() int {
		n := d.engine.Acknowledge(req.IDs...)
		d.save()
		return n
	})
	if err == nil && n > 0 {
		d.records.Add(control.Record{Time: time.Now(), Event: "alarms-acknowledged", Count: n, Author: req.Author})
	}
	return control.Acked{Acked: n}, err
}

// shownThreats is how many alarms and attacks status names.
const shownThreats = 3

// describeThreats fills in the alarms and the attacks under way. It runs on the engine's goroutine.
func (d *daemon) describeThreats(s *control.Status) {
	alarms := d.engine.Alarms()
	for i := len(alarms) - 1; i >= 0; i-- {
		a := alarms[i]
		if a.Acked {
			continue
		}
		if s.AlarmCount++; s.AlarmCount <= shownThreats {
			s.Alarms = append(s.Alarms, fmt.Sprintf("%s: %q logged in to %s from %s: %s", a.Time.Local().Format(time.DateTime), a.User, a.Service, a.Addr, a.Reason))
		}
	}
	for _, a := range d.engine.Attacks(time.Now()) {
		if len(s.Attacks) == shownThreats {
			break
		}
		what := fmt.Sprintf("%d sources fail at %s where %d are usual", a.Sources, a.Rule, a.Usual)
		if a.User != "" {
			what = fmt.Sprintf("%d sources tried user %q within a day", a.Sources, a.User)
		}
		s.Attacks = append(s.Attacks, what+": fewer attempts ban an unknown source")
	}
}
