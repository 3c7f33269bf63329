// Package journal follows the systemd journal.
//
// The journal is read by one journalctl process for everything, which writes entries in the export format
// (https://systemd.io/JOURNAL_EXPORT_FORMATS/). An entry's cursor is kept as the position; a journalctl that dies is started
// again behind the last entry that was handed over, so nothing is lost and nothing comes twice.
//
// Only entries of root and of given accounts are asked for, by the account that journald recorded: what other users log costs nothing
// and delays nothing, however much it is. That the journal is read is proven, not assumed: see prover.
//
// journald wakes readers a quarter to half a second after it wrote new entries, for several at once: that delay is its own and
// affects every entry. What is deleted from the journal before it was read is lost without notice, because the sequence numbers have
// gaps of their own.
//
// An entry's fields are of two kinds. Those that begin with an underscore were written by journald from what the kernel reports
// about the sender and cannot be forged. The sender chooses the others: in particular SYSLOG_IDENTIFIER selects rules and
// proves nothing. A message may hold any bytes, line ends among them; it is still one line, so that no client can add a second
// line.
package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"mef/internal/event"
	"mef/internal/run"
	"mef/internal/sleep"
)

// Source is the Batch.Source of all batches.
const Source = "journal"

// ErrNoJournal reports that there is no journal to read: journalctl is not installed or finds no journal files.
var ErrNoJournal = errors.New("no journal")

// Options set which journal to read and how.
type Options struct {
	// Args are passed to every journalctl: "--directory=/some/where", "--namespace=name". None: this host's journal.
	Args []string

	// Program is journalctl's name or absolute path; empty means "journalctl".
	Program string
}

// A Config sets what to follow and where to begin.
type Config struct {
	Options

	// UIDs are the accounts, besides root's, whose entries are read. journald records the account itself, and journalctl finds entries
	// by it in an index: what others log is neither read nor waited for.
	UIDs []uint32

	// Socket is where journald receives entries, for the proof that they can be read; empty: this host's.
	Socket string

	// Resume is the last Batch.Resume that was dealt with. If it is empty, reading begins Since before now.
	Resume string
	Since  time.Duration

	Log *slog.Logger // nil discards
}

// A State reports whether the journal is being read.
type State string

// The states of a journal.
const (
	Active  State = "active"  // an entry of our own came back
	Waiting State = "waiting" // journalctl cannot be run or ended, or nothing comes from it; see Reason. It is tried again.
)

// A Status reports how reading goes.
type Status struct {
	State     State
	Reason    string        // why State is Waiting
	Lines     uint64        // entries handed over since the start
	Lost      uint64        // entries known to be missing: suppressed by journald, or larger than 1 MiB
	Lag       time.Duration // of the last entry, or that an entry of our own has been under way
	LastLine  time.Time     // when the last entry was handed over; zero: none yet
	Restarts  uint64        // how often journalctl had to be started again
	PID       int           // of journalctl; 0: none runs
	LastError string        // how the last journalctl ended, for as long as the follower lives
}

// New returns a follower that will send to out, which may be shared with other sources.
func New(cfg Config, out chan<- *event.Batch) *Follower {
	f := &Follower{cfg: cfg, out: out, log: cfg.Log, proof: newProver(cfg.Socket), asked: make(chan struct{}, 1)}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	return f
}

// A Follower follows the journal.
type Follower struct {
	cfg  Config
	out  chan<- *event.Batch
	log  *slog.Logger
	pool event.Pool

	proof   *prover
	asked   chan struct{} // somebody waits for a proof; one request that waits stands for all
	waiting atomic.Bool   // for the receiver

	started time.Time // entries older than that are caught up on
	cursor  string    // of the last entry that was handed over or passed over; empty: none yet
	stream  string    // of the last batch

	mu     sync.Mutex
	status Status
	stop   context.CancelCauseFunc // stops the journalctl that runs
}

// How long to wait before journalctl is restarted. It doubles from one fruitless start to the next.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 30 * time.Second
)

