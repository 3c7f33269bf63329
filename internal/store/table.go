package store

import (
	"encoding/binary"
	"hash/maphash"

	"go.etcd.io/bbolt"
)

// A table is a bucket of entries by number, in the order in which they came, with an index by key in memory.
//
// Bans and sources come in no order of their addresses. By address, each transaction of a storm would touch, copy and write nearly every
// page of the bucket again; by number, it writes the pages behind the last one, and all of them are full.
type table struct {
	bucket []byte
	index  index
	last   uint64 // the number given last

	// What the transaction at hand changes in the index, once it has succeeded.
	added, removed []place
}

// A place is a key's hash with the number of its entry.
type place struct{ hash, number uint64 }

// enter returns the entry of a key: length of the key, key, value, and the checksum over both.
func enter(k, v []byte) []byte {
	out := make([]byte, 0, binary.MaxVarintLen16+len(k)+len(v)+sealSize)
	out = append(binary.AppendUvarint(out, uint64(len(k))), k...)
	return appendSum(append(out, v...), k, v)
}

// split returns the key of an entry, and its value with the checksum behind it. It returns nil if there is no key.
func split(entry []byte) (k, sealed []byte) {
	n, size := binary.Uvarint(entry)
	if size <= 0 || n == 0 || n > uint64(len(entry)-size) {
		return nil, nil
	}
	return entry[size : size+int(n)], entry[size+int(n):]
}

// leave returns the key and the value of an entry, and whether its checksum holds.
func leave(entry []byte) (k, v []byte, ok bool) {
	k, sealed := split(entry)
	v, ok = unseal(k, sealed)
	return k, v, ok && k != nil
}

// numberKey is the key of an entry in its bucket.
func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// numberOf returns the number in a key of a bucket, false if a damaged file has a key there that is none.
func numberOf(key []byte) (uint64, bool) {
	if len(key) != 8 {
		return 0, false
	}
	n := binary.BigEndian.Uint64(key)
	return n, 0 < n && n <= maxNumber
}

// load makes the index anew from the file. Entries that cannot be read are not in it.
func (t *table) load(tx *bbolt.Tx) error {
	b := tx.Bucket(t.bucket)
	t.index, t.last = newIndex(), 0
	t.added, t.removed = nil, nil
	return b.ForEach(func(key, entry []byte) error {
		n, ok := numberOf(key)
		if !ok {
			return nil
		}
		t.last = max(t.last, n)
		if k, _, ok := leave(entry); ok {
			t.index.add(place{t.index.hash(k), n})
		}
		return nil
	})
}

// next returns a number that no entry has, and larger ones for later entries. The bucket's own sequence is not used: where the file is
// damaged, it may begin anew and overwrite entries.
func (t *table) next(b *bbolt.Bucket) uint64 {
	for {
		t.last = t.last%maxNumber + 1 // only a damaged number is near the end
		if b.Get(numberKey(t.last)) == nil {
			return t.last
		}
	}
}

// find returns the number of a key's entry, and the entry; nil if there is none.
func (t *table) find(tx *bbolt.Tx, k []byte) (number uint64, entry []byte) {
	b := tx.Bucket(t.bucket)
	number, _ = t.index.find(t.index.hash(k), func(n uint64) bool {
		entry = b.Get(numberKey(n))
		found, _ := split(entry)
		return string(found) == string(k)
	})
	if number == 0 {
		return 0, nil
	}
	return number, entry
}

// has reports whether there is an entry of a key.
func (t *table) has(tx *bbolt.Tx, k string) bool {
	n, _ := t.find(tx, []byte(k))
	return n != 0
}

// apply puts or deletes an entry. The bucket refers to the entry until the transaction has ended.
func (t *table) apply(tx *bbolt.Tx, c change) error {
	b, k := tx.Bucket(t.bucket), []byte(c.key)
	n, _ := t.find(tx, k)
	switch {
	case c.value != nil:
		if n == 0 {
			n = t.next(b)
			t.added = append(t.added, place{t.index.hash(k), n})
		}
		b.FillPercent = 0.9 // entries come in the order of their numbers
		return b.Put(numberKey(n), c.value)
	case n != 0:
		t.removed = append(t.removed, place{t.index.hash(k), n})
		return b.Delete(numberKey(n))
	}
	return nil
}

// settle ends a transaction.
func (t *table) settle(succeeded bool) {
	if succeeded {
		for _, p := range t.added {
			t.index.add(p)
		}
		for _, p := range t.removed {
			t.index.remove(p)
		}
	}
	t.added, t.removed = nil, nil
}

// An index finds the number of an entry by the hash of its key: a hash table with linear probing. A slot has the upper bits of the
// hash, which also say where it belongs, and the number; 0 is an empty one. That is 8 bytes an entry in slots that are at most four
// fifths full.
type index struct {
	seed  maphash.Seed
	slots []uint64 // a power of two
	used  int
}

const (
	numberBits = 36
	maxNumber  = 1<<numberBits - 1
	minSlots   = 256
)

func newIndex() index { return index{seed: maphash.MakeSeed(), slots: make([]uint64, minSlots)} }

func (x *index) hash(k []byte) uint64 { return maphash.Bytes(x.seed, k) }

// home returns where a slot with the upper bits of a hash belongs.
func (x *index) home(slot uint64) int { return int(slot >> numberBits & uint64(len(x.slots)-1)) }

func (x *index) next(i int) int { return (i + 1) & (len(x.slots) - 1) }

// find returns the number with a hash that is the right one, false if there is none.
func (x *index) find(hash uint64, right func(number uint64) bool) (uint64, bool) {
	for i := x.home(hash); x.slots[i] != 0; i = x.next(i) {
		if x.slots[i]>>numberBits == hash>>numberBits && right(x.slots[i]&maxNumber) {
			return x.slots[i] & maxNumber, true
		}
	}
	return 0, false
}

func (x *index) add(p place) {
	if x.used >= len(x.slots)*4/5 {
		old := x.slots
		x.slots = make([]uint64, 2*len(old))
		for _, slot := range old {
			if slot != 0 {
				x.enter(slot)
			}
		}
	}
	x.enter(p.hash>>numberBits<<numberBits | p.number)
	x.used++
}

func (x *index) enter(slot uint64) {
	i := x.home(slot)
	for x.slots[i] != 0 {
		i = x.next(i)
	}
	x.slots[i] = slot
}

// remove empties a slot, and moves those behind it to where they are found.
func (x *index) remove(p place) {
	slot := p.hash>>numberBits<<numberBits | p.number
	i := x.home(slot)
	for x.slots[i] != slot {
		if x.slots[i] == 0 {
			return
		}
		i = x.next(i)
	}
	x.used--
	for j := x.next(i); x.slots[j] != 0; j = x.next(j) {
		// What is at j can move to i unless it belongs behind i.
		if home := x.home(x.slots[j]); (j-home)&(len(x.slots)-1) >= (j-i)&(len(x.slots)-1) {
			x.slots[i] = x.slots[j]
			i = j
		}
	}
	x.slots[i] = 0
}
