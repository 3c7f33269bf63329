package loader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"mef/internal/firewall/inforce"
	"mef/internal/firewall/policy"
	"mef/internal/inotify"
	"mef/internal/run"
	"mef/internal/sleep"
)

// ErrTrial means that rules are being tried already.
var ErrTrial = errors.New("rules are on trial")

// errTried reports what to do about them.
var errTried = fmt.Errorf("%w already, by another mef apply: mef confirm keeps them, mef rollback restores the previous ones", ErrTrial)

// ErrNothing means that there is nothing to confirm or to go back to.
var ErrNothing = errors.New("nothing to do")

const (
	// startTimeout is how long the guard may take to load rules.
	startTimeout = 30 * time.Second
	// lockTimeout is how long others may change the kernel's rules before we give up.
	lockTimeout = time.Minute
	pollEvery   = 50 * time.Millisecond
	resultEvery = 5 * time.Millisecond // a small policy is loaded in a few of them

	// MaxTimeout bounds a trial: what is in force for longer than a night was meant.
	MaxTimeout = 12 * time.Hour
)

// errNoLock means that it is not known whether another mef is changing rules.
var errNoLock = errors.New("the lock is not available")

// locked runs fn while nobody else of us changes rules.
func (l *Loader) locked(ctx context.Context, fn func() error) error {
	f, err := os.OpenFile(l.state.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoLock, err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return fn()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if !sleep.For(ctx, pollEvery) {
			return fmt.Errorf("another mef is still changing the rules: %w", ctx.Err())
		}
	}
}

// settle completes what killed processes left undone: a trial that was confirmed, is over, or has no guard any more.
func (l *Loader) settle(ctx context.Context) error {
	return l.locked(ctx, func() error { return l.settleLocked(ctx) })
}

func (l *Loader) settleLocked(ctx context.Context) error {
	if err := l.state.confirm(); err != nil {
		return err
	}
	if l.state.has(expired) {
		return l.revert(ctx, "the trial was not confirmed")
	}
	if !l.state.has(trial) {
		return os.RemoveAll(l.state.path(trial)) // half of one, whose maker was killed
	}
	guarded, err := l.state.guarded()
	if err != nil || guarded {
		return err
	}
	if ok, err := l.state.decide(expired); err != nil || !ok {
		return err
	}
	return l.revert(ctx, "the trial was not confirmed before its guard ended, most likely by a reboot")
}

// revert restores the rules from before an expired trial, and saves that nobody confirmed it.
func (l *Loader) revert(ctx context.Context, outcome string) error {
	err := l.restore(ctx, outcome)
	if err != nil && !errors.As(err, new(unkept)) {
		return fmt.Errorf("restore the previous rules: %w", err)
	}
	return errors.Join(err, l.refuse(outcome))
}

// refuse ends what is left of an expired trial, whose rules are in force no more.
func (l *Loader) refuse(outcome string) error {
	return errors.Join(l.state.refuse(), writeJSON(l.state.path(noteFile), note{time.Now(), outcome}))
}

// restore puts the confirmed rules into force; or, where none ever were, what was in force before the trial.
func (l *Loader) restore(ctx context.Context, notice string) error {
	if l.state.has(confirmed) {
		return l.back(ctx, confirmed, notice)
	}
	if l.state.has(expired + before) {
		return l.back(ctx, expired+before, notice)
	}
	return l.removeRules(ctx)
}

// removeRules removes all rules of all backends from the kernel.
func (l *Loader) removeRules(ctx context.Context) error {
	all, err := l.holders()
	if err != nil {
		return err
	}
	for _, b := range all {
		if _, err := empty(ctx, b); err != nil {
			return err
		}
	}
	return errors.Join(remove(l.state.path(loadedFile)), remove(l.state.path(loadedRules)))
}

// A result is how the guard reports on loading the rules.
type result struct {
	Until time.Time `json:"until"`
	Err   string    `json:"error"`
}

// A Trial is a policy that is in force for a while.
type Trial struct {
	Until time.Time // when it is reverted; zero if it was decided already

	loader *Loader
	record Record
}

