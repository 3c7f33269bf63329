package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

const (
	pingEvery   = 15 * time.Second
	slowReader  = 30 * time.Second // for which one write waits
	authAgain   = time.Hour        // after which a host must connect anew
	streamBatch = 200
	streamQueue = 256 // events that wait for one connection ahead of the log; the log has those that do not fit
	maxStreams  = 20_000
	maxAhead    = 1000 // events of a host in an hour that are remembered
)

// streams are the connected own hosts.
type streams struct {
	mu   sync.Mutex
	open map[chan wire.FleetEvent]string // the ID of the host
	used map[string]*ahead               // by ID
}

// ahead is how many bans of a host were sent ahead of the log in an hour.
type ahead struct {
	hour int64
	bans int
	seen map[string]bool // the IDs of events
}

func (s *streams) add(id string) (chan wire.FleetEvent, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open, s.used = make(map[chan wire.FleetEvent]string), make(map[string]*ahead)
	}
	if len(s.open) >= maxStreams {
		return nil, false
	}
	c := make(chan wire.FleetEvent, streamQueue)
	s.open[c] = id
	return c, true
}

func (s *streams) remove(c chan wire.FleetEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// hosts returns how many hosts are connected.
func (s *streams) hosts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make(map[string]bool, len(s.open))
	for _, id := range s.open {
		ids[id] = true
	}
	return len(ids)
}

// send sends events of a host to all connected ones. It never waits.
func (s *streams) send(from string, events []wire.FleetEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, id := range s.open {
		if id == from {
			continue
		}
		for _, e := range events {
			select {
			case c <- e:
			default:
			}
		}
	}
}

// allow returns those events that a host may have sent ahead of the log: no more bans in an hour than its quota.
func (s *streams) allow(id string, quota int, now time.Time, events []wire.FleetEvent) (out []wire.FleetEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = make(map[string]*ahead)
	}
	a := s.used[id]
	if hour := now.Unix() / 3600; a == nil || a.hour != hour {
		a = &ahead{hour: hour, seen: make(map[string]bool)}
		s.used[id] = a
	}
	for _, e := range events {
		if a.seen[e.ID] { // it was announced
			continue
		}
		if e.Kind == wire.FleetAllow || e.Kind == wire.FleetDisallow { // the log decides about their number
			continue
		}
		if e.Age > sameMoment.Milliseconds() { // the log knows what was banned or lifted since
			continue
		}
		if e.Kind == wire.FleetBan {
			if a.bans >= quota {
				continue
			}
			a.bans++
		}
		if len(a.seen) < maxAhead {
			a.seen[e.ID] = true
		}
		out = append(out, e)
	}
	return out
}

// An early is what servers of one log tell each other at once, while it is being appended.
type early struct {
	From   string            `json:"from"`
	Events []wire.FleetEvent `json:"events"`
}

// hear sends the early events of all servers to the connected hosts.
func (s *Server) hear(data []byte) {
	var e early
	if err := json.Unmarshal(data, &e); err != nil {
		s.opt.Log.Warn("a message of another server is malformed", "err", err)
		return
	}
	s.streams.send(e.From, e.Events)
}

// postFleet takes what happened on an own host.
func (s *Server) postFleet(w http.ResponseWriter, r *http.Request) {
	text, a, who, ok := s.signedBody(w, r)
	if !ok {
		return
	}
	batch, err := wire.DecodeFleet(text)
	switch {
	case err != nil:
		wire.WriteProblem(w, http.StatusBadRequest, err.Error())
		return
	case who.Role != reputation.Own:
		wire.WriteProblem(w, http.StatusForbidden, errNotOwn.Error())
		return
	}
	// All connected hosts get it at once, and from the log once more: appending takes as long as the disk, and seconds while a cluster chooses a
	// leader. A host takes each event once.
	now := s.opt.Now()
	s.mu.Lock()
	quota := s.state.fleet.quotaOf(a.ID)
	s.mu.Unlock()
	if events := s.streams.allow(a.ID, quota, now, batch.Events); len(events) > 0 {
		for i := range events {
			events[i].Origin, events[i].Host = a.ID, batch.Host
		}
		if data, err := json.Marshal(early{a.ID, events}); err == nil {
			if err := s.log.Announce(data); err != nil {
				s.opt.Log.Debug("events are sent with the log only", "err", err)
			}
		}
	}
	if r.URL.Query().Has("now") { // the host sends it again, to be kept
		answer(w, http.StatusAccepted, wire.FleetReceipt{FleetState: s.fleetState(a.ID)})
		return
	}
	out, err := s.do(r.Context(), entry{Fleet: &fleetEntry{Agent: a.ID, Seq: a.Seq, At: now, Batch: batch}})
	if s.failed(w, out, err) {
		return
	}
	answer(w, http.StatusAccepted, wire.FleetReceipt{FleetState: s.fleetState(a.ID), Dropped: out.dropped})
}

