package agent

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"mef/internal/ban"
	"mef/internal/cloud/wire"
	"mef/internal/control"
	"mef/internal/owner"
	"mef/internal/webclient"
)

// Limits of what own hosts share.
const (
	maxFleetQueue = 2000             // events that wait for the server; the oldest goes first
	maxSuspects   = 1000             // addresses that do
	fleetGather   = time.Second      // between two requests about suspects
	fleetWait     = 30 * time.Second // at most, before the next attempt
	announceWait  = 5 * time.Second
	fleetPace     = 50               // events a second that are carried out at most
	fleetSeen     = 4096             // events that are remembered, to carry out each once
	silence       = 40 * time.Second // after which a stream is dead, or some proxy keeps it back
	pollFor       = 10 * time.Minute // after that
	saveCursor    = time.Minute
)

// fleet is what an Agent has of the operator's other hosts. The Agent's mutex guards it.
type fleet struct {
	wake     chan struct{} // something is to be sent
	queue    []waiting
	sending  []waiting // of the request under way
	suspects map[netip.Addr]*wire.Suspect
	users    []wire.Addr
	state    control.Fleet
}

// A waiting event ends at a time; zero: it has no end.
type waiting struct {
	Event     wire.FleetEvent `json:"event"`
	Until     time.Time       `json:"until,omitzero"`
	Made      time.Time       `json:"made"`
	announced bool
}

// sent returns the event as it is sent: with its age, and the time that is left of it.
func (w *waiting) sent(now time.Time) wire.FleetEvent {
	e := w.Event
	e.Age = min(max(0, now.Sub(w.Made)), wire.MaxFleetAllow).Milliseconds()
	if !w.Until.IsZero() {
		e.Left = max(1, int64(w.Until.Sub(now)/time.Second))
	}
	return e
}

func newFleet() fleet {
	return fleet{wake: make(chan struct{}, 1), suspects: make(map[netip.Addr]*wire.Suspect)}
}

// ownList in the lists of a membership marks an own host.
const ownList = "own"

// own reports whether the host is one of the operator's own.
func (m *membership) own() bool { return m != nil && slices.Contains(m.Lists, ownList) }

// sharing reports whether this host shares with the operator's others. a.mu is held.
func (a *Agent) sharing() bool { return a.member.own() && a.cfg.Protection && a.cfg.Fleet }

// Sharing reports whether this host shares bans with the operator's other hosts.
func (a *Agent) Sharing() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sharing()
}

// share queues an event for the other hosts. a.mu is held.
func (a *Agent) share(e wire.FleetEvent, until time.Time) {
	if !a.sharing() || !wire.Shared(e.Prefix) {
		return
	}
	var id [12]byte
	_, _ = rand.Read(id[:]) // never fails
	e.ID = base64.RawURLEncoding.EncodeToString(id[:])
	// What ends a ban or an entry makes needless what began it, and a longer ban a shorter one.
	a.fleet.queue = slices.DeleteFunc(a.fleet.queue, func(w waiting) bool {
		return w.Event.Prefix == e.Prefix && (w.Event.Kind == e.Kind && w.Event.Ports == e.Ports && w.Event.Forged == e.Forged ||
			e.Kind == wire.FleetUnban && w.Event.Kind == wire.FleetBan || e.Kind == wire.FleetDisallow && w.Event.Kind == wire.FleetAllow)
	})
	if len(a.fleet.queue) >= maxFleetQueue {
		a.fleet.queue = slices.Delete(a.fleet.queue, 0, 1)
		a.fleet.state.LeftOut++
	}
	a.fleet.queue = append(a.fleet.queue, waiting{Event: e, Until: until, Made: time.Now()})
	a.queueChanged()
	owner.Wake(a.fleet.wake)
}

// shareBan queues the record of a ban of this host. a.mu is held. What came from others, and what only lists report, is not this host's to share.
func (a *Agent) shareBan(rec *control.Record) {
	p, err := netip.ParsePrefix(rec.Prefix)
	ports, err2 := ban.ParsePorts(rec.Ports)
	if rec.Event != "ban" || err != nil || err2 != nil || ban.Reserved(rec.Rule) && rec.Rule != ban.ByScore && rec.Rule != ban.ByHand || rec.Class != ban.Verified.String() {
		return
	}
	until := time.Now().Add(30 * 24 * time.Hour)
	if rec.Until != nil && rec.Until.Before(until) {
		until = *rec.Until
	}
	a.share(wire.FleetEvent{Kind: wire.FleetBan, Prefix: p, Ports: string(ports), Rule: wire.FleetRule(rec.Rule), Category: a.category(rec.Service)}, until)
}

