package enforce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"mef/internal/ban"
)

const (
	// promptRepairs of one object in a row, each within repairWindow of the one before, are done at once. More mean that another program keeps
	// undoing them: then each waits longer, up to maxDelay, so that two programs do not fight with all their might.
	promptRepairs = 3
	repairWindow  = time.Minute
	firstDelay    = time.Second
	maxDelay      = 30 * time.Second
)

// A streak is how often an object was repaired in a row, and when last.
type streak struct {
	repairs int
	last    time.Time
}

// ban puts a batch of bans in force in one transaction and reports what became of each.
func (e *Enforcer) ban(ctx context.Context, batch []request) {
	if !e.delayed.IsZero() {
		e.repairNow(ctx) // an error is that of the bans, too
	}
	now := time.Now()
	connected, unknown := e.connected(batch)
	results := make([]Result, 0, countBans(batch))
	var c Changes
	for _, r := range batch {
		for _, b := range r.bans {
			b, err := spareConnected(b, connected, unknown)
			if err != nil {
				results = append(results, Result{Ban: b, Err: err})
				continue
			}
			result := e.model.add(b, now, r.force)
			results = append(results, result)
			if result.Err == nil && b.Rule == ban.ByHand {
				c.Grace = append(c.Grace, e.model.revoke(result.Ban.Prefix)...)
			}
		}
	}
	c.Bans = slices.Grow(e.evictOverLimit(), len(results))
	for i := range results {
		// A ban that was evicted just now does not begin after all; the kernel may hold it all the same, if it was to be extended.
		if r := &results[i]; r.Err == nil && r.Changed {
			if held, begins := e.model.bans.begin(r.Ban.Key); begins {
				c.Bans = append(c.Bans, Change{Key: r.Ban.Key, Timeout: held.timeout(now)})
			}
		}
	}
	c.Except = e.model.staleExceptions(now)
	failed, err := e.write(ctx, c)
	if err == nil {
		err = e.broken // a ban that was asked for before may wait in the model
	}
	if later := e.takeUnextended(); later != nil && err == nil {
		e.settled = time.Now()
		e.tryAgain(later)
	}
	at := time.Now()
	for i := range results {
		r := &results[i]
		held, ok := e.model.bans.get(r.Ban.Key)
		switch {
		case r.Err != nil:
		case err != nil:
			r.Err = fmt.Errorf("ban %s: %w", r.Ban.Key, err)
		case failed[r.Ban.Key] != nil:
			r.Err = fmt.Errorf("ban %s: %w", r.Ban.Key, failed[r.Ban.Key])
		case !ok:
			r.Err = fmt.Errorf("ban %s: %w", r.Ban.Key, ErrFull)
		default:
			r.At, r.Until = at, held.time()
		}
	}
	e.notifyEnded() // first, so that what ended is not taken for the result of what the receiver does next
	e.deliver(batch, results)
	e.notify(results)
	e.notifyVerified(results)
}

// countBans returns how many bans there are in a batch.
func countBans(batch []request) (n int) {
	for _, r := range batch {
		n += len(r.bans)
	}
	return n
}

// evictOverLimit ends the bans with the least time left when there are too many, and returns the changes that do so.
func (e *Enforcer) evictOverLimit() []Change {
	if e.model.bans.len() <= e.opt.MaxBans {
		return nil
	}
	var out []Change
	e.full = true
	// A little more than needed, so that this does not happen again with every ban.
	for _, k := range e.model.evict(e.opt.MaxBans - e.opt.MaxBans/100) {
		out = append(out, Change{Key: k, Remove: true})
		e.ended = append(e.ended, k)
		e.report.Evicted++
	}
	e.log.Warn("too many bans: those with the least time left ended early", "max", e.opt.MaxBans, "ended", len(out))
	return out
}

// write makes changes hold. If the transaction fails, our objects may be damaged: then everything is compared and restored,
// the changes with it, because the model has them.
func (e *Enforcer) write(ctx context.Context, c Changes) (failed map[ban.Key]error, err error) {
	if c.empty() {
		return nil, nil
	}
	failures, err := e.backend.Apply(ctx, c)
	if err != nil {
		if e.report.Ready {
			e.log.Warn("a change failed; comparing everything with the kernel", "err", err)
		}
		if err := e.repairNow(ctx); err != nil {
			return nil, err
		}
		return nil, e.removeAgain(ctx, c)
	}
	return e.handle(ctx, failures), nil
}

// removeAgain removes again what changes were to remove and could not: comparing took over what the kernel still held of it.
func (e *Enforcer) removeAgain(ctx context.Context, c Changes) error {
	var again Changes
	for _, g := range c.Grace {
		if g.Remove {
			delete(e.model.grace, g.Prefix)
			again.Grace = append(again.Grace, g)
		}
	}
	for _, b := range c.Bans {
		if b.Remove {
			e.model.remove(b.Key)
			again.Bans = append(again.Bans, b)
		}
	}
	again.Except = e.model.staleExceptions(time.Now())
	if again.empty() {
		return nil
	}
	_, err := e.backend.Apply(ctx, again)
	return err
}

