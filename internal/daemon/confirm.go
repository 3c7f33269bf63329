package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"mef/internal/ban"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// windowFile is the name of the confirmation window's file below cache_dir; see package confirm.
const windowFile = "armed.json"

// armedLate is how long after its start the daemon may be armed as if it had started so.
const armedLate = time.Minute

func (p *parts) windowPath() string { return filepath.Join(p.stateIn, windowFile) }

// resumeWindow goes on with the window of an earlier run.
func (c *configurator) resumeWindow(s *pipeline.State, now time.Time) {
	w, err := confirm.Read(c.windowPath(), now)
	if err != nil {
		c.Log.Warn("on trial, but its end cannot be read: bans are logged, not applied, until mefctl confirm", "err", err)
	}
	if w == nil {
		return
	}
	c.window.Store(w)
	if !w.Lapsed {
		c.lapse.Reset(w.Left(now))
	}
	s.SetLapsed(w.HasLapsed())
}

// whyObserve says what keeps bans from being applied.
func (p *parts) whyObserve() string {
	if p.window.Load().HasLapsed() {
		return "the trial was not confirmed in time, so bans are not applied; run mefctl confirm first"
	}
	return "mode=observe applies no bans; set mode=enforce in " + p.path
}

// Arm opens the confirmation window, or prolongs it.
func (d *daemon) Arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	if req.For == 0 {
		req.For = confirm.Default
	}
	if req.For < confirm.Min || req.For > confirm.Max {
		return control.Armed{}, control.Refuse("for_ns %d: the time to confirm is from a second to a day", req.For)
	}
	if len(req.From) > lists.MaxNote {
		return control.Armed{}, control.Refuse("from is longer than %d bytes", lists.MaxNote)
	}
	return owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Armed, error) { return c.arm(ctx, req) })
}

func (c *configurator) arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	now := time.Now()
	w := &confirm.Window{Since: now, Until: now.Add(req.For), For: req.For, From: req.From}
	before := c.window.Load()
	switch {
	case before != nil && !before.Lapsed:
		w.Since = before.Since
	case now.Sub(c.since) < armedLate:
		w.Since = c.since
	}
	if c.cfg.Observe {
		return control.Armed{}, control.Refuse("mode=observe applies no bans, so there is nothing to confirm; set mode=enforce in %s", c.path)
	}
	if err := w.Write(c.windowPath()); err != nil {
		return control.Armed{}, control.Refuse("the trial did not begin, because its end cannot be saved: %v", err)
	}
	c.lapse.Reset(w.Left(now))
	c.Records.Add(control.Record{Time: now, Event: "armed", Author: req.Author, Reason: "to be confirmed within " + w.Length()})
	return control.Armed{Until: w.Until, From: w.From}, c.setWindow(ctx, w)
}

// setWindow puts a window in force, or with nil none. Lists whose bans a lapsed window had lifted are applied again; if that fails, it
// is tried again later. The error is that of ctx.
func (c *configurator) setWindow(ctx context.Context, w *confirm.Window) error {
	c.window.Store(w)
	if err := owner.Do(ctx, c.Engine, func(s *pipeline.State) { s.SetLapsed(w.HasLapsed()) }); err != nil {
		return err
	}
	_ = c.fulfil(ctx, applyLists)
	return ctx.Err()
}

// Confirm closes the window: its author can log in.
func (d *daemon) Confirm(ctx context.Context, author string) error {
	return owner.Act(ctx, d.config, func(ctx context.Context, c *configurator) error { return c.confirm(ctx, author) })
}

func (c *configurator) confirm(ctx context.Context, author string) error {
	if c.window.Load() == nil {
		return control.Refuse("there is nothing to confirm: mefdaemon is not on trial")
	}
	if err := confirm.Remove(c.windowPath()); err != nil {
		return control.Refuse("not confirmed, because that cannot be saved: %v", err)
	}
	c.lapse.Stop()
	delete(c.due.failed, liftLapsed)
	c.Records.Add(control.Record{Time: time.Now(), Event: "confirmed", Author: author})
	return c.setWindow(ctx, nil)
}

// expire ends a window that was not confirmed: from now on the daemon observes, and the bans made since are lifted.
func (c *configurator) expire(ctx context.Context) {
	before := c.window.Load()
	if before == nil || before.Lapsed {
		return
	}
	w := *before
	w.Lapsed = true
	c.saveWindow(&w)
	if c.setWindow(ctx, &w) == nil {
		_ = c.fulfil(ctx, liftLapsed) // has been logged, and is tried again
	}
}

// saveWindow writes a window that has lapsed. If it cannot be written, the file still says until when it was open.
func (c *configurator) saveWindow(w *confirm.Window) {
	if err := w.Write(c.windowPath()); err != nil {
		c.Log.Warn("the end of the trial cannot be saved", "err", err)
	}
}

// liftLapsed lifts the bans that were made since a lapsed window began.
func (c *configurator) liftLapsed(ctx context.Context) error {
	before := c.window.Load()
	if !before.HasLapsed() || before.Lifted {
		return nil
	}
	now := time.Now()
	bans, err := c.bansSince(ctx, before.Since)
	if err != nil {
		return err
	}
	if err := c.lift(ctx, 0, keysOf(bans)); err != nil {
		return err
	}
	c.unlist(keysOf(bans))
	w := *before
	w.Lifted = true
	c.window.Store(&w)
	c.saveWindow(&w)
	reason := fmt.Sprintf("not confirmed within %s: %d bans are lifted, and further ones logged, not applied", w.Length(), len(bans))
	c.Log.Error("on trial and not confirmed", "outcome", reason)
	c.Records.Add(control.Record{Time: now, Event: "lapsed", Reason: reason})
	for _, b := range bans {
		rec := control.BanRecord("unban", b)
		rec.Time, rec.Reason = now, "the trial was not confirmed"
		c.Records.Add(rec)
	}
	return nil
}

// bansSince returns the bans in force that began at a time or later, and those without a record: the daemon may have been killed
// before it saved one.
func (c *configurator) bansSince(ctx context.Context, t time.Time) (bans []ban.Ban, err error) {
	state, err := c.Enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	known := c.Reasons.Look(ctx, state.Bans, c.listedRecords)
	for _, held := range state.Bans {
		b, ok := known[held.Key]
		switch {
		case ok && !b.Start.Before(t):
			bans = append(bans, b)
		case !ok:
			bans = append(bans, ban.Ban{Key: held.Key, Rule: ban.Unknown})
		}
	}
	return bans, nil
}

func keysOf(bans []ban.Ban) []ban.Key {
	keys := make([]ban.Key, len(bans))
	for i, b := range bans {
		keys[i] = b.Key
	}
	return keys
}