// Try begins a trial: the policy is in force when Try returns, until the time given, unless it is confirmed. Guard is the command
// line by which this program runs Guard.
func (l *Loader) Try(ctx context.Context, c *Candidate, timeout time.Duration, guard ...string) (*Trial, error) {
	b, _, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return nil, err
	}
	if _, err := b.script(c.Policy); err != nil {
		return nil, err
	}
	t := &Trial{loader: l, record: Record{Digest: c.Source.Digest, Source: c.Source.Path, Made: time.Now().Round(0), Backend: b.String()}}
	var owner *os.File
	err = l.locked(ctx, func() (err error) {
		if err := l.settleLocked(ctx); err != nil {
			return err
		}
		owner, err = l.begin(c.Source.Freeze(c.Facts), t.record, timeout)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer owner.Close()
	unit := fmt.Sprintf("mef-trial-%d", os.Getpid()) // the guard of the trial before may take a moment to end
	if err := run.Detach(ctx, unit, guard...); err != nil {
		return nil, errors.Join(err, l.giveUp(err))
	}
	r, err := l.await(ctx)
	if err == nil && r.Err != "" {
		err = errors.New(r.Err)
	}
	if err != nil {
		return nil, errors.Join(err, l.giveUp(err))
	}
	t.Until = r.Until
	return t, nil
}

// Keep loads a policy and confirms it at once, without a trial. After an error what was in force before is in force.
func (l *Loader) Keep(ctx context.Context, c *Candidate) (Record, error) {
	b, _, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return Record{}, err
	}
	record := Record{Digest: c.Source.Digest, Source: c.Source.Path, Made: time.Now().Round(0), Backend: b.String()}
	err = l.locked(ctx, func() error {
		if err := l.settleLocked(ctx); err != nil {
			return err
		}
		if l.state.has(trial) {
			return errTried
		}
		before, err := l.lastLoaded()
		if err != nil {
			return err
		}
		text := later(func() []byte { return c.Source.Freeze(c.Facts) })
		saved := later(func() error { return l.state.stage(text(), record) })
		err = l.putReady(ctx, b, c.Policy, text, saved, loaded{Record: record, From: confirmed})
		if err == nil {
			err = errors.Join(l.state.pardon(record.Digest), l.state.adopt())
		}
		if u := (unkept{}); errors.As(err, &u) {
			err = fmt.Errorf("save that these rules are in force: %w", u.error)
		}
		if err != nil {
			return errors.Join(err, os.RemoveAll(l.state.path(staged)), l.undo(before))
		}
		return remove(l.state.path(noteFile))
	})
	return record, err
}

// lastLoaded is what was loaded last, as it is noted.
type lastLoaded struct {
	loaded
	text []byte // nil: nothing
}

func (l *Loader) lastLoaded() (last lastLoaded, err error) {
	in, ok := l.noted()
	if !ok || in.Boot != inforce.Boot() {
		return last, nil
	}
	last.loaded = in
	if last.text, err = os.ReadFile(l.state.path(loadedRules)); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return last, err
}

// undo puts into force what was loaded last, after something else could not be loaded and kept; nothing, if nothing was.
func (l *Loader) undo(last lastLoaded) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	if last.text == nil {
		return l.removeRules(ctx)
	}
	b, ok := byName(last.Backend)
	if !ok {
		return nil
	}
	if held, err := b.held(ctx); err == nil && held == last.Held {
		return nil // nothing else was loaded
	}
	src, err := policy.Thaw(l.state.path(loadedRules), last.text)
	if err != nil {
		return err
	}
	err = l.put(ctx, b, src, policy.Facts{}, last.loaded)
	if errors.As(err, new(unkept)) {
		return err
	}
	if err != nil {
		return fmt.Errorf("restore the previous rules: %w", err)
	}
	return nil
}

