// Package agent is a host's side of a community server (see docs/cloud.md): it reports the host's bans, and keeps the lists of the server.
//
// Nothing is sent before an operator has joined a server, and then only what the configuration asks for. What an invitation names decides which
// server is talked to and whose signature a list needs. A server that is away, slow or wrong costs nothing and bans nobody: reports wait in
// a bounded queue, a list that is older than 48 hours is dropped, an older version is never accepted, and neither is one whose size is not credible.
package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/ban"
	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/owner"
	"mef/internal/prefixset"
	"mef/internal/webclient"
)

const (
	file      = "community.json" // in the state directory: a membership
	maxQueue  = 10_000           // reports that wait; the oldest goes first
	gather    = 500 * time.Millisecond
	firstWait = 2 * time.Second // after an error, and twice as long after each further one
	longWait  = 5 * time.Minute
	tooOld    = 48 * time.Hour // of a list
	waitTime  = 25             // seconds that the server may wait for a change
	surprise  = 1000           // entries from which a list may not double or halve at once
)

// A membership is what a host keeps of the server that it joined.
type membership struct {
	Invitation string             `json:"invitation"` // without its token
	Key        ed25519.PrivateKey `json:"key"`
	ID         string             `json:"id"`
	Lists      []string           `json:"lists"`
	Since      time.Time          `json:"since"`
	Seq        uint64             `json:"seq"` // from which the numbers of the next batches begin
	Waiting    []wire.Report      `json:"waiting,omitempty"`
	Events     []waiting          `json:"events,omitempty"` // for the operator's other hosts
	Cursor     uint64             `json:"cursor,omitempty"` // the last event of the operator's other hosts
	Named      time.Time          `json:"named,omitzero"`   // when user names were last reported
	NamedCount int                `json:"named_count,omitempty"`

	server wire.Invitation
	client *http.Client
	left   context.Context // ends when the host leaves or joins another server
	leave  context.CancelFunc
}

// A list is one of the server.
type list struct {
	seq   uint64
	at    time.Time
	addrs *prefixset.Packed
	never prefixset.Set // what the operator of the server never lists

	changed uint64    // seq when it last changed
	kept    time.Time // when it was written to the disk
	keptSeq uint64    // changed, then
}

// An Agent is a host's side. Any goroutine may call its methods. It is an eventlog.Sink.
type Agent struct {
	dir      string
	log      *slog.Logger
	category func(service string) string
	changed  chan struct{} // the membership or the configuration has changed
	wake     chan struct{} // something is to be sent

	// Changed, unless nil, is called when a list has changed. It is set before Run.
	Changed func(context.Context)

	// Fleet, unless nil, carries out here what happened on another host of the operator. It is set before Run.
	Fleet func(context.Context, wire.FleetEvent) error

	// Names is the host's dictionary of user names. It is set before Run.
	Names Names

	retry chan struct{} // what waits for the other hosts can be sent again

	saving sync.Mutex    // held while files are written; locked before mu
	queued chan struct{} // what waits has changed

	mu      sync.Mutex
	change  uint64 // counts changes of what waits
	cfg     conf.Community
	rules   string      // hash of the detection rules
	member  *membership // nil: none
	lists   map[string]list
	queue   []wire.Report
	benign  []netip.Addr
	counts  control.Cloud // sent, dropped, left out
	problem map[string]error

	prefixes prefixes
	fleet    fleet

	names, keptNames wire.NameList // the latest one, and the one on the disk
	namesInUse       bool
	namesUnheard     bool        // the engine may not have heard of that
	namesOf          *membership // whose they are

	wasSharing bool // this host may have bans of others

	suspecting atomic.Bool
	suspected  chan wire.Suspect
}

