package eventlog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/control"
	"mef/internal/eventlog"
)

func newLog() *eventlog.Log { return eventlog.New(slog.New(slog.DiscardHandler)) }

func TestReaderSeesRecentThenNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		for i := range eventlog.Kept + 3 {
			l.Add(control.Record{Event: "failure", Count: i})
		}
		ctx, stop := context.WithCancel(t.Context())
		var seen []string
		done := make(chan error)
		go func() {
			done <- l.Follow(ctx, func(rec control.Record) error {
				seen = append(seen, fmt.Sprint(rec.Event, rec.Count))
				return nil
			})
		}()
		synctest.Wait()
		l.Add(control.Record{Event: "ban"})
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(seen) != eventlog.Kept+2 || seen[0] != "failure3" || seen[eventlog.Kept] != control.Caught+"0" || seen[eventlog.Kept+1] != "ban0" {
			t.Errorf("saw %d records, first %q, last %q", len(seen), seen[0], seen[len(seen)-2:])
		}
	})
}

func TestSlowReaderLosesAndIsTold(t *testing.T) {
	const room = 1000
	l := newLog()
	enough := errors.New("enough")
	var missed, got int
	err := l.Follow(t.Context(), func(rec control.Record) error {
		if rec.Event == control.Caught {
			for range room + 10 { // while the reader is busy with this record
				l.Add(control.Record{Event: "failure"})
			}
			return nil
		}
		if got++; got == room {
			l.Add(control.Record{Event: "failure"})
		}
		if missed = rec.Missed; missed > 0 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || missed != 10 || got != room+1 {
		t.Errorf("after %d records: missed %d, %v; want 10 missed", got, missed, err)
	}
}

func TestFileHoldsDecisionsAndSurvivesRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "mef.log")
		l := newLog()
		l.Attach("event log", eventlog.NewFile(path), eventlog.Decided)
		l.Add(control.Record{Time: time.Now(), Event: "failure", User: "a\nb"})
		l.Add(control.Record{Time: time.Now(), Event: "ban", Prefix: "192.0.2.7/32"})
		settle()
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		l.Add(control.Record{Time: time.Now(), Event: "unban", Prefix: "192.0.2.7/32", Note: "line\nend"})
		l.Close(time.Minute)
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
	})
}

// settle waits in a bubble until sinks have what they gathered.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// A file that cannot be written is a problem until it can be, and what was lost meanwhile is counted.
func TestFileThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "later")
		l := newLog()
		l.Attach("event log", eventlog.NewFile(filepath.Join(dir, "mef.log")), eventlog.Decided)
		synctest.Wait()
		if p := l.Problems(); len(p) != 1 || !strings.HasPrefix(p[0], "event log: open "+dir) {
			t.Errorf("the problems are %q", p)
		}
		l.Add(control.Record{Time: time.Now(), Event: "ban"})
		settle()
		if p := l.Problems(); len(p) != 1 || !strings.HasPrefix(p[0], "event log: 1 records are lost: open ") {
			t.Errorf("the problems are %q", p)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		l.Add(control.Record{Time: time.Now(), Event: "ban"})
		l.Add(control.Record{Time: time.Now(), Event: "unban"})
		settle()
		if p := l.Problems(); len(p) != 1 || p[0] != "event log: 1 records were lost; writing works again" {
			t.Errorf("the problems are %q", p)
		}
		l.Close(time.Minute)
		data, err := os.ReadFile(filepath.Join(dir, "mef.log"))
		if err != nil || strings.Count(string(data), "\n") != 2 || strings.Count(string(data), `"missed":1`) != 1 {
			t.Errorf("the log has %q, %v; want two records, the first after one that is missing", data, err)
		}
	})
}

// A pipe, with or without a reader, is no event log, and opening it does not wait.
func TestPipeIsNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := eventlog.NewFile(path).Open(); err == nil {
		t.Error("a pipe without a reader was opened")
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := eventlog.NewFile(path).Open(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe with a reader: %v, want that it is no regular file", err)
	}
}

// A recorder is a sink that keeps what it is given, and hangs for as long as hang is locked.
type recorder struct {
	hang sync.Mutex
	mu   sync.Mutex
	got  []control.Record
}

func (*recorder) Open() error  { return nil }
func (*recorder) Close() error { return nil }

func (r *recorder) Write(recs []control.Record) error {
	r.hang.Lock()
	defer r.hang.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, recs...)
	return nil
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// A sink that hangs holds up neither whoever adds records nor another sink nor the end, and what is lost is counted.
func TestASinkThatHangs(t *testing.T) {
	l := newLog()
	var hung, other recorder
	hung.hang.Lock()
	l.Attach("hung", &hung, nil)
	l.Attach("other", &other, nil)
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	const n = 50_000
	for i := range n {
		l.Add(control.Record{Event: "ban", Count: i})
		if i%10_000 == 9_999 {
			await("the other sink waits", func() bool { return other.count() == i+1 })
		}
	}
	lost := func(p string) bool { return strings.HasPrefix(p, "hung: ") && strings.Contains(p, " records ") }
	if p := l.Problems(); !slices.ContainsFunc(p, lost) {
		t.Errorf("the problems are %q, want that records are lost", p)
	}
	began := time.Now()
	l.Close(100 * time.Millisecond)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	hung.hang.Unlock()
	await("what was queued is not written", func() bool { return hung.count() > 0 })
}

// A sink gets every record once and in order, in parts of a bounded size, however many wait and whenever they come.
func TestASinkGetsRecordsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		sink := &slow{}
		l.Attach("slow", sink, nil)
		n := 0
		for _, burst := range []int{1, 20, 3000, 1, 700, 5000, 130} {
			for range burst {
				l.Add(control.Record{Event: "ban", Count: n})
				n++
			}
			time.Sleep(5 * time.Millisecond) // some parts are written, others wait
			if burst == 700 {
				time.Sleep(time.Minute) // all are written, and the queue is given up
			}
		}
		l.Close(time.Minute)
		if len(sink.counts) != n {
			t.Fatalf("the sink got %d records, want %d", len(sink.counts), n)
		}
		for i, count := range sink.counts {
			if count != i {
				t.Fatalf("record %d is number %d", i, count)
			}
		}
		if sink.largest > 200 {
			t.Errorf("%d records at once", sink.largest)
		}
	})
}

// A slow sink takes a millisecond for each write.
type slow struct {
	counts  []int
	largest int
}

func (*slow) Open() error  { return nil }
func (*slow) Close() error { return nil }

func (s *slow) Write(recs []control.Record) error {
	time.Sleep(time.Millisecond)
	s.largest = max(s.largest, len(recs))
	for _, r := range recs {
		s.counts = append(s.counts, r.Count)
	}
	return nil
}