func (s *Server) fleetState(id string) wire.FleetState {
	s.mu.Lock()
	st := s.state.fleet.state(id, s.opt.Now())
	s.mu.Unlock()
	st.Hosts = s.streams.hosts()
	return st
}

// getStream sends an own host what happens on the others, from a number on, until either side ends it. With wait=SECONDS it ends after the first
// events or that time: some proxies deliver nothing before the end of an answer.
func (s *Server) getStream(w http.ResponseWriter, r *http.Request) {
	a, who, ok := s.signed(w, r, nil)
	if !ok {
		return
	} else if who.Role != reputation.Own {
		wire.WriteProblem(w, http.StatusForbidden, errNotOwn.Error())
		return
	}
	seq, _ := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64) // 0: everything
	over := time.NewTimer(authAgain)
	defer over.Stop()
	poll := false
	if n, err := strconv.Atoi(r.URL.Query().Get("wait")); err == nil {
		poll = true
		over.Reset(time.Duration(min(max(n, 0), int(maxWait/time.Second))) * time.Second)
	}
	sooner, ok := s.streams.add(a.ID)
	if !ok {
		wire.WriteProblem(w, http.StatusServiceUnavailable, "too many hosts are connected")
		return
	}
	defer s.streams.remove(sooner)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	t := &stream{s: s, w: w, c: http.NewResponseController(w), id: a.ID, seq: seq}
	_ = t.c.SetReadDeadline(time.Time{}) // the request has been read; its end is that of the connection
	if t.state() != nil {
		return
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		changed, sent, err := t.behind()
		if err != nil || poll && sent {
			return
		}
		select {
		case <-changed:
		case e := <-sooner:
			if t.sooner(e, sooner) != nil || poll {
				return
			}
		case <-ping.C:
			if t.revoked() || t.ping() != nil {
				return
			}
		case <-over.C:
			return
		case <-s.stopped:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// A stream is one connection of an own host.
type stream struct {
	s    *Server
	w    http.ResponseWriter
	c    *http.ResponseController
	id   string
	seq  uint64 // of what was sent
	last wire.FleetState
}

// flush sends what was written.
func (t *stream) flush() error { return t.c.Flush() }

// patient gives the next writes some time.
func (t *stream) patient() { _ = t.c.SetWriteDeadline(time.Now().Add(slowReader)) }

// behind sends what the log has and the host does not. changed is closed when there is more.
func (t *stream) behind() (changed <-chan struct{}, sent bool, err error) {
	for {
		t.s.mu.Lock()
		if t.seq > t.s.state.seq<<16|0xffff { // of a server that was lost
			t.seq = 0
		}
		events := t.s.state.fleet.since(t.seq, streamBatch, t.s.opt.Now())
		changed = t.s.fleetChanged
		t.s.mu.Unlock()
		if len(events) == 0 {
			return changed, sent, nil
		}
		t.patient()
		for _, e := range events {
			t.seq = e.seq
			if e.Origin == t.id && e.Kind != wire.FleetRevoke {
				continue
			}
			sent = true
			if err := wire.WriteFleet(t.w, e.seq, e.FleetEvent); err != nil {
				return changed, sent, err
			}
		}
		if err := t.flush(); err != nil {
			return changed, sent, err
		}
	}
}

// sooner sends an event, and what else waits, without numbers.
func (t *stream) sooner(e wire.FleetEvent, more <-chan wire.FleetEvent) error {
	t.patient()
	for {
		if err := wire.WriteFleet(t.w, 0, e); err != nil {
			return err
		}
		select {
		case e = <-more:
		default:
			return t.flush()
		}
	}
}

// state sends how the host stands.
func (t *stream) state() error {
	t.patient()
	t.last = t.s.fleetState(t.id)
	if err := wire.WriteFleetState(t.w, t.last); err != nil {
		return err
	}
	return t.flush()
}

// ping shows that the connection is alive, and how the host stands if that has changed.
func (t *stream) ping() error {
	if t.s.fleetState(t.id) != t.last {
		return t.state()
	}
	t.patient()
	if _, err := fmt.Fprint(t.w, ": ping\n\n"); err != nil {
		return err
	}
	return t.flush()
}

// revoked reports whether the host was revoked since it connected.
func (t *stream) revoked() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	r, _ := t.s.state.book.Reporter(t.id)
	return r.Revoked
}

// fleetWoken ends the waiting of streams for an event. s.mu is held.
func (s *Server) fleetWoken() {
	close(s.fleetChanged)
	s.fleetChanged = make(chan struct{})
}
