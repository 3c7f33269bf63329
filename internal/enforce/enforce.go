// Package enforce turns bans into kernel state and keeps the two equal.
//
// An Enforcer knows what should hold: bans by key, the allow set, grace periods. A Backend knows the packet filter. Between
// them stands one goroutine, Run: it writes bans in batches, one transaction for all that is waiting; it reads back what the
// kernel holds; and when another program has changed it (nft flush ruleset, a restarted firewall), it restores everything.
//
// The kernel ends bans by itself, so that they end on time even if the daemon is dead. What the kernel holds when the
// daemon starts is kept: an element without a record stays until its timeout, as a ban of unknown origin.
//
// This is also the last line of defence against banning what must never be banned: see Refuse.
package enforce

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/prefixset"
	"mef/internal/sleep"
)

// Options configure an Enforcer. The zero value works.
type Options struct {
	// Allow is the allow set in force from the first transaction on.
	Allow prefixset.Set

	// OnResult, unless nil, receives the results of the bans of Ban, BanNow and Restore, in order, once for each transaction.
	// It runs on the enforcer's goroutine: it must not block and not call the Enforcer.
	OnResult func([]Result)

	// OnVerified, unless nil, receives the verified bans that took effect or were restored, so that the sessions of their peers
	// can be ended, and the addresses that no ban touches now. The same rules apply.
	OnVerified func(keys []ban.Key, spared prefixset.Set)

	// OnLifted, unless nil, receives the bans that were lifted, before Unban returns. The same rules apply.
	OnLifted func(keys []ban.Key)

	// OnEnded, unless nil, receives the bans that ended early without having been lifted: they were
	// evicted for others, in which case full is true, or the kernel refused them. The same rules apply.
	OnEnded func(keys []ban.Key, full bool)

	// OnRepair, unless nil, receives each repair. The same rules apply.
	OnRepair func(Repair)

	// Connected, unless nil, returns the addresses in the prefixes that have an established connection with this host or through it. An
	// unverified ban is never made against one: the source of its packets may be forged, while that of a connection is not. It runs on the
	// enforcer's goroutine.
	Connected func(prefixes []netip.Prefix) ([]netip.Addr, error)

	// MaxBans bounds the bans in force; 0 means DefaultMaxBans. When it is reached, bans end that a wider one makes needless, and
	// then those with the least time left.
	MaxBans int

	Log *slog.Logger // nil: nothing is logged
}

// DefaultMaxBans is how many bans are in force at most, unless Options say otherwise: about 30 MB of kernel memory.
const DefaultMaxBans = 200_000

// A Result is the outcome of one ban.
type Result struct {
	Ban ban.Ban

	// At is when the kernel confirmed it. Until is its end in the kernel: later than Ban.Until if a longer ban of the same key
	// held already; zero if permanent.
	At    time.Time
	Until time.Time

	// Changed is false if the kernel held the ban at least as long already.
	Changed bool

	// Err is why the ban does not hold: a *RefusedError, or an error of the kernel.
	Err error
}

// A Repair is the restoration of what another program had changed.
type Repair struct {
	Time    time.Time
	Damaged []string // as in Check, and "elements" if bans were missing
	By      string   // the process that did it, if known
	Took    time.Duration

	// Delayed is for how long this repair waits, because the same objects were repaired again and again: nothing was done yet. The next
	// ban repairs without waiting, as Enforcer.Repair does.
	Delayed time.Duration
	Err     error // why it could not be restored
}

// Status is the state of an Enforcer. It is kept up to date without a request to the kernel.
type Status struct {
	Ready      bool   // the kernel has been made ready: it held everything
	Problem    string // why the table in the kernel is not as it should be; empty if all is well
	Bans       int    // bans that should hold
	Unknown    int    // of these, found in the kernel without a record
	Evicted    uint64 // bans that ended early because MaxBans was reached or kernel memory was short
	Repairs    uint64
	LastRepair Repair
}

// ErrFull is the error of a ban that was evicted for others that end later: see Options.MaxBans.
var ErrFull = errors.New("too many bans are in force, and this one has the least time left")

// ErrUnread is in the error of Unban if the bans were lifted, but could not be looked for in the kernel afterwards.
var ErrUnread = errors.New("read back lifted bans")

// ErrStopped is returned once Run has ended.
var ErrStopped = errors.New("the enforcer is not running")

