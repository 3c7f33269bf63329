package coverage

import (
	"bytes"
	"path/filepath"
	"slices"
	"time"

	"mef/internal/event"
)

const (
	keptRecords = 64          // the latest records of a rule that are remembered
	overlap     = time.Minute // how much later a record may come from another source
)

// recent holds the latest records that a rule matched, as long as several sources have records of it. The zero value is ready.
type recent struct {
	records []record // a ring once it is full, the oldest at next
	next    int
	source  string    // of the latest record
	mixed   time.Time // when a record last came from another source than the one before; zero: never
	line    []byte    // scratch
}

// A record is zero once it has answered for one of another source.
type record struct {
	at     time.Time
	source string
	line   []byte
}

// Accept reports whether an event counts: it does not if another source of the rule has reported the same record before, in the same
// words. Each record answers for one of another source, so that the same words once more are another event. Nor does what happened
// before the rule was read here rather than elsewhere, nor what a container logs of a client whose address it does not see, nor a login that a syslog daemon's file reports where journald runs: anybody could
// have written it. inJournal reports whether source is the journal.
//
// An event also shows that the service is there, and where it logs.
func (r *Reader) Accept(source string, inJournal bool, ev *event.Event) bool {
	r.Off = false
	if inJournal && r.Logged == "" {
		r.Logged = r.Rule.Service
	} else if !inJournal && !filepath.IsAbs(source) {
		if !slices.Contains(r.Streams, source) && len(r.Streams) < keptRecords {
			r.Streams = append(r.Streams, source)
		}
	} else if !inJournal && !slices.Contains(r.Own, source) && len(r.Own) < keptRecords {
		r.Own = append(r.Own, source)
	}
	if ev.Time.Before(r.begins) || r.disguised(source, ev) {
		return false
	}
	if ev.Kind == event.Success && r.doubted && !inJournal && r.shared(source) {
		return false
	}
	return !r.recent.repeats(source, ev)
}

// Inherit takes over what old, a reader of a rule of the same name, knows of records. now is when r begins to read.
func (r *Reader) Inherit(old *Reader, now time.Time) {
	r.recent, r.begins, r.Streams, r.disguise = old.recent, old.begins, old.Streams, old.disguise
	r.Off = r.Off && len(r.Streams) == 0
	r.Moved(old.Journal, now)
	if r.Journal && old.Journal && r.Logged == "" {
		r.Logged = old.Logged
	}
	r.Off = r.Off && old.Logged == ""
}

// Moved takes note that the rule has read the journal until now, or files.
func (r *Reader) Moved(journal bool, now time.Time) {
	if r.Journal != journal {
		r.begins = now
	}
}

// repeats reports whether a record repeats an earlier one of another source. If not, it remembers it.
func (r *recent) repeats(source string, ev *event.Event) bool {
	if source != r.source {
		if r.source != "" {
			r.mixed = ev.Time
		}
		r.source = source
	}
	r.line = ev.AppendEvidence(r.line[:0])
	if !r.mixed.IsZero() && ev.Time.Sub(r.mixed) <= overlap {
		for i := range r.records {
			old := &r.records[(r.next+i)%len(r.records)]
			if old.source != source && old.source != "" && ev.Time.Sub(old.at) <= overlap && same(old.line, r.line) {
				*old = record{line: old.line[:0]}
				return true
			}
		}
	}
	if len(r.records) < keptRecords {
		r.records = append(r.records, record{ev.Time, source, bytes.Clone(r.line)})
		return false
	}
	latest := &r.records[r.next]
	latest.at, latest.source = ev.Time, source
	latest.line, r.line = r.line, latest.line
	r.next = (r.next + 1) % keptRecords
	return false
}

// same reports whether two lines are one record: the same words, of which one has a header before them. Both may have been cut to the
// size of evidence.
func same(a, b []byte) bool {
	return endsWith(a, b) || endsWith(b, a)
}

// endsWith reports whether line ends with message, as far as both were kept.
func endsWith(line, message []byte) bool {
	if len(line) < event.MaxEvidence {
		return bytes.HasSuffix(line, message)
	}
	i := bytes.Index(line, message[:min(len(message), 32)])
	return i >= 0 && bytes.HasPrefix(message, line[i:])
}
