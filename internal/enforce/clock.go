package enforce

import "time"

// A clock detects that the wall clock was set. The kernel ends bans by a clock that cannot be set, so that a ban of ten minutes takes ten
// minutes; its end, as a time of day, moves then.
type clock struct {
	began  time.Time     // with the reading of the monotonic clock
	offset time.Duration // by how much the wall clock had been set since, as far as is known
}

// setBy returns by how much the wall clock was set since the last call, as seen at now; 0 for what does not matter.
func (c *clock) setBy(now time.Time) time.Duration {
	return c.moved(now.Round(0).Sub(c.began.Round(0)) - now.Sub(c.began))
}

// moved returns by how much an offset differs from the one before, and notes it.
func (c *clock) moved(offset time.Duration) time.Duration {
	by := offset - c.offset
	if by.Abs() < leastStep {
		return 0
	}
	c.offset = offset
	return by
}

// leastStep is how much the wall clock must have been set by to count as set.
const leastStep = 100 * time.Millisecond

// followClock moves the ends of bans with a wall clock that was set. Grace periods go by the other clock anyway.
func (e *Enforcer) followClock() {
	if by := e.clock.setBy(time.Now()); by != 0 {
		e.model.move(by)
		e.log.Info("the clock was set; active bans keep their remaining time", "by", by)
	}
}

// move moves the ends of all bans.
func (m *model) move(by time.Duration) {
	for k, e := range m.bans.all() {
		if e.until != forever {
			e.until += int64(by)
			m.bans.put(k, e)
		}
	}
}