// An Enforcer keeps bans in force. New makes one, Run does the work, all other methods may be called from any goroutine.
type Enforcer struct {
	backend  Backend
	opt      Options
	log      *slog.Logger
	requests chan request
	done     chan struct{} // closed when Run ends
	status   atomic.Pointer[Status]

	// What follows belongs to Run.
	model   *model
	clock   clock
	retry   time.Duration // when to try again, because the table in the kernel is not as it should be; 0: it does
	broken  error         // why the kernel could not be made equal to the model when that was last tried
	settled time.Time     // when the kernel was last compared with the model
	report  Status
	streaks map[string]streak // by object
	delayed time.Time         // when to repair what is known to be damaged; zero: at once
	ended   []ban.Key         // not yet passed to OnEnded
	full    bool              // and why
	swept   time.Time         // when sets were last given up to make room for others
	lists   listWork

	unextended error // why bans that hold could not be extended; they are extended later
}

// A request is work for Run: bans, or something to do between two transactions.
type request struct {
	bans    []ban.Ban
	force   bool
	results chan<- []Result // nil, or with room for one message

	do func(context.Context)
}

const (
	// queueLength is how many requests may wait. A caller that finds the queue full waits.
	queueLength = 1024

	// maxBatch is how many waiting bans are written in one transaction at most.
	maxBatch = 10_000

	// quiet is how long nothing must have changed before a repair: reloading a firewall takes several transactions.
	// repairWithin is how long that may be put off.
	quiet        = 50 * time.Millisecond
	repairWithin = 500 * time.Millisecond

	// checkEvery is how often the kernel is compared without a notice; retryEvery, how often while it does not hold what it should.
	checkEvery = 30 * time.Second
	retryEvery = time.Second
)