// Unbanned shares that an operator has lifted the bans of prefixes.
func (a *Agent) Unbanned(prefixes ...netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range prefixes {
		a.share(wire.FleetEvent{Kind: wire.FleetUnban, Prefix: p}, time.Time{})
	}
}

// MayAllow returns why an allow entry cannot hold on all own hosts for a time.
func (a *Agent) MayAllow(p netip.Prefix, d time.Duration) error {
	switch {
	case !a.Sharing():
		return errors.New("this host shares nothing with others: it must have joined a server as an own host (mefcloud invite --own), with community_cloud_protection=true and community_fleet=true")
	case d <= 0 || d > wire.MaxFleetAllow:
		return errors.New("an entry for all own hosts has an end: add --for, at most 30d. What is allowed for good belongs into the whitelist of each host")
	case !wire.Shared(p):
		return fmt.Errorf("%s cannot be allowed on all own hosts: it is not a public address or network of at most /24 (IPv6: /48)", ban.Key{Prefix: p})
	}
	return nil
}

// Allowed shares an entry of the allow list.
func (a *Agent) Allowed(p netip.Prefix, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.share(wire.FleetEvent{Kind: wire.FleetAllow, Prefix: p}, until)
}

// Disallowed shares that an entry was deleted.
func (a *Agent) Disallowed(p netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.share(wire.FleetEvent{Kind: wire.FleetDisallow, Prefix: p}, time.Time{})
}

// A posted batch is one that was sent, and what became of it.
type posted struct {
	batch wire.FleetBatch
	sent  []waiting // its events
	err   error
}

// tell sends to the server what happens here, until ctx is done: one request after the other, so that it is kept in its order. What happens while
// the server keeps one, which takes seconds where a disk is slow or a cluster has no leader, is announced meanwhile.
func (a *Agent) tell(ctx context.Context, m *membership) {
	var suspects time.Time       // when some were sent
	done := make(chan posted, 1) // of the request under way
	var pausing <-chan time.Time // after a failure
	busy, failures := false, 0
	for {
		var gathered <-chan time.Time
		if !busy && pausing == nil {
			a.mu.Lock()
			batch, sent := a.nextFleet(time.Now(), time.Since(suspects) >= fleetGather)
			a.fleet.sending = sent
			if len(a.fleet.suspects) > 0 {
				gathered = time.After(fleetGather - time.Since(suspects))
			}
			a.mu.Unlock()
			if len(batch.Suspects) > 0 {
				suspects = time.Now()
			}
			if busy = len(batch.Events)+len(batch.Suspects)+len(batch.Users) > 0; busy {
				go func() { done <- posted{batch, sent, a.sendFleet(ctx, m, batch)} }()
			}
		}
		select {
		case <-ctx.Done():
			if busy {
				a.ended(<-done)
			}
			return
		case <-a.fleet.wake:
			if busy {
				a.announce(ctx, m)
			}
		case s := <-a.suspected:
			a.mu.Lock()
			a.suspect(s)
			a.mu.Unlock()
		case <-gathered:
		case <-a.retry: // the server is there again
			pausing = nil
		case <-pausing:
			pausing = nil
		case p := <-done:
			busy = false
			if a.ended(p); ctx.Err() != nil {
				return
			}
			if a.note("bans for the other hosts", p.err); p.err == nil {
				failures = 0
				continue
			}
			failures++
			pausing = time.After(min(later(failures), fleetWait/2+mathrand.N(fleetWait/2)))
		}
	}
}

// announce sends the events that wait to the connected hosts. They stay in the queue, because nothing keeps them yet.
func (a *Agent) announce(ctx context.Context, m *membership) {
	a.mu.Lock()
	batch := wire.FleetBatch{Host: hostName()}
	for i := range a.fleet.queue {
		w := &a.fleet.queue[i]
		if w.announced || len(batch.Events) == wire.MaxFleet {
			continue
		}
		w.announced = true
		batch.Events = append(batch.Events, w.sent(time.Now()))
	}
	a.mu.Unlock()
	if len(batch.Events) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, announceWait)
	defer cancel()
	if body, err := batch.Encode(); err == nil {
		_, _ = m.ask(ctx, http.MethodPost, "/v1/fleet?now=1", 0, body, webclient.MaxAnswer) // they are sent again in any case
	}
}