// Run sends the journal's entries as they arrive until ctx is done; it then returns nil. It blocks while the channel is full:
// the journal keeps its entries until they are read or vacuumed. The receiver owns each batch and must Release it.
func (f *Follower) Run(ctx context.Context) error {
	f.started = time.Now()
	if f.cfg.Resume != "" {
		if _, ok := parsePlace([]byte(f.cfg.Resume)); ok {
			f.cursor = f.cfg.Resume
		} else {
			f.log.Warn("saved position in the journal is not used", "position", f.cfg.Resume)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var proving sync.WaitGroup
	proving.Go(func() { f.prove(ctx) })
	defer proving.Wait()
	defer cancel()
	pause := firstPause
	for {
		before := f.cursor
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if f.cursor != before {
			pause = firstPause
		}
		f.log.Warn("journalctl is restarted", "error", err, "pause", pause)
		f.update(func(s *Status) {
			s.State, s.Reason, s.LastError, s.PID = Waiting, err.Error(), err.Error(), 0
			s.Restarts++
		})
		sleep.For(ctx, pause)
		pause = min(2*pause, longPause)
	}
}

// Status returns a snapshot. It may be called at any time.
func (f *Follower) Status() Status {
	f.mu.Lock()
	s := f.status
	f.mu.Unlock()
	f.proof.verdict(time.Now()).judge(&s)
	return s
}

func (f *Follower) update(change func(*Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

// errEnded reports that journalctl ended by itself, which it should not.
var errEnded = errors.New("journalctl ended")

// interrupt stops the journalctl that runs, if one does.
func (f *Follower) interrupt(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		f.stop(cause)
	}
}

// follow catches up and then follows, and returns why that ended. Catching up is a run of its own: a journalctl that follows
// leaves out what was written before the last boot.
func (f *Follower) follow(ctx context.Context) error {
	if err := f.runOnce(ctx); err != nil {
		return err
	}
	boot, err := f.present(ctx)
	if err != nil {
		return err
	}
	return cmp.Or(f.runOnce(ctx, append(boot, "--follow", "--no-tail")...), errEnded)
}

// runOnce hands over what one journalctl writes. It returns nil if that ended well.
func (f *Follower) runOnce(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := start(ctx, f.cfg.Options, slices.Concat(args, f.selection())...)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.status.State, f.status.Reason, f.status.PID, f.stop = Active, "", p.Pid(), cancel
	f.mu.Unlock()
	readErr := f.read(ctx, p.Stdout)
	if cause := context.Cause(ctx); cause != nil {
		p.Kill()
		p.Wait() // reports that it was killed
		return cause
	}
	if readErr != io.EOF {
		p.Kill()
		p.Wait() // reports that it was killed
		return readErr
	}
	return p.Wait()
}

// selection returns which entries journalctl is asked for. They begin with the entry at the cursor rather than after it: where
// that entry is gone, older versions would leave out the one that follows.
func (f *Follower) selection() (args []string) {
	if f.cursor != "" {
		args = append(args, "--cursor="+f.cursor)
	} else {
		args = append(args, since(f.started.Add(-f.cfg.Since)))
	}
	args = append(args, "_UID=0") // journald itself among them, which reports what it suppressed
	for _, uid := range f.cfg.UIDs {
		args = append(args, fmt.Sprintf("_UID=%d", uid))
	}
	if uid := os.Geteuid(); uid != 0 {
		args = append(args, "+", fmt.Sprintf("_UID=%d", uid), "SYSLOG_IDENTIFIER="+proofIdentifier)
	}
	return args
}

// since is the argument that leaves out entries older than t.
func since(t time.Time) string { return "--since=@" + strconv.FormatInt(t.Unix(), 10) }

// start starts a journalctl that writes entries in the export format.
func start(ctx context.Context, opt Options, args ...string) (*run.Process, error) {
	common := []string{"--no-pager", "--output=export", "--output-fields=" + outputFields}
	p, err := run.Start(ctx, opt.program(), slices.Concat(opt.Args, common, args)...)
	if errors.Is(err, run.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrNoJournal, err)
	}
	return p, err
}

func (opt Options) program() string { return cmp.Or(opt.Program, "journalctl") }

// read hands over the entries that r has, until r ends, which is io.EOF, or has no export format.
func (f *Follower) read(ctx context.Context, r io.Reader) error {
	var in input
	for first := true; ; {
		b := f.pool.Get()
		if err := in.read(b, r); err != nil {
			b.Release()
			return err
		}
		f.proof.read(time.Now())
		if first && len(in.entries) > 0 {
			first = false
			if sameEntry(in.entries[0].cursor, f.cursor) {
				in.entries = in.entries[1:]
			}
		}
		if err := f.hand(ctx, b, in.entries, in.takeLost()); err != nil {
			return err
		}
	}
}

// hand sends entries, which are of one stream and point into b. lost is how many others were too large.
func (f *Follower) hand(ctx context.Context, b *event.Batch, entries []entry, lost int) error {
	now := time.Now()
	b.Source, b.Lost = Source, lost
	cursor, lag := f.cursor, time.Duration(0)
	if n := len(entries); n > 0 {
		last := &entries[n-1]
		cursor, lag = string(last.cursor), max(0, now.Sub(last.received()))
		f.fill(b, entries, now)
	}
	b.Resume = cursor
	lines, lost := len(b.Lines), b.Lost
	if lines+lost > 0 {
		f.waiting.Store(true)
		select {
		case f.out <- b:
		case <-ctx.Done():
			b.Release()
			return ctx.Err()
		}
		f.waiting.Store(false)
	} else {
		b.Release()
	}
	f.cursor = cursor
	if len(entries)+lost == 0 {
		return nil
	}
	f.update(func(s *Status) {
		s.Lines += uint64(lines)
		s.Lost += uint64(lost)
		s.Lag = lag
		if lines > 0 {
			s.LastLine = now
		}
	})
	return nil
}

// fill makes lines of entries.
func (f *Follower) fill(b *event.Batch, entries []entry, now time.Time) {
	words := b.Entries(len(entries))
	for i := range entries {
		e := &entries[i]
		if n := e.suppressed(); n > 0 {
			b.Lost += n
			continue
		}
		if e.message == nil || f.proof.take(e, now) {
			continue
		}
		at := now
		if received := e.received(); received.Before(f.started) {
			at = received
		}
		words[i] = e.Entry
		b.Lines = append(b.Lines, event.Line{Time: at, Text: e.message, Offset: e.place.seq, Entry: &words[i]})
	}
	if stream := entries[0].place.stream; string(stream) != f.stream {
		f.stream = string(stream)
	}
	b.Stream = f.stream
}
