package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/eventlog"
)

// A reasons knows why each ban in force is in force. What is in force is the enforcer's word; the reasons adds reason and evidence:
// of the latest bans from memory, of the others from the saved state, so that ten thousand bans do not cost ten thousand
// times five log lines of memory.
type banRecords struct {
	records *eventlog.Log
	log     *slog.Logger
	// saved reads bans back from the saved state; nil where nothing is saved.
	saved func(context.Context, []ban.Key) (map[ban.Key]ban.Ban, error)

	mu     sync.Mutex
	latest map[ban.Key]ban.Ban
	order  [keptBans]ban.Key // of latest, oldest at next once full
	next   int
	ever   uint64
}

const (
	keptBans = 1000
	// askSaved is how long the saved state may take to answer.
	askSaved = 2 * time.Second
)

func newReasons(r *eventlog.Log, log *slog.Logger) *banRecords {
	return &banRecords{records: r, log: log, latest: make(map[ban.Key]ban.Ban)}
}

// settle notes what became of bans. It is called by the enforcer and must not wait.
func (k *banRecords) settle(results []enforce.Result) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range results {
		if r.Err != nil {
			rec := banRecord("error", r.Ban)
			rec.Reason = r.Err.Error()
			k.records.Add(rec)
			continue
		}
		b := r.Ban
		b.Until = r.Until
		if b.Rule == ban.ByList {
			continue // whose files may have very many: they are told of as a whole, and their records are in the saved state
		}
		if !r.Changed {
			// Of a ban that the kernel had before us, because we died before we saved it, this tells why.
			if _, known := k.latest[b.Key]; !known {
				k.note(b)
			}
			continue
		}
		k.note(b)
		k.ever++
		rec := banRecord("ban", b)
		rec.Latency = r.At.Sub(b.Start)
		k.records.Add(rec)
	}
}

// note keeps a ban among the latest.
func (k *banRecords) note(b ban.Ban) {
	if _, ok := k.latest[b.Key]; !ok {
		delete(k.latest, k.order[k.next])
		k.order[k.next] = b.Key
		k.next = (k.next + 1) % keptBans
	}
	k.latest[b.Key] = b
}

func (k *banRecords) lift(keys []ban.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range keys {
		delete(k.latest, key)
	}
}

// show returns the bans that the kernel holds, in their order, each with its record.
func (k *banRecords) show(ctx context.Context, state enforce.State, listed lookup) []control.Ban {
	known := k.look(ctx, state.Bans, listed)
	bans := make([]control.Ban, 0, len(state.Bans))
	for _, held := range state.Bans {
		b, ok := known[held.Key]
		switch {
		case !ok && held.Unknown:
			b = ban.Ban{Key: held.Key, Rule: ban.Unknown, Reason: "the kernel held it when the daemon started; no record tells why"}
		case !ok:
			b = ban.Ban{Key: held.Key, Rule: ban.Unknown, Reason: "its record cannot be read now"}
		}
		c := showBan(b)
		c.Until, c.Kernel = end(held.Until), true
		packets := held.Packets
		c.Packets = &packets
		bans = append(bans, c)
	}
	return bans
}

// look finds the records of bans: of those that lists ask for, among the latest, and in the saved state.
func (k *banRecords) look(ctx context.Context, bans []enforce.Held, listed lookup) map[ban.Key]ban.Ban {
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
	if len(missing) > 0 && listed != nil {
		for key, b := range listed(ctx, missing) {
			known[key] = b
		}
		missing = slices.DeleteFunc(missing, func(key ban.Key) bool { _, ok := known[key]; return ok })
	}
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

func (k *banRecords) total() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ever
}

func showBan(b ban.Ban) control.Ban {
	key := ban.Key{Prefix: b.Prefix}
	return control.Ban{Prefix: key.String(), Ports: control.ShowPorts(b.Ports), Class: b.Class.String(), Rule: b.Rule,
		Service: b.Service, Start: b.Start, Until: end(b.Until), Count: b.Count, Reason: b.Reason, Evidence: b.Evidence,
		Author: b.Author, Note: b.Note}
}

// evictions are bans that do not hold any more although their time is not over: they gave way to others, or the kernel refused
// them. The enforcer tells of them and must not wait; the engine hears of them before anything that happened later. There are
// never more than bans in force.
type evictions struct {
	mu   sync.Mutex
	keys []ban.Key
	full bool          // there was no room for them
	wake chan struct{} // holds one message while there may be keys
}

func newEvictions() *evictions { return &evictions{wake: make(chan struct{}, 1)} }

func (n *evictions) add(keys []ban.Key, full bool) {
	n.mu.Lock()
	n.keys, n.full = append(n.keys, keys...), n.full || full
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *evictions) take() (keys []ban.Key, full bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys, full = n.keys, n.full
	n.keys, n.full = nil, false
	return keys, full
}

// processEvictions forgets bans that do not hold any more. Else they would cover whatever their sources do next, and nobody would be
// banned for it. Where there was no room it makes some, for later bans. The error is that of ctx, or of an enforcer that has ended.
func (e *loop) processEvictions(ctx context.Context) error {
	keys, full := e.evictions.take()
	if len(keys) == 0 {
		return nil
	}
	now := time.Now()
	crowds := e.engine.Evicted(now, full, keys...)
	e.reasons.lift(keys)
	e.unsaved.lifted = append(e.unsaved.lifted, keys...)
	e.save() // before the same source is banned again: of a ban both made and lifted, the file keeps nothing
	reason := fmt.Sprintf("%s does not hold: the kernel refused it, or it gave way to others", keys[0])
	if more := len(keys) - 1; more > 0 {
		reason = fmt.Sprintf("%s and %d others do not hold: the kernel refused them, or they gave way to others", keys[0], more)
	}
	e.records.Add(control.Record{Time: now, Event: "error", Reason: "ban " + reason})
	if len(crowds) == 0 {
		return nil
	}
	e.unsaved.bans = append(e.unsaved.bans, crowds...)
	e.changed(saveSoon)
	return e.enforcer.Ban(ctx, crowds...)
}
