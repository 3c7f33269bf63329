package server

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// Limits of what own hosts share.
const (
	fleetQuota  = 200 // bans that a host makes in an hour, unless the operator decides otherwise
	maxQuota    = 100_000
	fleetAllows = 20     // allow entries that it makes in an hour
	fleetItems  = 50_000 // that are kept
	fleetLifted = 25 * time.Hour
	sameMoment  = 2 * time.Second // what happens within it may come in any order
	fleetAsked  = time.Hour
	renewEvery  = 12 * time.Hour // longer bans are sent again: see wire.MaxFleetLeft
)

// A fleetEntry is what an own host has sent.
type fleetEntry struct {
	Agent string          `json:"agent"`
	Seq   uint64          `json:"seq"`
	At    time.Time       `json:"at"` // when it came; it may be long before it is in the log
	Batch wire.FleetBatch `json:"batch"`
}

// A quota is how many bans a host may make in an hour.
type quota struct {
	Agent string `json:"agent,omitempty"` // empty: each that has none of its own
	Bans  int    `json:"bans"`
}

// A fleetHost is what is kept of an own host.
type fleetHost struct {
	Name     string `json:"name"`
	Seq      uint64 `json:"seq"`             // of its last request
	Quota    int    `json:"quota,omitempty"` // 0: as the others
	Hour     int64  `json:"hour"`
	Bans     int    `json:"bans"` // in that hour
	Allows   int    `json:"allows"`
	Suspects int    `json:"suspects"` // new ones
}

// A fleetItem is the last that happened of one thing: a ban by one host, the lifting of all bans of a prefix, an allow entry, a host that was revoked.
type fleetItem struct {
	Seq    uint64          `json:"seq"`
	Until  time.Time       `json:"until"`
	Made   time.Time       `json:"made"` // when it happened, about
	Sent   time.Time       `json:"sent"`
	Lifted string          `json:"lifted,omitempty"` // by which host, and so not in force
	Event  wire.FleetEvent `json:"event"`
}

// A fleetKey is what an item is about.
type fleetKey struct {
	kind   wire.FleetKind
	prefix netip.Prefix
	ports  string
	forged bool
	origin string
}

func keyOf(e *wire.FleetEvent) fleetKey {
	switch e.Kind {
	case wire.FleetBan:
		return fleetKey{e.Kind, e.Prefix, e.Ports, e.Forged, e.Origin}
	case wire.FleetDisallow:
		return fleetKey{kind: wire.FleetAllow, prefix: e.Prefix}
	case wire.FleetRevoke:
		return fleetKey{kind: e.Kind, origin: e.Origin}
	}
	return fleetKey{kind: e.Kind, prefix: e.Prefix}
}

// A fleet is what own hosts share: what is in force, each with the number under which it is sent. A host that has everything up to a number gets
// what came later, however long it was away. It is part of a state.
type fleet struct {
	Quota int                   `json:"quota"`
	Hosts map[string]*fleetHost `json:"hosts"`
	Items []*fleetItem          `json:"items"` // by Seq

	Suspects map[netip.Prefix]*suspect `json:"suspects"`

	now   time.Time
	base  uint64 // of the numbers that the entry at hand gives
	next  uint64
	byKey map[fleetKey]*fleetItem
}

func newFleet() *fleet {
	return &fleet{Quota: fleetQuota, Hosts: make(map[string]*fleetHost), byKey: make(map[fleetKey]*fleetItem), Suspects: make(map[netip.Prefix]*suspect)}
}

// load completes a fleet that was read from its saved form.
func (f *fleet) load() error {
	if f.Quota == 0 {
		f.Quota = fleetQuota
	}
	if f.Hosts == nil {
		f.Hosts = make(map[string]*fleetHost)
	}
	f.byKey = make(map[fleetKey]*fleetItem, len(f.Items))
	if f.Suspects == nil {
		f.Suspects = make(map[netip.Prefix]*suspect)
	}
	for _, s := range f.Suspects {
		if s == nil || s.Points == nil {
			return errors.New("a suspect of own hosts is missing")
		}
	}
	for _, h := range f.Hosts {
		if h == nil {
			return errors.New("an own host is missing")
		}
	}
	for _, it := range f.Items {
		if it == nil {
			return errors.New("a ban of own hosts is missing")
		}
		f.byKey[keyOf(&it.Event)] = it
	}
	return nil
}

