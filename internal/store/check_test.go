package store

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A healthy file must never be set aside: whatever a store does, check finds nothing.
func TestCheckAcceptsWhatBoltWrites(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "mef.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := rand.New(rand.NewPCG(1, 2))
	rounds := 600
	if testing.Short() {
		rounds = 100
	}
	s.db.NoSync = true // nobody pulls the plug
	for round := range rounds {
		// Waves: the tree grows to some depth and shrinks to nothing again.
		grow := round/60%2 == 0
		var u Update
		for range 1 + r.IntN(400) {
			key := binary.BigEndian.AppendUint32(nil, r.Uint32N(12000)*0x9E3779B9)
			key = append(key, strings.Repeat("k", r.IntN(8)*r.IntN(60))...)
			record := Record{Key: key}
			if grow == (r.IntN(10) > 0) {
				record.Value = make([]byte, 1+r.IntN(300))
			}
			u.Records = append(u.Records, record)
		}
		if round%97 == 5 {
			u.Records = append(u.Records, Record{Key: []byte(fmt.Sprint("large", round)), Value: make([]byte, 20_000)})
		}
		if !grow && round%3 == 0 { // whole stretches, so that pages are merged
			n := 0
			from := byte(r.IntN(256))
			for k := range s.Records() {
				if n++; k[0] >= from && n < 5000 {
					u.Records = append(u.Records, Record{Key: append([]byte(nil), k...)})
				}
			}
		}
		if err := s.Commit(&u, time.Unix(int64(round), 0)); err != nil {
			t.Fatal(err)
		}
		if round%150 == 149 {
			if err := s.compact(); err != nil {
				t.Fatal(err)
			}
			s.db.NoSync = true
		}
		file, err := os.Open(s.path)
		if err != nil {
			t.Fatal(err)
		}
		err = check(file, s.Size())
		file.Close()
		if err != nil {
			t.Fatalf("after round %d: %v", round, err)
		}
	}
}