// begin makes the folder of a trial and returns the lock by which it has an owner.
func (l *Loader) begin(text []byte, record Record, timeout time.Duration) (*os.File, error) {
	if err := os.Mkdir(l.state.path(trial), 0o700); errors.Is(err, fs.ErrExist) {
		return nil, errTried
	} else if err != nil {
		return nil, err
	}
	owner, err := l.state.lock(ownerLock)
	if err != nil {
		return nil, err
	}
	if err := l.keepBefore(); err != nil {
		owner.Close()
		return nil, err
	}
	err = writeJSON(l.state.path(trial, recordFile), trialRecord{record, time.Now().Add(timeout)})
	if err == nil {
		err = writeJSON(l.state.path(trial, "timeout.json"), timeout)
	}
	if err == nil {
		err = writeFile(l.state.path(trial, rulesFile), text)
	}
	if err != nil {
		owner.Close()
		return nil, errors.Join(err, os.RemoveAll(l.state.path(trial)))
	}
	return owner, nil
}

// keepBefore keeps what is in force with the trial, if it is nothing that was ever confirmed.
func (l *Loader) keepBefore() error {
	text, err := os.ReadFile(l.state.path(loadedRules))
	if l.state.has(confirmed) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	in, ok := l.noted()
	if !ok {
		return nil
	}
	if err := os.Mkdir(l.state.path(trial+before), 0o700); err != nil {
		return err
	}
	return l.state.put(trial+before, text, in.Record)
}

// giveUp ends a trial that could not begin, because of an error. Its rules are not refused for that.
func (l *Loader) giveUp(because error) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	return l.locked(ctx, func() error { return l.giveUpLocked(ctx, because) })
}

func (l *Loader) giveUpLocked(ctx context.Context, because error) error {
	ok, err := l.state.decide(expired)
	if err != nil || !ok {
		return err
	}
	if err := remove(l.state.path(expired, recordFile)); err != nil { // the next command refuses nothing because of it
		return err
	}
	err = l.restore(ctx, "rules could not be tried: "+because.Error())
	if err != nil && !errors.As(err, new(unkept)) {
		return err
	}
	return errors.Join(err, os.RemoveAll(l.state.path(expired)))
}

// await waits for the guard's result. It returns an empty one if the trial was decided first.
func (l *Loader) await(ctx context.Context) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := readJSON(l.state.path(trial, resultFile), &r)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
		if !l.state.has(trial) {
			return r, nil
		}
		if !sleep.For(ctx, resultEvery) {
			return r, fmt.Errorf("the process that restores the previous rules did not start: %w", ctx.Err())
		}
	}
}

// Guard loads the rules of a trial, waits until it is confirmed or its time is over, and then restores the previous rules. It runs in a
// process of its own. A Guard that takes the place of one that was killed goes on with the time that is left. Restoring is tried again
// until it succeeds; report is called with each failure.
func (l *Loader) Guard(ctx context.Context, report func(error)) error {
	lock, err := l.state.lock(guardLock)
	if errors.Is(err, fs.ErrNotExist) {
		return l.settle(ctx) // what a guard that was killed has decided
	}
	if err != nil {
		return err
	}
	if lock == nil {
		return fmt.Errorf("%w and guarded by another process", ErrTrial)
	}
	defer lock.Close()
	var timeout time.Duration
	if err := readJSON(l.state.path(trial, "timeout.json"), &timeout); err != nil {
		return err
	}
	var r result
	if err := readJSON(l.state.path(trial, resultFile), &r); errors.Is(err, fs.ErrNotExist) {
		if r, err = l.loadGuarded(ctx, timeout); err != nil {
			return err
		}
	}
	if r.Err != "" {
		return nil // the process that began the trial ends it, or the next command
	}
	outcome := fmt.Sprintf("not confirmed within %v", timeout)
	if err := l.waitFor(ctx, lock, r.Until); err != nil {
		outcome = "the guard of the trial was stopped: " + err.Error()
	}
	return l.endTrial(context.WithoutCancel(ctx), lock, outcome, report)
}

