package pipeline

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/prefixset"
	"mef/internal/store"
)

// storeFile is the name of the store below cache_dir.
const storeFile = "mef.db"

// StorePath returns where the state is saved.
func StorePath(cfg *conf.Config) string { return filepath.Join(cfg.Paths.StateDir, storeFile) }

// Saved is what an earlier run left.
type Saved struct {
	Bans  []ban.Ban // in force then, and not over now
	Notes map[string]string
	store *store.Store

	lifted []ban.Key // between the runs
}

// Open opens the place where the state is saved, restores the read positions, and returns the rest. It is for the time before Run.
func (p *Pipeline) Open(s *State, version string, now time.Time) (*Saved, error) {
	st, err := store.Open(StorePath(s.Config), store.Options{Version: version})
	if err != nil {
		return nil, err
	}
	if err := st.Warning(); err != nil {
		p.Log.Warn("saved state", "err", err)
	}
	p.Saver = store.NewSaver(st, p.Log)
	p.Reasons.saved = p.Saver.Bans
	state, err := st.Load(now)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("saved state: %w", err), st.Close())
	}
	p.Memory.Restoring(len(state.Bans))
	s.Positions = state.Positions
	s.loadNotes(state.Notes)
	return &Saved{Bans: state.Bans, Notes: state.Notes, store: st}, nil
}

// SwitchedOff removes the bans from before an operator switched the daemon off: they are lifted, and stay so.
func (v *Saved) SwitchedOff(s *State, at time.Time) {
	v.Bans = slices.DeleteFunc(v.Bans, func(b ban.Ban) bool {
		if b.Start.After(at) {
			return false
		}
		v.lifted = append(v.lifted, b.Key)
		return true
	})
	s.Forget(v.lifted...)
}

// Split removes the bans that must not be in force again: those whose addresses are allowed now. It returns their keys.
func (v *Saved) Split(s *State, allowed prefixset.Set) (end []ban.Key) {
	v.Bans = slices.DeleteFunc(v.Bans, func(b ban.Ban) bool { // in place: there may be many
		if !allowed.Covers(b.Prefix) {
			return false
		}
		end = append(end, b.Key)
		return true
	})
	s.Forget(end...)
	return end
}

// Count restores what was counted, with the bans that are in force again. It is for the time before Run, and before the saver runs; the
// enforcer may run already.
func (v *Saved) Count(s *State, bans []ban.Ban) {
	if err := s.Engine.Import(v.store.Records()); err != nil {
		s.p.Log.Warn("some saved counters could not be read", "err", err)
	}
	if n := v.store.Skipped(); n > 0 {
		s.p.Log.Warn("some of the saved state could not be read", "records", n)
	}
	s.Engine.Restore(bans...)
	s.Engine.Lifted(time.Now(), v.lifted...)
	s.p.Memory.Changed(len(bans))
}
