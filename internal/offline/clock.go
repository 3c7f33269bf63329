package offline

import "time"

// A clock turns the dates of a log into times that never go back. A date may be wrong: that of a machine whose clock was not set yet, or
// of a line that another program wrote. A date that is far from those before it counts only if the next one confirms it. If the
// dates really go back, the clock goes on at their pace from where it was.
type clock struct {
	now    time.Time
	offset time.Duration // of now to the dates of the lines
}

// maxJump is how far from the line before a date may be without being confirmed. Lines of one log are rarely out of order by more, and
// no two time zones are less apart.
const maxJump = 14 * time.Minute

// strange reports whether a date must be confirmed.
func (c *clock) strange(at time.Time) bool {
	return at.Add(c.offset).Sub(c.now).Abs() > maxJump
}

// tick returns the time for a line of this date.
func (c *clock) tick(at time.Time) time.Time {
	if at = at.Add(c.offset); at.After(c.now) {
		c.now = at
	}
	return c.now
}

// settle returns the time for a line of a strange date, given that of the next line.
func (c *clock) settle(at, next time.Time) time.Time {
	confirmed := next.Sub(at) > -maxJump
	shifted := at.Add(c.offset)
	switch {
	case !confirmed: // it is wrong
	case shifted.After(c.now):
		c.now = shifted
	case next.Add(c.offset).Before(c.now.Add(-maxJump)): // two lines agree that it is earlier
		c.offset = c.now.Sub(at)
	}
	return c.now
}