// hostName returns the name of this host as others see it.
func hostName() string {
	name, _ := os.Hostname() // a host without a name is called host
	return wire.FleetName(name)
}

// nextFleet takes out of the queues what is sent next, and returns its events as they were there, too. a.mu is held.
func (a *Agent) nextFleet(now time.Time, suspects bool) (b wire.FleetBatch, sent []waiting) {
	b.Host = hostName()
	f := &a.fleet
	for len(f.queue) > 0 && len(b.Events) < wire.MaxFleet {
		w := f.queue[0]
		f.queue = f.queue[1:]
		if !w.Until.IsZero() && w.Until.Sub(now) < time.Second {
			continue
		}
		b.Events, sent = append(b.Events, w.sent(now)), append(sent, w)
	}
	for len(f.users) > 0 && len(b.Events)+len(b.Users) < wire.MaxFleet {
		b.Users, f.users = append(b.Users, f.users[0]), f.users[1:]
	}
	for addr, s := range f.suspects {
		if !suspects || len(b.Events)+len(b.Users)+len(b.Suspects) >= wire.MaxFleet {
			break
		}
		b.Suspects = append(b.Suspects, *s)
		delete(f.suspects, addr)
	}
	return b, sent
}

// previewFleet returns what is sent next to the other hosts. a.mu is held.
func (a *Agent) previewFleet() wire.FleetBatch {
	b := wire.FleetBatch{Host: hostName()}
	for _, w := range a.fleet.queue[:min(len(a.fleet.queue), wire.MaxFleet)] {
		b.Events = append(b.Events, w.sent(time.Now()))
	}
	for _, s := range a.fleet.suspects {
		if len(b.Events)+len(b.Suspects) < wire.MaxFleet {
			b.Suspects = append(b.Suspects, *s)
		}
	}
	b.Users = a.fleet.users[:min(len(a.fleet.users), wire.MaxFleet-len(b.Events)-len(b.Suspects))]
	return b
}

// ended queues again what could not be sent.
func (a *Agent) ended(p posted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fleet.sending = nil
	a.queueChanged()
	var refused *wire.Problem
	if p.err == nil || errors.As(p.err, &refused) && refused.Status == http.StatusBadRequest || !a.sharing() { // sending it again would not help
		return
	}
	b, sent := p.batch, p.sent
	for i := range sent {
		sent[i].announced = true
	}
	a.fleet.queue = append(sent, a.fleet.queue...)
	for _, s := range b.Suspects {
		a.suspect(s)
	}
	a.fleet.users = append(b.Users, a.fleet.users...)
}

func (a *Agent) sendFleet(ctx context.Context, m *membership, b wire.FleetBatch) error {
	body, err := b.Encode()
	if err != nil {
		return err
	}
	a.mu.Lock()
	m.Seq = max(m.Seq+1, uint64(time.Now().UnixMilli())) // grows over restarts without being saved
	seq := m.Seq
	a.mu.Unlock()
	text, err := m.ask(ctx, http.MethodPost, "/v1/fleet", seq, body, webclient.MaxAnswer)
	if err != nil {
		return err
	}
	var r wire.FleetReceipt
	if err := json.Unmarshal(text, &r); err != nil {
		return errors.New("the answer of the server is malformed")
	}
	a.stands(r.FleetState)
	a.mu.Lock()
	a.fleet.state.Sent += uint64(max(0, len(b.Events)-len(r.Dropped)))
	a.mu.Unlock()
	var dropped error
	if len(r.Dropped) > 0 {
		a.mu.Lock()
		a.fleet.state.Dropped += uint64(len(r.Dropped))
		a.mu.Unlock()
		dropped = fmt.Errorf("the server dropped %d: %q", len(r.Dropped), r.Dropped[0].Reason)
	}
	a.note("bans that other hosts do not get", dropped)
	return nil
}