// New returns the Agent of a host. It does nothing until Run. category returns that of a service, one of wire.Categories.
func New(cfg *conf.Config, category func(service string) string, log *slog.Logger) *Agent {
	a := &Agent{category: category, dir: cfg.Paths.StateDir, cfg: cfg.Community, rules: hash(cfg.Rules), log: log, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), lists: make(map[string]list), problem: make(map[string]error),
		fleet: newFleet(), retry: make(chan struct{}, 1), queued: make(chan struct{}, 1), suspected: make(chan wire.Suspect, 256)}
	text, err := os.ReadFile(a.path())
	m := new(membership)
	if err == nil {
		err = json.Unmarshal(text, m)
	}
	if err == nil {
		err = m.open()
	}
	if err == nil {
		a.member, a.queue = m, m.Waiting
		if a.sharing() {
			a.fleet.queue = m.Events[max(0, len(m.Events)-maxFleetQueue):]
		}
		if a.cfg.Protection {
			a.loadLists(time.Now())
			if a.cfg.Names {
				a.loadNames(time.Now())
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		a.problem["membership"] = fmt.Errorf("%s cannot be used: %w; run mefctl cloud join with a new invitation", a.path(), err)
	}
	return a
}

func (a *Agent) path() string { return filepath.Join(a.dir, file) }

func (m *membership) open() (err error) {
	if m.server, err = wire.ParseInvitation(m.Invitation); err != nil {
		return err
	}
	if len(m.Key) != ed25519.PrivateKeySize {
		return errors.New("it has no key")
	}
	m.client = webclient.New()
	m.client.Timeout += waitTime * time.Second
	m.client.Transport = &http.Transport{TLSClientConfig: m.server.ClientTLS(), MaxIdleConns: 4, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: webclient.MaxAnswer}
	m.left, m.leave = context.WithCancel(context.Background())
	return nil
}

// Configure replaces the configuration.
func (a *Agent) Configure(cfg *conf.Config) {
	rules := hash(cfg.Rules)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cfg, a.rules = cfg.Community, rules
	owner.Wake(a.changed)
}

// hash returns the hash of detection rules, which tells a server whether hosts judge alike.
func hash(rules []conf.Rule) string {
	h := sha256.New()
	for i := range rules {
		r := &rules[i]
		fmt.Fprintf(h, "%q %t", r.Name, r.Enabled)
		for _, patterns := range [][]conf.Pattern{r.Fail, r.Attempt, r.Echo, r.Probe, r.OK, r.Orphan, r.Peer, r.Ignore} {
			for _, p := range patterns {
				fmt.Fprintf(h, " %q", p.Text)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Open does nothing.
func (a *Agent) Open() error { return nil }

// Close does nothing.
func (a *Agent) Close() error { return nil }

// Write queues what is to be reported. It never waits.
func (a *Agent) Write(recs []control.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range recs {
		a.shareBan(&recs[i])
	}
	if a.member == nil || !a.cfg.Report {
		return nil
	}
	for i := range recs {
		rec := &recs[i]
		if addr, ok := rec.Attacker(); ok && wire.Reportable(addr) && !a.never(netip.PrefixFrom(addr, addr.BitLen())) {
			a.add(wire.Report{Addr: addr, Category: a.category(rec.Service), Count: wire.CountOf(max(rec.Count, len(rec.Evidence))), Hour: rec.Time.Unix() / 3600})
		} else if addr, ok := lifted(rec); ok && (a.listed(addr) || rec.Rule == (&conf.RBLZone{Name: conf.CommunityName}).Rule()) {
			a.benign = append(a.benign[max(0, len(a.benign)-wire.MaxReports+1):], addr)
		}
	}
	owner.Wake(a.wake)
	return nil
}

// lifted returns the address whose ban an operator has lifted.
func lifted(rec *control.Record) (netip.Addr, bool) {
	p, err := netip.ParsePrefix(rec.Prefix)
	if rec.Event != "unban" || rec.Author == "" || err != nil || !p.IsSingleIP() {
		return netip.Addr{}, false
	}
	return p.Addr().Unmap(), wire.Reportable(p.Addr())
}

// add queues a report. One of the same address and category replaces the earlier one.
func (a *Agent) add(r wire.Report) {
	a.queue = slices.DeleteFunc(a.queue, func(old wire.Report) bool { return old.Addr == r.Addr && old.Category == r.Category })
	if len(a.queue) >= maxQueue {
		a.queue = slices.Delete(a.queue, 0, 1)
		a.counts.LeftOut++
	}
	a.queue = append(a.queue, r)
	a.queueChanged()
}

// queueChanged has what waits written to the disk soon. a.mu is held.
func (a *Agent) queueChanged() {
	a.change++
	owner.Wake(a.queued)
}

// never reports whether the operator of the server never lists an address of a network. a.mu is held.
func (a *Agent) never(p netip.Prefix) bool {
	for _, l := range a.lists {
		if l.never.Overlaps(p) {
			return true
		}
	}
	return false
}

// listed reports whether a list of the server has an address.
func (a *Agent) listed(addr netip.Addr) bool {
	for _, l := range a.lists {
		if l.addrs.Contains(addr) {
			return true
		}
	}
	return false
}

// List returns the addresses of all lists, and the ports at which their packets are dropped. It is empty if the configuration does not ask for
// protection.
func (a *Agent) List() (*prefixset.Packed, ban.Ports) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []*prefixset.Packed
	if a.cfg.Protection {
		for _, l := range a.lists {
			all = append(all, l.addrs)
		}
	}
	return prefixset.Join(all...), a.cfg.Ports
}

// Run talks to the server until ctx is done.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	loaded, names := len(a.lists) > 0, a.names
	a.mu.Unlock()
	if loaded && a.Changed != nil {
		a.Changed(ctx)
	}
	if len(names.Weeks) > 0 && a.Names.Use != nil {
		a.Names.Use(ctx, names.Matcher())
	}
	for ctx.Err() == nil {
		a.mu.Lock()
		m, cfg, sharing := a.member, a.cfg, a.sharing()
		a.wasSharing = a.wasSharing || sharing
		a.suspecting.Store(sharing)
		keepNames := sharesNames(m, &cfg) && cfg.Protection && a.namesOf == m
		a.mu.Unlock()
		if !keepNames {
			a.forgetNames(ctx)
		}
		var working sync.WaitGroup
		round, stop := context.WithCancel(ctx)
		if m != nil {
			unhook := context.AfterFunc(m.left, stop)
			working.Go(func() { <-round.Done(); unhook() })
			if cfg.Report {
				working.Go(func() { a.report(round, m) })
			}
			if cfg.Report || sharing {
				working.Go(func() { a.keepQueue(round, m) })
			}
			if sharesNames(m, &cfg) {
				working.Go(func() { a.shareNames(round, m, cfg) })
			}
			if sharing {
				working.Go(func() { a.tell(round, m) })
				working.Go(func() { a.listen(round, m) })
			}
			for _, name := range m.Lists {
				if cfg.Feed() && name != ownList {
					working.Go(func() { a.follow(round, m, name) })
				}
			}
		}
		if m == nil || !cfg.Feed() {
			a.forgetLists(ctx)
		}
		if !sharing {
			a.leaveFleet(ctx)
		}
		select {
		case <-ctx.Done():
		case <-a.changed:
		}
		stop()
		working.Wait()
		if m != nil {
			m.client.CloseIdleConnections()
		}
	}
	a.mu.Lock()
	m := a.member
	a.mu.Unlock()
	if m != nil {
		return a.keep(m)
	}
	return nil
}

// save keeps a new membership on disk.
func (a *Agent) save(m *membership) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return atomicfile.Write(a.path(), text, 0o600)
}

// note keeps why something fails, and logs it once.
func (a *Agent) note(what string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if before := a.problem[what]; err != nil && before == nil {
		a.log.Warn("community server", "what", what, "err", err)
	}
	a.problem[what] = err
	if err == nil {
		delete(a.problem, what)
	}
}

// pause waits before the next attempt. It reports whether to go on.
func pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// later returns how long to wait after some failures, with a part by chance, so that hosts do not come all at once.
func later(failures int) time.Duration {
	wait := min(firstWait<<min(failures-1, 10), longWait)
	return wait/2 + mathrand.N(wait/2)
}

// report sends what waits until ctx is done.
func (a *Agent) report(ctx context.Context, m *membership) {
	for failures := 0; ; {
		a.mu.Lock()
		a.dropLate(time.Now())
		n := min(len(a.queue), wire.MaxReports)
		batch := wire.Batch{Rules: a.rules, Reports: slices.Clone(a.queue[:n])}
		for _, addr := range a.benign[:min(len(a.benign), wire.MaxReports-n)] {
			batch.Benign = append(batch.Benign, wire.Addr{Addr: addr})
		}
		a.mu.Unlock()
		if n+len(batch.Benign) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-a.wake:
			}
			if !pause(ctx, gather) { // what comes together is sent together
				return
			}
			continue
		}
		err := a.send(ctx, m, batch)
		if ctx.Err() != nil {
			return
		}
		var refused *wire.Problem
		if errors.As(err, &refused) && refused.Status == http.StatusBadRequest { // sending it again would not help
			a.remove(batch, false)
		}
		if a.note("reports", err); err == nil {
			failures = 0
			continue
		}
		failures++
		if !pause(ctx, later(failures)) {
			return
		}
	}
}