// begin begins an entry of the log. Numbers are made of its own, so that they grow whatever a backup restores.
func (f *fleet) begin(seq uint64, now time.Time) {
	f.base, f.next = seq<<16, seq<<16
	if now.After(f.now) {
		f.now = now
	}
}

// put gives an item the next number.
func (f *fleet) put(it *fleetItem) {
	f.next = min(f.next+1, f.base|0xffff)
	key := keyOf(&it.Event)
	if old := f.byKey[key]; old != nil {
		f.Items = slices.DeleteFunc(f.Items, func(o *fleetItem) bool { return o == old })
	}
	it.Seq, it.Sent = f.next, f.now
	f.byKey[key] = it
	f.Items = append(f.Items, it)
}

// again sends an item again, as something new.
func (f *fleet) again(it *fleetItem) {
	f.put(it)
	it.Event.ID = "again-" + strconv.FormatUint(it.Seq, 10)
}

// host returns what is kept of an own host.
func (f *fleet) host(id string) *fleetHost {
	h := f.Hosts[id]
	if h == nil {
		h = new(fleetHost)
		f.Hosts[id] = h
	}
	if hour := f.now.Unix() / 3600; h.Hour != hour {
		h.Hour, h.Bans, h.Allows, h.Suspects = hour, 0, 0, 0
	}
	return h
}

func (f *fleet) quotaOf(id string) int {
	if h := f.Hosts[id]; h != nil && h.Quota > 0 {
		return h.Quota
	}
	return f.Quota
}

// state returns how a host stands, without the number of those connected.
func (f *fleet) state(id string, now time.Time) wire.FleetState {
	s := wire.FleetState{Quota: f.quotaOf(id)}
	if h := f.Hosts[id]; h != nil && h.Hour == now.Unix()/3600 {
		s.Used = h.Bans
	}
	return s
}

var errFleetFull = errors.New("the server holds as many bans of own hosts as it may")

// add makes an event of a host part of the fleet. The error says why it has no effect.
func (f *fleet) add(id string, at time.Time, e wire.FleetEvent) error {
	h := f.host(id)
	e.Origin, e.Host = id, h.Name
	made := at.Add(-time.Duration(e.Age) * time.Millisecond)
	e.Age = 0
	it := &fleetItem{Until: f.now.Add(time.Duration(e.Left) * time.Second), Made: made, Event: e}
	old := f.byKey[keyOf(&e)]
	switch e.Kind {
	case wire.FleetBan, wire.FleetAllow:
		if old != nil && old.Event.ID == e.ID {
			return nil
		}
		if len(f.Items) >= fleetItems && old == nil {
			return errFleetFull
		}
	}
	switch e.Kind {
	case wire.FleetBan:
		if h.Bans >= f.quotaOf(id) {
			return fmt.Errorf("more than %d bans in an hour, the quota of this host", f.quotaOf(id))
		}
		h.Bans++
		lifted := fleetKey{kind: wire.FleetUnban, prefix: e.Prefix}
		if u := f.byKey[lifted]; u != nil && u.Made.After(made.Add(-sameMoment)) {
			return nil // the host was away, or the ban was announced: it was lifted before it came to the log
		}
		f.drop(func(it *fleetItem) bool { return keyOf(&it.Event) == lifted }) // a host that was away must not lift what came later
	case wire.FleetAllow:
		if h.Allows >= fleetAllows {
			return fmt.Errorf("more than %d allow entries in an hour", fleetAllows)
		}
		h.Allows++
	case wire.FleetUnban:
		it.Until = f.now.Add(fleetLifted)
		f.lift(e.Prefix, id, made.Add(sameMoment))
		f.put(it)
		for _, later := range slices.Clone(f.Items) { // the host was away: it did not know of these bans, and the others lift them
			if later.Event.Kind == wire.FleetBan && later.Event.Prefix == e.Prefix && later.Lifted == "" && f.now.Before(later.Until) {
				f.again(later)
				it = nil
			}
		}
		if it != nil {
			f.acquit(e.Prefix)
		}
		return nil
	case wire.FleetDisallow:
		if old == nil {
			return nil
		}
		it.Until = old.Until
	}
	f.put(it)
	return nil
}

// lift has the bans of a prefix end that were made up to a time, for a host.
func (f *fleet) lift(p netip.Prefix, by string, until time.Time) {
	for _, it := range f.Items {
		if it.Event.Kind == wire.FleetBan && it.Event.Prefix == p && it.Lifted == "" && !it.Made.After(until) {
			it.Lifted = by
		}
	}
}

