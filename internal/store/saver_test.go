package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/ban"
	"mef/internal/store"
)

// run starts a saver; what it returns ends it and reports what Run returned.
func run(v *store.Saver) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func record(k, v string) store.Record { return store.Record{Key: []byte(k), Value: []byte(v)} }

func TestSaverMergesByKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := mefdb(t)
		v := store.NewSaver(open(t, path, store.Options{}), quiet())
		// Nobody writes yet: all of this becomes one transaction.
		now := time.Now()
		one, two := sampleBan(1), sampleBan(2)
		one.Until, two.Until = now.Add(time.Hour), now.Add(time.Hour)
		longer := one
		longer.Until = now.Add(4 * time.Hour)
		v.Save(store.Update{Bans: []ban.Ban{one, two}, Positions: map[string]string{"journal": "1", "file": "7"},
			Records: []store.Record{record("a", "1"), record("b", "1")}})
		v.Save(store.Update{Bans: []ban.Ban{longer}, Lifted: []ban.Key{two.Key}, Positions: map[string]string{"journal": "2"},
			Records: []store.Record{record("a", "2"), record("b", "")}})
		if st := v.Status(); st.Pending != 6 || !st.LastCommit.IsZero() {
			t.Errorf("%d pending, last commit %v; want 6, none", st.Pending, st.LastCommit)
		}
		stop := run(v)
		if err := v.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := v.Status(); st.Pending != 0 || !st.LastCommit.Equal(now) || st.Problem != "" || st.Size == 0 {
			t.Errorf("status after Flush: %+v", st)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}

		s := open(t, path, store.Options{})
		st := load(t, s, now)
		if d := diff([]ban.Ban{longer}, st.Bans); d != "" {
			t.Errorf("bans (-want +got):\n%s", d)
		}
		if want := map[string]string{"journal": "2", "file": "7"}; !maps.Equal(st.Positions, want) {
			t.Errorf("positions %q, want %q", st.Positions, want)
		}
		if got, want := records(s), map[string]string{"a": "2"}; !maps.Equal(got, want) {
			t.Errorf("records %q, want %q", got, want)
		}
	})
}

// What is saved belongs to the caller again at once, and is read back before it is written.
func TestSavedUpdatesAreReadBackAtOnce(t *testing.T) {
	path := mefdb(t)
	v := store.NewSaver(open(t, path, store.Options{}), quiet())
	bans := []ban.Ban{lastingBan(1), lastingBan(2)}
	want := []ban.Ban{lastingBan(1), lastingBan(2)}
	value, positions := []byte("1"), map[string]string{"journal": "1"}
	v.Save(store.Update{Bans: bans, Records: []store.Record{{Key: []byte("a"), Value: value}}, Positions: positions})
	clear(bans)
	clear(positions)
	value[0] = '9'
	stop := run(v)
	got, err := v.Bans(t.Context(), []ban.Key{want[0].Key, want[1].Key})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range want {
		if d := diff(b, got[b.Key]); d != "" {
			t.Errorf("a ban that may wait (-want +got):\n%s", d)
		}
	}
	v.Save(store.Update{Lifted: []ban.Key{want[1].Key}})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, store.Options{})
	if st := load(t, s, time.Now()); len(st.Bans) != 1 || st.Bans[0].Key != want[0].Key || st.Positions["journal"] != "1" || records(s)["a"] != "1" {
		t.Errorf("saved: %v, records %q", st, records(s))
	}
}

func TestSaverWritesWhatIsLeft(t *testing.T) {
	path := mefdb(t)
	v := store.NewSaver(open(t, path, store.Options{}), quiet())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v.Save(store.Update{Positions: map[string]string{"journal": "9"}})
	if err := v.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if st := load(t, open(t, path, store.Options{}), noon); st.Positions["journal"] != "9" {
		t.Errorf("positions %q; what was saved before the end is lost", st.Positions)
	}
}

// TestSaverGoesOnTrying has a file where the directory should be: there is no store, and then there is.
func TestSaverGoesOnTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "lib")
		path := filepath.Join(dir, "mef.db")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, path, store.Options{})
		if s.Warning() == nil || errors.Is(s.Warning(), store.ErrDamaged) {
			t.Fatalf("warning %v, want one that is no damage", s.Warning())
		}
		if st := load(t, s, noon); len(st.Bans)+len(st.Positions)+len(records(s)) > 0 {
			t.Errorf("a store without a file has %v", st)
		}
		var log bytes.Buffer
		v := store.NewSaver(s, slog.New(slog.NewTextHandler(&log, nil)))
		if st := v.Status(); !strings.Contains(st.Problem, dir) {
			t.Errorf("problem %q at the start, want one that names %s", st.Problem, dir)
		}
		stop := run(v)
		now := time.Now()
		lasting, passing := sampleBan(1), sampleBan(2)
		lasting.Until, passing.Until = now.Add(24*time.Hour), now.Add(time.Minute)
		v.Save(store.Update{Bans: []ban.Ban{lasting, passing}, Records: []store.Record{record("a", "1")}})
		if err := v.Flush(t.Context()); err == nil {
			t.Error("Flush: no error")
		}
		// An hour of news, a second each; some of it is no news any more in the end.
		for i := range 3600 {
			v.Save(store.Update{Positions: map[string]string{"journal": "later"},
				Records: []store.Record{record("passing", "1"), record("gone"+time.Duration(i).String(), "")}})
			time.Sleep(time.Second)
		}
		if st := v.Status(); st.Pending > 50 || st.Pending < 4 || st.Problem == "" || !st.LastCommit.IsZero() {
			t.Errorf("after an hour: %+v; want what counts to be pending, and nothing else", st)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		if st := v.Status(); st.Pending != 0 || st.Problem != "" || time.Since(st.LastCommit) > 31*time.Second {
			t.Errorf("half a minute after the file could be made: %+v", st)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "\n"); n > 2 {
			t.Errorf("the log has %d lines about it, want one for the problem and one for its end:\n%s", n, log.String())
		}
		s = open(t, path, store.Options{})
		st := load(t, s, now)
		if len(st.Bans) != 1 || st.Bans[0].Key != lasting.Key || st.Positions["journal"] != "later" || records(s)["a"] != "1" {
			t.Errorf("saved: %v, records %q", st, records(s))
		}
	})
}

func TestFlushWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := store.NewSaver(open(t, mefdb(t), store.Options{}), quiet())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := v.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush: %v, want the deadline", err)
		}
	})
}
