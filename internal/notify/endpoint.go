package notify

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/owner"
)

const (
	// gather is how long what belongs together may take to arrive: it is sent as one message.
	gather = 5 * time.Second
	// firstWait is how long a message waits after the first failure; it doubles up to longWait.
	firstWait = 10 * time.Second
	longWait  = time.Hour
	// sendTime is how long sending may take.
	sendTime = 30 * time.Second
	// idle is how long an endpoint sleeps that has nothing to send.
	idle = time.Hour
)

// An outcome is what became of a message.
type outcome struct {
	err   error         // nil: it was accepted
	pause time.Duration // for how long the endpoint asks to send nothing
}

// A way is how messages reach an endpoint.
type way func(ctx context.Context, m *message) outcome

// An endpoint is who is notified.
type endpoint struct {
	cfg  conf.Notify
	host string
	way  string // "web hook", "program" or "mail"
	send way
	wake chan struct{} // holds one message

	mu       sync.Mutex
	waiting  waiting
	hour     []time.Time // when messages were sent, of the last hour
	until    time.Time   // nothing is sent before
	failures int         // since the last message that was accepted
	err      error       // of the last attempt
	sent     uint64
	last     time.Time // that was accepted
}

func newEndpoint(cfg conf.Notify, host string) *endpoint {
	e := &endpoint{cfg: cfg, host: host, wake: make(chan struct{}, 1)}
	switch {
	case len(cfg.Command) > 0:
		e.way, e.send = "program", program(cfg)
	case len(cfg.Mail) > 0:
		e.way, e.send = "mail", mailer(cfg, host)
	default:
		e.way, e.send = "web hook", webHook(cfg)
	}
	return e
}

// add collects a record of a kind that the endpoint is notified of.
func (e *endpoint) add(kind conf.NotifyEvent, rec *control.Record) {
	if !e.cfg.Events[kind] {
		return
	}
	kept := *rec
	kept.Evidence, kept.Missed = nil, 0
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	w := &e.waiting
	switch {
	case kind == conf.NotifyBans:
		w.bans.add(&kept, now)
		if w.bans.count > 1 {
			return // it wakes for the first one
		}
	case len(w.urgent) >= maxUrgent:
		w.more++
		return
	default:
		if len(w.urgent) == 0 {
			w.first = now
		}
		w.urgent = append(w.urgent, kept)
	}
	owner.Wake(e.wake)
}

// run sends what is collected until ctx is done.
func (e *endpoint) run(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		m, sent, wait := e.next(time.Now())
		if m == nil {
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-e.wake:
			case <-t.C:
			}
			t.Stop()
			continue
		}
		within, cancel := context.WithTimeout(ctx, sendTime)
		out := e.send(within, m)
		cancel()
		if ctx.Err() == nil {
			e.note(sent, out, time.Now(), log)
		}
	}
}

// sending is what a message reports.
type sending struct {
	urgent, more int    // of those that wait
	bans         digest // taken from those that wait
}

// next returns a message if one is due, and what it reports, or how long to wait for one.
func (e *endpoint) next(now time.Time) (m *message, s sending, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := &e.waiting
	due := now.Add(idle)
	if len(w.urgent)+w.more > 0 {
		due = w.first.Add(gather)
	}
	digest := w.bans.since.Add(e.cfg.Digest)
	if w.bans.count > 0 && digest.Before(due) {
		due = digest
	}
	if due.Before(e.until) {
		due = e.until
	}
	if at := e.free(now); due.Before(at) {
		due = at
	}
	if now.Before(due) {
		return nil, s, min(due.Sub(now), idle)
	}
	s.urgent, s.more = len(w.urgent), w.more
	if w.bans.count > 0 && !now.Before(digest) {
		s.bans = w.bans.take()
	}
	return w.message(e.host, now, &s.bans), s, 0
}

// free returns when the limit of messages an hour allows the next one.
func (e *endpoint) free(now time.Time) time.Time {
	for len(e.hour) > 0 && (now.Sub(e.hour[0]) >= time.Hour || now.Before(e.hour[0])) {
		e.hour = e.hour[1:]
	}
	if len(e.hour) < e.cfg.Limit {
		return time.Time{}
	}
	return e.hour[0].Add(time.Hour)
}

// note takes note of what became of a message. What it reported waits on if it was not accepted.
func (e *endpoint) note(s sending, out outcome, now time.Time, log *slog.Logger) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.err
	if e.err = out.err; out.err != nil {
		e.until = now.Add(max(min(firstWait<<min(e.failures, 10), longWait), out.pause))
		e.failures++
		s.bans.merge(&e.waiting.bans)
		e.waiting.bans = s.bans
		if before == nil {
			log.Warn("a notification was not accepted; it is sent again", "notify", e.cfg.Name, "err", out.err)
		}
		return
	}
	e.sent++
	e.last, e.failures, e.until = now, 0, now.Add(out.pause)
	e.hour = append(e.hour, now)
	w := &e.waiting
	w.urgent = append([]control.Record(nil), w.urgent[s.urgent:]...)
	w.more -= s.more
	w.first = now
}

// status returns the state of the endpoint.
func (e *endpoint) status(now time.Time) control.Notify {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := control.Notify{Name: e.cfg.Name, Way: e.way, Sent: e.sent, Last: control.Moment(e.last),
		Waiting: len(e.waiting.urgent) + e.waiting.more + e.waiting.bans.count}
	if e.err != nil {
		out.Problem = e.err.Error()
		if wait := e.until.Sub(now).Round(time.Second); wait > 0 {
			out.Problem += "; tried again in " + wait.String()
		}
	}
	return out
}
