package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/store"
)

const mb = 1 << 20

// tallies returns records from..to of about 1 KB each, in no order; empty ones are removals.
func tallies(from, to int, empty bool) []store.Record {
	var out []store.Record
	for i := from; i < to; i++ {
		r := store.Record{Key: binary.BigEndian.AppendUint64(nil, uint64(i)*0x9E3779B97F4A7C15), Spare: true}
		if !empty {
			r.Value = []byte(strings.Repeat(fmt.Sprint(i, " "), 1000/len(fmt.Sprint(i, " "))))
		}
		out = append(out, r)
	}
	return out
}

// put commits n tallies, some at a time as they come.
func put(t *testing.T, s *store.Store, n int, now time.Time) {
	t.Helper()
	for at := 0; at < n; at += 100 {
		commit(t, s, &store.Update{Records: tallies(at, at+100, false)}, now)
	}
}

func TestCompactionAtStart(t *testing.T) {
	path := mefdb(t)
	s := open(t, path, store.Options{})
	put(t, s, 10_000, noon)
	commit(t, s, &store.Update{Records: tallies(500, 10_000, true), Bans: []ban.Ban{sampleBan(1)}}, noon)
	before := s.Size()
	s.Close()
	// One that was cut short has left this behind.
	if err := os.WriteFile(path+".compact", garbage(5000), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, store.Options{})
	if after := s.Size(); before < 10*mb || after > 2*mb {
		t.Errorf("%d bytes became %d, want less than 2 MB", before, after)
	}
	if st := load(t, s, noon); len(st.Bans) != 1 || len(records(s)) != 500 || s.Warning() != nil {
		t.Errorf("%d bans, %d records, warning %v; want 1, 500, none", len(st.Bans), len(records(s)), s.Warning())
	}
	if _, err := os.Stat(path + ".compact"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file in the making is still there: %v", err)
	}
	if _, err := store.Open(path, store.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("another opened the file that took the first's place: %v", err)
	}
	commit(t, s, &store.Update{Positions: map[string]string{"journal": "1"}}, noon)
	s.Close()
	if st := load(t, open(t, path, store.Options{}), noon); st.Positions["journal"] != "1" {
		t.Error("what was saved after a compaction is lost")
	}
}

func TestCompactionOncePerHour(t *testing.T) {
	s := open(t, mefdb(t), store.Options{MaxSize: 12 * mb})
	empty := func(from, to int, now time.Time) {
		t.Helper()
		for at := from; at < to; at += 1000 {
			commit(t, s, &store.Update{Records: tallies(at, at+1000, true)}, now)
		}
	}
	put(t, s, 4000, noon)
	commit(t, s, &store.Update{Records: tallies(0, 4000, false)}, noon) // all at once: their pages are needed twice
	if s.Size() > 8*mb {
		t.Errorf("file of %d bytes, want it compacted", s.Size())
	}
	put(t, s, 5000, noon)
	commit(t, s, &store.Update{Records: tallies(0, 5000, false)}, noon.Add(time.Minute))
	large := s.Size()
	if large < 9*mb {
		t.Fatalf("file of %d bytes, want it to have grown", large)
	}
	empty(0, 4000, noon.Add(2*time.Minute))
	if s.Size() != large {
		t.Errorf("the file changed from %d to %d bytes within the hour", large, s.Size())
	}
	empty(4000, 5000, noon.Add(2*time.Hour))
	if s.Size() > 2*mb {
		t.Errorf("file of %d bytes two hours later, want it compacted", s.Size())
	}
}

// TestFull has more tallies than fit: they give way to bans and positions, and the file stays within its bound.
func TestFull(t *testing.T) {
	const limit = 8 * mb
	path := mefdb(t)
	s := open(t, path, store.Options{MaxSize: limit})
	put(t, s, 12_000, time.Now())
	kept := len(records(s))
	if kept < 1500 || kept > 8000 || s.Size() > limit {
		t.Errorf("%d tallies of 12000 in %d bytes; want some thousands in 8 MB", kept, s.Size())
	}
	v := store.NewSaver(s, quiet())
	stop := run(v)
	v.Save(store.Update{Bans: []ban.Ban{lastingBan(1)}, Positions: map[string]string{"journal": "1"}, Records: tallies(20_000, 20_100, false)})
	if err := v.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := v.Status(); !strings.Contains(st.Problem, "full (8 MB)") || st.Pending > 0 {
		t.Errorf("status %+v, want the problem", st)
	}
	v.Save(store.Update{Records: tallies(0, 12_000, true)}) // sources are forgotten
	if err := v.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.Save(store.Update{Records: tallies(30_000, 30_100, false)})
	if err := v.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := v.Status(); st.Problem != "" {
		t.Errorf("problem %q after sources were forgotten", st.Problem)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, store.Options{})
	st := load(t, s, noon)
	if len(st.Bans) != 1 || len(st.Bans[0].Evidence) != 1 || st.Positions["journal"] != "1" || len(records(s)) != 100 {
		t.Errorf("%v, %d records; want one ban with one line of evidence, a position, the 100 tallies that came last", st, len(records(s)))
	}
}

// TestUpdateTooLarge changes every page of a file that has no room for all of them twice.
func TestUpdateTooLarge(t *testing.T) {
	const limit = 8 * mb
	path := mefdb(t)
	s := open(t, path, store.Options{MaxSize: limit})
	put(t, s, 3000, noon)
	u := store.Update{Positions: map[string]string{"journal": "1"}}
	for i := range 10_000 {
		u.Bans = append(u.Bans, sampleBan(i))
	}
	u.Records = tallies(0, 3000, true)
	commit(t, s, &u, noon)
	if s.Size() > limit {
		t.Errorf("file of %d bytes", s.Size())
	}
	s.Close()
	s = open(t, path, store.Options{MaxSize: limit})
	if st := load(t, s, noon); len(st.Bans) != 10_000 || st.Positions["journal"] != "1" || len(records(s)) != 0 {
		t.Errorf("%d bans, positions %q, %d records; want 10000, one, none", len(st.Bans), st.Positions, len(records(s)))
	}
}
