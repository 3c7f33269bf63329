package eventlog

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mef/internal/control"
	"mef/internal/owner"
)

// A Sink is where records go. It is used by one goroutine, which may wait in it for as long as the disk or the network takes.
type Sink interface {
	// Open makes the sink ready. After an error it is called again before the next records are written.
	Open() error
	// Write writes records, in order; recs is valid until it returns. After an error none of them counts as written.
	Write(recs []control.Record) error
	// Close ends the sink.
	Close() error
}

const (
	// sinkQueue is how many records may wait for a sink.
	sinkQueue = 20_000
	// sinkWrite is how many records a sink gets at once at most.
	sinkWrite = 128
	// gatherTime is how long a sink's records are gathered before it gets the first, unless there are already gathered of them: to be woken for each would
	// cost more than most sinks need for a record.
	gatherTime = 5 * time.Millisecond
	gathered   = sinkWrite
	// keptQueue is how many records an empty queue keeps room for, and keptFor how long.
	keptQueue = 2 * gathered
	keptFor   = time.Second
	// stuckAfter is how long a sink may take over a write before that is reported.
	stuckAfter = 5 * time.Second
)

// An outlet is a sink with its queue and its goroutine.
type outlet struct {
	name string
	log  *slog.Logger
	want func(event string) bool
	wake chan struct{} // holds one message while there may be something to do
	done chan struct{} // closed when the goroutine has ended

	attempts bool // it wants some of the records of attempts

	mu      sync.Mutex
	queue   []*control.Record // ring: waiting of them, from first on; others have them, too
	first   int
	waiting int
	ending  bool
	err     error     // of the last attempt
	busy    time.Time // since when the sink has been in one call; zero: it is in none
	lost    uint64    // records, since it was attached
	missed  int       // of those, since the last one that was written
}

// Attach has the records whose kind (Record.Event) want accepts, or all if it is nil, written to a sink from now on, in a goroutine of
// its own. The sink takes the place of one that had the same name; nil only ends that one. Attach returns at once: what waits for the
// sink before is still written.
func (l *Log) Attach(name string, s Sink, want func(event string) bool) {
	l.mu.Lock()
	before := l.sinks[name]
	delete(l.sinks, name)
	if s != nil {
		o := &outlet{name: name, log: l.log, want: want, wake: make(chan struct{}, 1), done: make(chan struct{})}
		o.attempts = want == nil || slices.ContainsFunc(attempts[:], want)
		l.sinks[name] = o
		go o.run(s)
	}
	l.attempts = false
	for _, o := range l.sinks {
		l.attempts = l.attempts || o.attempts
	}
	l.mu.Unlock()
	if before != nil {
		before.end()
	}
}

// attempts are the kinds of the records that Log.Attempt passes on.
var attempts = [...]string{"failure", "probe", "success", "listed"}

// Close ends all sinks and waits until what waits for them is written, or until the time is over: a sink that hangs is left behind.
func (l *Log) Close(within time.Duration) {
	l.mu.Lock()
	sinks := slices.Collect(maps.Values(l.sinks))
	clear(l.sinks)
	l.mu.Unlock()
	over := time.After(within)
	for _, o := range sinks {
		o.end()
	}
	for _, o := range sinks {
		select {
		case <-o.done:
		case <-over:
			return
		}
	}
}

// Problems returns a sentence for each sink that has lost records or cannot be written now.
func (l *Log) Problems() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(l.sinks)) {
		if p := l.sinks[name].problem(time.Now()); p != "" {
			all = append(all, p)
		}
	}
	return all
}

// offer queues a record, or counts it as lost.
func (o *outlet) offer(rec *control.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == sinkQueue {
		o.lost++
		o.missed++
		return
	}
	if o.waiting == len(o.queue) {
		o.grow()
	}
	o.queue[(o.first+o.waiting)%len(o.queue)] = rec
	o.waiting++
	if o.waiting == 1 || o.waiting == gathered {
		owner.Wake(o.wake)
	}
}

// grow doubles the room for records that wait, up to sinkQueue.
func (o *outlet) grow() {
	wider := make([]*control.Record, min(max(2*len(o.queue), 16), sinkQueue))
	n := copy(wider, o.queue[o.first:])
	copy(wider[n:], o.queue[:o.first])
	o.queue, o.first = wider, 0
}

func (o *outlet) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ending = true
	owner.Wake(o.wake)
}

// run writes what is queued until the outlet ends.
func (o *outlet) run(s Sink) {
	defer close(o.done)
	open := o.call(s.Open) == nil
	var recs []control.Record
	quiet := time.NewTimer(keptFor)
	defer quiet.Stop()
	for {
		select {
		case <-o.wake:
		case <-quiet.C:
			recs = nil
			o.shrink()
			continue
		}
		o.gather()
		ending, more := false, true
		for more {
			recs, ending, more = o.take(recs[:0])
			if len(recs) == 0 {
				break
			}
			if !open {
				open = o.call(s.Open) == nil
			}
			if open {
				open = o.call(func() error { return s.Write(recs) }) == nil
			}
			o.written(len(recs), open)
			clear(recs)
		}
		if ending {
			_ = o.call(s.Close)
			return
		}
		quiet.Reset(keptFor)
	}
}

// shrink returns the memory of an empty queue.
func (o *outlet) shrink() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == 0 {
		o.queue, o.first = nil, 0
	}
}

// gather waits until enough records wait, or the first has waited for long enough.
func (o *outlet) gather() {
	o.mu.Lock()
	enough := o.ending || o.waiting >= gathered
	o.mu.Unlock()
	if enough {
		return
	}
	t := time.NewTimer(gatherTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-o.wake: // there are enough, or the sink ends
	}
}

// take appends the oldest records that wait to recs, up to sinkWrite, the first with the number of those that were lost before it. More
// reports whether others are left.
func (o *outlet) take(recs []control.Record) (_ []control.Record, ending, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.waiting > 0 && len(recs) < sinkWrite {
		recs = append(recs, *o.queue[o.first])
		o.queue[o.first] = nil
		o.first = (o.first + 1) % len(o.queue)
		o.waiting--
	}
	if len(recs) > 0 {
		recs[0].Missed = o.missed
		o.missed = 0
	}
	if o.waiting == 0 && len(o.queue) > keptQueue {
		o.queue, o.first = nil, 0
	}
	return recs, o.ending, o.waiting > 0
}

// written takes note of what became of n records.
func (o *outlet) written(n int, ok bool) {
	if ok {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost += uint64(n)
	o.missed += n
}

// call calls the sink, and notes how that goes.
func (o *outlet) call(fn func() error) error {
	o.mu.Lock()
	o.busy = time.Now()
	o.mu.Unlock()
	err := fn()
	o.mu.Lock()
	before := o.err
	o.busy, o.err = time.Time{}, err
	o.mu.Unlock()
	if err != nil && before == nil {
		o.log.Warn("records are lost", "sink", o.name, "err", err)
	}
	return err
}

func (o *outlet) problem(now time.Time) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var why string
	switch busy := now.Sub(o.busy); {
	case !o.busy.IsZero() && busy > stuckAfter:
		why = fmt.Sprintf("a write has been waiting for %v", busy.Round(time.Second))
	case o.err != nil:
		why = o.err.Error()
	}
	switch {
	case o.lost > 0 && why != "":
		return fmt.Sprintf("%s: %d records are lost: %s", o.name, o.lost, why)
	case o.lost > 0:
		return fmt.Sprintf("%s: %d records were lost; writing works again", o.name, o.lost)
	case why != "":
		return fmt.Sprintf("%s: %s", o.name, why)
	}
	return ""
}
