package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/eventlog"
)

// Reasons holds the reason for each active ban. The enforcer knows which bans are active; Reasons adds reason and evidence: of the
// latest bans from memory, of the others from the saved state, so that ten thousand bans do not cost ten thousand times five log
// lines of memory. It may be used by any goroutine.
type Reasons struct {
	records *eventlog.Log
	log     *slog.Logger
	// saved reads bans back from the saved state; nil where nothing is saved.
	saved func(context.Context, []ban.Key) (map[ban.Key]ban.Ban, error)

	mu     sync.Mutex
	latest map[ban.Key]ban.Ban
	order  []ban.Key // of latest, oldest first
	ever   uint64
}

const (
	// keptBans is how many of the latest bans stay in memory once they are handed to the saver.
	keptBans = 100
	// askSaved is how long the saved state may take to answer.
	askSaved = 2 * time.Second
)

func newReasons(r *eventlog.Log, log *slog.Logger) *Reasons {
	return &Reasons{records: r, log: log, latest: make(map[ban.Key]ban.Ban)}
}

// settle notes what became of bans. It is called by the enforcer and must not wait.
func (k *Reasons) settle(results []enforce.Result) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range results {
		if r.Err != nil {
			k.records.Add(notMade(r))
			continue
		}
		b := r.Ban
		b.Until = r.Until
		if !r.Changed {
			// The kernel had the ban before us, because we were killed before we saved it: now its reason is known again.
			if _, known := k.latest[b.Key]; !known {
				k.note(b)
			}
			continue
		}
		k.note(b)
		k.ever++
		rec := control.BanRecord("ban", b)
		rec.Latency = r.At.Sub(b.Start)
		k.records.Add(rec)
	}
}

// notMade returns the record of a ban that was not made: an address that must not be banned is refused, and anything else is an error.
func notMade(r enforce.Result) control.Record {
	rec := control.BanRecord("error", r.Ban)
	rec.Reason = r.Err.Error()
	if refused := new(enforce.RefusedError); errors.As(r.Err, &refused) {
		rec.Event, rec.Until, rec.Reason = "refused", nil, refused.Reason
		if p := r.Ban.Prefix; p.IsSingleIP() {
			rec.Addr, rec.Prefix = p.Addr().String(), ""
		}
	}
	return rec
}

// note keeps a ban among the latest: all that are not handed to the saver, for these can be read nowhere else.
func (k *Reasons) note(b ban.Ban) {
	if _, ok := k.latest[b.Key]; !ok {
		if len(k.order) >= keptBans+manyBans {
			k.drop(1)
		}
		k.order = append(k.order, b.Key)
	}
	k.latest[b.Key] = b
}

// trim drops all but keptBans of the latest bans. The saver has all of them.
func (k *Reasons) trim() {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.order) - keptBans
	if n <= 0 {
		return
	}
	k.drop(n)
	if n > keptBans { // a map and a slice keep the room that they once needed
		latest := make(map[ban.Key]ban.Ban, len(k.latest))
		maps.Copy(latest, k.latest)
		k.latest, k.order = latest, slices.Clone(k.order)
	}
}

// drop drops the n oldest bans.
func (k *Reasons) drop(n int) {
	for _, key := range k.order[:n] {
		delete(k.latest, key)
	}
	k.order = slices.Delete(k.order, 0, n)
}

// forget drops the reasons of bans that are lifted.
func (k *Reasons) forget(keys []ban.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range keys {
		delete(k.latest, key)
	}
}

// Show returns the bans that the kernel holds, in their order, each with its record.
func (k *Reasons) Show(ctx context.Context, state enforce.State) []control.Ban {
	known := k.Look(ctx, state.Bans)
	bans := make([]control.Ban, 0, len(state.Bans))
	for _, held := range state.Bans {
		b, ok := known[held.Key]
		switch {
		case !ok && held.Unknown:
			b = ban.Ban{Key: held.Key, Rule: ban.Unknown, Reason: "it was in the kernel when the daemon started; there is no record of its reason"}
		case !ok:
			b = ban.Ban{Key: held.Key, Rule: ban.Unknown, Reason: "its record cannot be read now"}
		}
		c := control.ShowBan(b)
		c.Until, c.Kernel = control.Moment(held.Until), true
		packets := held.Packets
		c.Packets = &packets
		bans = append(bans, c)
	}
	return bans
}

// Look finds the records of bans: among the latest, and in the saved state.
func (k *Reasons) Look(ctx context.Context, bans []enforce.Held) map[ban.Key]ban.Ban {
	known := make(map[ban.Key]ban.Ban, len(bans))
	var missing []ban.Key
	k.mu.Lock()
	for _, held := range bans {
		if b, ok := k.latest[held.Key]; ok {
			known[held.Key] = b
		} else {
			missing = append(missing, held.Key)
		}
	}
	k.mu.Unlock()
	if len(missing) == 0 || k.saved == nil {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, askSaved)
	defer cancel()
	saved, err := k.saved(ctx, missing)
	if err != nil {
		k.log.Warn("read the records of bans", "err", err)
	}
	for key, b := range saved {
		known[key] = b
	}
	return known
}

// Total returns how many bans have been made since the start.
func (k *Reasons) Total() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ever
}