// dropLate drops reports that the server would refuse: of more than a week ago, or of the future because the clock was set back.
func (a *Agent) dropLate(now time.Time) {
	before, hour := len(a.queue), now.Unix()/3600
	a.queue = slices.DeleteFunc(a.queue, func(r wire.Report) bool { return r.Hour <= hour-7*24 || r.Hour > hour })
	a.counts.LeftOut += uint64(before - len(a.queue))
}

// send sends a batch.
func (a *Agent) send(ctx context.Context, m *membership, batch wire.Batch) error {
	body, err := batch.Encode()
	if err != nil {
		return err
	}
	text, err := m.ask(ctx, http.MethodPost, "/v1/reports", a.nextSeq(m), body, webclient.MaxAnswer)
	if err != nil {
		return err
	}
	var receipt wire.Receipt
	if err := json.Unmarshal(text, &receipt); err != nil {
		return errors.New("the answer of the server is malformed")
	}
	a.mu.Lock()
	a.counts.Sent += uint64(max(0, receipt.Accepted))
	a.counts.Dropped += uint64(len(receipt.Dropped))
	a.mu.Unlock()
	a.remove(batch, true)
	return nil
}

// nextSeq returns the number of the next request, which grows over restarts without being saved.
func (a *Agent) nextSeq(m *membership) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.Seq = max(m.Seq+1, uint64(time.Now().UnixMilli()))
	return m.Seq
}

