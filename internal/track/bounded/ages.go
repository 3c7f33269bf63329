package bounded

import "iter"

// An Age is the place of a T in a list by age. A type embeds the Age of itself to be kept in one list at a time.
type Age[T any] struct{ newer, older *T }

func (a *Age[T]) age() *Age[T] { return a }

type aged[T any] interface {
	*T
	age() *Age[T]
}

// Ages is a list by age. The zero value is an empty list.
type Ages[T any, P aged[T]] struct {
	newest, oldest *T
	n              int
}

// Add adds the newest.
func (l *Ages[T, P]) Add(e *T) {
	P(e).age().older = l.newest
	if l.newest != nil {
		P(l.newest).age().newer = e
	} else {
		l.oldest = e
	}
	l.newest = e
	l.n++
}

// Remove removes one that is in the list.
func (l *Ages[T, P]) Remove(e *T) {
	a := P(e).age()
	if a.newer != nil {
		P(a.newer).age().older = a.older
	} else {
		l.newest = a.older
	}
	if a.older != nil {
		P(a.older).age().newer = a.newer
	} else {
		l.oldest = a.newer
	}
	*a = Age[T]{}
	l.n--
}

// Renew makes one that is in the list the newest.
func (l *Ages[T, P]) Renew(e *T) {
	if l.newest != e {
		l.Remove(e)
		l.Add(e)
	}
}

// Oldest returns the oldest, nil if the list is empty.
func (l *Ages[T, P]) Oldest() *T { return l.oldest }

// Len returns how many are in the list.
func (l *Ages[T, P]) Len() int { return l.n }

// All returns all, the oldest first. The list must not change meanwhile.
func (l *Ages[T, P]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for e := l.oldest; e != nil && yield(e); e = P(e).age().newer {
		}
	}
}
