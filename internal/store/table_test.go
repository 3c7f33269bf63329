package store

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// An index has what was added and not removed, whatever the order, also where hashes collide.
func TestIndex(t *testing.T) {
	for name, mask := range map[string]uint64{"any hash": ^uint64(0), "few hashes": 7 << numberBits, "one hash": 0} {
		t.Run(name, func(t *testing.T) {
			r, x := rand.New(rand.NewPCG(1, 2)), newIndex()
			most := 5000
			if mask == 0 {
				most = 400 // each costs as much as all before it
			}
			hashes := map[uint64]uint64{} // by number
			var numbers []uint64
			for n := uint64(1); n < uint64(3*most); n++ {
				if len(numbers) < most && r.IntN(3) > 0 {
					p := place{r.Uint64() & mask, n}
					hashes[n], numbers = p.hash, append(numbers, n)
					x.add(p)
				} else if len(numbers) > 0 {
					i := r.IntN(len(numbers))
					gone := numbers[i]
					x.remove(place{hashes[gone], gone})
					delete(hashes, gone)
					numbers = append(numbers[:i], numbers[i+1:]...)
					x.remove(place{hashes[gone], gone}) // it is not there: nothing happens
				}
			}
			if x.used != len(hashes) {
				t.Errorf("%d entries are in use, want %d", x.used, len(hashes))
			}
			for n := uint64(1); n < uint64(3*most); n++ {
				hash, want := hashes[n]
				if _, found := x.find(hash, func(number uint64) bool { return number == n }); found != want {
					t.Fatalf("number %d is found: %v, want %v", n, found, want)
				}
			}
		})
	}
}

// A transaction that fails leaves the index as it was.
func TestFailedTransactionLeavesTheIndex(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "mef.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	key := func(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }
	if err := s.Commit(&Update{Records: []Record{{Key: key(1), Value: []byte("one"), Spare: true}}}, now); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err = s.db.Update(func(tx *bbolt.Tx) error {
		for _, c := range []change{{key: string(key(1))}, {key: string(key(2)), value: enter(key(2), []byte("two")), spare: true}} {
			if err := s.spare.apply(tx, c); err != nil {
				return err
			}
		}
		return broken
	})
	s.spare.settle(err == nil)
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	for i, want := range []bool{1: true, 2: false} {
		if got := s.holdsRecord(string(key(uint64(i)))); got != want {
			t.Errorf("record %d is there: %v, want %v", i, got, want)
		}
	}
}

// A damaged file may have any number for an entry, and any sequence: entries without a proper number are left out, no entry is overwritten,
// and there is always a number for the next.
func TestDamagedNumbers(t *testing.T) {
	now := time.Now()
	path := filepath.Join(t.TempDir(), "mef.db")
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	record := func(k string) Record { return Record{Key: []byte(k), Value: []byte("value of " + k), Spare: true} }
	if err := s.Commit(&Update{Records: []Record{record("a"), record("b"), record("c")}}, now); err != nil {
		t.Fatal(err)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketSpare)
		entry := func(n uint64) []byte { return append([]byte(nil), b.Get(numberKey(n))...) }
		b2, c3 := entry(2), entry(3)
		return errors.Join(b.Delete(numberKey(2)), b.Put(numberKey(maxNumber), b2), b.Delete(numberKey(3)), b.Put(numberKey(maxNumber+1), c3), b.SetSequence(0))
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s, err = Open(path, Options{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(&Update{Records: []Record{record("d"), record("e")}}, now); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for k, v := range s.Records() {
			got[string(k)] = string(v)
		}
		for _, k := range []string{"a", "b", "d", "e"} {
			if got[k] != "value of "+k {
				t.Errorf("record %s is %q", k, got[k])
			}
		}
		if _, found := got["c"]; found || s.Skipped() != 1 {
			t.Errorf("%d records were left out, want 1: that without a number", s.Skipped())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