// remove takes what was sent out of the queue.
func (a *Agent) remove(batch wire.Batch, sent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.queue)
	a.queue = slices.DeleteFunc(a.queue, func(r wire.Report) bool { return slices.Contains(batch.Reports, r) })
	a.queueChanged()
	a.benign = slices.DeleteFunc(a.benign, func(addr netip.Addr) bool { return slices.Contains(batch.Benign, wire.Addr{Addr: addr}) })
	if !sent {
		a.counts.LeftOut += uint64(before - len(a.queue))
	}
}

// ask sends a signed request and returns the answer.
func (m *membership) ask(ctx context.Context, method, path string, seq uint64, body []byte, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+m.server.Server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	wire.Sign(req, m.Key, time.Now(), seq, body)
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, webclient.Shown(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case err != nil:
		return nil, webclient.Shown(err)
	case int64(len(text)) > most:
		return nil, errors.New("the answer of the server is too long")
	case resp.StatusCode >= 300:
		return nil, wire.ProblemOf(resp.StatusCode, text)
	}
	return text, nil
}

// follow keeps a list until ctx is done.
func (a *Agent) follow(ctx context.Context, m *membership, name string) {
	for failures := 0; ctx.Err() == nil; {
		began := time.Now()
		err := a.fetch(ctx, m, name)
		if ctx.Err() != nil {
			return
		}
		a.note("list "+name, err)
		wait := time.Second - time.Since(began) // the server waits; one that does not is asked once a second
		if failures++; err == nil {
			failures = 0
		} else {
			wait = later(failures)
			a.dropOld(ctx, name, time.Now())
		}
		if wait > 0 && !pause(ctx, wait) {
			return
		}
	}
}

