// Package names keeps the addresses of DNS names current, for lists that name hosts instead of addresses.
//
// A name is looked up when it is new and again when its time to live is over, within bounds. An answer replaces the one before;
// a failure never does: the last good answer counts for up to a week, so that neither a resolver that is down nor somebody who
// keeps answers from arriving can lock an operator out. That a name has no addresses at all counts as a failure too.
//
// Names are asked of the name servers in resolv.conf(5), which the operator trusts anyway. What they answer is believed only for
// the name that was asked for and the aliases that it leads to.
package names

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ordered"
	"mef/internal/owner"
)

// Bounds of the time to live, and of everything else that others decide.
const (
	minTTL   = 30 * time.Second
	maxTTL   = time.Hour
	maxRetry = 10 * time.Minute // after failures that follow each other; the first is tried again after minTTL
	keepGood = 7 * 24 * time.Hour

	MaxAddrs = 16  // addresses of a name; the lowest count
	MaxNames = 256 // names; those beyond are not looked up
	atOnce   = 8   // look-ups at a time
)

// An Answer is what is known of a name.
type Answer struct {
	Addrs []netip.Addr // ascending, at most MaxAddrs
	At    time.Time    // when it was last looked up with success; zero: never
	Next  time.Time    // when it is looked up again
	Err   string       // why the last look-up failed; empty if it did not
	More  int          // addresses beyond MaxAddrs, which do not count
}

// Ends is when the addresses no longer count unless a look-up succeeds; zero if there are none.
func (a Answer) Ends() time.Time {
	if a.At.IsZero() {
		return time.Time{}
	}
	return a.At.Add(keepGood)
}

// Options are the name servers to ask. The zero value asks the name servers in /etc/resolv.conf.
type Options struct {
	Servers []string      // host:port; none: those in /etc/resolv.conf
	Timeout time.Duration // of one question to one server; 0: 2 s
	Log     *slog.Logger  // nil discards
}

// A Keeper keeps answers current. New makes one, Run does the work, all other methods may be called from any goroutine.
type Keeper struct {
	opt     Options
	changed chan struct{}
	wake    chan struct{}
	reverse atomic.Bool // a public address had a name

	mu      sync.Mutex
	answers map[string]Answer
	retries map[string]time.Duration // by name that failed: how long it waits for the next try
}

// New returns a Keeper without names.
func New(opt Options) *Keeper {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Timeout == 0 {
		opt.Timeout = 2 * time.Second
	}
	return &Keeper{opt: opt, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		answers: make(map[string]Answer), retries: make(map[string]time.Duration)}
}

// Changed receives when answers have changed. One that waits stands for all that came meanwhile.
func (k *Keeper) Changed() <-chan struct{} { return k.changed }

// Answers returns what is known of each name.
func (k *Keeper) Answers() map[string]Answer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.answers)
}

// Know restores answers of an earlier run, which are valid until they end.
func (k *Keeper) Know(answers map[string]Answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, a := range answers {
		a.Next = time.Time{}
		k.answers[name] = a
	}
}

// Want replaces the names. Those that are new are looked up at once; what is known of others is kept. It returns how many are
// left out because there are more than MaxNames.
func (k *Keeper) Want(names []string) (leftOut int) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	leftOut = max(0, len(names)-MaxNames)
	names = names[:len(names)-leftOut]
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.answers {
		if _, wanted := slices.BinarySearch(names, name); !wanted {
			delete(k.answers, name)
			delete(k.retries, name)
		}
	}
	for _, name := range names {
		if _, known := k.answers[name]; !known {
			k.answers[name] = Answer{}
		}
	}
	owner.Wake(k.wake)
	return leftOut
}

// Run looks names up until ctx is done; it then returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-timer.C:
		}
		timer.Reset(k.Once(ctx))
	}
}

// Once looks up what is due now, and returns how long it is until something else is.
func (k *Keeper) Once(ctx context.Context) (next time.Duration) {
	due, next := k.due(time.Now())
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, name := range due {
		g.Go(func() error {
			k.refresh(ctx, name)
			return nil
		})
	}
	_ = g.Wait()
	if len(due) > 0 {
		return 0 // what is due after these
	}
	return next
}

// idle is how long Run waits where there is nothing to look up.
const idle = time.Hour

// due returns the names that are to be looked up now, else how long it is until the first is.
func (k *Keeper) due(now time.Time) (names []string, next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next = idle
	for name, a := range k.answers {
		if wait := a.Next.Sub(now); wait > 0 {
			next = min(next, wait)
		} else {
			names = append(names, name)
		}
	}
	return names, next
}

// refresh looks a name up and keeps the answer.
func (k *Keeper) refresh(ctx context.Context, name string) {
	addrs, ttl, err := k.lookup(ctx, name)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	before, wanted := k.answers[name]
	if !wanted {
		return
	}
	after := before.merge(addrs, err, now)
	if err != nil {
		retry := min(max(2*k.retries[name], minTTL), maxRetry)
		k.retries[name] = retry
		after.Next = now.Add(retry)
	} else {
		delete(k.retries, name)
		after.Next = now.Add(min(max(ttl, minTTL), maxTTL))
	}
	k.answers[name] = after
	k.report(name, before, after)
	owner.Wake(k.changed)
}

// merge returns the answer after a look-up that found addrs or failed.
func (a Answer) merge(addrs []netip.Addr, err error, now time.Time) Answer {
	if err == nil {
		ordered.Sort(addrs, netip.Addr.Compare)
		addrs = slices.Compact(addrs)
		more := max(0, len(addrs)-MaxAddrs)
		return Answer{Addrs: addrs[:len(addrs)-more], At: now, More: more}
	}
	a.Err = err.Error()
	if len(a.Addrs) > 0 && !now.Before(a.Ends()) {
		a.Addrs, a.Err = nil, fmt.Sprintf("no answer for %v: its addresses are no longer used; %v", keepGood, err)
	}
	return a
}

// report logs what an operator should know of.
func (k *Keeper) report(name string, before, after Answer) {
	switch {
	case len(before.Addrs) > 0 && len(after.Addrs) == 0:
		k.opt.Log.Error("the addresses of a name are dropped: it could not be resolved for too long", "name", name, "err", after.Err)
	case after.Err != "" && before.Err == "" && len(after.Addrs) > 0:
		k.opt.Log.Warn("a name cannot be resolved; its last addresses stay in use", "name", name, "until", after.Ends(), "err", after.Err)
	case after.Err != "" && before.Err == "":
		k.opt.Log.Warn("a name cannot be resolved", "name", name, "err", after.Err)
	case after.Err == "" && before.Err != "":
		k.opt.Log.Info("a name can be resolved again", "name", name, "addresses", after.Addrs)
	}
	if after.More > 0 && before.More == 0 {
		k.opt.Log.Warn("a name has more addresses than are used", "name", name, "count", MaxAddrs, "more", after.More)
	}
}
