package offline

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
	"mef/internal/logtime"
)

// An Input is a log to replay.
type Input struct {
	Name   string // for notices
	Reader io.Reader
	Near   time.Time // settles the year of dates without one: when the log was last written
}

// Run reads the lines of one log and calls emit for every ban that they would have made. near is as in Input.
func (r *Replay) Run(in io.Reader, near time.Time, emit func(ban.Ban) error) error {
	r.emit = emit
	return Play([]Input{{"", in, near}}, nil, r)
}

// Play runs logs through replays, in order of time whatever the order of the logs: each line's time is its own, or that of the
// line before in its log. It needs memory for a line of each log. notice, which may be nil, is called for dates that cannot be
// right; the lines count nevertheless. A log that cannot be read to its end counts as far as it can be read; the error then wraps
// ErrIncomplete and names the log and the line, and the other logs have been played.
func Play(logs []Input, notice func(string), replays ...*Replay) error {
	if notice == nil {
		notice = func(string) {}
	}
	flush := func() error {
		for _, r := range replays {
			if err := r.flush(); err != nil {
				return err
			}
		}
		return nil
	}
	add := func(line *event.Line) (full bool) {
		for _, r := range replays {
			full = r.add(line)
		}
		return full
	}
	if len(logs) > 1 {
		return merge(logs, notice, func(line event.Line) error {
			add(&line)
			return flush() // the text holds until the next line of its log
		})
	}
	var failed error
	count := func() error {
		if failed = flush(); failed != nil {
			return errStopped
		}
		return nil
	}
	err := logs[0].lines(notice, count, func(line *event.Line) bool { return !add(line) || count() == nil })
	if failed == nil {
		failed = flush()
	}
	if failed != nil {
		return failed
	}
	return err // it may be that the log is incomplete: what there is counts
}

// merge calls do for the lines of all logs in order of time.
func merge(logs []Input, notice func(string), do func(event.Line) error) error {
	var incomplete error
	open := make(feeds, 0, len(logs))
	offset := uint64(0)
	for i := range logs {
		next, stop := iter.Pull(func(yield func(event.Line) bool) {
			each := func(line *event.Line) bool { return yield(*line) }
			if err := logs[i].lines(notice, func() error { return nil }, each); err != nil {
				incomplete = errors.Join(incomplete, err)
			}
		})
		defer stop()
		if f := (&feed{next: next, order: i}); f.advance() {
			open = append(open, f)
		}
	}
	heap.Init(&open)
	for len(open) > 0 {
		f := open[0]
		offset++
		f.line.Offset = offset // lines of different logs are different lines
		if err := do(f.line); err != nil {
			return err
		}
		if f.advance() {
			heap.Fix(&open, 0)
		} else {
			heap.Pop(&open)
		}
	}
	return incomplete
}

// A feed is a log of which the next line is known.
type feed struct {
	next  func() (event.Line, bool)
	line  event.Line
	order int
}

func (f *feed) advance() (ok bool) {
	f.line, ok = f.next()
	return ok
}

// feeds is a heap of feeds, that with the earliest line on top.
type feeds []*feed

func (f feeds) Len() int { return len(f) }
func (f feeds) Less(i, j int) bool {
	if c := f[i].line.Time.Compare(f[j].line.Time); c != 0 {
		return c < 0
	}
	return f[i].order < f[j].order
}
func (f feeds) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *feeds) Push(x any)   { *f = append(*f, x.(*feed)) }
func (f *feeds) Pop() any {
	old := *f
	last := old[len(old)-1]
	*f = old[:len(old)-1]
	return last
}

// ErrIncomplete is wrapped by the error about a log that cannot be read to its end, such as a compressed one that was cut off.
var ErrIncomplete = errors.New("the rest cannot be read")

// errStopped ends the reading of a log whose lines are not wanted any more.
var errStopped = fmt.Errorf("stopped")

// halfYear is how far a date without a year is from the time that decides its year, at most. That time is half a year before the end of the
// log, because no line is later than the log, but for a day: clocks and time zones differ.
const halfYear = 182 * 24 * time.Hour

// maxNotices is how many strange dates of a log are named.
const maxNotices = 5

// lines yields the lines of a log with their times until yield returns false. The text of a line is valid until the next call of flush,
// which comes now and then.
func (in *Input) lines(notice func(string), flush func() error, yield func(*event.Line) bool) error {
	c := clock{now: time.Unix(0, 0)} // for lines ahead of the first with a time
	dates := logtime.Reader{Near: in.Near.Add(24*time.Hour - halfYear), Loc: time.Local}
	noticed, yearless := 0, false
	dateless := uint64(0) // the first line without a date
	ticked := false       // the last date was taken for the clock, so that the same again changes nothing
	remark := func(line uint64, format string, args ...any) {
		if noticed++; noticed <= maxNotices {
			notice(fmt.Sprintf("%s:%d: %s", in.Name, line, fmt.Sprintf(format, args...)))
		}
	}
	one := func(line *event.Line, at time.Time) error {
		line.Time = at
		if !yield(line) {
			return errStopped
		}
		return nil
	}
	var held event.Line // whose date the next one has to confirm
	var heldAt time.Time
	release := func(next time.Time) error {
		if heldAt.IsZero() {
			return nil
		}
		before := c
		at := c.settle(heldAt, next)
		switch {
		case c.offset != before.offset:
			remark(held.Offset, "dates go back by %s here: the clock was set, or the log has several time zones", before.now.Sub(heldAt.Add(before.offset)).Round(time.Second))
		case c.now == before.now && before.now.Unix() > 0:
			remark(held.Offset, "the date %s does not fit the lines around it: the line counts as of the one before", heldAt.Format(time.DateTime))
		}
		heldAt = time.Time{}
		return one(&held, at)
	}
	err := lines(in.Reader, flush, func(line *event.Line) error {
		if ticked && dates.Same(line.Text) {
			return one(line, c.now)
		}
		at, ok := dates.Parse(line.Text)
		if !ok {
			if logtime.Impossible(line.Text) {
				remark(line.Offset, "there is no such date or time")
			} else if dateless == 0 {
				dateless = line.Offset
			}
			if err := release(heldAt); err != nil {
				return err
			}
			return one(line, c.now)
		}
		if !yearless && line.Text[0] >= 'A' && line.Text[0] <= 'Z' && logtime.Yearless(line.Text) {
			yearless = true
			remark(line.Offset, "dates have no year: the latest one up to %s is used", in.Near.Format(time.DateOnly))
		}
		if err := release(at); err != nil {
			return err
		}
		if ticked = !c.strange(at); !ticked {
			heldAt, held = at, event.Line{Text: bytes.Clone(line.Text), Offset: line.Offset}
			return nil
		}
		return one(line, c.tick(at))
	})
	broken := err != nil && err != errStopped
	if err == nil || broken {
		if end := release(heldAt); end != nil {
			err = end
		}
	}
	if dateless > 0 && c.now.Unix() == 0 {
		remark(dateless, "this line and all others have no date: they count as of one moment, as if they came at once")
	}
	if noticed > maxNotices {
		notice(fmt.Sprintf("%s: %d more dates do not fit", in.Name, noticed-maxNotices))
	}
	switch {
	case err == errStopped:
		return nil
	case broken:
		return fmt.Errorf("%s: %w: %w", in.Name, ErrIncomplete, err)
	}
	return err
}