// handle deals with bans that the kernel refused. Where there were too many kinds of them it gives up those that are over; where
// memory was short it ends the bans with the least time left, and tries once more. Among the others, a ban that the kernel holds with an
// earlier end stays, to be extended later; the others are removed from the model.
func (e *Enforcer) handle(ctx context.Context, failures []Failure) map[ban.Key]error {
	if len(failures) == 0 {
		return nil
	}
	if slices.ContainsFunc(failures, func(f Failure) bool { return errors.Is(f.Err, ErrTooManyKinds) }) {
		failures = e.dropUnusedSets(ctx, failures)
	}
	if slices.ContainsFunc(failures, func(f Failure) bool { return isFull(f.Err) }) {
		failures = e.evictForMemory(ctx, failures)
	}
	held := e.heldOf(ctx, failures)
	failed := map[ban.Key]error{}
	for _, f := range failures {
		failed[f.Key] = f.Err
		if _, wanted := e.model.bans.get(f.Key); wanted && held[f.Key] {
			e.unextended = fmt.Errorf("extend ban %s: %w", f.Key, f.Err)
			continue
		}
		e.model.remove(f.Key)
		e.ended = append(e.ended, f.Key)
		e.log.Error("the kernel refused a ban", "ban", f.Key.String(), "err", f.Err)
	}
	return failed
}

// heldOf returns which of the refused bans the kernel holds all the same.
func (e *Enforcer) heldOf(ctx context.Context, failures []Failure) map[ban.Key]bool {
	held := map[ban.Key]bool{}
	keys := make([]ban.Key, len(failures))
	for i, f := range failures {
		keys[i] = f.Key
	}
	if len(keys) == 0 {
		return held
	}
	state, err := e.backend.Held(ctx, keys...)
	if err != nil {
		e.log.Warn("reading back refused bans failed", "err", err)
	}
	for _, h := range state.Bans {
		held[h.Key] = true
	}
	return held
}

// takeUnextended returns why bans could not be extended since it was last called.
func (e *Enforcer) takeUnextended() error {
	err := e.unextended
	e.unextended = nil
	return err
}

// dropUnusedEvery is how often everything is held anew at most, to be rid of sets that no ban needs any more.
const dropUnusedEvery = time.Minute

// dropUnusedSets has everything held anew, so that kinds of bans that there are no more make room for others. It returns what still failed.
func (e *Enforcer) dropUnusedSets(ctx context.Context, failures []Failure) []Failure {
	if now := time.Now(); now.Sub(e.swept) >= dropUnusedEvery {
		e.swept = now
		if still, err := e.rebuild(ctx); err == nil {
			return still
		}
	}
	return failures
}

func isFull(err error) bool { return errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) }

// evictForMemory ends as many bans as the kernel had no room for, those with the least time left, and tries again. It returns what still
// failed.
func (e *Enforcer) evictForMemory(ctx context.Context, failures []Failure) []Failure {
	now := time.Now()
	again := map[ban.Key]bool{}
	for _, f := range failures {
		again[f.Key] = true
	}
	var c Changes
	e.full = true
	for _, k := range e.model.evict(e.model.bans.len() - len(failures)) {
		e.report.Evicted++
		e.ended = append(e.ended, k)
		if !again[k] {
			c.Bans = append(c.Bans, Change{Key: k, Remove: true})
		}
	}
	e.log.Warn("the kernel has no room: bans with the least time left ended early", "ended", len(c.Bans))
	var gone []Failure
	for _, f := range failures {
		if entry, ok := e.model.bans.get(f.Key); ok {
			c.Bans = append(c.Bans, Change{Key: f.Key, Timeout: entry.timeout(now)})
		} else {
			gone = append(gone, f)
		}
	}
	still, err := e.backend.Apply(ctx, c)
	if err != nil {
		return failures
	}
	return append(gone, still...)
}

// deliver gives every request the results of its own bans.
func (e *Enforcer) deliver(batch []request, results []Result) {
	for _, r := range batch {
		mine := results[:len(r.bans)]
		results = results[len(r.bans):]
		if r.results != nil {
			r.results <- slices.Clone(mine)
		}
	}
}

func (e *Enforcer) notifyVerified(results []Result) {
	if e.opt.OnVerified == nil {
		return
	}
	var keys []ban.Key
	for _, r := range results {
		if r.Err == nil && r.Changed && r.Ban.Class == ban.Verified {
			keys = append(keys, r.Ban.Key)
		}
	}
	if len(keys) > 0 {
		e.opt.OnVerified(keys, e.model.spared())
	}
}