// endTrial restores the previous rules, unless the trial was decided otherwise.
func (l *Loader) endTrial(ctx context.Context, lock *os.File, outcome string, report func(error)) error {
	const most = 30 * time.Second
	for wait := time.Second; ; wait = min(2*wait, most) {
		err := l.locked(ctx, func() error {
			if l.guards(lock) {
				if ok, err := l.state.decide(expired); err != nil || !ok {
					return err
				}
			}
			if !l.state.has(expired) {
				return nil
			}
			return l.revert(ctx, outcome)
		})
		if errors.Is(err, errNoLock) && l.guards(lock) { // the disk takes no more writes, so nobody can confirm either
			return errors.Join(err, l.restore(ctx, outcome))
		}
		if err == nil || !l.guards(lock) && !l.state.has(expired) {
			return err
		}
		report(err)
		sleep.For(ctx, wait)
	}
}

// loadGuarded loads the rules of a trial and saves the result for the process that began it.
func (l *Loader) loadGuarded(ctx context.Context, timeout time.Duration) (r result, err error) {
	err = l.locked(ctx, func() error { return l.loadTrial(ctx) })
	if r.Until = time.Now().Add(timeout); err != nil {
		r.Err = err.Error()
	}
	if err := writeJSON(l.state.path(trial, resultFile), r); err != nil {
		return r, errors.Join(err, l.giveUp(err)) // nobody learns of us
	}
	return r, nil
}

// waitFor returns nil once the trial is decided or its time is over, and an error if ctx is done first.
func (l *Loader) waitFor(ctx context.Context, lock *os.File, until time.Time) error {
	changes, err := inotify.Watch(ctx, l.state.dir, inotify.Names)
	if err != nil {
		return err
	}
	defer changes.Close()
	for l.guards(lock) {
		if events, err := changes.Wait(until); err != nil || len(events) == 0 {
			return cmp.Or(err, ctx.Err())
		}
	}
	return nil
}

// guards reports whether the trial is still the one whose lock this is, and not confirmed, reverted or another.
func (l *Loader) guards(lock *os.File) bool {
	ours, err := lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.state.path(trial, guardLock))
	return err == nil && os.SameFile(ours, there)
}

func (l *Loader) loadTrial(ctx context.Context) error {
	text, record, err := l.state.get(trial)
	if err != nil {
		return err
	}
	src, err := policy.Thaw(l.state.path(trial, rulesFile), text)
	if err != nil {
		return err
	}
	b, _, err := choose(ctx, l.settings.Firewall.Backend)
	if err != nil {
		return err
	}
	frozen := func() []byte { return text }
	return l.putReady(ctx, b, src.Policy(policy.Facts{}), frozen, always, loaded{Record: record, From: trial})
}

// Confirm keeps the rules that are being tried, once they are in force.
func (l *Loader) Confirm(ctx context.Context) (Record, error) {
	if l.state.has(trial) {
		if r, err := l.await(ctx); err != nil || r.Err != "" {
			return Record{}, l.nothing("the rules could not be loaded for the trial")
		}
	}
	var record Record
	err := l.locked(ctx, func() error {
		if err := l.settleLocked(ctx); err != nil {
			return err
		}
		_, record, _ = l.state.get(trial)
		if l.state.has(trial) {
			if err := l.unchanged(ctx); err != nil {
				return errors.Join(err, l.giveUpLocked(ctx, err))
			}
		}
		ok, err := l.state.decide(accepted)
		if err != nil {
			return err
		}
		if !ok {
			return l.nothing("no rules are on trial")
		}
		if err := l.state.pardon(record.Digest); err != nil {
			return err
		}
		return errors.Join(l.state.confirm(), l.mark(confirmed, ""), remove(l.state.path(noteFile)))
	})
	return record, err
}

// unchanged returns an error unless the kernel holds the rules that were loaded last: what nobody tried is not confirmed.
func (l *Loader) unchanged(ctx context.Context) error {
	in, ok := l.noted()
	b, known := byName(in.Backend)
	if !ok || !known {
		return errors.New("not confirmed: the record of the loaded rules is missing; the previous rules are in force again")
	}
	held, err := b.held(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("not confirmed: the rules cannot be read back: %w", err)
	case held == "":
		return errors.New("not confirmed: another program removed the rules from the kernel during the trial; the previous rules are in force again, mef apply starts a new trial")
	case held != in.Held:
		return errors.New("not confirmed: another program changed the rules in the kernel during the trial; the previous rules are in force again, mef apply starts a new trial")
	}
	return nil
}

