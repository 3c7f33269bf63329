package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/store"
)

// trialFile is the name of the file below cache_dir that says that the daemon is armed and not confirmed. It stands beside mef.db,
// because it must be read even if that cannot be.
const trialFile = "armed.json"

const (
	defaultTrial = 10 * time.Minute
	maxTrial     = 24 * time.Hour

	// armedLate is how long after its start the daemon may be armed as if it had started so.
	armedLate = time.Minute
)

// A trial is the time in which whoever armed the daemon finds out whether he can still log in. If nobody confirms, he cannot:
// the daemon then lifts what it banned since, and only watches. A trial outlives the daemon and the machine.
type trial struct {
	Since  time.Time     `json:"since"` // bans that began since then are lifted when it lapses
	Until  time.Time     `json:"until"`
	For    time.Duration `json:"for_ns"`
	Lapsed bool          `json:"lapsed"`
}

// left is how long a trial goes on. A clock that was set back does not make it longer than it was meant.
func (t *trial) left(now time.Time) time.Duration {
	if t.Lapsed {
		return 0
	}
	return max(0, min(t.Until.Sub(now), t.For))
}

// lapsed reports whether the daemon only watches because nobody confirmed.
func (t *trial) lapsed() bool { return t != nil && t.Lapsed }

// show adds the trial to a status.
func (t *trial) show(s *control.Status, now time.Time) {
	switch {
	case t == nil:
		return
	case t.Lapsed:
		s.Missing = append(s.Missing, fmt.Sprintf("nobody confirmed within %s that he can log in, so bans were lifted and are only said now; "+
			"run mefctl confirm to have them made", short(t.For)))
	default:
		s.Warnings = append(s.Warnings, fmt.Sprintf("armed: confirm within %s, from a new login, by mefctl confirm; else bans are lifted and only said",
			t.left(now).Round(time.Second)))
	}
	s.Armed = &control.Armed{Until: t.Until, Lapsed: t.Lapsed}
}

func (e *loop) trialPath() string { return filepath.Join(e.cfg.Paths.StateDir, trialFile) }

// readTrial returns the trial that a file tells of, nil if there is no file. One that cannot be read has lapsed: better to watch
// for a while than to lock out.
func readTrial(path string, now time.Time) (*trial, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	t := new(trial)
	if err == nil {
		err = json.Unmarshal(data, t)
	}
	if err != nil {
		return &trial{Since: now, Until: now, For: defaultTrial, Lapsed: true}, fmt.Errorf("%s: %w", path, err)
	}
	t.Lapsed = t.left(now) == 0
	if t.Since.After(now) {
		t.Since = now // the clock was set back, and new bans begin now
	}
	return t, nil
}

// writeTrial replaces the file at once. It is on disk when this returns.
func writeTrial(path string, t *trial) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// takeUp goes on with the trial of an earlier run.
func (d *daemon) takeUp(now time.Time) {
	t, err := readTrial(d.trialPath(), now)
	if err != nil {
		d.log.Warn("armed, it is not known until when; bans are only said until mefctl confirm", "err", err)
	}
	if t == nil {
		return
	}
	d.trial.Store(t)
	if !t.Lapsed {
		d.lapse.Reset(t.left(now))
	}
	d.heedMode()
}

// heedMode has the engine act, or only say, as the configuration and the trial want it. It runs on the engine's goroutine.
func (e *loop) heedMode() {
	observe := e.cfg.Observe || e.trial.Load().lapsed()
	e.observe.Store(observe)
	e.engine.SetObserve(observe)
}