// notifyRestored is notifyVerified for bans that were restored: their peers may have connected meanwhile. It reports at most maxBatch.
func (e *Enforcer) notifyRestored(changes []Change) {
	if e.opt.OnVerified == nil {
		return
	}
	var keys []ban.Key
	for _, c := range changes {
		if _, holds := e.model.bans.get(c.Key); holds && c.Key.Class == ban.Verified && len(keys) < maxBatch {
			keys = append(keys, c.Key)
		}
	}
	if len(keys) > 0 {
		e.opt.OnVerified(keys, e.model.spared())
	}
}

// apply makes changes other than new bans hold.
func (e *Enforcer) apply(ctx context.Context, c Changes) error {
	_, err := e.write(ctx, c)
	return err
}

// unban lifts bans, grants grace, and looks whether they are gone.
func (e *Enforcer) unban(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	keys = slices.Clone(keys)
	for i := range keys {
		keys[i] = Normalize(keys[i])
	}
	slices.SortFunc(keys, ban.Key.Compare)
	keys = slices.Compact(keys)
	err := e.lift(ctx, grace, keys)
	if err != nil && ctx.Err() == nil {
		// Our objects may be damaged. Comparing restores them, and takes over what the kernel still holds, these bans included.
		e.log.Warn("lifting bans failed; comparing everything with the kernel", "err", err)
		if err = e.repairNow(ctx); err == nil {
			err = e.lift(ctx, grace, keys)
		}
	}
	if err != nil {
		return fmt.Errorf("lift bans: %w", err)
	}
	if e.opt.OnLifted != nil {
		e.opt.OnLifted(keys)
	}
	state, err := e.backend.Held(ctx, keys...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnread, err)
	}
	if len(state.Bans) > 0 {
		return fmt.Errorf("ban %s is still in force after it was lifted", state.Bans[0].Key)
	}
	return nil
}

func (e *Enforcer) lift(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	now := time.Now()
	var c Changes
	for _, k := range keys {
		c.Bans = append(c.Bans, Change{Key: k, Remove: true})
		e.model.remove(k)
		if p, ok := gracePrefix(k.Prefix); ok && grace > 0 {
			c.Grace = append(c.Grace, e.model.grant(p, grace, now))
		}
	}
	c.Except = e.model.staleExceptions(now)
	failures, err := e.backend.Apply(ctx, c)
	if err == nil && len(failures) > 0 {
		err = failures[0].Err
	}
	return err
}

// repairNow has everything compared and restored without delay.
func (e *Enforcer) repairNow(ctx context.Context) error {
	err := e.reconcile(ctx, "", true)
	if err != nil && !e.delayed.IsZero() {
		e.delayed = time.Now()
		err = e.reconcile(ctx, "", true)
	}
	return err
}

// reconcile repairs damage and reports whether that worked.
func (e *Enforcer) reconcile(ctx context.Context, by string, deep bool) error {
	err := e.repairDamage(ctx, by, deep)
	if err == nil && !e.report.Ready {
		err = e.makeReady(ctx)
	}
	e.settled, e.broken = time.Now(), err
	switch {
	case err == nil && !e.delayed.IsZero():
		// A shallow look found nothing wrong. That is no proof.
	case err == nil:
		e.retry, e.report.Problem = 0, ""
		e.setListsAgain(nil)
	case ctx.Err() == nil:
		e.tryAgain(err)
	}
	return err
}

// makeReady ends the start, in which the kernel was written for the first time.
func (e *Enforcer) makeReady(ctx context.Context) error {
	if err := e.repairDamage(ctx, "", false); err != nil { // do the numbers agree now?
		return err
	}
	e.report.Ready = true
	if e.retry > 0 {
		e.log.Info("the packet filter can be used now: bans are in force", "bans", e.model.bans.len())
	}
	return nil
}

// tryAgain has everything compared again after a while.
func (e *Enforcer) tryAgain(err error) {
	if e.report.Problem != err.Error() {
		e.log.Error("the table in the kernel is not as it should be; trying again", "err", err)
	}
	e.retry, e.report.Problem = min(max(2*e.retry, retryEvery), checkEvery), err.Error()
}