// New returns an Enforcer over b. Restore may be called before Run; everything else waits for Run.
func New(b Backend, opt Options) *Enforcer {
	if opt.MaxBans == 0 {
		opt.MaxBans = DefaultMaxBans
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	e := &Enforcer{
		backend:  b,
		opt:      opt,
		log:      opt.Log,
		requests: make(chan request, queueLength),
		done:     make(chan struct{}),
		model:    newModel(opt.Allow),
		clock:    clock{began: time.Now()},
		streaks:  map[string]streak{},
	}
	e.status.Store(&Status{})
	return e
}

// Restore adds, before Run, the bans that were in force when the daemon last ran. Those that are over are dropped. The first
// transaction merges the others with what the kernel holds: of two ends the later one counts.
func (e *Enforcer) Restore(bans []ban.Ban) {
	now := time.Now()
	var results []Result
	for _, b := range bans {
		if !b.Permanent() && !b.Until.After(now) {
			continue
		}
		// What an operator forced was checked when the ban was made.
		if r := e.model.add(b, now, true); r.Err != nil {
			results = append(results, r)
		}
	}
	e.notify(results)
}

// Run keeps the kernel equal to what should hold, until ctx is done; it then returns nil and leaves everything in force. While the kernel
// cannot be written, as without a capability, the bans wait, Status has the reason, and it is tried again.
func (e *Enforcer) Run(ctx context.Context) error {
	defer close(e.done)
	e.reconcile(ctx, "", true) // an error is logged, and tried again
	e.publish()
	notices := make(chan Notice, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { e.watch(ctx, notices); return nil })
	g.Go(func() error { e.loop(ctx, notices); return nil })
	return g.Wait()
}

// watch hands over notices; while one waits, the next is merged with it.
func (e *Enforcer) watch(ctx context.Context, notices chan Notice) {
	for ctx.Err() == nil {
		err := e.backend.Watch(ctx, func(n Notice) {
			for {
				select {
				case notices <- n:
					return
				default:
				}
				select {
				case waiting := <-notices:
					n = Notice{By: cmp.Or(n.By, waiting.By), Shallow: waiting.Shallow && n.Shallow}
				default:
				}
			}
		})
		if err != nil && ctx.Err() == nil {
			e.log.Warn("watching the packet filter for changes ended; trying again", "err", err)
			sleep.For(ctx, retryEvery)
		}
	}
}

func (e *Enforcer) loop(ctx context.Context, notices <-chan Notice) {
	check := time.NewTimer(time.Until(e.nextCheck()))
	defer check.Stop()
	repairTimer := time.NewTimer(0)
	defer repairTimer.Stop()
	var deadline time.Time // of the repair; zero if there is nothing to repair
	var by string
	always := make(chan struct{})
	close(always)
	shallow := true
	for {
		var listStep <-chan struct{} // ready if there is something to do; select takes requests in between
		if e.lists.listsDue() {
			listStep = always
		}
		select {
		case <-ctx.Done():
			return
		case <-listStep:
			e.listStep(ctx)
		case r := <-e.requests:
			e.serve(ctx, r)
		case n := <-notices:
			now := time.Now()
			if deadline.IsZero() {
				deadline, by, shallow = now.Add(repairWithin), "", true
			}
			shallow = shallow && n.Shallow
			if n.By != "" {
				by = n.By
			}
			repairTimer.Reset(min(quiet, deadline.Sub(now)))
		case <-repairTimer.C:
			if !deadline.IsZero() {
				deadline = time.Time{}
				e.reconcile(ctx, by, !shallow)
			}
		case <-check.C:
			e.reconcile(ctx, "", e.retry > 0)
		}
		check.Reset(time.Until(e.nextCheck()))
		e.publish()
	}
}

// nextCheck is when to compare with the kernel without a notice, however many requests wait.
func (e *Enforcer) nextCheck() time.Time {
	if !e.delayed.IsZero() {
		return e.delayed
	}
	if e.retry > 0 {
		return e.settled.Add(e.retry)
	}
	return e.settled.Add(checkEvery)
}

// serve does a request, and with it all bans that wait behind it.
func (e *Enforcer) serve(ctx context.Context, r request) {
	e.followClock()
	for {
		if r.do != nil {
			r.do(ctx)
			return
		}
		batch := []request{r}
		count := len(r.bans)
		next := request{}
		for count < maxBatch && next.do == nil {
			select {
			case next = <-e.requests:
			default:
				e.ban(ctx, batch)
				return
			}
			if next.do == nil {
				batch = append(batch, next)
				count += len(next.bans)
			}
		}
		e.ban(ctx, batch)
		if next.do == nil {
			return
		}
		r = next
	}
}

// Ban queues bans and returns; OnResult receives the results. While the queue is full it blocks: a ban is never
// dropped, and a caller that waits slows down its sources, which keep their lines. It returns an error only if ctx or Run is
// done. A ban that is in force already is extended if the new one ends later, and never shortened.
func (e *Enforcer) Ban(ctx context.Context, bans ...ban.Ban) error {
	if len(bans) == 0 {
		return nil
	}
	return e.send(ctx, request{bans: slices.Clone(bans)})
}

// BanNow puts bans in force and returns what became of each, in order. With force, prefixes wider than /16 or IPv6 /32 are
// accepted too.
func (e *Enforcer) BanNow(ctx context.Context, force bool, bans ...ban.Ban) ([]Result, error) {
	results := make(chan []Result, 1)
	if err := e.send(ctx, request{bans: slices.Clone(bans), force: force, results: results}); err != nil {
		return nil, err
	}
	select {
	case r := <-results:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-e.done:
		return nil, ErrStopped
	}
}

func (e *Enforcer) send(ctx context.Context, r request) error {
	select {
	case e.requests <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.done:
		return ErrStopped
	}
}

// call runs fn between two transactions and returns its result. A caller whose context is done does not wait: fn may
// run later all the same, so it must not write to anything that the caller can see. Its result is then dropped.
func call[T any](ctx context.Context, e *Enforcer, fn func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	result := make(chan outcome, 1)
	var none T
	err := e.send(ctx, request{do: func(ctx context.Context) {
		v, err := fn(ctx)
		result <- outcome{v, err}
	}})
	if err != nil {
		return none, err
	}
	select {
	case o := <-result:
		return o.value, o.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-e.done:
		return none, ErrStopped
	}
}

// do is call for what has no result but an error.
func (e *Enforcer) do(ctx context.Context, fn func(context.Context) error) error {
	_, err := call(ctx, e, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
}

// Unban lifts bans. It returns nil only after a look at the kernel showed that none of them is in force any more. If grace is
// positive, no ban touches the same addresses for that long, except one made by hand; it covers IPv4 addresses and IPv6
// prefixes of /64 and longer. Lifting a ban that is not in force is no error.
func (e *Enforcer) Unban(ctx context.Context, grace time.Duration, keys ...ban.Key) error {
	if len(keys) == 0 {
		return nil
	}
	return e.do(ctx, func(ctx context.Context) error { return e.unban(ctx, grace, keys) })
}

// Grace keeps every ban off the addresses for the given time (IPv6: off their /64).
func (e *Enforcer) Grace(ctx context.Context, d time.Duration, addrs ...netip.Addr) error {
	return e.do(ctx, func(ctx context.Context) error {
		var c Changes
		for _, a := range addrs {
			if p, ok := gracePrefix(netip.PrefixFrom(a.WithZone(""), a.BitLen())); ok {
				c.Grace = append(c.Grace, e.model.grant(p, d, time.Now()))
			}
		}
		return e.apply(ctx, c)
	})
}

// Allow replaces the addresses that no ban touches.
func (e *Enforcer) Allow(ctx context.Context, set prefixset.Set) error {
	return e.do(ctx, func(ctx context.Context) error {
		if set.Equal(e.model.allow) {
			return nil
		}
		e.model.allow = set
		return e.apply(ctx, Changes{Allow: &set})
	})
}

// Flush lifts every ban, and returns nil only after a look at the kernel showed that none is in force.
func (e *Enforcer) Flush(ctx context.Context) error {
	return e.do(ctx, func(ctx context.Context) error {
		state, err := e.backend.Held(ctx)
		if err != nil {
			return err
		}
		e.model.adopt(state, time.Now())
		return e.unban(ctx, 0, e.model.keys())
	})
}

// Held reads back what the kernel holds of the keys, or everything if there are none. It does not delay bans, unless they come
// so fast that the kernel cannot be read beside them.
func (e *Enforcer) Held(ctx context.Context, keys ...ban.Key) (State, error) {
	if err := e.Ready(ctx); err != nil {
		return State{}, err
	}
	read, readErr := e.backend.Held(ctx, keys...)
	type counted struct {
		state      State
		overlooked []ban.Key
	}
	c, err := call(ctx, e, func(ctx context.Context) (c counted, err error) {
		c.state, err = read, readErr
		if err != nil {
			c.state, err = e.backend.Held(ctx, keys...)
		}
		if err == nil && len(keys) == 0 {
			c.overlooked = e.model.overlooked(c.state, time.Now())
		}
		e.model.count(c.state)
		return c, err
	})
	if err == nil && len(c.overlooked) > 0 {
		c.state.Bans, err = e.lookAgain(ctx, c.state.Bans, c.overlooked)
	}
	slices.SortFunc(c.state.Bans, func(a, b Held) int { return a.Key.Compare(b.Key) })
	return c.state, err
}

// lookAgain appends to bans what the kernel holds of keys.
func (e *Enforcer) lookAgain(ctx context.Context, bans []Held, keys []ban.Key) ([]Held, error) {
	state, err := e.backend.Held(ctx, keys...)
	if err != nil {
		return bans, err
	}
	more, err := call(ctx, e, func(context.Context) ([]Held, error) {
		e.model.count(state)
		return state.Bans, nil
	})
	return append(bans, more...), err
}

// Ready waits until the kernel holds what it should, and what was asked for before, or was found to be unusable: see Status.
func (e *Enforcer) Ready(ctx context.Context) error {
	return e.do(ctx, func(context.Context) error { return nil })
}

// Renew lets change alter what the backend's own objects are to look like, and has the kernel hold everything anew, in one
// transaction, without a moment in which a ban does not hold. Whatever is in the kernel is taken over first.
func (e *Enforcer) Renew(ctx context.Context, change func() error) error {
	return e.do(ctx, func(ctx context.Context) error {
		if err := change(); err != nil {
			return err
		}
		return e.rebuildNow(ctx)
	})
}

// Repair compares the kernel with what should hold and restores what is missing, without delay however often that was necessary.
func (e *Enforcer) Repair(ctx context.Context) error {
	return e.do(ctx, func(ctx context.Context) error {
		e.delayed, e.retry = time.Time{}, 0
		clear(e.streaks)
		return e.reconcile(ctx, "", true)
	})
}

// Status returns the state of the enforcer. It never waits.
func (e *Enforcer) Status() Status { return *e.status.Load() }

// publish makes what Status returns.
func (e *Enforcer) publish() {
	s := e.report
	s.Bans, s.Unknown = e.model.bans.len(), e.model.unknown
	e.status.Store(&s)
}

// notify passes results on.
func (e *Enforcer) notify(results []Result) {
	if len(results) > 0 && e.opt.OnResult != nil {
		e.opt.OnResult(results)
	}
}

// notifyEnded passes on which bans do not hold any more.
func (e *Enforcer) notifyEnded() {
	if len(e.ended) > 0 && e.opt.OnEnded != nil {
		e.opt.OnEnded(e.ended, e.full)
	}
	e.ended, e.full = nil, false
}
