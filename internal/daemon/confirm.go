package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/lists"
	"mef/internal/store"
)

// windowFile is the name of the confirmation window's file below cache_dir; see package confirm.
const windowFile = "armed.json"

// armedLate is how long after its start the daemon may be armed as if it had started so.
const armedLate = time.Minute

// showWindow adds the confirmation window to a status.
func showWindow(w *confirm.Window, s *control.Status, now time.Time) {
	switch {
	case w == nil:
		return
	case w.Lapsed:
		lifted := "its bans were lifted"
		if !w.Lifted {
			lifted = "its bans are not all lifted yet"
		}
		s.Missing = append(s.Missing, fmt.Sprintf("not confirmed within %s: %s, and bans are logged, not applied; run mefctl confirm to apply them",
			conf.FormatDuration(w.For), lifted))
	default:
		s.Warnings = append(s.Warnings, fmt.Sprintf("armed: run mefctl confirm from a new login within %s; otherwise bans are lifted and only logged",
			w.Left(now).Round(time.Second)))
	}
	s.Armed = &control.Armed{Until: w.Until, From: w.From, Lapsed: w.Lapsed}
}

func (e *loop) windowPath() string { return filepath.Join(e.cfg.Paths.StateDir, windowFile) }

// resumeWindow goes on with the window of an earlier run.
func (d *daemon) resumeWindow(now time.Time) {
	w, err := confirm.Read(d.windowPath(), now)
	if err != nil {
		d.log.Warn("armed, and until when cannot be read: bans are logged, not applied, until mefctl confirm", "err", err)
	}
	if w == nil {
		return
	}
	d.window.Store(w)
	if !w.Lapsed {
		d.lapse.Reset(w.Left(now))
	}
	d.applyMode()
}

// applyMode switches the engine between enforce and observe, as the configuration and the window ask for. It runs on the engine's
// goroutine.
func (e *loop) applyMode() {
	observe := e.cfg.Observe || e.window.Load().HasLapsed()
	e.observe.Store(observe)
	e.engine.SetObserve(observe)
}

// saveObserving saves since when bans are only logged. Every change of mode is followed by the lists being applied anew, which calls
// it on the engine's goroutine.
func (e *loop) saveObserving(now time.Time) {
	note := ""
	switch observe := e.observe.Load(); {
	case observe != e.watching.IsZero():
		return
	case observe:
		e.watching = now
		text, err := json.Marshal(now)
		if err != nil {
			return
		}
		note = string(text)
	default:
		e.watching = time.Time{}
	}
	e.saver.Save(store.Update{Notes: map[string]string{noteWatching: note}})
}

// whyObserve says what keeps bans from being applied.
func (d *daemon) whyObserve() string {
	if d.window.Load().HasLapsed() {
		return "the armed start was not confirmed in time, so that no ban is applied; run mefctl confirm first"
	}
	return "mode=observe applies no bans; set mode=enforce in " + d.path
}

// Arm opens the confirmation window, or prolongs it.
func (d *daemon) Arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	if req.For == 0 {
		req.For = confirm.Default
	}
	if req.For < confirm.Min || req.For > confirm.Max {
		return control.Armed{}, refuse("for_ns %d: the time to confirm is from a second to a day", req.For)
	}
	if len(req.From) > lists.MaxNote {
		return control.Armed{}, refuse("from is longer than %d bytes", lists.MaxNote)
	}
	return ask(ctx, &d.configurator, func(ctx context.Context) (control.Armed, error) { return d.arm(ctx, req) })
}

