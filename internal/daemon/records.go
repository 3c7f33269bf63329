package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"mef/internal/control"
	"mef/internal/printable"
)

const (
	keptRecords   = 500 // what a new reader sees first
	readerRecords = 1000
)

// records is the event stream: it keeps the last ones, hands every new one to all readers, and writes decisions to the
// event log. Any goroutine may add.
type records struct {
	log *slog.Logger

	mu      sync.Mutex
	recent  []control.Record // ring, oldest at next once full
	next    int
	readers map[*reader]struct{}
	file    *eventLog
}

// A reader receives records in a bounded queue. What does not fit is dropped and counted: a slow reader must not hold up
// bans.
type reader struct {
	queue  chan control.Record
	missed int
}

func newRecords(log *slog.Logger, file *eventLog) *records {
	return &records{log: log, readers: make(map[*reader]struct{}), file: file}
}

func (r *records) add(rec control.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recent) < keptRecords {
		r.recent = append(r.recent, rec)
	} else {
		r.recent[r.next] = rec
		r.next = (r.next + 1) % keptRecords
	}
	for reader := range r.readers {
		reader.offer(rec)
	}
	if r.file != nil && logged(rec.Event) {
		if err := r.file.write(rec); err != nil {
			r.log.Warn("event log", "err", err)
		}
	}
}

// problem says why the event log is not written, "" if it is, or need not be.
func (r *records) problem() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil || r.file.err == nil {
		return ""
	}
	return r.file.err.Error()
}

// writeTo replaces the event log; nil ends it.
func (r *records) writeTo(file *eventLog) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil && r.file.f != nil {
		r.file.f.Close()
	}
	r.file = file
}

// logged tells which records go to the event log: what was decided and done. Single failures do not, else an attacker
// could fill the disk.
func logged(event string) bool {
	switch event {
	case "failure", "probe", "success":
		return false
	}
	return true
}

func (q *reader) offer(rec control.Record) {
	rec.Missed = q.missed
	select {
	case q.queue <- rec:
		q.missed = 0
	default:
		q.missed++
	}
}

// follow calls emit for what is kept, a mark, and then every new record until ctx is done or emit fails.
func (r *records) follow(ctx context.Context, emit func(control.Record) error) error {
	q := &reader{queue: make(chan control.Record, readerRecords)}
	r.mu.Lock()
	recent := append(append([]control.Record(nil), r.recent[r.next:]...), r.recent[:r.next]...)
	r.readers[q] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.readers, q)
		r.mu.Unlock()
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
		case rec := <-q.queue:
			if err := emit(rec); err != nil {
				return err
			}
		}
	}
}

// An eventLog is a file of JSON lines. It is reopened when it was renamed or removed, so that logrotate needs no signal.
type eventLog struct {
	path string
	f    *os.File
	err  error // of the last write, or of opening the file: said once, tried again with the next record
}

// openEventLog returns the event log at path. One that cannot be opened yet is no reason not to protect the host: that is logged and
// shown in status.
func openEventLog(path string, log *slog.Logger) *eventLog {
	l := &eventLog{path: path}
	if l.err = l.reopen(); l.err != nil {
		log.Warn("event log", "err", l.err)
	}
	return l
}

func (l *eventLog) reopen() error {
	if l.f != nil {
		l.f.Close()
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		l.f = nil
		return fmt.Errorf("event log: %w", err)
	}
	l.f = f
	return nil
}

// write appends a record. It returns an error once when writing begins to fail, and nil until it works again.
func (l *eventLog) write(rec control.Record) error {
	before := l.err
	l.err = l.append(rec)
	if before != nil {
		return nil
	}
	return l.err
}

func (l *eventLog) append(rec control.Record) error {
	if !l.current() {
		if err := l.reopen(); err != nil {
			return err
		}
	}
	line, err := printable.Marshal(rec)
	if err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	_, err = l.f.Write(append(line, '\n'))
	return err
}

// current reports whether the open file is still the one at the path.
func (l *eventLog) current() bool {
	if l.f == nil {
		return false
	}
	open, err := l.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.path)
	return err == nil && os.SameFile(open, there)
}
