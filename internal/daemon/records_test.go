package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/control"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestReaderSeesRecentThenNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecords(quiet(), nil)
		for i := range keptRecords + 3 {
			r.add(control.Record{Event: "failure", Count: i})
		}
		ctx, stop := context.WithCancel(t.Context())
		var seen []string
		done := make(chan error)
		go func() {
			done <- r.follow(ctx, func(rec control.Record) error {
				seen = append(seen, fmt.Sprint(rec.Event, rec.Count))
				return nil
			})
		}()
		synctest.Wait()
		r.add(control.Record{Event: "ban"})
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(seen) != keptRecords+2 || seen[0] != "failure3" || seen[keptRecords] != control.Caught+"0" || seen[keptRecords+1] != "ban0" {
			t.Errorf("saw %d records, first %q, last %q", len(seen), seen[0], seen[len(seen)-2:])
		}
	})
}

func TestSlowReaderLosesAndIsTold(t *testing.T) {
	r := newRecords(quiet(), nil)
	enough := errors.New("enough")
	var missed, got int
	err := r.follow(t.Context(), func(rec control.Record) error {
		if rec.Event == control.Caught {
			for range readerRecords + 10 { // while the reader is busy with this record
				r.add(control.Record{Event: "failure"})
			}
			return nil
		}
		if got++; got == readerRecords {
			r.add(control.Record{Event: "failure"})
		}
		if missed = rec.Missed; missed > 0 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || missed != 10 || got != readerRecords+1 {
		t.Errorf("after %d records: missed %d, %v; want 10 missed", got, missed, err)
	}
}

func TestEventLogHoldsDecisionsAndSurvivesRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.log")
	r := newRecords(quiet(), openEventLog(path, quiet()))
	r.add(control.Record{Time: time.Now(), Event: "failure", User: "a\nb"})
	r.add(control.Record{Time: time.Now(), Event: "ban", Prefix: "192.0.2.7/32"})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	r.add(control.Record{Time: time.Now(), Event: "unban", Prefix: "192.0.2.7/32", Note: "line\nend"})
	for _, want := range []struct{ path, event string }{{path + ".1", "ban"}, {path, "unban"}} {
		data, err := os.ReadFile(want.path)
		if err != nil {
			t.Fatal(err)
		}
		var rec control.Record
		if err := json.Unmarshal(data, &rec); err != nil || rec.Event != want.event || strings.Count(string(data), "\n") != 1 {
			t.Errorf("%s holds %q (%v), want one line of a %s", want.path, data, err, want.event)
		}
	}
}

// An event log that cannot be written keeps nobody from being banned; it is said in status, until it can be written.
func TestEventLogThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	r := newRecords(quiet(), openEventLog(filepath.Join(dir, "mef.log"), quiet()))
	if why := r.problem(); !strings.HasPrefix(why, "event log: open "+dir) {
		t.Errorf("the problem is %q", why)
	}
	r.add(control.Record{Time: time.Now(), Event: "ban"})
	if r.problem() == "" {
		t.Error("there is no directory, and no problem")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.add(control.Record{Time: time.Now(), Event: "ban"})
	if data, err := os.ReadFile(filepath.Join(dir, "mef.log")); err != nil || r.problem() != "" || strings.Count(string(data), "\n") != 1 {
		t.Errorf("the log has %q, %v; the problem is %q", data, err, r.problem())
	}
}
