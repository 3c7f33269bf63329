// Package stdin reads lines of the standard input, for a daemon at the end of a pipe: the administrator who starts it decides what it reads.
package stdin

import (
	"bytes"
	"context"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"mef/internal/event"
)

// Source is Batch.Source of what is read.
const Source = "stdin"

// MaxLine is the length in bytes of the longest line; longer ones are skipped and counted.
const MaxLine = 64 << 10

// A Reader reads lines.
type Reader struct {
	in   io.Reader
	out  chan<- *event.Batch
	pool event.Pool

	mu     sync.Mutex
	last   time.Time
	reason string
}

// New returns a Reader of in, which will send to out.
func New(in io.Reader, out chan<- *event.Batch) *Reader { return &Reader{in: in, out: out} }

// Open returns the standard input in a form whose reads can be ended, if it is a pipe.
func Open() *os.File {
	f, err := os.OpenFile("/dev/stdin", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return os.Stdin
	}
	return f
}

// Status returns when the last line came, and why no more come; "" if they may. It may be called at any time.
func (r *Reader) Status() (last time.Time, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, r.reason
}

// Run sends what is read until ctx is done or the input ends; it then returns nil. It blocks while out is full: the pipe keeps its
// lines. A read that waits when ctx is done is left behind, unless the input is a file that can have a deadline.
func (r *Reader) Run(ctx context.Context) error {
	if f, ok := r.in.(*os.File); ok {
		defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })()
	}
	stream := Source + " " + strconv.FormatInt(time.Now().UnixNano(), 36)
	buf := make([]byte, 0, MaxLine+1)
	offset, lost, skip := uint64(0), 0, false
	for {
		n, err := r.in.Read(buf[len(buf):cap(buf)])
		if ctx.Err() != nil {
			return nil
		}
		buf = buf[:len(buf)+n]
		end := bytes.LastIndexByte(buf, '\n') + 1
		if err != nil {
			end = len(buf) // the last line needs no end
		}
		now := time.Now()
		b := r.pool.Get()
		b.Source, b.Stream = Source, stream
		text := b.Buffer(end)
		copy(text, buf)
		for len(text) > 0 {
			var line []byte
			line, text, _ = bytes.Cut(text, []byte("\n"))
			if !skip {
				offset++
				b.Lines = append(b.Lines, event.Line{Time: now, Text: bytes.TrimSuffix(line, []byte("\r")), Offset: offset})
			}
			skip = false
		}
		buf = buf[:copy(buf[:cap(buf)], buf[end:])]
		if len(buf) > MaxLine {
			buf = buf[:0]
			if !skip {
				lost++
			}
			skip = true
		}
		if len(b.Lines) > 0 {
			b.Lost, lost = lost, 0
			r.note(now, "")
			select {
			case r.out <- b:
			case <-ctx.Done():
				b.Release()
				return nil
			}
		} else {
			b.Release()
		}
		if err != nil {
			reason := "it has ended"
			if err != io.EOF {
				reason = err.Error()
			}
			r.note(time.Time{}, reason)
			return nil
		}
	}
}

func (r *Reader) note(last time.Time, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !last.IsZero() {
		r.last = last
	}
	r.reason = reason
}
