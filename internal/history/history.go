// Package history counts what happened, for those who look: the last minute and the attackers now, and what was counted over an hour, a day, a
// month and a year.
//
// A Recorder is a sink of records of bans (package eventlog), and gets attempts through an inbox that never waits, so that whatever it does delays no ban. It is bounded, whatever attackers send: in memory it has the
// counters of a minute, an hour and a day, with the labels that occur most; and one file of a fixed size, less than 16 MB, keeps what is over,
// minutes for a day, hours for a month, and days for a year. What a process that is killed has not written is less than a minute. Times are in UTC.
package history

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"mef/internal/control"
	"mef/internal/owner"
)

const (
	// pictureEvery is for how long a picture is shown to all viewers, and judgedEvery a status in it.
	pictureEvery = time.Second
	judgedEvery  = 5 * time.Second
	// sampleTime is how long counters may take to be read at the end of a minute.
	sampleTime = 10 * time.Second
)

// A Recorder counts records and makes pictures. Any goroutine may use it.
type Recorder struct {
	wake    chan struct{} // holds one message: the status is to be looked at
	judged  chan struct{} // closed once it was looked at
	version string
	since   time.Time
	path    string // of the file
	log     *slog.Logger

	drawing chan struct{} // holds a message while a picture is made; the others wait for it
	picture control.Picture

	inbox  inbox
	mu     sync.Mutex // of what follows
	live   live
	status control.Status
	at     time.Time // of status; zero: there is none
	kept

	lookAtStatus func(context.Context) (control.Status, error)
	counters     func(context.Context, []netip.Addr) (control.Counters, error)
	dropped      func(context.Context) (control.Drops, error)
}

// New returns a Recorder that goes on with the history in a directory.
func New(version, dir string, log *slog.Logger) *Recorder {
	return &Recorder{wake: make(chan struct{}, 1), judged: make(chan struct{}), drawing: make(chan struct{}, 1), version: version, since: time.Now(),
		path: filepath.Join(dir, "history"), log: log, live: live{attackers: make(map[netip.Addr]*attacker)}}
}

// Wanted reports whether records of this kind are to be written. Those of attempts come through Attempt.
func (r *Recorder) Wanted(event string) bool {
	return event == "ban" || event == "unban"
}

// Open opens the file. If that is not possible, it is counted all the same, and tried again every minute.
func (r *Recorder) Open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open(time.Now())
	return nil
}

// open opens the file, and takes over what it has of the present minute, hour and day.
func (r *Recorder) open(now time.Time) {
	if r.file != nil {
		return
	}
	f, err := openFile(r.path)
	r.note(err)
	if err != nil {
		return
	}
	r.file = f
	r.restore(now)
}

// note takes note of whether the file could be used.
func (r *Recorder) note(err error) {
	text := ""
	if err != nil {
		text = "the history is not saved: " + err.Error()
	}
	if err != nil && r.problem == "" {
		r.log.Warn("the history is not saved; trying again every minute", "err", err)
	}
	r.problem = text
}

// Close writes what was counted, and closes the file.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.save(time.Now())
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}

// Write counts bans and unbans.
func (r *Recorder) Write(recs []control.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for i := range recs {
		r.ban(&recs[i], now)
	}
	return nil
}

// Use has pictures made of a daemon's status and counters, those with the bans of some addresses. dropped returns the Dropped of counters. It is to be
// called before the others.
func (r *Recorder) Use(status func(context.Context) (control.Status, error), counters func(context.Context, []netip.Addr) (control.Counters, error),
	dropped func(context.Context) (control.Drops, error)) {
	r.lookAtStatus, r.counters, r.dropped = status, counters, dropped
}

// Run looks at the status while somebody wants pictures, and saves what was counted every minute, until ctx is done.
func (r *Recorder) Run(ctx context.Context) error {
	minute := time.NewTimer(0)
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			r.look(ctx)
		case <-minute.C:
			r.sample(ctx)
			now := time.Now()
			minute.Reset(now.Truncate(time.Minute).Add(time.Minute).Sub(now))
		}
	}
}

// look looks at the status.
func (r *Recorder) look(ctx context.Context) {
	s, err := r.lookAtStatus(ctx)
	if err != nil {
		return // the next picture asks again
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.at.IsZero()
	r.status, r.at = s, time.Now()
	if first {
		close(r.judged)
	}
}

// sample reads the counters and saves.
func (r *Recorder) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTime)
	defer cancel()
	c, err := r.counters(ctx, nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.ports = c.Ports
		r.setServices(&c)
		r.countDrops(c.Dropped, nil, time.Now())
	}
	now := time.Now()
	r.open(now)
	r.save(now)
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
	r.roll(now)
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

// History implements control.ViewService.
func (r *Recorder) History(_ context.Context, window string) (control.History, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.roll(now)
	h, err := r.history(window, now)
	h.Problem = r.problem
	return h, err
}

// Stats implements control.ViewService.
func (r *Recorder) Stats(_ context.Context, window, by string, n int) (control.Stats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.roll(now)
	s, err := r.stats(window, by, n, now)
	s.Problem = r.problem
	return s, err
}

// PastBans implements control.ViewService.
func (r *Recorder) PastBans(ctx context.Context, query string, n int) ([]control.PastBan, error) {
	r.mu.Lock()
	f, last := r.file, r.banNumber // the file may be closed meanwhile; then nothing more is found
	r.mu.Unlock()
	return pastBans(ctx, f, last, query, n)
}
