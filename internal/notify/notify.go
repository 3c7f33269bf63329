// Package notify tells administrators of what they should not have to look for: alarms, a status that is no longer well, attacks, and new
// bans as a digest.
//
// It is a sink of records. Each section [notify NAME] is an endpoint with a goroutine of its own, which collects what is to be reported,
// groups it, and sends it at a bounded rate: nothing waits for it, and an endpoint that does not answer costs one message in memory.
package notify

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/owner"
)

// A Notifier notifies the endpoints of a configuration. It is an eventlog.Sink, and any goroutine may call its methods.
type Notifier struct {
	log     *slog.Logger
	host    string
	changed chan struct{}

	mu        sync.Mutex
	endpoints []*endpoint
}

// New returns a Notifier, which sends nothing until Run.
func New(cfg []conf.Notify, log *slog.Logger) *Notifier {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	n := &Notifier{log: log, host: host, changed: make(chan struct{}, 1)}
	n.Configure(cfg)
	return n
}

// Configure replaces the endpoints. Those that have not changed go on.
func (n *Notifier) Configure(cfg []conf.Notify) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var next []*endpoint
	for _, c := range cfg {
		if !c.Enabled {
			continue
		}
		c.Pos = conf.Pos{} // a section that only moves is the same
		same := func(e *endpoint) bool { return reflect.DeepEqual(e.cfg, c) }
		if i := slices.IndexFunc(n.endpoints, same); i >= 0 {
			next = append(next, n.endpoints[i])
			continue
		}
		next = append(next, newEndpoint(c, n.host))
	}
	n.endpoints = next
	owner.Wake(n.changed)
}

// all returns the endpoints.
func (n *Notifier) all() []*endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.endpoints
}

// Wanted reports whether somebody may be notified of records of this kind (control.Record.Event).
func (n *Notifier) Wanted(event string) bool {
	_, ok := kindOf(event)
	return ok && len(n.all()) > 0
}

// kindOf returns what a record is for those who are notified.
func kindOf(event string) (conf.NotifyEvent, bool) {
	switch event {
	case "login-alarm":
		return conf.NotifyAlarms, true
	case control.StatusChanged:
		return conf.NotifyStatus, true
	case "attack", "attack-over":
		return conf.NotifyAttacks, true
	case "ban":
		return conf.NotifyBans, true
	}
	return 0, false
}

// Open does nothing.
func (n *Notifier) Open() error { return nil }

// Close does nothing.
func (n *Notifier) Close() error { return nil }

// Write collects what is to be reported. It never waits.
func (n *Notifier) Write(recs []control.Record) error {
	for i := range recs {
		kind, ok := kindOf(recs[i].Event)
		if !ok || kind == conf.NotifyBans && !newBan(&recs[i]) {
			continue
		}
		for _, e := range n.all() {
			e.add(kind, &recs[i])
		}
	}
	return nil
}

// newBan reports whether a ban answers an attack: what an operator or a list bans is known to those who are notified.
func newBan(rec *control.Record) bool {
	return rec.Rule != ban.ByList && rec.Rule != ban.ByHand && rec.Rule != ban.ByFleet && rec.Rule != ban.Unknown
}

// Run sends notifications until ctx is done. It asks for the status now and then, and adds a record when that has changed.
func (n *Notifier) Run(ctx context.Context, status func(context.Context) (control.Status, error), add func(control.Record)) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { watch(ctx, status, add) })
	owner.Each(ctx, n.changed, n.all, func(ctx context.Context, e *endpoint) { e.run(ctx, n.log) })
	return nil
}

// TestNotify sends a message that says it is a test to the endpoint of that name, or to all if it is empty, whatever waits there.
func (n *Notifier) TestNotify(ctx context.Context, name string) ([]control.SendTest, error) {
	all := n.all()
	if name != "" {
		all = slices.DeleteFunc(slices.Clone(all), func(e *endpoint) bool { return e.cfg.Name != name })
	}
	switch {
	case len(all) == 0 && name != "":
		return nil, control.Refuse("no section [notify %s] is enabled in mef.conf; write one and run mefctl reload", name)
	case len(all) == 0:
		return nil, control.Refuse("nobody is notified; write a section [notify NAME] in mef.conf and run mefctl reload")
	}
	results := make([]control.SendTest, len(all))
	var testing sync.WaitGroup
	for i, e := range all {
		testing.Go(func() {
			within, cancel := context.WithTimeout(ctx, sendTime)
			defer cancel()
			out := e.send(within, testMessage(n.host, time.Now()))
			results[i] = control.SendTest{To: e.cfg.Name, OK: out.err == nil, Detail: "the message was accepted (" + e.way + ")"}
			if out.err != nil {
				results[i].Detail = out.err.Error()
			}
		})
	}
	testing.Wait()
	return results, nil
}

// Status returns what adds the state of the endpoints to a status, and warnings about those that cannot be reached.
func (n *Notifier) Status(now time.Time) (add func(*control.Status)) {
	var all []control.Notify
	for _, e := range n.all() {
		all = append(all, e.status(now))
	}
	return func(s *control.Status) {
		s.Notify = all
		for _, e := range all {
			if e.Problem != "" {
				s.Warnings = append(s.Warnings, fmt.Sprintf("notifications do not reach %s: %s", e.Name, e.Problem))
			}
		}
	}
}
