package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
)

const (
	// A list is tested through a name server before its first answer counts, and then once in testEvery while it is used.
	testEvery = 10 * time.Minute
	// confirmEvery is for how long listings count after a test showed that the list does not contain everything.
	confirmEvery = time.Minute

	maxQueue = 1024 // addresses that wait; further ones are left out
	// maxUnverified is how many may wait for another one to wait whose address can be forged. There is room left for those that fail to log in.
	maxUnverified = maxQueue / 4
	maxWait       = time.Minute      // an address that has waited longer is left out
	failuresIn    = 3                // queries in a row without a usable answer that suspend a name server
	maxRetry      = 10 * time.Minute // how long a name server that does not answer is suspended at most
	suspended     = 10 * time.Minute // how long one is at first that cannot be used for the list
	maxSuspend    = 2 * time.Hour    // and at most
)

// A query is an address that a list is to be asked about.
type query struct {
	addr     netip.Addr
	verified bool
	at       time.Time
	listing  *event.Listing // known already: it is only to be reported again
}

// A zone is a list that is asked.
type zone struct {
	cfg       conf.RBLZone
	servers   func() ([]string, error)
	community func(context.Context, netip.Addr) (bool, error) // the community server, for cfg.Prefix
	log       *slog.Logger
	queue     chan query
	slots     chan struct{} // a query at a time each

	queries, listings, failed, left atomic.Uint64

	testing sync.Mutex // held while a name server is chosen: one test at a time

	mu        sync.Mutex
	cache     cache
	states    map[string]*state // by name server
	confirmed map[string]time.Time
}

// A state is what is known of a list as one name server has it.
type state struct {
	tested   time.Time // zero: not yet
	usable   bool
	ipv6     bool // the list has IPv6 addresses
	cause    error
	retry    time.Time     // when an unusable one is tested again
	wait     time.Duration // that this took
	failures int           // queries in a row without an answer
}

func newZone(cfg conf.RBLZone, servers func() ([]string, error), community func(context.Context, netip.Addr) (bool, error), log *slog.Logger) *zone {
	return &zone{cfg: cfg, servers: servers, community: community, log: log, queue: make(chan query, maxQueue), slots: make(chan struct{}, cfg.InFlight),
		states: make(map[string]*state), confirmed: make(map[string]time.Time)}
}

// ask has the list asked about an address, unless the answer is known or no name server can be asked. It never waits.
func (z *zone) ask(addr netip.Addr, verified bool, now time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	q := query{addr: addr, verified: verified, at: now}
	if a, ok := z.cache.get(addr, now); ok {
		if a.listing == nil || !a.listing.Ban || now.Sub(a.reported) < againAfter && (a.verified || !verified) {
			return
		}
		a.reported, a.verified, q.listing = now, verified, a.listing
		z.cache.put(addr, a)
	} else if !z.mayUse(now) {
		return
	} else if !verified && len(z.queue) >= maxUnverified {
		z.left.Add(1)
		return
	}
	select {
	case z.queue <- q:
		if q.listing == nil {
			z.cache.put(addr, answer{until: now.Add(maxWait)}) // so that it is asked about once
		}
	default:
		z.left.Add(1)
	}
}

// againAfter is how long a listing that bans is not reported again. The first report of an address that is not forged does not wait: the reports
// before may have led to nothing.
const againAfter = 30 * time.Second

// mayUse reports whether there may be a name server that can be used. z.mu is held.
func (z *zone) mayUse(now time.Time) bool {
	for _, s := range z.states {
		if s.usable || !now.Before(s.retry) {
			return true
		}
	}
	return len(z.states) == 0
}

