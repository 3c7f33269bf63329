// Package record has the binary form of the tracker's state: numbers as varints, strings behind their length, networks in 17 bytes. The first
// byte of a key is its kind, the first byte of a value the version of its form.
package record

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// A Record is one entry of a state, as the store keeps it.
type Record struct {
	Key   []byte
	Value []byte // nil: the entry is gone
	Spare bool   // may be left out where room is short, and is then counted anew
}

// Version is the first byte of values whose form has never changed.
const Version = 1

// ErrState is wrapped by the errors of records that cannot be read.
var ErrState = errors.New("unreadable state")

// Moment returns the time of nanoseconds since 1970; 0 is the zero time.
func Moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// A Pack gathers records. Key and value of a record are written behind each other into scratch, then kept in a buffer that
// many records share: two allocations for thousands of them. The zero value is ready.
type Pack struct {
	Records []Record
	copies  Copies

	Writer     // the record in the making
	keyLen int // bytes of it that are the key
}

// packSize is how large a buffer is.
const packSize = 256 << 10

// Begin begins the key of a record.
func (p *Pack) Begin(kind byte) { p.Writer = append(p.Writer[:0], kind) }

// BeginNumber begins the key of a record whose key is a number: 8 bytes big-endian after its kind.
func (p *Pack) BeginNumber(kind byte, n uint64) {
	p.Begin(kind)
	p.Writer = binary.BigEndian.AppendUint64(p.Writer, n)
}

// Value ends the key and begins the value, in a form of that version.
func (p *Pack) Value(version byte) {
	p.keyLen = len(p.Writer)
	p.Writer = append(p.Writer, version)
}

// End ends the record. spare reports whether it may be left out.
func (p *Pack) End(spare bool) {
	b := p.copies.Keep(p.Writer)
	p.Records = append(p.Records, Record{Key: b[:p.keyLen:p.keyLen], Value: b[p.keyLen:], Spare: spare})
}

// Remove ends a key and with it the record: the entry is gone.
func (p *Pack) Remove() { p.Records = append(p.Records, Record{Key: p.copies.Keep(p.Writer)}) }

// Copies keeps copies of short texts in a few large buffers. The zero value is ready.
type Copies struct{ buf []byte }

// Keep returns a copy of b.
func (c *Copies) Keep(b []byte) []byte {
	if cap(c.buf)-len(c.buf) < len(b) {
		c.buf = make([]byte, 0, max(packSize, len(b)))
	}
	start := len(c.buf)
	c.buf = append(c.buf, b...)
	return c.buf[start:len(c.buf):len(c.buf)]
}

// A Writer is a key or value in the making.
type Writer []byte

// Uint appends a number.
func (w *Writer) Uint(v uint64) { *w = binary.AppendUvarint(*w, v) }

// Int appends a number that may be negative.
func (w *Writer) Int(v int64) { *w = binary.AppendVarint(*w, v) }

// Float appends points.
func (w *Writer) Float(v float32) { *w = binary.BigEndian.AppendUint32(*w, math.Float32bits(v)) }

// Bool appends a byte, 1 for true.
func (w *Writer) Bool(v bool) {
	if v {
		*w = append(*w, 1)
	} else {
		*w = append(*w, 0)
	}
}

// Text appends a string behind its length.
func (w *Writer) Text(s string) {
	w.Uint(uint64(len(s)))
	*w = append(*w, s...)
}

// A Reader reads a value. After an error everything is zero.
type Reader struct {
	Rest []byte
	Err  error
}

// Fail notes that the value cannot be read.
func (r *Reader) Fail() { r.Err, r.Rest = ErrState, nil }

// Number returns the number of a key that BeginNumber began. rest is the key without its kind.
func (r *Reader) Number(rest []byte) uint64 {
	if len(rest) != 8 {
		r.Fail()
		return 0
	}
	return binary.BigEndian.Uint64(rest)
}

// Take returns the next n bytes.
func (r *Reader) Take(n int) []byte {
	if n > len(r.Rest) {
		r.Fail()
		return make([]byte, min(n, 64))
	}
	out := r.Rest[:n]
	r.Rest = r.Rest[n:]
	return out
}

// Byte returns the next byte.
func (r *Reader) Byte() byte { return r.Take(1)[0] }

// Bool returns what Writer.Bool wrote.
func (r *Reader) Bool() bool { return r.Byte() != 0 }

// Float returns points: a number from 0 to something finite.
func (r *Reader) Float() float32 {
	f := math.Float32frombits(binary.BigEndian.Uint32(r.Take(4)))
	if !(f >= 0 && f <= math.MaxFloat32) {
		r.Fail()
		return 0
	}
	return f
}

// Uint returns what Writer.Uint wrote.
func (r *Reader) Uint() uint64 {
	v, n := binary.Uvarint(r.Rest)
	r.Skip(n)
	return v
}

// Int returns what Writer.Int wrote.
func (r *Reader) Int() int64 {
	v, n := binary.Varint(r.Rest)
	r.Skip(n)
	return v
}

// Skip passes over n bytes that were read from Rest. It fails if there are none.
func (r *Reader) Skip(n int) {
	if n <= 0 {
		r.Fail()
		return
	}
	r.Rest = r.Rest[n:]
}

// Count returns how many items follow; each has a byte at least.
func (r *Reader) Count() int {
	n := r.Uint()
	if n > uint64(len(r.Rest)) {
		r.Fail()
		return 0
	}
	return int(n)
}

// Text returns what Writer.Text wrote.
func (r *Reader) Text() string { return string(r.Take(r.Count())) }