// revoke undoes what a host did: what it banned or allowed ends, and what others had banned and it lifted holds again.
func (f *fleet) revoke(id string) {
	if f.Hosts[id] == nil {
		return
	}
	revoked := wire.FleetEvent{ID: "revoke-" + strconv.FormatUint(f.base, 10), Kind: wire.FleetRevoke, Origin: id, Host: f.Hosts[id].Name}
	gone := make(map[netip.Prefix]bool)
	for _, it := range f.Items {
		if it.Event.Origin == id && it.Event.Kind == wire.FleetBan {
			gone[it.Event.Prefix] = true
		}
	}
	f.unsuspect(id)
	f.drop(func(it *fleetItem) bool { return it.Event.Origin == id })
	f.put(&fleetItem{Until: f.now.Add(32 * 24 * time.Hour), Event: revoked})
	for _, it := range slices.Clone(f.Items) {
		if it.Event.Kind != wire.FleetBan || it.Lifted != id && !(gone[it.Event.Prefix] && it.Lifted == "") {
			continue
		}
		it.Lifted = ""
		f.again(it)
	}
}

// tick drops what is over, and sends long bans again.
func (f *fleet) tick() {
	f.passSuspects()
	f.drop(func(it *fleetItem) bool { return !f.now.Before(it.Until) })
	for _, it := range slices.Clone(f.Items) {
		if it.Event.Kind == wire.FleetBan && it.Lifted == "" && f.now.Sub(it.Sent) >= renewEvery && it.Until.After(it.Sent.Add(wire.MaxFleetLeft)) {
			f.again(it)
		}
	}
}

func (f *fleet) drop(which func(*fleetItem) bool) {
	f.Items = slices.DeleteFunc(f.Items, func(it *fleetItem) bool {
		if !which(it) {
			return false
		}
		delete(f.byKey, keyOf(&it.Event))
		return true
	})
}

// A numbered event is one of a stream.
type numbered struct {
	seq uint64
	wire.FleetEvent
}

// since returns what is in force and came after a number, at most so many events, for a host. Times are those that are left now.
func (f *fleet) since(seq uint64, most int, now time.Time) (all []numbered) {
	at, _ := slices.BinarySearchFunc(f.Items, seq+1, func(it *fleetItem, seq uint64) int { return cmp.Compare(it.Seq, seq) })
	for _, it := range f.Items[at:] {
		if it.Lifted != "" || !now.Before(it.Until) {
			continue
		}
		if len(all) == most {
			break
		}
		e := it.Event
		e.Left = max(1, int64(it.Until.Sub(now)/time.Second))
		all = append(all, numbered{it.Seq, e})
	}
	return all
}

// last returns the number of the last event.
func (f *fleet) last() uint64 {
	if len(f.Items) == 0 {
		return 0
	}
	return f.Items[len(f.Items)-1].Seq
}

// share makes what an own host has sent part of the state.
func (s *state) share(in *fleetEntry) (dropped []wire.Dropped, err error) {
	r, known := s.book.Reporter(in.Agent)
	switch {
	case !known:
		return nil, reputation.ErrUnknown
	case r.Revoked:
		return nil, reputation.ErrRevoked
	case r.Role != reputation.Own:
		return nil, errNotOwn
	}
	h := s.fleet.host(in.Agent)
	if in.Seq < h.Seq {
		return nil, errCloned
	}
	h.Seq, h.Name = in.Seq, in.Batch.Host
	for i, e := range in.Batch.Events {
		err := s.neverShared(&e)
		if err == nil {
			err = s.fleet.add(in.Agent, in.At, e)
		}
		if err != nil {
			dropped = append(dropped, wire.Dropped{Index: i, Reason: err.Error()})
		}
	}
	for _, one := range in.Batch.Suspects {
		if !s.neverListed(one.Addr) {
			s.fleet.suspect(in.Agent, one)
		}
	}
	for _, u := range in.Batch.Users {
		s.fleet.user(in.Agent, u.Addr)
	}
	return dropped, nil
}

var errNotOwn = errors.New("bans are shared by the operator's own hosts only: those of mefcloud invite --own")

// setQuota sets how many bans a host, or each, may make in an hour.
func (s *state) setQuota(q *quota) error {
	if q.Agent == "" {
		s.fleet.Quota = q.Bans
		return nil
	}
	if r, known := s.book.Reporter(q.Agent); !known || r.Role != reputation.Own {
		return reputation.ErrUnknown
	}
	s.fleet.host(q.Agent).Quota = q.Bans
	return nil
}
