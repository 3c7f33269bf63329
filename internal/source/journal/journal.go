// Package journal follows the systemd journal.
//
// The journal is read by one journalctl process for everything, which writes entries in the export format
// (https://systemd.io/JOURNAL_EXPORT_FORMATS/). An entry's cursor is kept as the position; a journalctl that dies is started
// again behind the last entry that was handed over, so nothing is lost and nothing comes twice.
//
// An entry's fields are of two kinds. Those that begin with an underscore were written by journald from what the kernel says
// about the sender and cannot be forged. The others are the sender's own words: in particular SYSLOG_IDENTIFIER selects and
// proves nothing. A message may hold any bytes, line ends among them; it is still one line, so that nobody can add a line of
// his own by logging two.
package journal

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"mef/internal/event"
)

// Source is the Batch.Source of all batches.
const Source = "journal"

// ErrNoJournal says that there is no journal to read: journalctl is not installed or finds no journal files.
var ErrNoJournal = errors.New("no journal")

// Options say which journal to read and how.
type Options struct {
	// Args are passed to every journalctl: "--directory=/some/where", "--namespace=name". None: this host's journal.
	Args []string

	// Program is journalctl's name or absolute path; empty means "journalctl".
	Program string
}

// A Config says what to follow and where to begin.
type Config struct {
	Options

	// Identifiers restricts the entries to these SYSLOG_IDENTIFIERs, exactly. None: all entries but the kernel's own and
	// the audit system's.
	Identifiers []string

	// Resume is the last Batch.Resume that was dealt with. If it is empty, reading begins Since before now.
	Resume string
	Since  time.Duration

	Log *slog.Logger // nil discards
}

// A State says whether the journal is being read.
type State string

// The states of a journal.
const (
	Active  State = "active"
	Waiting State = "waiting" // journalctl cannot be run or ended; Reason says why. It is tried again.
)

// A Status tells how reading goes.
type Status struct {
	State     State
	Reason    string        // why State is Waiting
	Lines     uint64        // entries handed over since the start
	Bytes     uint64        // bytes of export format read since the start
	Lost      uint64        // entries known to be missing: suppressed by journald, or larger than 1 MiB
	Lag       time.Duration // from journald's receipt of the last entry to its delivery
	LastLine  time.Time     // when the last entry was handed over; zero: none yet
	Restarts  uint64        // how often journalctl had to be started again
	PID       int           // of journalctl; 0: none runs
	LastError string        // how the last journalctl ended, for as long as the follower lives
}

// New returns a follower that will send to out, which may be shared with other sources.
func New(cfg Config, out chan<- *event.Batch) *Follower {
	return &Follower{cfg: cfg, out: out}
}

// A Follower follows the journal.
type Follower struct {
	cfg Config
	out chan<- *event.Batch
}

// Run sends the journal's entries as they arrive until ctx is done; it then returns nil. It blocks while the channel is full:
// the journal keeps its entries until they are read or vacuumed. The receiver owns each batch and must Release it.
func (f *Follower) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Status returns a snapshot. It may be called at any time.
func (f *Follower) Status() Status { return Status{} }

// Seen tells which programs log to the journal: it returns, for each SYSLOG_IDENTIFIER that wanted accepts, when the newest
// entry was written that trusted accepts. Identifiers without such an entry within the last age are absent. The error wraps
// ErrNoJournal if there is nothing to look at.
func Seen(ctx context.Context, opt Options, age time.Duration, wanted func(identifier string) bool, trusted func(*event.Entry) bool) (map[string]time.Time, error) {
	return nil, ErrNoJournal
}
