// Package eventlog passes on what happened: to readers who follow it, and to sinks such as the event log's file.
//
// Add never waits. Behind it, each reader and each sink has a queue of its own with an end: what does not fit is lost for that one
// alone, counted, and reported. So a disk that hangs, a full pipe or a slow reader delays neither decisions nor enforcement nor
// another sink.
package eventlog

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mef/internal/control"
)

const (
	// Kept is how many records a new reader gets first.
	Kept = 500
	// readerQueue is how many records may wait for a reader.
	readerQueue = 1000
)

// A Log is the stream of records. Any goroutine may call its methods.
type Log struct {
	log     *slog.Logger
	mu      sync.Mutex
	recent  []entry // ring, oldest at next once full
	next    int
	readers map[*reader]struct{}
	sinks   map[string]*outlet // by name
	// attempts reports that a sink wants records of attempts.
	attempts bool
}

// An entry is a record that is kept, or what it is made of once it is asked for.
type entry struct {
	rec     *control.Record // nil: that of attempt
	attempt control.Attempt
}

func (e *entry) record() control.Record {
	if e.rec != nil {
		return *e.rec
	}
	return e.attempt.Record()
}

// A reader receives records through a bounded queue.
type reader struct {
	queue  chan control.Record
	missed int
}

// New returns a Log without readers and sinks. Errors of sinks are logged to log.
func New(log *slog.Logger) *Log {
	return &Log{log: log, readers: make(map[*reader]struct{}), sinks: make(map[string]*outlet)}
}

// Add passes a record on. It never waits. What rec points to must not be changed afterwards.
func (l *Log) Add(rec control.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.keep() = entry{rec: &rec}
	l.offer(&rec, false)
}

// Attempt passes on the record of an attempt, which is made only if somebody follows the records, or a sink wants it. It never waits.
func (l *Log) Attempt(a *control.Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.keep()
	e.rec, e.attempt = nil, *a
	if len(l.readers) == 0 && !l.attempts {
		return
	}
	rec := a.Record()
	l.offer(&rec, true)
}

// keep returns the entry of the next record: a new one, or the oldest.
func (l *Log) keep() *entry {
	if len(l.recent) < Kept {
		l.recent = append(l.recent, entry{})
		return &l.recent[len(l.recent)-1]
	}
	e := &l.recent[l.next]
	l.next = (l.next + 1) % Kept
	return e
}

// offer gives a record to the readers and to the sinks that want it; attempt: to those that want attempts.
func (l *Log) offer(rec *control.Record, attempt bool) {
	for r := range l.readers {
		r.offer(*rec)
	}
	for _, o := range l.sinks {
		if (o.attempts || !attempt) && (o.want == nil || o.want(rec.Event)) {
			o.offer(rec)
		}
	}
}

// Decided reports whether a record of this kind reports what was decided or done. Single attempts and listings do not: what keeps them for ever, an
// attacker could fill.
func Decided(event string) bool {
	switch event {
	case "failure", "probe", "success", "listed":
		return false
	}
	return true
}

func (r *reader) offer(rec control.Record) {
	rec.Missed = r.missed
	select {
	case r.queue <- rec:
		r.missed = 0
	default:
		r.missed++
	}
}

// Follow calls emit for the records that are kept, for a mark (control.Caught), and then for every new record, until ctx is done or emit
// fails. Record.Missed counts the records that did not fit the queue before it.
func (l *Log) Follow(ctx context.Context, emit func(control.Record) error) error {
	r := &reader{queue: make(chan control.Record, readerQueue)}
	l.mu.Lock()
	recent := make([]control.Record, 0, len(l.recent)+1)
	for i := range l.recent {
		recent = append(recent, l.recent[(l.next+i)%len(l.recent)].record())
	}
	l.readers[r] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.readers, r)
		l.mu.Unlock()
	}()
	for _, rec := range append(recent, control.Record{Time: time.Now(), Event: control.Caught}) {
		if err := emit(rec); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case rec := <-r.queue:
			if err := emit(rec); err != nil {
				return err
			}
		}
	}
}
