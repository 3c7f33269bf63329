package track

import (
	"errors"
	"iter"
)

// A Record is one entry of the tracker's state, as the store keeps it.
type Record struct {
	Key   []byte
	Value []byte // nil: the entry is gone
}

// Changes returns what has changed since the last call, removals first, and takes it as stored. Everything has changed at
// the first call.
func (t *Tracker) Changes() []Record { return nil }

// Import fills an empty tracker with stored entries, in any order.
func (t *Tracker) Import(entries iter.Seq2[[]byte, []byte]) error { return errors.New("not yet") }

func sourceKey(k key) []byte { return append([]byte{'s', k.bits}, k.addr[:]...) }
