package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"mef/internal/answers"
	"mef/internal/control"
	"mef/internal/enforce/kernel"
	"mef/internal/engine"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// Status reports whether the host is protected.
func (d *daemon) Status(ctx context.Context) (control.Status, error) {
	s := control.Status{Mode: d.Mode(), Version: d.version, PID: os.Getpid(), Since: d.since, Config: d.path}
	r, err := d.Enforcer.Report(ctx)
	if err != nil {
		return s, err
	}
	answers.Kernel(&s, r, d.Reasons.Total())
	s.Kernel.Reason = d.kernel.Reason()
	sources, err := d.sources.Prove(ctx)
	if err != nil {
		return s, err
	}
	detectors := d.detectorStatus()
	began, now := s, time.Now() // which nothing changes if the caller gives up
	if s, err = owner.Query(ctx, d.Engine, func(state *pipeline.State) control.Status {
		s := began
		sources(&s, state)
		d.lists.Warn(&s, now)
		answers.Engine(&s, state.Engine, now)
		s.WatchingSince, s.Store.Path = control.Moment(state.Observing), pipeline.StorePath(state.Config)
		detectors(&s, state)
		return s
	}); err != nil {
		return s, err
	}
	saved := d.Saver.Status()
	s.Store.Size, s.Store.Pending, s.Store.Problem, s.Store.LastSaved = saved.Size, saved.Pending, saved.Problem, control.Moment(saved.LastCommit)
	showSelfTest(&s, d.kernel.LastSelfTest(), now)
	answers.Judge(&s, d.Observing() && !d.window.Window().HasLapsed(), d.firewall(), d.Records.Problems())
	s.Warnings = append(s.Warnings, d.page.Warnings()...)
	answers.Window(&s, d.window.Window(), now)
	if due := d.due.Text(); due != "" && s.Kernel.Present { // otherwise all wait for the packet filter
		s.Missing = append(s.Missing, "not done yet, mefdaemon retries: "+due)
	}
	s.Protected = len(s.Missing) == 0
	return s, nil
}

// Services answers mefctl services.
func (d *daemon) Services(ctx context.Context) ([]control.ListeningService, error) {
	return d.sources.Services(ctx)
}

// showSelfTest adds the outcome of the last self-test to a status.
func showSelfTest(s *control.Status, t *kernel.SelfTest, now time.Time) {
	state, missing, warning := t.State(now)
	s.Proof = control.Proof{State: state}
	if t != nil {
		s.Proof.At, s.Proof.Detail = &t.At, t.Impossible+t.Detail
	}
	if missing != "" {
		s.Missing = append(s.Missing, missing)
	}
	if warning != "" {
		s.Warnings = append(s.Warnings, warning)
	}
}

// shownNeighbors is how many others of its network why names.
const shownNeighbors = 10

// Why explains an address: what the kernel does with it now, what is counted for it, and what keeps it from being banned.
func (d *daemon) Why(ctx context.Context, addr netip.Addr) (control.Why, error) {
	held, unread := d.Enforcer.HeldOver(ctx, addr)
	if ctx.Err() != nil {
		return control.Why{}, ctx.Err()
	}
	why := control.Why{Addr: addr.String(), Bans: d.Show(ctx, held)}
	for i, b := range held.Bans {
		why.Bans[i].Set = d.Enforcer.SetOf(b.Key)
	}
	grace := time.Duration(0)
	for _, g := range held.Grace {
		grace = max(grace, time.Duration(g.Timeout))
	}
	now := time.Now()
	known, err := owner.Query(ctx, d.Engine, func(s *pipeline.State) engine.Explanation { return s.Engine.Explain(addr, now, shownNeighbors) })
	if err != nil {
		return why, err
	}
	var entries []string
	if why.Lists, entries, err = d.lists.Feeds().Why(ctx, addr); err != nil && unread == nil {
		return why, err
	}
	answers.Why(&why, known, d.lists.Explain(addr, known.Never), grace, now)
	why.Foreign = answers.Foreign(ctx, addr)
	if unread != nil {
		answers.Unread(&why, unread)
	}
	why.Listings = append(why.Listings, entries...)
	return why, nil
}

// Names answers mefctl names.
func (d *daemon) Names(ctx context.Context, prefix string, limit int) ([]control.Name, error) {
	return owner.Query(ctx, d.Engine, func(s *pipeline.State) []control.Name { return answers.Names(s.Engine, prefix, limit, time.Now()) })
}

// attackedNames returns names that may be reported to a community server.
func (d *daemon) attackedNames(ctx context.Context, most int) ([]string, error) {
	return owner.Query(ctx, d.Engine, func(s *pipeline.State) []string { return s.Engine.AttackedNames(most, time.Now()) })
}

// userNames returns the names of this host.
func (d *daemon) userNames(ctx context.Context) ([]string, error) {
	return owner.Query(ctx, d.Engine, func(s *pipeline.State) []string { return s.Engine.UserNames() })
}

// shareNames has the engine use names that hosts elsewhere see attacked, unless ctx is done.
func (d *daemon) shareNames(ctx context.Context, attacked func(name string) bool) {
	_ = owner.Do(ctx, d.Engine, func(s *pipeline.State) { s.Engine.ShareNames(attacked) }) // the agent looks at ctx itself
}

// Alarms answers mefctl alarms.
func (d *daemon) Alarms(ctx context.Context) ([]control.Alarm, error) {
	return owner.Query(ctx, d.Engine, func(s *pipeline.State) []control.Alarm { return answers.Alarms(s.Engine) })
}

// Acknowledge marks alarms as seen, and waits until that is saved.
func (d *daemon) Acknowledge(ctx context.Context, req control.AckRequest) (control.Acked, error) {
	n, err := owner.Query(ctx, d.Engine, func(s *pipeline.State) int {
		n := s.Engine.Acknowledge(req.IDs...)
		s.Save()
		return n
	})
	if err == nil && n > 0 {
		d.Flush(ctx)
		d.Records.Add(control.Record{Time: time.Now(), Event: "alarms-acknowledged", Count: n, Author: req.Author})
	}
	return control.Acked{Acked: n}, err
}

// Follow streams records.
func (d *daemon) Follow(ctx context.Context, emit func(control.Record) error) error {
	return d.Records.Follow(ctx, emit)
}

// Stop ends the daemon.
func (d *daemon) Stop(author string) {
	d.Log.Info("stopped by mefctl off", "by", author)
	d.stop()
}

// notify reports to the service manager when the kernel holds the bans and lists, from then on that the engine answers, and at last that ctx
// is done. A daemon that hangs falls silent, and is started again.
func (d *daemon) notify(ctx context.Context) error {
	select {
	case <-d.applied:
	case <-ctx.Done():
	}
	if err := d.Enforcer.Ready(ctx); err == nil {
		d.notified(d.manager.Ready(d.inBrief()))
		d.manager.Watch(ctx, func(ctx context.Context) (string, error) {
			return d.inBrief(), owner.Do(ctx, d.Engine, func(*pipeline.State) {})
		}, d.notified)
	}
	<-ctx.Done()
	d.notified(d.manager.Stopping())
	return nil
}

func (p *parts) notified(err error) {
	if err != nil {
		p.Log.Warn("service manager", "err", err)
	}
}

// inBrief is what systemctl status shows of the daemon.
func (p *parts) inBrief() string {
	s := p.Enforcer.Status()
	if s.Problem != "" {
		return fmt.Sprintf("%s: %s", p.Mode(), s.Problem)
	}
	return fmt.Sprintf("%s, %d bans; see mefctl status", p.Mode(), s.Bans)
}
