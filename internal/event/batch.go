package event

import (
	"sync"
	"time"
)

// A Batch is what a source hands over at once: some lines, cut out of one buffer.
//
// The receiver owns a batch from the moment it receives it until it calls Release; then the source may reuse the buffer.
// What is kept longer than that (a user name, evidence) is copied first.
type Batch struct {
	// Source names where the lines come from, as status shows it: "journal", "/var/log/auth.log".
	Source string

	// Stream names what Line.Offset counts in, so that Stream and Offset together identify a line for ever, also across
	// restarts: a file's device, inode and fingerprint, or a journal's sequence number ID.
	Stream string

	// Lines are in the order in which they were written.
	Lines []Line

	// Resume is where the source goes on once everything in the batch has been dealt with. Only the source can read it. Empty means that the batch moves no read position.
	Resume string

	// Unverified means that the lines may be forged, with the addresses in them.
	Unverified bool

	// Lost counts lines that the source knows it could not hand over before this batch: too long, overwritten,
	// suppressed by the logger.
	Lost int

	// Gone means that the source has ended permanently. What is kept for it may be dropped; the same name may come again, as another
	// source.
	Gone bool

	buf     []byte
	entries []Entry
	pool    *Pool
}

// A Line is one log record.
type Line struct {
	// Time is stamped once by the source: arrival when live, the log's own time in catch-up and replay.
	Time time.Time

	// Text is the record without its line end. For a journal entry it is the message alone, for a file the whole line.
	Text []byte

	// Offset is the line's place in Batch.Stream. It grows from line to line.
	Offset uint64

	// Entry holds what journald itself recorded about the entry, and is nil for lines of any other source.
	Entry *Entry
}

// An Entry holds the fields of a journal entry that journald wrote itself or that select a rule (systemd.journal-fields(7)).
// Fields that begin with an underscore there cannot be forged by the process that logs.
type Entry struct {
	Identifier []byte // SYSLOG_IDENTIFIER: the sender chooses it; it selects rules and proves nothing
	Unit       []byte // _SYSTEMD_UNIT, empty if absent
	Container  []byte // CONTAINER_NAME, empty if absent
	UID        uint32 // _UID; NoUID if absent
	PID        uint32 // _PID; 0 if absent
}

// NoUID is the Entry.UID of an entry whose sender's user is not known.
const NoUID = ^uint32(0)

// A Pool hands out batches and takes them back, so that a busy source allocates nothing. The zero value is ready.
type Pool struct {
	free sync.Pool
}

// Get returns an empty batch.
func (p *Pool) Get() *Batch {
	b, ok := p.free.Get().(*Batch)
	if !ok {
		b = new(Batch)
	}
	b.pool = p
	return b
}

// Buffer returns the batch's buffer with the length n, growing it if needed. Lines point into it; what they point to is
// valid until Release. The content is undefined.
func (b *Batch) Buffer(n int) []byte {
	if cap(b.buf) < n {
		b.buf = make([]byte, n)
	}
	b.buf = b.buf[:n]
	return b.buf
}

// Entries returns n zeroed entries that live as long as the batch, for Line.Entry to point to.
func (b *Batch) Entries(n int) []Entry {
	if cap(b.entries) < n {
		b.entries = make([]Entry, n)
	}
	b.entries = b.entries[:n]
	clear(b.entries)
	return b.entries
}

// maxKept bounds the buffer that a released batch keeps, so that one huge line does not hold its memory for ever.
const maxKept = 256 << 10

// Release ends the receiver's ownership. The batch and its lines must not be used afterwards.
func (b *Batch) Release() {
	pool := b.pool
	buf, entries, lines := b.buf, b.entries, b.Lines
	clear(lines)
	if cap(buf) > maxKept {
		buf = nil
	}
	*b = Batch{buf: buf[:0], entries: entries[:0], Lines: lines[:0]}
	if pool != nil {
		pool.free.Put(b)
	}
}
