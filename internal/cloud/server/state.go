package server

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"mef/internal/cloud/natslog"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// An entry is what the log has: everything that changes a state. Exactly one pointer is set.
type entry struct {
	Tick    *struct{}    `json:"tick,omitempty"` // time passes
	Invite  *invite      `json:"invite,omitempty"`
	Enrol   *enrol       `json:"enrol,omitempty"`
	Reports *reports     `json:"reports,omitempty"`
	Revoke  *string      `json:"revoke,omitempty"` // an agent
	Appeal  *netip.Addr  `json:"appeal,omitempty"`
	Clear   *netip.Addr  `json:"clear,omitempty"`
	Fleet   *fleetEntry  `json:"fleet,omitempty"`
	Quota   *quota       `json:"quota,omitempty"`
	Never   *neverChange `json:"never,omitempty"`
	Move    *move        `json:"move,omitempty"`
	Names   *nameEntry   `json:"names,omitempty"`
}

// An invite is a token that admits one host.
type invite struct {
	Hash [sha256.Size]byte `json:"hash"` // of the token
	Role reputation.Role   `json:"role"`
	Ends time.Time         `json:"ends"`
}

type enrol struct {
	Hash   [sha256.Size]byte `json:"hash"`
	Key    ed25519.PublicKey `json:"key"`
	System string            `json:"system"`
	Net    string            `json:"net"`
}

// A move is the autonomous system of a host, once it is known.
type move struct {
	Agent  string `json:"agent"`
	System string `json:"system"`
}

type reports struct {
	Agent string     `json:"agent"`
	Seq   uint64     `json:"seq"`
	Batch wire.Batch `json:"batch"`
}

// An agent is a host that was enrolled.
type agent struct {
	Key      ed25519.PublicKey `json:"key"`
	Enrolled time.Time         `json:"enrolled"`
	Last     time.Time         `json:"last"` // report
	Seq      uint64            `json:"seq"`  // of its last batch
	Reports  uint64            `json:"reports"`
	NamesSeq uint64            `json:"names_seq,omitempty"` // of its last request about user names
}

// A state is what a server knows. It follows from the entries of the log alone, so that all servers of a log have the same one, and a restart
// restores it. It is not safe for use by several goroutines.
type state struct {
	seq    uint64 // of the last entry that is part of it
	book   *reputation.Book
	agents map[string]*agent
	tokens map[[sha256.Size]byte]invite
	lists  map[reputation.List]*list
	fleet  *fleet
	nevers []Never          // by prefix
	days   map[int64]uint64 // reports that had an effect, by day since 1970
	// neverSet has the same networks, and general what else is never listed.
	neverSet prefixset.Set
	general  func(netip.Addr) bool
	// decisions counts the entries that nobody would repeat: it says when a backup is due.
	decisions uint64
	keys      [sha256.Size]byte // hash of the file of the keys; it does not follow from the log
}

// A list is one that agents fetch, and its latest changes.
type list struct {
	seq     uint64   // of the last change
	from    uint64   // changes after this number are complete
	changes []change // oldest first
}

type change struct {
	seq     uint64
	prefix  netip.Prefix
	removed bool
}

// maxChanges are how many changes of a list are kept for agents that have an older version; others get the whole list.
const maxChanges = 200_000

const keptDays = 30 // for which reports are counted

const maxTokens = 10_000 // invitations that are open at once

// never reports whether an address is never listed: those that are not on the Internet, and those behind which many clients are.
func never() func(netip.Addr) bool {
	cdns := exempt.CDNs()
	return func(a netip.Addr) bool {
		if !wire.Reportable(a) || slices.ContainsFunc(resolvers, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return true
		}
		for _, c := range cdns {
			if c.Networks.Contains(a) {
				return true
			}
		}
		return false
	}
}

// resolvers are public name servers and the root servers of DNS: forged packets come from their addresses.
var resolvers = prefixes("1.1.1.0/24", "1.0.0.0/24", "8.8.8.0/24", "8.8.4.0/24", "9.9.9.0/24", "149.112.112.0/24", "208.67.222.0/24", "208.67.220.0/24",
	"2606:4700:4700::/48", "2001:4860:4860::/48", "2620:fe::/48", "2620:119:35::/48", "2620:119:53::/48",
	"198.41.0.4/32", "170.247.170.2/32", "192.33.4.12/32", "199.7.91.13/32", "192.203.230.10/32", "192.5.5.241/32", "192.112.36.4/32", "198.97.190.53/32",
	"192.36.148.17/32", "192.58.128.30/32", "193.0.14.129/32", "199.7.83.42/32", "202.12.27.33/32",
	"2001:503:ba3e::2:30/128", "2801:1b8:10::b/128", "2001:500:2::c/128", "2001:500:2d::d/128", "2001:500:a8::e/128", "2001:500:2f::f/128", "2001:500:12::d0d/128",
	"2001:500:1::53/128", "2001:7fe::53/128", "2001:503:c27::2:30/128", "2001:7fd::1/128", "2001:500:9f::42/128", "2001:dc3::35/128")

func prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, widened(netip.MustParsePrefix(p)))
	}
	return out
}

func newState() *state {
	s := &state{agents: make(map[string]*agent), tokens: make(map[[sha256.Size]byte]invite),
		lists: map[reputation.List]*list{reputation.Public: new(list), reputation.OwnHosts: new(list)}, fleet: newFleet(), days: make(map[int64]uint64), general: never()}
	s.book = reputation.New(s.options())
	return s
}

func (s *state) options() reputation.Options {
	return reputation.Options{Never: s.neverListed}
}

// An outcome is what became of an entry.
type outcome struct {
	err     error // why it has no effect
	dropped []wire.Dropped
	role    reputation.Role // of an agent that was enrolled
	changed []netip.Addr    // addresses whose public listing may have changed
}

var (
	errToken  = errors.New("the invitation was used, has ended, or is not one of this server; ask for another one: mefcloud invite")
	errCloned = errors.New("a request with a later number was accepted before: another host uses the same key, or the state of this host is old; run mefctl cloud join with a new invitation")
)

// apply makes an entry part of the state.
func (s *state) apply(e natslog.Entry) (out outcome) {
	s.seq = e.Seq
	s.book.Advance(reputation.HourOf(e.Time))
	s.fleet.begin(e.Seq, e.Time)
	var in entry
	if err := json.Unmarshal(e.Data, &in); err != nil {
		out.err = fmt.Errorf("entry %d of the log: %w", e.Seq, err)
	}
	switch {
	case in.Invite != nil:
		for hash, t := range s.tokens {
			if e.Time.After(t.Ends) {
				delete(s.tokens, hash)
			}
		}
		if out.err = errors.New("too many invitations are open"); len(s.tokens) < maxTokens {
			s.tokens[in.Invite.Hash], out.err = *in.Invite, nil
		}
	case in.Enrol != nil:
		out.role, out.err = s.enrol(in.Enrol, e.Time)
	case in.Reports != nil:
		out.dropped, out.err = s.report(in.Reports, e.Time)
		for _, r := range in.Reports.Batch.Reports {
			out.changed = append(out.changed, r.Addr)
		}
	case in.Revoke != nil:
		if out.err = s.book.Revoke(*in.Revoke); out.err == nil {
			s.fleet.revoke(*in.Revoke)
		}
	case in.Appeal != nil:
		out.err = s.book.Appeal(*in.Appeal)
	case in.Clear != nil:
		out.err = s.book.Clear(*in.Clear)
	case in.Move != nil:
		out.err = s.book.Move(in.Move.Agent, in.Move.System)
	case in.Never != nil:
		out.err = s.changeNever(in.Never, e.Time)
	case in.Fleet != nil:
		out.dropped, out.err = s.share(in.Fleet)
	case in.Quota != nil:
		out.err = s.setQuota(in.Quota)
	case in.Names != nil:
		out.err = s.names(in.Names)
	case in.Tick != nil:
		s.fleet.tick()
	}
	if in.Tick == nil && in.Reports == nil && in.Invite == nil && in.Fleet == nil && in.Names == nil {
		s.decisions++
	}
	s.book.Settle()
	for _, c := range s.book.Changes() {
		l := s.lists[c.List]
		l.seq = e.Seq
		l.changes = append(l.changes, change{e.Seq, c.Prefix, c.Removed})
		if c.List == reputation.Public {
			out.changed = append(out.changed, c.Prefix.Addr())
		}
	}
	for _, l := range s.lists {
		if over := len(l.changes) - maxChanges; over > 0 {
			l.from = l.changes[over-1].seq
			l.changes = slices.DeleteFunc(l.changes, func(c change) bool { return c.seq <= l.from })
		}
	}
	return out
}

func (s *state) enrol(in *enrol, now time.Time) (reputation.Role, error) {
	id := wire.KeyID(in.Key)
	if _, known := s.agents[id]; known {
		r, _ := s.book.Reporter(id)
		if r.Revoked {
			return "", reputation.ErrRevoked
		}
		return r.Role, nil // its answer was lost
	}
	t, ok := s.tokens[in.Hash]
	if !ok || now.After(t.Ends) {
		return "", errToken
	}
	delete(s.tokens, in.Hash)
	s.agents[id] = &agent{Key: in.Key, Enrolled: now}
	s.book.Enrol(reputation.Reporter{ID: id, Role: t.Role, System: in.System, Net: in.Net, Since: s.book.Now()})
	return t.Role, nil
}

