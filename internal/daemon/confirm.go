package daemon

import (
	"context"
	"fmt"
	"time"

	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// windowFile is the name of the confirmation window's file below cache_dir; see package confirm.
const windowFile = "armed.json"

// resumeWindow goes on with the window of an earlier run.
func (c *configurator) resumeWindow(s *pipeline.State, now time.Time) {
	if err := c.window.Resume(now); err != nil {
		c.Log.Warn("on trial, but its end cannot be read: bans are logged, not applied, until mefctl confirm", "err", err)
	}
	s.SetLapsed(c.window.Window().HasLapsed())
}

// Arm opens the confirmation window, or prolongs it.
func (d *daemon) Arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	if req.For == 0 {
		req.For = confirm.Default
	}
	if req.For < confirm.Min || req.For > confirm.Max {
		return control.Armed{}, control.Refuse("for_ns %d: the time to confirm is from a second to a day", req.For)
	}
	if len(req.From) > control.MaxNote {
		return control.Armed{}, control.Refuse("from is longer than %d bytes", control.MaxNote)
	}
	return owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Armed, error) { return c.arm(ctx, req) })
}

func (c *configurator) arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	if c.cfg.Observe {
		return control.Armed{}, control.Refuse("mode=observe applies no bans, so there is nothing to confirm; set mode=enforce in %s", c.path)
	}
	now := time.Now()
	w, err := c.window.Open(now, req.For, req.From)
	if err != nil {
		return control.Armed{}, control.Refuse("the trial did not begin, because its end cannot be saved: %v", err)
	}
	c.Records.Add(control.Record{Time: now, Event: "armed", Author: req.Author, Reason: "to be confirmed within " + w.Length()})
	return control.Armed{Until: w.Until, From: w.From}, c.windowChanged(ctx)
}

// windowChanged has the engine and the lists follow the window: a lapsed one takes the blacklist and feeds out of force. If that fails, it is
// tried again later. The error is that of ctx.
func (c *configurator) windowChanged(ctx context.Context) error {
	lapsed := c.window.Window().HasLapsed()
	if err := owner.Do(ctx, c.Engine, func(s *pipeline.State) { s.SetLapsed(lapsed) }); err != nil {
		return err
	}
	_ = c.fulfil(ctx, applyLists) // has been logged
	return ctx.Err()
}

// Confirm closes the window: its author can log in.
func (d *daemon) Confirm(ctx context.Context, author string) error {
	return owner.Act(ctx, d.config, func(ctx context.Context, c *configurator) error { return c.confirm(ctx, author) })
}

func (c *configurator) confirm(ctx context.Context, author string) error {
	if c.window.Window() == nil {
		return control.Refuse("there is nothing to confirm: mefdaemon is not on trial")
	}
	if err := c.window.Close(); err != nil {
		return control.Refuse("not confirmed, because that cannot be saved: %v", err)
	}
	c.due.Drop(liftLapsed)
	c.Records.Add(control.Record{Time: time.Now(), Event: "confirmed", Author: author})
	return c.windowChanged(ctx)
}

// expire ends a window that was not confirmed: from now on the daemon observes, and the bans made since are lifted.
func (c *configurator) expire(ctx context.Context) {
	lapsed, err := c.window.Lapse()
	if err != nil {
		c.Log.Warn("on trial", "err", err)
	}
	if lapsed && c.windowChanged(ctx) == nil {
		_ = c.fulfil(ctx, liftLapsed) // has been logged, and is tried again
	}
}

// liftLapsed lifts the bans that were made since a lapsed window began.
func (c *configurator) liftLapsed(ctx context.Context) error {
	w := c.window.Window()
	if !w.HasLapsed() || w.Lifted {
		return nil
	}
	now := time.Now()
	bans, err := c.LiftSince(ctx, w.Since)
	if err != nil {
		return err
	}
	if err := c.window.Lifted(); err != nil {
		c.Log.Warn("on trial", "err", err)
	}
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
