package engine

import (
	"net/netip"
	"time"

	"mef/internal/event"
)

const (
	slotTime    = 5 * time.Minute
	hourSlots   = int64(time.Hour / slotTime)
	maxRecent   = 1024 // sources remembered for a rule
	usualWeight = 0.1  // of one hour in what is usual
)

// LastHour is what happened at a rule within about an hour.
type LastHour = event.LastHour

// A recent counts what happened at a rule within the last hour, in slots of some minutes, and what is usual in an hour.
type recent struct {
	slots   [hourSlots]struct{ failures, logins uint64 }
	newest  int64               // number of the newest slot since 1970
	sources map[sourceKey]int64 // that failed, each with the slot of its latest failure
	more    bool                // there were more than fit
	looked  int64               // the newest slot when forget last looked: until there is another, it would find nothing

	hour     int64 // since 1970: the one whose failures are counted
	failures uint64
	usual    float64
	hours    int // whole ones that usual is made of
}

// A sourceKey is a source, in a form that maps find fast.
type sourceKey struct {
	addr [16]byte
	bits uint8
}

// advance makes room for what happens at a time. It returns the number of its slot; false if it is too long ago.
func (c *recent) advance(at time.Time) (slot int64, ok bool) {
	slot = at.Unix() / int64(slotTime/time.Second)
	if slot <= c.newest-hourSlots {
		return slot, false
	}
	for i := max(c.newest+1, slot-hourSlots+1); i <= slot; i++ {
		c.slots[i%hourSlots] = struct{ failures, logins uint64 }{}
	}
	c.newest = max(c.newest, slot)
	hour := c.newest / hourSlots
	if c.hour == 0 {
		c.hour = hour + 1 // the first is not whole
	}
	for ; c.hour < hour && c.hours < 1000; c.hour++ {
		c.hours++
		weight := max(usualWeight, 1/float64(c.hours))
		c.usual += weight * (float64(c.failures) - c.usual)
		c.failures = 0
	}
	c.hour = max(c.hour, hour)
	return slot, true
}

func (c *recent) count(ev *event.Event, source netip.Prefix, attempts int) {
	slot, ok := c.advance(ev.Time)
	if !ok {
		return
	}
	s := &c.slots[slot%hourSlots]
	if ev.Kind == event.Success {
		s.logins++
		return
	}
	if ev.Kind != event.Failure || attempts == 0 {
		return
	}
	s.failures += uint64(attempts)
	if c.newest/hourSlots == c.hour {
		c.failures += uint64(attempts)
	}
	if !source.IsValid() {
		return
	}
	if c.sources == nil {
		c.sources = make(map[sourceKey]int64)
	}
	key := sourceKey{source.Addr().As16(), uint8(source.Bits())}
	latest, known := c.sources[key]
	if !known && len(c.sources) >= maxRecent {
		c.forget()
		if c.more = len(c.sources) >= maxRecent; c.more {
			return
		}
	}
	if !known || latest != slot {
		c.sources[key] = slot
	}
}

// forget drops the sources whose last failure is an hour ago.
func (c *recent) forget() {
	if c.looked == c.newest {
		return
	}
	c.looked = c.newest
	for source, slot := range c.sources {
		if slot <= c.newest-hourSlots {
			delete(c.sources, source)
		}
	}
}

func (c *recent) last(now time.Time) (h LastHour) {
	c.advance(now)
	c.forget()
	for _, s := range c.slots {
		h.Failures += s.failures
		h.Logins += s.logins
	}
	h.Sources, h.More, h.Usual, h.Hours = len(c.sources), c.more && len(c.sources) > 0, c.usual, c.hours
	return h
}

// LastHour returns what happened at the rule of that name; at one with engine=webscan, at all its thresholds.
func (e *Engine) LastHour(name string, now time.Time) (sum LastHour) {
	if r, ok := e.rules[name]; ok {
		return r.recent.last(now)
	}
	for r := range e.thresholds(name) {
		h := r.recent.last(now)
		sum.Failures, sum.Logins, sum.Usual = sum.Failures+h.Failures, sum.Logins+h.Logins, sum.Usual+h.Usual
		sum.Sources, sum.More, sum.Hours = max(sum.Sources, h.Sources), sum.More || h.More, max(sum.Hours, h.Hours)
	}
	return sum
}
