package bans

import (
	"net/netip"
	"time"

	"mef/internal/track/netkey"
)

// Lifts are the prefixes whose bans an operator lifted, and when. Such a mistake is a fact with a time: nothing from before it counts
// again, whatever log is read later. Make one with NewLifts.
type Lifts struct {
	at      map[netkey.Key]int64
	lengths netkey.Lengths // of the prefixes in at
	changed map[netkey.Key]bool
}

const (
	maxLifts = 10_000
	liftLife = int64(30 * 24 * time.Hour) // longer than any log is read back
)

// NewLifts returns an empty table.
func NewLifts() Lifts { return Lifts{at: map[netkey.Key]int64{}, changed: map[netkey.Key]bool{}} }

// Add notes that the bans of a prefix were lifted.
func (l *Lifts) Add(k netkey.Key, now int64) {
	if _, ok := l.at[k]; !ok {
		if len(l.at) >= maxLifts {
			l.forget(now)
		}
		l.lengths.Add(k)
	}
	l.at[k] = now
	l.changed[k] = true
}

// forget drops the lifts that are too old to matter, and the oldest if there is none.
func (l *Lifts) forget(now int64) {
	var oldest netkey.Key
	for k, at := range l.at {
		if now-at > liftLife {
			l.drop(k)
		} else if old, ok := l.at[oldest]; !ok || at < old {
			oldest = k
		}
	}
	if len(l.at) >= maxLifts {
		l.drop(oldest)
	}
}

func (l *Lifts) drop(k netkey.Key) {
	delete(l.at, k)
	l.lengths.Remove(k)
	l.changed[k] = true
}

// Covers reports whether an event of addr is from before a lift.
func (l *Lifts) Covers(addr netip.Addr, when int64) bool {
	if len(l.at) == 0 {
		return false
	}
	own := netkey.Exact(addr)
	for _, bits := range l.lengths.Of(own) {
		if at, ok := l.at[own.Widen(int(bits))]; ok && when <= at {
			return true
		}
	}
	return false
}

// SetBack notes that the clock has been set back to now.
func (l *Lifts) SetBack(now int64) {
	for k, at := range l.at {
		l.at[k] = min(at, now)
	}
}