// stands keeps what the server reports of this host and of the others.
func (a *Agent) stands(s wire.FleetState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fleet.state.Hosts, a.fleet.state.Used, a.fleet.state.Quota = s.Hosts, s.Used, s.Quota
}

// listen carries out what happens on the other hosts, until ctx is done.
func (a *Agent) listen(ctx context.Context, m *membership) {
	l := &listener{a: a, m: m, seen: make(map[string]bool), tokens: fleetPace}
	defer l.save()
	for failures := 0; ctx.Err() == nil; {
		began := time.Now()
		err := l.connect(ctx, began.Before(l.poll))
		a.connected(false)
		if ctx.Err() != nil {
			return
		}
		wait := mathrand.N(2*time.Second) + time.Second // so that hosts do not come all at once
		switch {
		case errors.Is(err, errSilent) && time.Now().After(l.poll): // some proxy keeps the answer until its end
			l.poll, wait = time.Now().Add(pollFor), 0
		case err == nil && began.Before(l.poll):
			wait = max(0, 100*time.Millisecond-time.Since(began))
		}
		if a.note("bans of the other hosts", err); err == nil {
			failures = 0
		} else if failures++; wait > 0 {
			wait = min(later(failures), fleetWait/2+mathrand.N(fleetWait/2))
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// connected notes whether events of the others come at once.
func (a *Agent) connected(is bool) {
	a.mu.Lock()
	a.fleet.state.Connected = is
	a.mu.Unlock()
	if is {
		owner.Wake(a.retry)
	}
}

// A listener follows the events of the other hosts.
type listener struct {
	a      *Agent
	m      *membership
	seen   map[string]bool // IDs of events
	order  []string        // the same, oldest first
	poll   time.Time       // until when answers must end: a proxy keeps streams back
	saved  time.Time
	tokens float64 // events that may be carried out now
	filled time.Time
}

var errSilent = errors.New("the server is silent")

// connect follows one stream to its end.
func (l *listener) connect(ctx context.Context, poll bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	path := "/v1/fleet/stream"
	if poll {
		path += fmt.Sprintf("?wait=%d", waitTime)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+l.m.server.Server+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", strconv.FormatUint(l.m.Cursor, 10))
	wire.Sign(req, l.m.Key, time.Now(), 0, nil)
	dead := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer dead.Stop()
	client := &http.Client{Transport: l.m.client.Transport, CheckRedirect: l.m.client.CheckRedirect} // without a limit of time
	resp, err := client.Do(req)
	if err != nil {
		return l.why(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, webclient.MaxAnswer)) // of a problem, what there is
		return wire.ProblemOf(resp.StatusCode, text)
	}
	err = wire.ReadStream(resp.Body, func() { dead.Reset(silence) }, func(msg wire.Message) error {
		dead.Stop() // this host may be busy
		defer dead.Reset(silence)
		return l.take(ctx, msg)
	})
	return l.why(ctx, err)
}

// why returns the error of a request.
func (l *listener) why(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	if err != nil {
		return webclient.Shown(err)
	}
	return nil
}

// take carries out what a message reports.
func (l *listener) take(ctx context.Context, msg wire.Message) error {
	if msg.Name == wire.FleetStateName {
		var s wire.FleetState
		if err := json.Unmarshal([]byte(msg.Data), &s); err != nil {
			return errors.New("the state that the server sends is malformed")
		}
		l.a.stands(s)
		l.a.connected(true)
		return nil
	}
	if msg.Name != "" {
		return nil // of a later version
	}
	var e wire.FleetEvent
	if err := json.Unmarshal([]byte(msg.Data), &e); err != nil {
		return errors.New("an event that the server sends is malformed")
	}
	if err := l.carryOut(ctx, e); err != nil {
		return err
	}
	if seq, err := strconv.ParseUint(msg.ID, 10, 64); err == nil {
		l.a.mu.Lock()
		l.m.Cursor = seq
		l.a.mu.Unlock()
		if time.Since(l.saved) > saveCursor {
			l.save()
		}
	}
	return nil
}

// save keeps on disk how far this host is.
func (l *listener) save() {
	l.saved = time.Now()
	_ = l.a.keep(l.m) // a host that is behind what it was gets the same again
}

// carryOut carries out an event, if it is new. An unban is carried out again: a host that has just connected may get an announced one, and then the
// ban before it from the log. The error is that of ctx.
func (l *listener) carryOut(ctx context.Context, e wire.FleetEvent) error {
	if e.Origin == l.m.ID && e.Kind != wire.FleetRevoke || l.seen[e.ID] && e.Kind != wire.FleetUnban {
		return nil
	}
	if !l.seen[e.ID] {
		if len(l.order) >= fleetSeen {
			delete(l.seen, l.order[0])
			l.order = l.order[1:]
		}
		l.seen[e.ID] = true
		l.order = append(l.order, e.ID)
	}
	if err := l.slowly(ctx); err != nil {
		return err
	}
	e.Host, e.Rule = wire.FleetName(e.Host), wire.FleetRule(e.Rule)
	if l.a.Fleet == nil {
		return nil
	}
	l.a.mu.Lock()
	never := e.Kind == wire.FleetBan && l.a.never(e.Prefix)
	l.a.mu.Unlock()
	if never || e.Prefix.IsValid() && !wire.Shared(e.Prefix) {
		return nil
	}
	err := l.a.Fleet(ctx, e)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		l.a.log.Warn("an event of another host is not carried out", "kind", string(e.Kind), "prefix", e.Prefix, "host", e.Host, "err", err)
	}
	l.a.mu.Lock()
	defer l.a.mu.Unlock()
	s := &l.a.fleet.state
	s.Received++
	s.Last = control.Moment(time.Now())
	s.LastEvent = string(e.Kind)
	if e.Prefix.IsValid() {
		s.LastEvent += " " + ban.Key{Prefix: e.Prefix}.String()
	}
	if e.Host != "" && e.Origin != "" {
		s.LastEvent += " by " + e.Host
	}
	return nil
}

// slowly waits so that no more than fleetPace events a second are carried out.
func (l *listener) slowly(ctx context.Context) error {
	for {
		now := time.Now()
		if !l.filled.IsZero() {
			l.tokens = min(fleetPace, l.tokens+fleetPace*now.Sub(l.filled).Seconds())
		}
		if l.filled = now; l.tokens >= 1 {
			l.tokens--
			return nil
		}
		if !pause(ctx, time.Second/fleetPace) {
			return ctx.Err()
		}
	}
}

// leaveFleet undoes what other hosts did here: the host shares with them no longer.
func (a *Agent) leaveFleet(ctx context.Context) {
	a.mu.Lock()
	was := a.wasSharing
	a.wasSharing = false
	a.fleet.queue, a.fleet.users = nil, nil
	clear(a.fleet.suspects)
	a.fleet.state = control.Fleet{}
	m := a.member
	a.mu.Unlock()
	if was && m != nil {
		a.note("bans for the other hosts, on the disk", a.keep(m))
	}
	if was && a.Fleet != nil {
		if err := a.Fleet(ctx, wire.FleetEvent{Kind: wire.FleetRevoke}); err != nil && ctx.Err() == nil {
			a.log.Warn("bans of other hosts stay until their end", "err", err)
		}
	}
}

// Suspect notes failures of an address that led to no ban and were not forgiven. It never waits.
func (a *Agent) Suspect(addr netip.Addr, service string, failures int) {
	if !a.suspecting.Load() || failures <= 0 || !wire.Reportable(addr) {
		return
	}
	select {
	case a.suspected <- wire.Suspect{Addr: addr.Unmap(), Category: a.category(service), Count: failures}:
	default: // hundreds of attempts at a time: the rules of this host find that
	}
}

// suspect adds failures. a.mu is held.
func (a *Agent) suspect(s wire.Suspect) {
	old := a.fleet.suspects[s.Addr]
	switch {
	case old != nil:
		old.Category, old.Count = s.Category, min(old.Count+s.Count, wire.MaxSuspected)
	case len(a.fleet.suspects) < maxSuspects:
		a.fleet.suspects[s.Addr] = &s
	default:
		a.fleet.state.LeftOut++
	}
}

// User shares that users log in here from a suspect of all hosts.
func (a *Agent) User(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := wire.Addr{Addr: addr}
	if a.sharing() && len(a.fleet.users) < maxSuspects && !slices.Contains(a.fleet.users, u) {
		a.fleet.users = append(a.fleet.users, u)
		owner.Wake(a.fleet.wake)
	}
}