// arm runs on the configurator's goroutine.
func (d *daemon) arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	now := time.Now()
	w := &confirm.Window{Since: now, Until: now.Add(req.For), For: req.For, From: req.From}
	before := d.window.Load()
	switch {
	case before != nil && !before.Lapsed:
		w.Since = before.Since
	case now.Sub(d.since) < armedLate:
		w.Since = d.since
	}
	observing, err := query(ctx, d.loop, func() bool { return d.cfg.Observe })
	if err != nil {
		return control.Armed{}, err
	}
	if observing {
		return control.Armed{}, refuse("mode=observe applies no bans, so there is nothing to confirm; set mode=enforce in %s", d.path)
	}
	if err := w.Write(d.windowPath()); err != nil {
		return control.Armed{}, refuse("not armed, because a restart would forget it: %v", err)
	}
	d.lapse.Reset(w.Left(now))
	d.records.Add(control.Record{Time: now, Event: "armed", Author: req.Author, Reason: "to be confirmed within " + conf.FormatDuration(req.For)})
	return control.Armed{Until: w.Until, From: w.From}, d.setWindow(ctx, w)
}

// setWindow puts a window in force, or with nil none. Lists whose bans a lapsed window had lifted are applied again; if that fails, it
// is tried again later. The error is that of ctx.
func (d *daemon) setWindow(ctx context.Context, w *confirm.Window) error {
	d.window.Store(w)
	if err := d.do(ctx, d.applyMode); err != nil {
		return err
	}
	_ = d.fulfil(ctx, applyLists)
	return ctx.Err()
}

// Confirm closes the window: its author can log in.
func (d *daemon) Confirm(ctx context.Context, author string) error {
	_, err := ask(ctx, &d.configurator, func(ctx context.Context) (struct{}, error) { return struct{}{}, d.confirm(ctx, author) })
	return err
}

func (d *daemon) confirm(ctx context.Context, author string) error {
	if d.window.Load() == nil {
		return refuse("there is nothing to confirm: mefdaemon is not armed")
	}
	if err := confirm.Remove(d.windowPath()); err != nil {
		return refuse("not confirmed, because a restart would forget it: %v", err)
	}
	d.lapse.Stop()
	delete(d.due.failed, liftLapsed)
	d.records.Add(control.Record{Time: time.Now(), Event: "confirmed", Author: author})
	return d.setWindow(ctx, nil)
}

// expire ends a window that was not confirmed: from now on the daemon observes, and the bans made since are lifted.
func (d *daemon) expire(ctx context.Context) {
	before := d.window.Load()
	if before == nil || before.Lapsed {
		return
	}
	w := *before
	w.Lapsed = true
	d.saveWindow(&w)
	if d.setWindow(ctx, &w) == nil {
		_ = d.fulfil(ctx, liftLapsed) // has been logged, and is tried again
	}
}

// saveWindow writes a window that has lapsed. If it cannot be written, the file still says until when it was open.
func (d *daemon) saveWindow(w *confirm.Window) {
	if err := w.Write(d.windowPath()); err != nil {
		d.log.Warn("the lapsed window is not saved", "err", err)
	}
}

// liftLapsed lifts the bans that were made since a lapsed window began.
func (d *daemon) liftLapsed(ctx context.Context) error {
	before := d.window.Load()
	if !before.HasLapsed() || before.Lifted {
		return nil
	}
	now := time.Now()
	bans, err := d.bansSince(ctx, before.Since)
	if err != nil {
		return err
	}
	if err := d.lift(ctx, 0, keysOf(bans)); err != nil {
		return err
	}
	d.unlist(keysOf(bans))
	w := *before
	w.Lifted = true
	d.window.Store(&w)
	d.saveWindow(&w)
	reason := fmt.Sprintf("not confirmed within %s: %d bans are lifted, and further ones logged, not applied", conf.FormatDuration(w.For), len(bans))
	d.log.Error("armed and not confirmed", "outcome", reason)
	d.records.Add(control.Record{Time: now, Event: "lapsed", Reason: reason})
	for _, b := range bans {
		rec := banRecord("unban", b)
		rec.Time, rec.Reason = now, "the armed start was not confirmed"
		d.records.Add(rec)
	}
	return nil
}

// bansSince returns the bans in force that began at a time or later, and those without a record: the daemon may have been killed
// before it saved one.
func (d *daemon) bansSince(ctx context.Context, t time.Time) (bans []ban.Ban, err error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	known := d.reasons.look(ctx, state.Bans, d.listedRecords)
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
