package pipeline

import (
	"context"
	"encoding/json"
	"maps"
	"mef/internal/feed"
	"time"

	"mef/internal/ban"
	"mef/internal/owner"
	"mef/internal/store"
)

// State is saved so long after something has changed: soon if it is a tally or a ban, later if only read positions moved,
// because lines that matched nothing may be read again. What a crash loses is read again from the saved positions: these, the
// tallies and the bans made of what was read are saved in one transaction.
const (
	saveSoon  = time.Second
	saveLater = 10 * time.Second
)

// flushTimeout is how long an operator's command waits for the disk.
const flushTimeout = 2 * time.Second

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
func (s *State) changed(within time.Duration) {
	if s.unsaved.due != nil && s.unsaved.within <= within {
		return
	}
	if s.unsaved.timer == nil {
		s.unsaved.timer = time.NewTimer(within)
	} else {
		s.unsaved.timer.Reset(within)
	}
	s.unsaved.due, s.unsaved.within = s.unsaved.timer.C, within
}

// manyBans is how many bans are saved without waiting: in a storm, what waits to be saved would take much more memory than what is kept.
const manyBans = 2000

// Save hands over everything that has changed, as of one moment between two batches.
func (s *State) Save() {
	u := store.Update{Bans: s.unsaved.bans, Lifted: s.unsaved.lifted, Positions: s.unsaved.read}
	changes := s.Engine.Changes()
	u.Records = make([]store.Record, len(changes))
	for i, r := range changes {
		u.Records[i] = store.Record(r)
	}
	s.p.Saver.Save(u)
	s.p.Reasons.trim()
	s.p.Memory.Changed(len(u.Records) + len(u.Bans))
	clear(u.Positions)
	s.unsaved = unsaved{read: u.Positions, timer: s.unsaved.timer}
}

// Forget deletes the records of bans of an earlier run from the saved state, soon.
func (s *State) Forget(keys ...ban.Key) {
	if len(keys) == 0 {
		return
	}
	s.unsaved.lifted = append(s.unsaved.lifted, keys...)
	s.changed(saveSoon)
}

// Names of notes in mef.db.
const (
	notePorts     = "ports"    // where the services of rules listen: text of feed.Ports
	noteOrigins   = "origins"  // where each rule reads: a map as of feed.Readers.Origins
	noteObserving = "watching" // since when bans are logged and not applied: a time.Time
)

// loadNotes takes over the notes of an earlier run.
func (s *State) loadNotes(notes map[string]string) {
	_ = json.Unmarshal([]byte(notes[noteOrigins]), &s.origins)     // without one, rules begin where sources do
	_ = json.Unmarshal([]byte(notes[noteObserving]), &s.Observing) // without one, bans were applied
	s.Ports = feed.RestorePorts(notes[notePorts])
	s.Engine.SetListening(s.Ports.All())
}

// saveNote saves a value as a note, or with nil none.
func (s *State) saveNote(note string, value any) {
	text := []byte{}
	if value != nil {
		var err error
		if text, err = json.Marshal(value); err != nil {
			s.p.Log.Error("save a note", "note", note, "err", err)
			return
		}
	}
	s.p.SaveNotes(map[string]string{note: string(text)})
}

// saveOrigins saves where each rule reads, so that after a restart one that reads elsewhere begins at that moment.
func (s *State) saveOrigins() {
	if origins := s.Readers.Origins(); !maps.Equal(origins, s.origins) {
		s.origins = origins
		s.saveNote(noteOrigins, origins)
	}
}

// SaveObserving saves since when bans are only logged, after a change of mode.
func (s *State) SaveObserving(now time.Time) {
	switch observe := s.p.Observing(); {
	case observe != s.Observing.IsZero():
	case observe:
		s.Observing = now
		s.saveNote(noteObserving, now)
	default:
		s.Observing = time.Time{}
		s.saveNote(noteObserving, nil)
	}
}

// Made records bans that were decided and made beside the lines: by an operator.
func (s *State) Made(bans ...ban.Ban) {
	for _, b := range bans {
		s.Engine.Banned(b)
	}
	s.unsaved.bans = append(s.unsaved.bans, bans...)
	s.Save()
}

// Lifted records that bans were lifted: nothing from before now counts against their sources. The error is that of ctx.
func (p *Pipeline) Lifted(ctx context.Context, now time.Time, keys []ban.Key) error {
	p.Reasons.forget(keys)
	return owner.Do(ctx, p.Engine, func(s *State) {
		s.Engine.Lifted(now, keys...)
		s.unsaved.lifted = append(s.unsaved.lifted, keys...)
		s.Save()
	})
}

// SaveNotes saves notes of other packages, if there are any.
func (p *Pipeline) SaveNotes(notes map[string]string) {
	if len(notes) > 0 {
		p.Saver.Save(store.Update{Notes: notes})
	}
}

// Flush waits until what was saved is on disk, so that an operator's change outlives a crash right after it. A disk that does not
// take it delays nothing else; status shows it.
func (p *Pipeline) Flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := p.Saver.Flush(ctx); err != nil {
		p.Log.Warn("an operator's change is in force but not saved", "err", err)
	}
}