// nothing says that there is nothing to do, and how the last trial ended.
func (l *Loader) nothing(what string) error {
	var n note
	if readJSON(l.state.path(noteFile), &n) == nil {
		what += fmt.Sprintf("; the last trial ended on %s: %s", n.When.Local().Format(time.DateTime), n.Outcome)
	}
	return fmt.Errorf("%w: %s", ErrNothing, what)
}

// mark saves the origin of the rules in force.
func (l *Loader) mark(from, notice string) error {
	in, ok := l.noted()
	if !ok {
		return nil // somebody removed it since
	}
	in.From, in.Notice = from, notice
	return writeNote(l.state.path(loadedFile), in, 0o644)
}

// Rollback takes back the rules that are being tried; or, where none are, puts into force what was confirmed before the rules that
// are confirmed now.
func (l *Loader) Rollback(ctx context.Context) (to Record, err error) {
	err = l.locked(ctx, func() error {
		ended, err := l.takeBack(ctx, "rolled back by hand")
		if err == nil && !ended {
			err = l.swap(ctx)
		}
		if err == nil {
			_, to, _ = l.state.get(confirmed)
		}
		return err
	})
	return to, err
}

// EndTrial takes back the rules that are being tried, if any are: the service is restarted, and what it loads is to be in force.
func (l *Loader) EndTrial(ctx context.Context) error {
	err := l.locked(ctx, func() error {
		_, err := l.takeBack(ctx, "mef.service was restarted before the trial was confirmed")
		return err
	})
	if errors.Is(err, errNoLock) {
		return nil // without a state there is no trial
	}
	return err
}

// takeBack takes back the rules that are being tried, and reports whether any were.
func (l *Loader) takeBack(ctx context.Context, why string) (ended bool, err error) {
	if err := l.settleLocked(ctx); err != nil {
		return false, err
	}
	if ended, err = l.state.decide(expired); ended {
		err = l.revert(ctx, why)
	}
	return ended, err
}

// swap exchanges the confirmed rules and the previous ones.
func (l *Loader) swap(ctx context.Context) error {
	if !l.state.has(previous) {
		return l.nothing("no rules are on trial, and none were confirmed before the ones in force")
	}
	noted := l.back(ctx, previous, "rolled back by hand")
	if noted != nil && !errors.As(noted, new(unkept)) {
		return noted
	}
	return errors.Join(noted, l.state.exchange())
}

// An Outcome is how a trial ended.
type Outcome int

// The outcomes.
const (
	Kept Outcome = iota
	TakenBack
)

// lookEvery is how often Outcome looks at a trial in which nothing seems to happen: a guard that was killed leaves no trace.
const lookEvery = time.Second

// Outcome waits for the end of the trial and returns how it ended; when ctx is done it returns at once. It does what the guard would
// have done if that was killed.
func (t *Trial) Outcome(ctx context.Context) (Outcome, error) {
	s := t.loader.state
	changes, err := inotify.Watch(ctx, s.dir, inotify.Names)
	if err != nil {
		return TakenBack, err
	}
	defer changes.Close()
	for {
		// In this order: a trial that is neither undecided nor on its way is one that the confirmed rules show, however fast it got there.
		undecided := s.has(trial) || s.has(accepted) || s.has(expired)
		_, kept, err := s.get(confirmed)
		switch {
		case err == nil && kept.Digest == t.record.Digest && kept.Made.Equal(t.record.Made):
			return Kept, nil
		case !undecided:
			return TakenBack, nil // and the process that did it has restored the rules
		}
		guarded, err := s.guarded()
		if err == nil && !guarded {
			if err := t.loader.settle(ctx); err != nil && ctx.Err() == nil {
				return TakenBack, fmt.Errorf("the guard of the trial has ended: %w", err)
			}
			continue
		}
		if err != nil && time.Now().After(t.Until) {
			return TakenBack, fmt.Errorf("the trial has ended, but its outcome is not known: %w", err)
		}
		if _, err := changes.Wait(time.Now().Add(lookEvery)); err != nil || ctx.Err() != nil {
			return TakenBack, nil
		}
	}
}
