package bounded

// ByName finds values by name as a map does, those of few names that come again and again faster. A name is hashed by its length and its last
// bytes. The zero value is empty.
type ByName[T any] struct {
	all    map[string]T
	lately [64]named[T]
}

type named[T any] struct {
	name  string
	value T
}

// Set replaces all values.
func (b *ByName[T]) Set(all map[string]T) { *b = ByName[T]{all: all} }

// Get returns the value of a name, and whether there is one.
func (b *ByName[T]) Get(name string) (T, bool) {
	n := len(name)
	if n < 2 {
		value, ok := b.all[name]
		return value, ok
	}
	at := &b.lately[(n*9+int(name[n-1])+int(name[n-2])*3)%len(b.lately)]
	if at.name != name {
		value, ok := b.all[name]
		if !ok {
			return value, false
		}
		*at = named[T]{name, value}
	}
	return at.value, true
}
