// Package report reports bans to AbuseIPDB and blocklist.de, which collect reports about attackers.
//
// Only verified bans by detection rules are reported, of single public addresses: neither an operator's ban, nor one to which lists have led, nor
// one of a source that can be forged. A report has the address, the time, the kind of the service and some log lines, in which every word is replaced that is not one of
// a list of words: no user name, host name or address of this host leaves it.
//
// An address is reported once in fifteen minutes to each collector, also over restarts. A collector that asks to wait is not sent anything meanwhile.
// Nothing waits for one: what does not fit its queue is left out and counted.
package report

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/owner"
	"mef/internal/webclient"
)

const (
	window    = 15 * time.Minute // in which an address is reported once
	pace      = time.Second      // between two reports to one collector
	maxQueue  = 1000             // reports that wait for one collector; the oldest goes first
	tooOld    = time.Hour        // reports are left out after it
	firstWait = time.Minute      // after an error, and twice as long after each further one
	longWait  = time.Hour
)

// An attack is what is reported.
type attack struct {
	addr  netip.Addr
	time  time.Time
	kind  kind
	lines []string // raw
}

// A Reporter reports bans to the collectors of a configuration. It is an eventlog.Sink, and any goroutine may call its methods.
type Reporter struct {
	log     *slog.Logger
	changed chan struct{}

	mu         sync.Mutex
	collectors []*collector
	reported   map[string]map[netip.Addr]int64 // by name of the collector: when an address was reported, in seconds since 1970
}

// A collector receives reports.
type collector struct {
	name    string
	url     string
	keyFile string
	server  string // of blocklist.de: how this host is registered
	client  *http.Client
	send    func(*collector, context.Context, *attack) outcome
	test    func(*collector, context.Context) outcome

	wake chan struct{} // holds one message

	mu                               sync.Mutex
	queue                            []*attack // oldest first
	sent, refused, repeated, leftOut uint64
	last                             time.Time
	err                              error
	failures                         int
	until                            time.Time // nothing is sent before
	remains                          int       // of the quota, -1 if unknown
}

// New returns a Reporter, which sends nothing until Run.
func New(cfg conf.Report, log *slog.Logger) *Reporter {
	r := &Reporter{log: log, changed: make(chan struct{}, 1), reported: make(map[string]map[netip.Addr]int64)}
	r.Configure(cfg)
	return r
}

// Configure replaces the collectors. Those that have not changed go on.
func (r *Reporter) Configure(cfg conf.Report) {
	var want []*collector
	if c := cfg.AbuseIPDB; c.Enabled {
		want = append(want, &collector{name: "abuseipdb", url: abuseIPDB, keyFile: c.KeyFile, send: (*collector).toAbuseIPDB, test: (*collector).testAbuseIPDB})
	}
	if c := cfg.BlocklistDE; c.Enabled {
		want = append(want, &collector{name: "blocklist.de", url: blocklistDE, keyFile: c.KeyFile, server: c.Server, send: (*collector).toBlocklistDE, test: (*collector).testBlocklistDE})
	}
	r.configure(want)
}

func (r *Reporter) configure(want []*collector) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range want {
		same := func(old *collector) bool {
			return old.name == c.name && old.url == c.url && old.keyFile == c.keyFile && old.server == c.server
		}
		if at := slices.IndexFunc(r.collectors, same); at >= 0 {
			want[i] = r.collectors[at]
			continue
		}
		c.client, c.wake, c.remains = webclient.New(), make(chan struct{}, 1), -1
	}
	r.collectors = want
	owner.Wake(r.changed)
}

// all returns the collectors.
func (r *Reporter) all() []*collector {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.collectors
}

// On reports whether there is a collector.
func (r *Reporter) On() bool { return len(r.all()) > 0 }

// Open does nothing.
func (r *Reporter) Open() error { return nil }

// Close does nothing.
func (r *Reporter) Close() error { return nil }

// Write queues what is to be reported. It never waits.
func (r *Reporter) Write(recs []control.Record) error {
	for i := range recs {
		if b := attackOf(&recs[i]); b != nil {
			for _, c := range r.all() {
				c.add(b)
			}
		}
	}
	return nil
}

// attackOf returns what is to be reported of a ban, nil if it is not reported.
func attackOf(rec *control.Record) *attack {
	addr, ok := rec.Attacker()
	if !ok {
		return nil
	}
	return &attack{addr: addr, time: rec.Time, kind: kindOf(rec.Service), lines: rec.Evidence}
}

// add queues a report.
func (c *collector) add(b *attack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) >= maxQueue {
		c.queue = slices.Delete(c.queue, 0, 1)
		c.leftOut++
	}
	c.queue = append(c.queue, b)
	owner.Wake(c.wake)
}

// Restore takes over what an earlier run saved.
func (r *Reporter) Restore(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	saved := make(map[string]map[netip.Addr]int64)
	if json.Unmarshal([]byte(text), &saved) == nil {
		for name, of := range saved {
			if of != nil {
				r.reported[name] = of
			}
		}
	}
}

