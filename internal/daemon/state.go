package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"mef/internal/ban"
	"mef/internal/store"
)

// saveEvery is how often the state is saved while something changes. What a crash loses is read again from the saved read
// positions, because these, the tallies and the bans made of what was read are saved in one transaction.
const saveEvery = time.Second

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
}

// changed has the state saved soon.
func (e *engine) changed() {
	if e.unsaved.due != nil {
		return
	}
	if e.unsaved.timer == nil {
		e.unsaved.timer = time.NewTimer(saveEvery)
	} else {
		e.unsaved.timer.Reset(saveEvery)
	}
	e.unsaved.due = e.unsaved.timer.C
}

// save hands over everything that has changed, as of one moment between two batches.
func (e *engine) save() {
	u := store.Update{Bans: e.unsaved.bans, Lifted: e.unsaved.lifted, Positions: e.unsaved.read}
	for _, r := range e.tracker.Changes() {
		u.Records = append(u.Records, store.Record(r))
	}
	e.unsaved = unsaved{timer: e.unsaved.timer, read: make(map[string]string)}
	e.saver.Save(u)
}

// flush waits until what was saved is on disk, so that an operator's word outlives a crash right after it. A disk that does
// not take it holds up nobody; status says so.
func (d *daemon) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := d.saver.Flush(ctx); err != nil {
		d.log.Warn("an operator's ban is in force and not saved", "err", err)
	}
}

// restore takes up where the daemon stopped: the bans in force, what was counted, and how far each source had been read.
func (d *daemon) restore(st *store.Store, now time.Time) error {
	state, err := st.Load(now)
	if err != nil {
		return fmt.Errorf("saved state: %w", err)
	}
	d.positions = state.Positions
	if err := d.tracker.Import(st.Records()); err != nil {
		d.log.Warn("some of what was counted could not be read back", "err", err)
	}
	if n := st.Skipped(); n > 0 {
		d.log.Warn("some of the saved state could not be read back", "records", n)
	}
	if d.cfg.Observe {
		return nil // what the kernel holds ends by itself; nothing is written
	}
	bans, gone := d.adoptLists(state.Bans, now)
	for _, b := range bans {
		d.tracker.Restore(b)
	}
	d.enforcer.Restore(bans)
	d.gone = gone
	d.unsaved.lifted = gone
	for _, b := range bans {
		if b.Rule == byList {
			d.unsaved.bans = append(d.unsaved.bans, b)
		}
	}
	if len(d.unsaved.bans)+len(gone) > 0 {
		d.changed()
	}
	return nil
}

func (e *engine) storePath() string { return filepath.Join(e.cfg.Paths.StateDir, storeFile) }
