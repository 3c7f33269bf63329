package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/confirm"
	"mef/internal/lists"
	"mef/internal/store"
)

// State is saved so long after something has changed: soon if it is a tally or a ban, later if only read positions moved,
// because lines that said nothing may be read again. What a crash loses is read again from the saved positions: these, the
// tallies and the bans made of what was read are saved in one transaction.
const (
	saveSoon  = time.Second
	saveLater = 10 * time.Second
)

// flushTimeout is how long an operator's command waits for the disk.
const flushTimeout = 2 * time.Second

// storeFile is the name of the store below cache_dir.
const storeFile = "mef.db"

// unsaved is what has changed since the state was last saved, other than the tracker's records.
type unsaved struct {
	bans   []ban.Ban
	lifted []ban.Key
	read   map[string]string // Batch.Resume by Batch.Source
	timer  *time.Timer       // running while there is something to save
	due    <-chan time.Time  // the timer's channel; nil while there is nothing to save
	within time.Duration     // what the timer was set to
}

// changed has the state saved within a time.
func (e *loop) changed(within time.Duration) {
	if e.unsaved.due != nil && e.unsaved.within <= within {
		return
	}
	if e.unsaved.timer == nil {
		e.unsaved.timer = time.NewTimer(within)
	} else {
		e.unsaved.timer.Reset(within)
	}
	e.unsaved.due, e.unsaved.within = e.unsaved.timer.C, within
}

// save hands over everything that has changed, as of one moment between two batches.
func (e *loop) save() {
	u := store.Update{Bans: e.unsaved.bans, Lifted: e.unsaved.lifted, Positions: e.unsaved.read}
	for _, r := range e.engine.Changes() {
		u.Records = append(u.Records, store.Record(r))
	}
	e.unsaved = unsaved{timer: e.unsaved.timer, read: make(map[string]string)}
	e.saver.Save(u)
	if len(u.Records)+len(u.Bans) > manyChanges {
		e.grew()
	}
}

// grew tells tidy of a burst.
func (e *loop) grew() {
	select {
	case e.grown <- struct{}{}:
	default: // it knows
	}
}

// A burst of attackers leaves memory behind that Go's collector would keep for the next one: many times what the daemon needs
// otherwise. It is given back once the burst is over, or, if it goes on, now and then.
const (
	manyChanges = 1000             // in one save, that make a burst
	calm        = 3 * time.Second  // without a burst before memory is given back
	stormy      = 30 * time.Second // of burst after which it is given back all the same
)

// tidy gives memory back after bursts, until ctx is done. A burst is not over while it is being saved.
func (e *loop) tidy(ctx context.Context, saving func() bool, giveBack func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.grown:
		}
		limit := time.After(stormy)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-e.grown:
			case <-time.After(calm):
				waiting = saving()
			case <-limit:
				waiting = false
			}
		}
		giveBack()
	}
}

// giveBack collects twice: the pages that bbolt has written are in a sync.Pool, which outlives one collection.
func giveBack() {
	runtime.GC()
	debug.FreeOSMemory()
}

func (e *loop) saving() bool { return e.saver.Status().Pending > 0 }

// flush waits until what was saved is on disk, so that an operator's word outlives a crash right after it. A disk that does
// not take it holds up nobody; status says so.
func (d *daemon) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := d.saver.Flush(ctx); err != nil {
		d.log.Warn("an operator's ban is in force and not saved", "err", err)
	}
}

// restore takes up what must hold again first: how far each source had been read, the lists, and the bans in force, which it
// returns. The rest is remember's.
func (d *daemon) restore(st *store.Store, now time.Time) ([]ban.Ban, error) {
	state, err := st.Load(now)
	if err != nil {
		return nil, fmt.Errorf("saved state: %w", err)
	}
	d.positions = state.Positions
	state.Bans = d.forgetOff(state.Bans)
	d.loadNotes(state.Notes)
	d.resumeWindow(now)
	if d.observe.Load() {
		d.applied.observe = true
		return nil, nil // what the kernel holds ends by itself, or is lifted if a window has lapsed
	}
	listed := d.applied.blocked
	bans, gone := d.restoreLists(state.Bans, now)
	if !slices.Equal(listed, d.applied.blocked) {
		d.saveNotes(map[string]string{noteListed: lists.Pack(d.applied.blocked)})
	}
	d.enforcer.Restore(bans)
	d.gone = gone
	if len(d.unsaved.lifted) > 0 {
		d.changed(saveSoon)
	}
	return bans, nil
}

// forgetOff returns the bans of an earlier run without those from before an operator ran mefctl off: they are lifted, and stay so.
func (d *daemon) forgetOff(bans []ban.Ban) []ban.Ban {
	at, err := confirm.Off(d.cfg.Paths.StateDir)
	if err != nil {
		d.log.Warn("cannot read whether mefctl off was run; bans come back", "err", err)
	}
	if at.IsZero() {
		return bans
	}
	d.off = true
	return slices.DeleteFunc(bans, func(b ban.Ban) bool {
		if b.Rule == ban.ByList || b.Start.After(at) {
			return false
		}
		d.unsaved.lifted = append(d.unsaved.lifted, b.Key)
		d.forgiven = append(d.forgiven, b.Key)
		return true
	})
}

// clearOff forgets that mefctl off was run, once the bans that it lifted are forgotten on disk.
func (d *daemon) clearOff(ctx context.Context) {
	if !d.off || d.do(ctx, d.save) != nil || d.saver.Flush(ctx) != nil {
		return // the next start lifts them again
	}
	if err := confirm.ClearOff(d.cfg.Paths.StateDir); err != nil {
		d.log.Warn("forget that mefctl off was run", "err", err)
	}
}

// remember takes up what was counted, beside the kernel's taking the bans.
func (d *daemon) loadTracker(st *store.Store, bans []ban.Ban) {
	if err := d.engine.Import(st.Records()); err != nil {
		d.log.Warn("some of what was counted could not be read back", "err", err)
	}
	if n := st.Skipped(); n > 0 {
		d.log.Warn("some of the saved state could not be read back", "records", n)
	}
	d.engine.Restore(bans...)
	d.engine.Lifted(time.Now(), d.forgiven...)
	d.forgiven = nil
	if len(bans) > manyChanges {
		d.grew()
	}
}

func (e *loop) storePath() string { return filepath.Join(e.cfg.Paths.StateDir, storeFile) }