// noteWatching keeps in mef.db since when bans are only said. Every change of mode is followed by the lists being applied anew,
// which calls it on the engine's goroutine.
func (e *loop) noteWatching(now time.Time) {
	note := ""
	switch only := e.observe.Load(); {
	case only != e.watching.IsZero():
		return
	case only:
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

// whyObserve says what keeps bans from being made.
func (d *daemon) whyObserve() string {
	if d.trial.Load().lapsed() {
		return "nobody confirmed that he can log in, so nothing is banned; run mefctl confirm first"
	}
	return "mode=observe writes no bans; set mode=enforce in " + d.path
}

// Arm begins a trial, or begins it again.
func (d *daemon) Arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	if req.For == 0 {
		req.For = defaultTrial
	}
	if req.For < time.Second || req.For > maxTrial {
		return control.Armed{}, refuse("for_ns %d: a trial lasts from a second to a day", req.For)
	}
	return ask(ctx, &d.keeper, func(ctx context.Context) (control.Armed, error) { return d.arm(ctx, req) })
}

// arm runs on the keeper's goroutine.
func (d *daemon) arm(ctx context.Context, req control.ArmRequest) (control.Armed, error) {
	now := time.Now()
	t := &trial{Since: now, Until: now.Add(req.For), For: req.For}
	before := d.trial.Load()
	switch {
	case before != nil && !before.Lapsed:
		t.Since = before.Since
	case now.Sub(d.since) < armedLate:
		t.Since = d.since
	}
	watching, err := query(ctx, d.loop, func() bool { return d.cfg.Observe })
	if err != nil {
		return control.Armed{}, err
	}
	if watching {
		return control.Armed{}, refuse("mode=observe bans nobody, so there is nothing to confirm; set mode=enforce in %s", d.path)
	}
	if err := writeTrial(d.trialPath(), t); err != nil {
		return control.Armed{}, refuse("not armed, for a restart would forget it: %v", err)
	}
	d.lapse.Reset(t.left(now))
	d.records.add(control.Record{Time: now, Event: "armed", Author: req.Author, Reason: "to be confirmed within " + short(req.For)})
	return control.Armed{Until: t.Until}, d.begin(ctx, t)
}

// begin puts a trial, or with nil its end, in force. Bans of the blacklist come back that a trial had lifted.
func (d *daemon) begin(ctx context.Context, t *trial) error {
	d.trial.Store(t)
	if err := d.do(ctx, d.heedMode); err != nil {
		return err
	}
	return d.applyLists(ctx)
}

// Confirm ends the trial: its author can log in.
func (d *daemon) Confirm(ctx context.Context, author string) error {
	_, err := ask(ctx, &d.keeper, func(ctx context.Context) (struct{}, error) { return struct{}{}, d.confirm(ctx, author) })
	return err
}

func (d *daemon) confirm(ctx context.Context, author string) error {
	if d.trial.Load() == nil {
		return refuse("nothing waits to be confirmed: mefdaemon is not armed")
	}
	if err := os.Remove(d.trialPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return refuse("not confirmed, for a restart would forget it: %v", err)
	}
	d.lapse.Stop()
	d.records.add(control.Record{Time: time.Now(), Event: "confirmed", Author: author})
	return d.begin(ctx, nil)
}

// fallBack ends a trial that nobody confirmed: the daemon only watches from now on, and what it banned since is lifted. It runs on
// the keeper's goroutine.
func (d *daemon) fallBack(ctx context.Context) {
	before := d.trial.Load()
	if before == nil || before.Lapsed {
		return
	}
	now := time.Now()
	t := *before
	t.Lapsed = true
	if err := writeTrial(d.trialPath(), &t); err != nil {
		d.log.Warn("a trial that has lapsed is not noted down", "err", err) // its end is, in the same file
	}
	if err := d.begin(ctx, &t); err != nil {
		return
	}
	bans, err := d.bansSince(ctx, t.Since)
	if err == nil {
		err = d.enforcer.Unban(ctx, 0, keysOf(bans)...)
	}
	reason := fmt.Sprintf("nobody confirmed within %s: %d bans are lifted, and further ones only said", short(t.For), len(bans))
	if err != nil {
		reason = fmt.Sprintf("nobody confirmed within %s, and bans could not be lifted: %v", short(t.For), err)
	}
	d.log.Error("armed and not confirmed", "outcome", reason)
	d.records.add(control.Record{Time: now, Event: "lapsed", Reason: reason})
	if err != nil {
		return
	}
	d.book.lift(keysOf(bans))
	for _, b := range bans {
		rec := banRecord("unban", b)
		rec.Time, rec.Reason = now, "nobody confirmed that he can log in"
		d.records.add(rec)
	}
	_ = d.do(ctx, func() {
		d.engine.Lifted(now, keysOf(bans)...)
		d.unsaved.lifted = append(d.unsaved.lifted, keysOf(bans)...)
		d.save()
	})
	d.lists.unlist(keysOf(bans))
}

// bansSince returns the bans in force that began at a time or later, and those of whose beginning no record tells: the daemon may
// have been killed before it saved one.
func (d *daemon) bansSince(ctx context.Context, t time.Time) (bans []ban.Ban, err error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	known := d.book.look(ctx, state.Bans)
	for _, held := range state.Bans {
		b, ok := known[held.Key]
		switch {
		case ok && !b.Start.Before(t):
			bans = append(bans, b)
		case !ok:
			bans = append(bans, ban.Ban{Key: held.Key, Rule: "unknown"})
		}
	}
	return bans, nil
}

// begunSince returns which of the saved bans began at a time or later: those that a trial lifts that lapsed while the daemon was not
// running. Those that were not saved are found when the kernel has been read.
func begunSince(t time.Time, saved []ban.Ban) (keys []ban.Key) {
	for _, b := range saved {
		if !b.Start.Before(t) {
			keys = append(keys, b.Key)
		}
	}
	return keys
}

func keysOf(bans []ban.Ban) []ban.Key {
	keys := make([]ban.Key, len(bans))
	for i, b := range bans {
		keys[i] = b.Key
	}
	return keys
}