// run asks the list about addresses until ctx is done.
func (z *zone) run(ctx context.Context, report func(context.Context, *event.Event) error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	_, _, _ = z.server(ctx) // so that status shows from the start what is wrong
	pause := time.Second / time.Duration(z.cfg.Rate)
	var next time.Time
	for {
		var q query
		select {
		case <-ctx.Done():
			return
		case q = <-z.queue:
		}
		if q.listing != nil {
			_ = report(ctx, found(q, *q.listing)) // ctx is done otherwise
			continue
		}
		now := time.Now()
		if next = later(next, now.Add(-time.Second)); next.After(now) { // a second's worth may be asked at once
			sleep(ctx, next.Sub(now))
		}
		next = next.Add(pause)
		select {
		case <-ctx.Done():
			return
		case z.slots <- struct{}{}:
		}
		server, ipv6, err := z.server(ctx)
		if err != nil || q.addr.Is6() && !ipv6 || time.Since(q.at) > maxWait {
			<-z.slots
			z.left.Add(1)
			continue
		}
		asking.Go(func() {
			defer func() { <-z.slots }()
			if l := z.look(ctx, server, q); l != nil {
				_ = report(ctx, found(q, *l))
			}
		})
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// sleep waits for a time, or until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// found returns the event that reports a listing.
func found(q query, l event.Listing) *event.Event {
	line := fmt.Sprintf("%s lists %s: %s", l.Zone, q.addr, l.Codes)
	if l.Reason != "" {
		line += " " + l.Reason
	}
	return &event.Event{Time: time.Now(), Rule: l.Rule, Service: "dnsbl", Addr: q.addr, Kind: event.Listed, Count: 1, Verified: q.verified,
		Line: line[:min(len(line), event.MaxEvidence)], Episode: &event.Episode{Text: "listed by " + l.String()}, Listings: &[]event.Listing{l}}
}

// look asks a name server about an address, and keeps the answer. It returns nil if the address is not listed, or nothing can be found out.
func (z *zone) look(ctx context.Context, server string, q query) *event.Listing {
	l, err := z.find(ctx, server, q.addr)
	now := time.Now()
	a := answer{until: now.Add(z.cfg.Negative)}
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		z.failed.Add(1)
		a.until = now.Add(z.cfg.Error)
	case l != nil:
		z.listings.Add(1)
		l.At, l.Until = now, now.Add(z.cfg.Positive)
		a = answer{until: l.Until, listing: l, reported: now, verified: q.verified}
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.cache.put(q.addr, a)
	return l
}

// find asks a name server about an address, and believes what it answers only if the list does not contain everything.
func (z *zone) find(ctx context.Context, server string, addr netip.Addr) (*event.Listing, error) {
	if z.cfg.Prefix {
		return z.findPrefix(ctx, addr)
	}
	answers, err := z.addresses(ctx, server, addr)
	if err != nil {
		z.unanswered(server, err)
		return nil, err
	}
	z.answered(server)
	l := judge(&z.cfg, answers)
	if l == nil {
		return nil, nil
	}
	if err := z.confirm(ctx, server); err != nil {
		return nil, err
	}
	l.Reason = z.reason(ctx, server, addr)
	return l, nil
}

// findPrefix asks the community server about an address.
func (z *zone) findPrefix(ctx context.Context, addr netip.Addr) (*event.Listing, error) {
	ctx, cancel := context.WithTimeout(ctx, z.cfg.Timeout)
	defer cancel()
	z.queries.Add(1)
	if listed, err := z.community(ctx, addr); err != nil || !listed {
		return nil, err
	}
	return &event.Listing{Rule: z.cfg.Rule(), Zone: z.cfg.Zone, Codes: "listed", Ban: true}, nil
}

// A wrongList is a list that cannot be one: it lacks its test entry, or contains everything.
type wrongList string

func (w wrongList) Error() string { return string(w) }

// confirm tests that the list does not contain an address that no list contains, unless it was tested just before. The address is another one
// each time, so that no name server knows the answer from when the list was well: a list that is shut down begins to contain everything.
func (z *zone) confirm(ctx context.Context, server string) error {
	z.mu.Lock()
	fresh := time.Since(z.confirmed[server]) < confirmEvery
	z.mu.Unlock()
	if fresh {
		return nil
	}
	never := netip.AddrFrom4([4]byte{127, byte(128 + rand.IntN(127)), byte(rand.IntN(256)), byte(rand.IntN(256))})
	listed, err := z.lists(ctx, server, never)
	if err == nil && listed {
		err = wrongList(fmt.Sprintf("it contains %s, which no list contains: it may be closed and list everything", never))
	}
	if err != nil {
		z.unanswered(server, err)
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.confirmed[server] = time.Now()
	return nil
}

// lists reports whether a list contains an address.
func (z *zone) lists(ctx context.Context, server string, addr netip.Addr) (bool, error) {
	answers, err := z.addresses(ctx, server, addr)
	return len(answers) > 0, err
}

// The test entries of RFC 5782.
var (
	listedIPv4   = netip.MustParseAddr("127.0.0.2")
	unlistedIPv4 = netip.MustParseAddr("127.0.0.1")
	listedIPv6   = netip.MustParseAddr("::ffff:127.0.0.2")
	unlistedIPv6 = netip.MustParseAddr("::ffff:127.0.0.1")
)

// test finds out whether the list can be used through a name server, and whether for IPv6 addresses.
func (z *zone) test(ctx context.Context, server string) (ipv6 bool, err error) {
	var four, six []netip.Addr
	for _, addr := range z.cfg.Canary {
		if addr.Is4() {
			four = append(four, addr)
		} else {
			six = append(six, addr)
		}
	}
	if len(z.cfg.Canary) == 0 {
		four, six = []netip.Addr{listedIPv4}, []netip.Addr{listedIPv6}
	}
	if len(four) > 0 {
		if err := z.contains(ctx, server, four, unlistedIPv4); err != nil {
			return false, err
		}
	}
	if len(six) == 0 {
		return false, nil
	}
	err = z.contains(ctx, server, six, unlistedIPv6)
	if len(four) > 0 {
		return err == nil, nil // many lists have no IPv6 addresses
	}
	return err == nil, err
}

// contains checks that the list contains some addresses and not another one.
func (z *zone) contains(ctx context.Context, server string, all []netip.Addr, never netip.Addr) error {
	for _, addr := range all {
		if listed, err := z.lists(ctx, server, addr); err != nil {
			return err
		} else if !listed {
			return wrongList(fmt.Sprintf("its test entry %s is missing: it is closed, has another name, or does not answer this name server", addr))
		}
	}
	listed, err := z.lists(ctx, server, never)
	if err == nil && listed {
		err = wrongList(fmt.Sprintf("it contains %s, which no list contains: it lists everything", never))
	}
	return err
}

// server returns the first name server through which the list can be used, and tests those that are due.
func (z *zone) server(ctx context.Context) (server string, ipv6 bool, err error) {
	if z.cfg.Prefix {
		return "", true, nil
	}
	z.testing.Lock()
	defer z.testing.Unlock()
	servers, err := z.servers()
	if err != nil {
		return "", false, err
	}
	for _, server := range servers {
		z.mu.Lock()
		s, now := z.states[server], time.Now()
		if s == nil {
			s = new(state)
			z.states[server] = s
		}
		usable, due := s.usable, s.tested.IsZero() || s.usable && now.Sub(s.tested) >= testEvery || !s.usable && !now.Before(s.retry)
		if usable && !due {
			defer z.mu.Unlock()
			return server, s.ipv6, nil
		}
		z.mu.Unlock()
		if !due {
			continue
		}
		ipv6, err := z.test(ctx, server)
		if ctx.Err() != nil {
			return "", false, ctx.Err()
		}
		z.tested(server, ipv6, err)
		if err == nil {
			return server, ipv6, nil
		}
	}
	return "", false, errors.New("no name server can be used")
}

// tested notes the outcome of a test.
func (z *zone) tested(server string, ipv6 bool, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	s := z.states[server]
	before := *s
	if s.tested = time.Now(); err != nil {
		z.suspend(server, s, err, before.usable || before.tested.IsZero())
		return
	}
	*s = state{tested: s.tested, usable: true, ipv6: ipv6}
	if before.cause != nil {
		z.log.Info("a block list can be used again", "zone", z.cfg.Zone, "server", server)
	}
}

// answered notes that a name server has answered.
func (z *zone) answered(server string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if s := z.states[server]; s != nil {
		s.failures = 0
	}
}

// unanswered notes that a name server has not answered, or nothing that can be believed. One error may be a matter of one address; several, and
// any answer that no list gives, suspend it.
func (z *zone) unanswered(server string, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	s := z.states[server]
	if s == nil || !s.usable {
		return
	}
	if s.failures++; s.failures >= failuresIn || !temporary(err) {
		z.suspend(server, s, err, true)
	}
}

// temporary reports whether an error may be over soon: it says nothing about the list.
func temporary(err error) bool {
	var refused refusal
	var other foreign
	var wrong wrongList
	return !errors.As(err, &refused) && !errors.As(err, &other) && !errors.As(err, &wrong)
}

// suspend has a name server not asked for a time, which grows as long as the cause remains. z.mu is held.
func (z *zone) suspend(server string, s *state, cause error, report bool) {
	first, most := suspended, maxSuspend
	if temporary(cause) {
		first, most = z.cfg.Error, max(maxRetry, z.cfg.Error)
	}
	s.usable, s.cause, s.failures = false, cause, 0
	s.wait = min(max(2*s.wait, first), most)
	s.retry = time.Now().Add(s.wait)
	delete(z.confirmed, server)
	if report {
		z.log.Warn("a block list is suspended", "zone", z.cfg.Zone, "server", server, "for", s.wait, "cause", cause)
	}
}