// Run reports until ctx is done. save keeps a text on disk for Restore; it returns once it is there, or cannot be.
func (r *Reporter) Run(ctx context.Context, save func(ctx context.Context, text string)) error {
	owner.Each(ctx, r.changed, r.all, func(ctx context.Context, c *collector) { r.serve(ctx, c, save) })
	return nil
}

// serve reports to one collector until ctx is done.
func (r *Reporter) serve(ctx context.Context, c *collector, save func(context.Context, string)) {
	for {
		b, wait := c.next(time.Now())
		if b == nil {
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-c.wake:
			case <-t.C:
			}
			t.Stop()
			continue
		}
		if !r.take(ctx, c, b.addr, save) {
			continue
		}
		out := c.send(c, ctx, b)
		if ctx.Err() != nil {
			return
		}
		if out.again {
			r.forget(c, b.addr)
		}
		c.note(b, out, time.Now(), r.log)
	}
}

// idle is how long a collector waits where there is nothing to report.
const idle = time.Hour

// next takes the oldest report, or returns how long to wait for one.
func (c *collector) next(now time.Time) (b *attack, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 && now.Sub(c.queue[0].time) > tooOld {
		c.queue = slices.Delete(c.queue, 0, 1)
		c.leftOut++
	}
	if len(c.queue) == 0 {
		return nil, idle
	}
	if now.Before(c.until) {
		return nil, min(c.until.Sub(now), idle)
	}
	b = c.queue[0]
	c.queue = slices.Delete(c.queue, 0, 1)
	return b, 0
}

// take reports whether an address is to be reported now, and saves that it was before it is: a crash in between loses a report and never
// repeats one.
func (r *Reporter) take(ctx context.Context, c *collector, addr netip.Addr, save func(context.Context, string)) bool {
	now := time.Now().Unix()
	r.mu.Lock()
	of := r.reported[c.name]
	if of == nil {
		of = make(map[netip.Addr]int64)
		r.reported[c.name] = of
	}
	over := int64(window / time.Second)
	if at, ok := of[addr]; ok && now-at < over && at <= now {
		r.mu.Unlock()
		c.mu.Lock()
		c.repeated++
		c.mu.Unlock()
		return false
	}
	of[addr] = now
	for _, of := range r.reported {
		maps.DeleteFunc(of, func(_ netip.Addr, at int64) bool { return now-at >= over || at > now })
	}
	text, err := json.Marshal(r.reported)
	r.mu.Unlock()
	if err == nil {
		save(ctx, string(text))
	}
	return true
}

// forget has an address reported again: the report was not accepted and may be later.
func (r *Reporter) forget(c *collector, addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.reported[c.name], addr)
}

// note takes note of what became of a report.
func (c *collector) note(b *attack, out outcome, now time.Time, log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if out.remains >= 0 {
		c.remains = out.remains
	}
	wait := pace
	switch {
	case out.accepted:
		c.sent++
		c.last, c.failures = now, 0
	case out.again && len(c.queue) < maxQueue:
		c.queue = slices.Insert(c.queue, 0, b)
	case out.again:
		c.leftOut++
	default:
		c.refused++
	}
	if out.trouble {
		c.failures++
		wait = min(firstWait<<min(c.failures-1, 10), longWait)
	}
	c.until = now.Add(max(wait, out.pause))
	if out.err != nil && c.err == nil {
		log.Warn("report a ban", "to", c.name, "addr", b.addr, "err", out.err)
	}
	c.err = out.err
}

// Test finds out whether the collectors can be reached and accept the key. Nothing is reported.
func (r *Reporter) Test(ctx context.Context) []control.SendTest {
	all := r.all()
	results := make([]control.SendTest, len(all))
	var testing sync.WaitGroup
	for i, c := range all {
		testing.Go(func() {
			out := c.test(c, ctx)
			results[i] = control.SendTest{To: c.name, OK: out.accepted}
			switch {
			case out.err != nil:
				results[i].Detail = out.err.Error()
			case c.server != "":
				results[i].Detail = "it answers; whether it accepts the key shows with the first report"
			default:
				results[i].Detail = "it accepts the key"
			}
		})
	}
	testing.Wait()
	return results
}

// Status returns what was reported, and what cannot be.
func (r *Reporter) Status(now time.Time) (all []control.Reports) {
	for _, c := range r.all() {
		all = append(all, c.status(now))
	}
	return all
}

func (c *collector) status(now time.Time) control.Reports {
	_, keyErr := webclient.ReadKey(c.keyFile)
	c.mu.Lock()
	defer c.mu.Unlock()
	out := control.Reports{To: c.name, Sent: c.sent, Refused: c.refused, Repeated: c.repeated, LeftOut: c.leftOut, Waiting: len(c.queue), Last: control.Moment(c.last)}
	if c.remains >= 0 {
		remains := c.remains
		out.Quota = &remains
	}
	if now.Before(c.until) && c.until.Sub(now) > 2*pace {
		out.Until = control.Moment(c.until)
	}
	switch {
	case keyErr != nil:
		out.Problem = keyErr.Error()
	case c.err != nil && out.Until != nil:
		out.Problem = fmt.Sprintf("%s; tried again in %v", c.err, c.until.Sub(now).Round(time.Second))
	case c.err != nil:
		out.Problem = c.err.Error()
	}
	return out
}
