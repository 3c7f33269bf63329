package track

import "net/netip"

// lifts are the prefixes whose bans an operator lifted, and when. Such a mistake is a fact with a time: nothing from before it counts
// again, whatever log is read later.
type lifts struct {
	at      map[key]int64
	lengths lengths // of the prefixes in at
	changed map[key]bool
}

const (
	maxLifts = 10_000
	liftLife = 30 * day // longer than any log is read back
)

func newLifts() lifts { return lifts{at: map[key]int64{}, changed: map[key]bool{}} }

func (l *lifts) add(k key, now int64) {
	if _, ok := l.at[k]; !ok {
		if len(l.at) >= maxLifts {
			l.forget(now)
		}
		l.lengths.add(k)
	}
	l.at[k] = now
	l.changed[k] = true
}

// forget drops the lifts that are too old to matter, and the oldest if there is none.
func (l *lifts) forget(now int64) {
	var oldest key
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

func (l *lifts) drop(k key) {
	delete(l.at, k)
	l.lengths.remove(k)
	l.changed[k] = true
}

// covers reports whether an event of addr is from before a lift.
func (l *lifts) covers(addr netip.Addr, when int64) bool {
	if len(l.at) == 0 {
		return false
	}
	own := exact(addr)
	for _, bits := range l.lengths.of(own) {
		if at, ok := l.at[own.widen(int(bits))]; ok && when <= at {
			return true
		}
	}
	return false
}
