// Package history counts what happened, for those who look: the attackers and the last minute.
//
// A Recorder is a sink of records (package eventlog), so that whatever it does delays no ban. Everything in it is bounded, whatever attackers
// send.
package history

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"mef/internal/control"
	"mef/internal/owner"
)

const (
	// pictureEvery is for how long a picture is shown to all viewers, and judgedEvery a status in it.
	pictureEvery = time.Second
	judgedEvery  = 5 * time.Second
)

// A Recorder counts records and makes pictures. Any goroutine may use it.
type Recorder struct {
	wake    chan struct{} // holds one message: the status is to be looked at
	judged  chan struct{} // closed once it was looked at
	version string
	since   time.Time

	drawing chan struct{} // holds a message while a picture is made; the others wait for it
	picture control.Picture

	mu     sync.Mutex
	live   live
	status control.Status
	at     time.Time // of status; zero: there is none

	lookAtStatus func(context.Context) (control.Status, error)
	counters     func(context.Context, []netip.Addr) (control.Counters, error)
}

// New returns a Recorder that has counted nothing.
func New(version string) *Recorder {
	return &Recorder{wake: make(chan struct{}, 1), judged: make(chan struct{}), drawing: make(chan struct{}, 1), version: version, since: time.Now(),
		live: live{attackers: make(map[netip.Addr]*attacker)}}
}

// Wanted reports whether records of this kind are counted.
func (r *Recorder) Wanted(event string) bool {
	return event == "failure" || event == "probe" || event == "ban"
}

// Open does nothing.
func (r *Recorder) Open() error { return nil }

// Close does nothing.
func (r *Recorder) Close() error { return nil }

// Write counts records. It never waits.
func (r *Recorder) Write(recs []control.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for i := range recs {
		rec := &recs[i]
		if rec.Event == "ban" {
			if p, err := netip.ParsePrefix(rec.Prefix); err == nil {
				r.live.banned(p, rec.Rule, now)
			}
		} else if addr, err := netip.ParseAddr(rec.Addr); err == nil {
			r.live.attempt(addr, rec, now)
		}
	}
	return nil
}

// Use has pictures made of a daemon's status and counters, those with the bans of some addresses. It is to be called before Run and Picture.
func (r *Recorder) Use(status func(context.Context) (control.Status, error), counters func(context.Context, []netip.Addr) (control.Counters, error)) {
	r.lookAtStatus, r.counters = status, counters
}

// Run looks at the status while somebody wants pictures, until ctx is done.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		s, err := r.lookAtStatus(ctx)
		if err != nil {
			continue // the next picture asks again
		}
		r.mu.Lock()
		first := r.at.IsZero()
		r.status, r.at = s, time.Now()
		r.mu.Unlock()
		if first {
			close(r.judged)
		}
	}
}

// Picture returns the picture of this second, which all viewers share. The error is that of ctx, or of a daemon that ends.
func (r *Recorder) Picture(ctx context.Context) (control.Picture, error) {
	select {
	case r.drawing <- struct{}{}:
		defer func() { <-r.drawing }()
	case <-ctx.Done():
		return control.Picture{}, ctx.Err()
	}
	now := time.Now()
	if age := now.Sub(r.picture.Now); age >= 0 && age < pictureEvery {
		return r.picture, nil
	}
	if err := r.judge(ctx, now); err != nil {
		return control.Picture{}, err
	}
	r.mu.Lock()
	addrs := r.live.addrs()
	r.mu.Unlock()
	c, err := r.counters(ctx, addrs)
	if err != nil {
		return control.Picture{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live.drop(c.Dropped, now)
	r.picture = control.Picture{Now: now, Since: r.since, Version: r.version, Judged: r.at, Missing: r.status.Missing, Warnings: r.status.Warnings,
		Alarms: r.status.Alarms, Attacks: r.status.Attacks, Counters: c, Seconds: r.live.lastSeconds(now), Attackers: r.live.worst(&c, now)}
	r.picture.Level, r.picture.Text = r.status.Level()
	if r.picture.Text == "" {
		r.picture.Text = "this host is protected"
	}
	return r.picture, nil
}

// judge has the status looked at if the latest look is too long ago, and waits only for the first.
func (r *Recorder) judge(ctx context.Context, now time.Time) error {
	r.mu.Lock()
	due := now.Sub(r.at) >= judgedEvery || now.Before(r.at)
	r.mu.Unlock()
	if due {
		owner.Wake(r.wake)
	}
	select {
	case <-r.judged:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