func (s *state) report(in *reports, now time.Time) (dropped []wire.Dropped, err error) {
	a := s.agents[in.Agent]
	switch {
	case a == nil:
		return nil, reputation.ErrUnknown
	case in.Seq < a.Seq:
		return nil, errCloned
	}
	a.Seq, a.Last = in.Seq, now
	today := now.Unix() / (24 * 3600)
	maps.DeleteFunc(s.days, func(day int64, _ uint64) bool { return day <= today-keptDays })
	for i, r := range in.Batch.Reports {
		category := max(0, slices.Index(wire.Categories, r.Category))
		if err := s.book.Report(in.Agent, r.Addr, 1<<category, reputation.Hour(r.Hour)); err != nil {
			dropped = append(dropped, wire.Dropped{Index: i, Reason: err.Error()})
			continue
		}
		a.Reports++
		s.days[today]++
	}
	for i, b := range in.Batch.Benign {
		if err := s.book.Benign(in.Agent, b.Addr); err != nil {
			dropped = append(dropped, wire.Dropped{Index: len(in.Batch.Reports) + i, Reason: err.Error()})
		}
	}
	return dropped, nil
}

// feed returns a list, or how it has changed since a version that an agent has.
func (s *state) feed(name reputation.List, since uint64, now time.Time) wire.Feed {
	l := s.lists[name]
	f := wire.Feed{List: string(name), Seq: s.seq, At: now, Never: make([]netip.Prefix, len(s.nevers))}
	for i, n := range s.nevers {
		f.Never[i] = n.Prefix
	}
	if since < l.from || since > s.seq || since == 0 {
		s.book.Each(name, func(p netip.Prefix, _ uint16) { f.Add = append(f.Add, p) })
		return f
	}
	f.Since = since
	last := make(map[netip.Prefix]bool)
	for _, c := range slices.Backward(l.changes) {
		if c.seq <= since {
			break
		}
		if _, known := last[c.prefix]; !known {
			last[c.prefix] = c.removed
			if c.removed {
				f.Remove = append(f.Remove, c.prefix)
			} else {
				f.Add = append(f.Add, c.prefix)
			}
		}
	}
	return f
}

// A saved begins the saved form of a state; the saved form of its Book follows.
type saved struct {
	Version int               `json:"version"`
	Seq     uint64            `json:"seq"`
	Keys    map[string][]byte `json:"keys,omitempty"` // files of the server, in backups only
	KeysSum []byte            `json:"keys_sum,omitempty"`
	Agents  map[string]*agent `json:"agents"`
	Tokens  []invite          `json:"tokens"`
	Fleet   *fleet            `json:"fleet,omitempty"`
	Nevers  []Never           `json:"never,omitempty"`
	Days    map[int64]uint64  `json:"days,omitempty"`
}

const savedVersion = 2

// save returns the saved form: compressed, with its hash at the end.
func (s *state) save(keys map[string][]byte) ([]byte, error) {
	plain, err := s.plain(keys)
	if err != nil {
		return nil, err
	}
	return pack(plain)
}

// plain returns the saved form before it is compressed, which takes most of the time.
func (s *state) plain(keys map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	h := saved{Version: savedVersion, Seq: s.seq, Keys: keys, KeysSum: s.keys[:], Agents: s.agents, Fleet: s.fleet, Nevers: s.nevers, Days: s.days}
	for _, t := range s.tokens {
		h.Tokens = append(h.Tokens, t)
	}
	if err := json.NewEncoder(&out).Encode(h); err != nil {
		return nil, err
	}
	if err := s.book.Save(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func pack(plain []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	_, _ = z.Write(plain) // a buffer takes everything
	if err := z.Close(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(out.Bytes())
	return append(out.Bytes(), sum[:]...), nil
}

// loadState reads a saved form. It never returns part of one.
func loadState(data []byte) (*state, saved, error) {
	var h saved
	n := len(data) - sha256.Size
	if n < 0 || sha256.Sum256(data[:n]) != [sha256.Size]byte(data[n:]) {
		return nil, h, errors.New("it is damaged: its hash is wrong")
	}
	z, err := gzip.NewReader(bytes.NewReader(data[:n]))
	if err != nil {
		return nil, h, err
	}
	d := json.NewDecoder(z)
	if err := d.Decode(&h); err != nil {
		return nil, h, err
	}
	if h.Version != savedVersion {
		return nil, h, fmt.Errorf("it has version %d, and this mefcloud reads version %d", h.Version, savedVersion)
	}
	s := newState()
	s.nevers = h.Nevers
	s.setNevers()
	if s.book, err = reputation.Load(io.MultiReader(d.Buffered(), z), s.options()); err != nil {
		return nil, h, err
	}
	if h.Fleet != nil {
		if err := h.Fleet.load(); err != nil {
			return nil, h, err
		}
		s.fleet = h.Fleet
	}
	s.seq = h.Seq
	copy(s.keys[:], h.KeysSum)
	maps.Copy(s.days, h.Days)
	for id, a := range h.Agents {
		if a == nil || len(a.Key) != ed25519.PublicKeySize {
			return nil, h, fmt.Errorf("agent %q has no key", id)
		}
		s.agents[id] = a
	}
	for _, t := range h.Tokens {
		s.tokens[t.Hash] = t
	}
	for _, l := range s.lists {
		l.seq, l.from = h.Seq, h.Seq
	}
	return s, h, nil
}
