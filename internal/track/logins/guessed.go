package logins

import (
	"iter"
	"time"

	"mef/internal/track/netkey"
)

// A failed has the users of one address who have failed there and not logged in since.
type failed struct {
	users   int   // that is at least how many they are
	counted int64 // when users was counted
}

const (
	// A user has failed lately if it was within so long.
	failedLately = int64(24 * time.Hour)
	// So many users of an address, and one in so many of all who log in from there, may have failed lately: they mistyped, or have a device
	// with an old password. If there are more, their names are being guessed.
	fewFailed    = 5
	failedShare  = 10
	countedAgain = int64(time.Minute)
)

// hasFailed reports whether a user has failed lately and not logged in since.
func (l *Login) hasFailed(now int64) bool { return l.At > l.Last && now-l.At <= failedLately }

// guessedAt returns how many users of an address must have failed for their names to be guessed.
func (t *Table) guessedAt(from netkey.Key) int { return fewFailed + t.within[from]/failedShare }

// Fail notes that a user failed at an address from which the user has logged in, before l.At is set. It reports whether names of the users
// there are being guessed.
func (t *Table) Fail(l *Login, now int64) bool {
	f := t.failed[l.From]
	if f == nil {
		f = new(failed)
		t.failed[l.From] = f
	}
	if !l.hasFailed(now) {
		f.users++
	}
	if f.users >= t.guessedAt(l.From) && now-f.counted >= countedAgain {
		f.users, f.counted = t.failedAt(l.From, now), now
		if !l.hasFailed(now) {
			f.users++
		}
	}
	return f.users >= t.guessedAt(l.From)
}

// failedAt counts the users of an address who have failed lately.
func (t *Table) failedAt(from netkey.Key, now int64) (n int) {
	for l := range t.At(from) {
		if l.hasFailed(now) {
			n++
		}
	}
	return n
}

// GuessedWith returns how many users of the address of a login have failed lately, if that user is one of them and names are being guessed there;
// otherwise 0.
func (t *Table) GuessedWith(l *Login, now int64) int {
	f := t.failed[l.From]
	if f == nil || f.users < t.guessedAt(l.From) || !l.hasFailed(now) {
		return 0
	}
	if n := t.failedAt(l.From, now); n >= t.guessedAt(l.From) {
		return n
	}
	return 0
}

// Guessed returns the addresses at which names of users are being guessed, each with the number of users who have failed.
func (t *Table) Guessed(now int64) iter.Seq2[netkey.Key, int] {
	return func(yield func(netkey.Key, int) bool) {
		for from, f := range t.failed {
			if f.users < t.guessedAt(from) {
				continue
			}
			if n := t.failedAt(from, now); n >= t.guessedAt(from) && !yield(from, n) {
				return
			}
		}
	}
}