// repairDamage compares the kernel with what should hold and restores what is missing: single bans one by one, anything else by
// rebuilding all of it. Without deep it reads no elements unless their number shows that some are missing. By is who changed
// something, if known.
func (e *Enforcer) repairDamage(ctx context.Context, by string, deep bool) error {
	e.followClock()
	began := time.Now()
	check, err := e.backend.Check(ctx)
	if err != nil {
		return err
	}
	e.model.prune(began)
	if len(check.Lists) > 0 {
		if err := e.repairLists(check.Lists, by, began); err != nil {
			return err
		}
	}
	if len(check.Damaged) == 0 && !deep && (check.Bans < 0 || check.Bans >= e.model.bans.len()) {
		return nil
	}
	if began.Before(e.delayed) {
		return e.delayedError(check.Damaged, by)
	}
	state, err := e.backend.Held(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	wrong := e.model.adopt(state, now)
	damaged, write := check.Damaged, e.backend.Rebuild
	var c Changes
	if len(damaged) > 0 {
		c = e.model.all(now)
	} else {
		c = e.model.missing(state, now)
		if e.report.Ready && !c.empty() {
			// Where bans end while the kernel is read, it skips others, which are unchanged.
			if c, err = e.stillMissing(ctx, c, now); err != nil {
				return err
			}
		}
		for _, k := range wrong {
			c.Bans = append(c.Bans, Change{Key: k, Remove: true})
		}
		if c.empty() {
			e.delayed = time.Time{}
			return nil
		}
		damaged, write = []string{"elements"}, e.backend.Apply
	}
	if err := e.mayRepair(damaged, by, now); err != nil {
		return err
	}
	failures, err := write(ctx, c)
	if len(check.Damaged) > 0 {
		e.setAllLists() // some may have gone with the table
	}
	if err != nil && len(check.Damaged) == 0 {
		// What the elements belong in may have gone since it was looked at.
		if again, lookErr := e.backend.Check(ctx); lookErr == nil && len(again.Damaged) > 0 {
			damaged, c = again.Damaged, e.model.all(now)
			failures, err = e.backend.Rebuild(ctx, c)
			e.setAllLists()
		}
	}
	e.handle(ctx, failures)
	e.notifyEnded()
	if err == nil {
		e.notifyRestored(c.Bans)
		if err := e.takeUnextended(); err != nil {
			return err
		}
	}
	e.noteRepair(Repair{Time: now, Damaged: damaged, By: by, Took: time.Since(began), Err: err})
	return err
}

// rebuildNow makes everything hold anew.
func (e *Enforcer) rebuildNow(ctx context.Context) error {
	failures, err := e.rebuild(ctx)
	e.handle(ctx, failures)
	e.notifyEnded()
	return err
}

// rebuild makes everything hold anew, what only the kernel knows of included, and returns the bans that it refused.
func (e *Enforcer) rebuild(ctx context.Context) ([]Failure, error) {
	state, err := e.backend.Held(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	e.model.prune(now)
	e.model.adopt(state, now)
	failures, err := e.backend.Rebuild(ctx, e.model.all(now))
	e.setAllLists()
	return failures, err
}

// mayRepair counts repairs by object and returns an error if this one is to wait. Making the kernel ready at the start is none, and one
// that is tried again counts once.
func (e *Enforcer) mayRepair(damaged []string, by string, now time.Time) error {
	waited := !e.delayed.IsZero()
	e.delayed = time.Time{}
	if !e.report.Ready || e.retry > 0 && !waited {
		return nil
	}
	longest := 0
	for _, object := range damaged {
		s := e.streaks[object]
		if now.Sub(s.last) > repairWindow {
			s.repairs = 0
		}
		if !waited {
			s.repairs++
		}
		s.last = now
		e.streaks[object] = s
		longest = max(longest, s.repairs)
	}
	if waited || longest <= promptRepairs {
		return nil
	}
	delay := min(firstDelay<<min(longest-promptRepairs-1, 10), maxDelay)
	e.delayed = now.Add(delay)
	e.noteRepair(Repair{Time: now, Damaged: damaged, By: by, Delayed: delay})
	return e.delayedError(damaged, by)
}

func (e *Enforcer) delayedError(damaged []string, by string) error {
	if by == "" {
		by = e.report.LastRepair.By
	}
	if by == "" {
		by = "another program"
	}
	if len(damaged) == 0 {
		damaged = e.report.LastRepair.Damaged
	}
	return fmt.Errorf("%s keeps changing our %s: the next repair is at %s, or with the next ban", by, strings.Join(damaged, ", "),
		e.delayed.Format(time.TimeOnly))
}

// noteRepair counts, logs and reports a repair, except the first one, which makes the kernel ready.
func (e *Enforcer) noteRepair(r Repair) {
	if !e.report.Ready {
		return
	}
	e.report.LastRepair = r
	switch {
	case r.Delayed > 0:
		e.log.Error("another program keeps undoing repairs; the next repair waits", "damaged", r.Damaged, "by", r.By, "wait", r.Delayed)
	case r.Err != nil:
		e.log.Error("repair did not succeed", "damaged", r.Damaged, "by", r.By, "err", r.Err)
	default:
		e.report.Repairs++
		e.log.Warn("restored what another program had changed", "damaged", r.Damaged, "by", r.By, "took", r.Took)
	}
	if e.opt.OnRepair != nil {
		e.opt.OnRepair(r)
	}
}