// fetch gets a list, or its changes.
func (a *Agent) fetch(ctx context.Context, m *membership, name string) error {
	a.mu.Lock()
	have := a.lists[name]
	a.mu.Unlock()
	since := have.seq
	if have.stale(time.Now()) {
		since = 0
	}
	data, err := m.ask(ctx, http.MethodGet, fmt.Sprintf("/v1/feed/%s?since=%d&wait=%d", name, since, waitTime), 0, nil, wire.MaxFeed)
	if err != nil {
		return err
	}
	var add prefixset.Packer
	f, err := wire.DecodeFeed(data, m.server.Feed, add.Add)
	if err != nil {
		return err
	}
	next, err := have.next(f, add.Pack(), name, time.Now())
	if err != nil {
		return err
	}
	same := next.addrs.Equal(have.addrs)
	a.mu.Lock()
	if a.member != m {
		a.mu.Unlock()
		return nil
	}
	a.lists[name] = next
	a.mu.Unlock()
	if !same && a.Changed != nil {
		a.Changed(ctx)
	}
	if f.Since == 0 {
		a.keepList(m, name, data)
	}
	return nil
}

// next returns the list after a feed that adds addresses, or why that cannot be meant.
func (l list) next(f wire.Feed, added *prefixset.Packed, name string, now time.Time) (list, error) {
	next, err := l.after(f, added, name, now)
	if err != nil {
		return l, err
	}
	next.addrs = next.addrs.Subtract(next.never)
	if next.kept, next.keptSeq, next.changed = l.kept, l.keptSeq, l.changed; !next.addrs.Equal(l.addrs) || next.changed == 0 {
		next.changed = next.seq
	}
	return next, nil
}

func (l list) after(f wire.Feed, added *prefixset.Packed, name string, now time.Time) (list, error) {
	switch {
	case f.List != name:
		return l, fmt.Errorf("the server sends the list %q in place of %q", f.List, name)
	case f.Seq < l.seq || f.At.Before(l.at.Add(-wire.MaxSkew)):
		return l, errors.New("the server sends an older list than before; if it was restored from an old backup, leave it and join again")
	}
	if err := timely("list", f.At, now); err != nil {
		return l, err
	}
	if f.Since != 0 && f.Since != l.seq {
		return l, fmt.Errorf("the server sends changes to version %d, but version %d is here", f.Since, l.seq)
	}
	next := list{seq: f.Seq, at: f.At, addrs: added, never: prefixset.New(f.Never...)}
	if f.Since == 0 {
		before, after := l.addrs.Len(), next.addrs.Len()
		if l.seq != 0 && max(before, after) > surprise && (after > 2*before || 2*after < before) {
			return l, fmt.Errorf("the list has %d entries, and had %d; if that is right, leave the server and join again", after, before)
		}
		return next, nil
	}
	if added.Len()+len(f.Remove) == 0 {
		next.addrs = l.addrs
		return next, nil
	}
	rest := l.addrs
	if rest == nil {
		rest = new(prefixset.Packed)
	}
	next.addrs = prefixset.Join(rest.Subtract(prefixset.New(f.Remove...)), next.addrs)
	return next, nil
}

// timely returns why what a server has signed at a time is not used now.
func timely(what string, at, now time.Time) error {
	switch {
	case at.After(now.Add(wire.MaxSkew)):
		return fmt.Errorf("the %s is from the future; set the clock of this host", what)
	case now.Sub(at) > tooOld:
		return fmt.Errorf("the %s is older than 48 hours", what)
	}
	return nil
}

// dropOld drops a list that is too old.
func (a *Agent) dropOld(ctx context.Context, name string, now time.Time) {
	a.mu.Lock()
	l, ok := a.lists[name]
	old := ok && now.Sub(l.at) > tooOld
	if old {
		delete(a.lists, name)
	}
	a.mu.Unlock()
	if old {
		a.log.Error("a list of the community server is older than 48 hours and no longer used", "list", name)
		if a.Changed != nil {
			a.Changed(ctx)
		}
	}
}

// forgetLists forgets all lists: the host has left the server, or wants no protection.
func (a *Agent) forgetLists(ctx context.Context) {
	a.mu.Lock()
	had := len(a.lists) > 0
	clear(a.lists)
	a.mu.Unlock()
	if had && a.Changed != nil {
		a.Changed(ctx)
	}
}

