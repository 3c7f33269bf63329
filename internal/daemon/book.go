package daemon

import (
	"maps"
	"slices"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
)

// A book keeps why each ban in force is in force. What is in force is the enforcer's word; the book only adds evidence.
type book struct {
	records *records

	mu   sync.Mutex
	bans map[ban.Key]ban.Ban
	ever uint64
	next time.Time // when bans that are over are next cleared out
}

func newBook(r *records) *book { return &book{records: r, bans: make(map[ban.Key]ban.Ban)} }

// settle notes what became of bans. It is called by the enforcer and must not wait.
func (k *book) settle(results []enforce.Result) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range results {
		if r.Err != nil {
			rec := banRecord("error", r.Ban)
			rec.Reason = r.Err.Error()
			k.records.add(rec)
			continue
		}
		b := r.Ban
		b.Until = r.Until
		if !r.Changed {
			// Of a ban that the kernel had before us, because we died before we saved it, this tells why.
			if _, known := k.bans[b.Key]; !known {
				k.bans[b.Key] = b
			}
			continue
		}
		k.bans[b.Key] = b
		k.ever++
		rec := banRecord("ban", b)
		rec.Latency = r.At.Sub(b.Start)
		k.records.add(rec)
	}
	k.prune(time.Now())
}

// prune forgets bans that are over, once a minute at most.
func (k *book) prune(now time.Time) {
	if now.Before(k.next) {
		return
	}
	k.next = now.Add(time.Minute)
	for key, b := range k.bans {
		if over(b, now) {
			delete(k.bans, key)
		}
	}
}

// restore notes bans that were in force before the daemon started.
func (k *book) restore(bans []ban.Ban) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range bans {
		k.bans[b.Key] = b
	}
}

// keys returns the key of every ban in the book.
func (k *book) keys() []ban.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.bans))
}

func (k *book) lift(keys []ban.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range keys {
		delete(k.bans, key)
	}
}

// show returns the bans of keys that the kernel holds, in their order, each with its record.
func (k *book) show(state enforce.State) []control.Ban {
	k.mu.Lock()
	defer k.mu.Unlock()
	bans := make([]control.Ban, 0, len(state.Bans))
	there := make(map[ban.Key]bool, len(state.Bans))
	for _, held := range state.Bans {
		there[held.Key] = true
		b, ok := k.bans[held.Key]
		if !ok {
			b = ban.Ban{Key: held.Key, Rule: "unknown", Reason: "the kernel held it when the daemon started; no record tells why"}
		}
		c := showBan(b)
		c.Until, c.Kernel = end(held.Until), true
		packets := held.Packets
		c.Packets = &packets
		bans = append(bans, c)
	}
	// What should hold and does not is the thing to see first.
	now := time.Now()
	for key, b := range k.bans {
		if !there[key] && !over(b, now) {
			bans = append(bans, showBan(b))
		}
	}
	return bans
}

func (k *book) total() uint64 {
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