// Join joins the server of an invitation with a new key. A server that was joined before is left.
func (a *Agent) Join(ctx context.Context, text string) error {
	inv, err := wire.ParseInvitation(text)
	if err != nil {
		return control.Refuse("%v", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	body, err := json.Marshal(wire.Enrolment{Token: base64.RawURLEncoding.EncodeToString(inv.Token), Key: key.Public().(ed25519.PublicKey)})
	if err != nil {
		return err
	}
	inv.Token = nil
	m := &membership{Invitation: inv.String(), Key: key, Since: time.Now()}
	if err := m.open(); err != nil {
		return err
	}
	answer, err := m.ask(ctx, http.MethodPost, "/v1/enroll", 0, body, webclient.MaxAnswer)
	if err != nil {
		return control.Refuse("%v", err)
	}
	var enrolled wire.Enrolled
	if err := json.Unmarshal(answer, &enrolled); err != nil || len(enrolled.Lists) > 8 {
		return control.Refuse("the answer of the server is malformed")
	}
	m.ID, m.Lists = enrolled.ID, enrolled.Lists
	for _, name := range m.Lists {
		if name != "public" && name != "own" {
			return control.Refuse("the server has lists that this version of mef does not understand")
		}
	}
	return a.replace(m)
}

// Leave leaves the server.
func (a *Agent) Leave() error {
	a.mu.Lock()
	none := a.member == nil
	a.mu.Unlock()
	if none {
		return control.Refuse("this host has joined no server")
	}
	return a.replace(nil)
}

// replace replaces the membership, on disk first.
func (a *Agent) replace(m *membership) error {
	a.saving.Lock()
	defer a.saving.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.dropKept(); err != nil {
		return err
	}
	if m == nil {
		if err := atomicfile.Remove(a.path()); err != nil {
			return err
		}
	} else if err := a.save(m); err != nil {
		return err
	}
	if a.member != nil {
		a.member.leave()
	}
	a.member, a.queue, a.benign = m, nil, nil
	clear(a.lists)
	clear(a.problem)
	owner.Wake(a.changed)
	return nil
}

// Status describes the membership, and what waits.
func (a *Agent) Status() control.Cloud {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.counts
	if s.Waiting = len(a.queue); a.member != nil {
		s.Server, s.Host, s.Since = a.member.server.Server, a.member.ID, control.Moment(a.member.Since)
		s.Reporting, s.Protecting = a.cfg.Report, a.cfg.Protection
		for _, name := range a.member.Lists {
			if name == ownList || !a.cfg.Feed() {
				continue
			}
			l := a.lists[name]
			s.Lists = append(s.Lists, control.CloudList{Name: name, Entries: l.addrs.Len(), Of: control.Moment(l.at)})
		}
		if sharesNames(a.member, &a.cfg) {
			s.Names = &control.CloudNames{Reported: a.member.NamedCount, At: control.Moment(a.member.Named)}
			if a.namesInUse {
				s.Names.Listed, s.Names.Of = a.names.Len(), control.Moment(a.names.At)
			}
		}
	}
	if a.sharing() {
		f := a.fleet.state
		f.Waiting = len(a.fleet.queue)
		s.Fleet = &f
	}
	for what, err := range a.problem {
		s.Problems = append(s.Problems, what+": "+err.Error())
	}
	slices.Sort(s.Problems)
	return s
}

// Preview returns the body of the next request, before compression; if user names would be reported or this is an own host, the next one about reports, the
// next one about names and the next one for the other hosts.
func (a *Agent) Preview(ctx context.Context) (json.RawMessage, error) {
	names, err := a.previewNames(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	batch := wire.Batch{Rules: a.rules, Reports: slices.Clone(a.queue[:min(len(a.queue), wire.MaxReports)])}
	for _, addr := range a.benign {
		batch.Benign = append(batch.Benign, wire.Addr{Addr: addr})
	}
	var fleet *wire.FleetBatch
	if a.sharing() {
		b := a.previewFleet()
		fleet = &b
	}
	if fleet == nil && names == nil {
		return json.Marshal(batch)
	}
	return json.Marshal(struct {
		Reports wire.Batch       `json:"reports"`
		Names   json.RawMessage  `json:"names,omitempty"`
		Fleet   *wire.FleetBatch `json:"fleet,omitempty"`
	}{batch, names, fleet})
}
