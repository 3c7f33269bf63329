package track

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"

	"mef/internal/ban"
	"mef/internal/track/bans"
	"mef/internal/track/dictionary"
	"mef/internal/track/logins"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
	"mef/internal/track/surge"
)

// A Record is one entry of the tracker's state, as the store keeps it.
type Record = record.Record

// The kinds of record, the first byte of a key, beside those of package dictionary, logins and bans.
const (
	kindAlarm  = 'a' // an alarm; the rest is its number
	kindSeed   = 'g' // the seed of hashes; no more key
	kindSource = 's' // a source; the rest is its prefix
	kindRule   = 'v' // what is known of a rule; the rest is its name

	sourceVersion = 4 // of a source's value; earlier versions are not read any more
	ruleVersion   = 2 // the same of a rule's
)

// Changes returns what has changed since the last call, removals first, and takes it as stored; the caller keeps it until
// it is. Bans in force are not part of it: their keeper brings them back by Restore.
//
// Positions in logs are saved together with it, so it is all or nothing. As nothing else is counted meanwhile, it looks only
// at what has changed, and the records share a few large buffers.
func (t *Tracker) Changes() []Record {
	t.tidy(tidied)
	p := record.Pack{Records: make([]Record, 0, len(t.gone)+len(t.dirty)+len(t.rules)+64)}
	for _, k := range t.gone {
		sourceKey(&p, k)
		p.Remove()
	}
	t.gone = t.gone[:0]
	if !t.seedStored {
		p.Begin(kindSeed)
		p.Value(record.Version)
		p.Uint(t.seed)
		p.End(false)
		t.seedStored = true
	}
	t.sourceChanges(&p)
	t.logins.Changes(&p)
	t.history.Changes(&p)
	t.ruleChanges(&p)
	t.names.Changes(&p)
	t.alarmChanges(&p)
	t.lifts.Changes(&p)
	return p.Records
}

func sourceKey(p *record.Pack, k netkey.Key) {
	p.Begin(kindSource)
	p.Writer = k.AppendTo(p.Writer)
}

func (t *Tracker) sourceChanges(p *record.Pack) {
	for _, i := range t.dirty {
		s := t.sources.At(i)
		changed := s.flags&dirty != 0
		if s.flags &^= dirty | listed; !changed {
			continue // it was removed
		}
		s.flags |= stored
		sourceKey(p, s.key)
		p.Value(sourceVersion)
		p.Writer = t.encodeSource(p.Writer, s)
		p.End(true)
	}
	t.dirty = t.dirty[:0]
}

func (t *Tracker) ruleChanges(p *record.Pack) {
	if !t.rulesChanged {
		return
	}
	t.rulesChanged = false
	for i := range t.rules {
		p.Begin(kindRule)
		p.Writer = append(p.Writer, t.rules[i].rule.Name...)
		p.Value(ruleVersion)
		p.Writer = t.rules[i].surge.AppendTo(p.Writer)
		p.Int(t.rules[i].doubted)
		p.End(false)
	}
}

func (t *Tracker) alarmChanges(p *record.Pack) {
	for _, id := range t.goneAlarms {
		p.BeginNumber(kindAlarm, id)
		p.Remove()
	}
	t.goneAlarms = nil
	if !t.alarmsChanged {
		return
	}
	t.alarmsChanged = false
	for i := range t.alarms {
		a := &t.alarms[i]
		if a.flags&dirty == 0 {
			continue
		}
		a.flags = stored
		p.BeginNumber(kindAlarm, a.ID)
		p.Value(record.Version)
		p.Int(a.Time.UnixNano())
		p.Writer = netkey.Exact(a.Addr).AppendTo(p.Writer)
		p.Bool(a.Acked)
		p.Text(a.User)
		p.Text(a.Service)
		p.Text(a.Reason)
		p.Uint(uint64(len(a.Evidence)))
		for _, line := range a.Evidence {
			p.Text(line)
		}
		p.End(false)
	}
}

// What attempts of one source mostly share with the next older one, and is then left out.
const (
	likeRule = 1 << iota
	likeUser
	likeSession
)

// encodeSource appends the value of a source to w: a variable of its own, for thousands are encoded at a stretch. While a ban
// keeps the source out, its lines are with the ban.
func (t *Tracker) encodeSource(w record.Writer, s *source) record.Writer {
	w.Int(s.seen)
	w.Float(s.score)
	w.Float(s.absent)
	w.Float(s.probes)
	w.Float(s.unverified)
	w.Uint(uint64(s.address))
	w = append(w, s.flags&lasting, s.days)
	w.Uint(uint64(s.tries))
	w.Uint(uint64(s.lastDay))
	w.Uint(uint64(s.users.Len()))
	for _, c := range t.usersOf(s) {
		w.Uint(uint64(c.user))
		w.Float(c.points)
	}
	all := t.attemptsOf(s)
	w.Uint(uint64(len(all)))
	older := &attempt{rule: noRule}
	for i := range all {
		w = t.encodeAttempt(w, &all[i], older, s.seen)
		older = &all[i]
	}
	var lines [][]byte
	if s.blockedUntil <= t.now {
		lines = t.evidence.Read(s.evidence, ban.MaxEvidence)
	}
	w.Uint(uint64(len(lines)))
	for _, line := range lines {
		w.Uint(uint64(len(line)))
		w = append(w, line...)
	}
	return w
}

// noRule is the number of no rule.
const noRule = math.MaxUint16

func (t *Tracker) encodeAttempt(w record.Writer, a, older *attempt, seen int64) record.Writer {
	var like byte
	if a.rule == older.rule {
		like |= likeRule
	}
	if a.user == older.user {
		like |= likeUser
	}
	if a.session == older.session {
		like |= likeSession
	}
	w = append(w, like, byte(a.n()), a.flags())
	w.Uint(uint64(a.forms))
	w.Uint(uint64(a.others))
	w.Uint(uint64(a.points))
	w.Int(seen - a.at())
	if like&likeRule == 0 {
		w.Text(t.rules[a.rule].rule.Name)
	}
	if like&likeUser == 0 {
		w.Uint(uint64(a.user))
	}
	if like&likeSession == 0 {
		w.Uint(uint64(a.session))
	}
	return w
}

// Import fills an empty tracker with stored entries, in any order. Records that cannot be read are left out; the error names
// how many, and the first. Rules must be configured before: attempts at unknown rules are left out.
func (t *Tracker) Import(entries iter.Seq2[[]byte, []byte]) error {
	im := importer{t: t, pasts: bans.Saved{}}
	var first error
	bad := 0
	for k, v := range entries {
		if err := im.read(k, v); err != nil {
			bad++
			first = cmp.Or(first, err)
		}
	}
	im.finish()
	if bad > 0 {
		return fmt.Errorf("%d records skipped: %w", bad, first)
	}
	return nil
}

// An importer gathers what must be entered in order of time.
type importer struct {
	t       *Tracker
	sources []savedSource
	values  record.Copies // of the sources
	one     decodedSource // the latest that was read
	logins  []*logins.Login
	names   []*dictionary.Entry
	pasts   bans.Saved
}

// A savedSource is the record of a source, which has a third of the size of what it says.
type savedSource struct {
	seen  int64
	value []byte
	key   netkey.Key
}

type decodedSource struct {
	source
	users    [maxUsers]contribution
	attempts []attempt
	lines    [][]byte
}

func (im *importer) read(k, v []byte) error {
	if len(k) == 0 || len(v) == 0 {
		return fmt.Errorf("%w: %q", record.ErrState, k)
	}
	switch version := versionOf(k[0]); {
	case v[0] < version:
		return nil // of an earlier program: that source or login begins anew
	case v[0] > version:
		return fmt.Errorf("%w: %q", record.ErrState, k)
	}
	r := &record.Reader{Rest: v[1:]}
	if im.enter(k[0], k[1:], r); r.Err != nil {
		return fmt.Errorf("%w: %q", record.ErrState, k)
	}
	return nil
}

// versionOf returns the version of the form of a kind's values.
func versionOf(kind byte) byte {
	switch kind {
	case kindSource:
		return sourceVersion
	case kindRule:
		return ruleVersion
	case logins.Kind:
		return logins.Version
	}
	return record.Version
}

// enter reads a record and keeps it, unless that fails.
func (im *importer) enter(kind byte, rest []byte, r *record.Reader) {
	t := im.t
	switch kind {
	case kindSeed:
		t.seed, t.seedStored = r.Uint(), true
		for i := range t.rules {
			t.rules[i].service = t.serviceHash(t.rules[i].rule.Service)
		}
	case kindSource:
		value := r.Rest
		k, ok := netkey.Parse(rest)
		if !ok {
			r.Fail()
		}
		if t.decodeSource(&im.one, r); r.Err == nil {
			im.sources = append(im.sources, savedSource{im.one.seen, im.values.Keep(value), k})
		}
	case logins.Kind:
		if l := logins.Read(r, rest); r.Err == nil {
			im.logins = append(im.logins, l)
		}
	case dictionary.Kind:
		if e := dictionary.Read(r, string(rest)); r.Err == nil {
			im.names = append(im.names, e)
		}
	case kindAlarm:
		if a := decodeAlarm(r, rest); r.Err == nil {
			t.alarms = append(t.alarms, a)
		}
	case bans.KindLift:
		t.lifts.Read(r, rest)
	case bans.KindHistory:
		im.pasts.Read(r, rest)
	case kindRule:
		if l := readLearned(r); r.Err == nil {
			if i, ok := t.ruleIndex[string(rest)]; ok {
				t.rules[i].learned = l
			}
		}
	default:
		r.Fail()
	}
}

func readLearned(r *record.Reader) (l learned) {
	var n int
	l.surge, n = surge.Parse(r.Rest, 1)
	r.Skip(n)
	l.doubted = r.Int()
	return l
}

// finish enters what was gathered, in order of time: eviction goes by it.
func (im *importer) finish() {
	t := im.t
	t.logins.Restore(im.logins)
	t.names.Restore(im.names, t.cfg.Known.Total)
	sortAlarms(t.alarms)
	if n := len(t.alarms); n > 0 {
		t.lastAlarm = t.alarms[n-1].ID
	}
	slices.SortFunc(im.sources, func(a, b savedSource) int {
		return cmp.Or(cmp.Compare(a.seen, b.seen), bytes.Compare(a.key.Addr[:], b.key.Addr[:]))
	})
	for _, s := range im.sources {
		t.decodeSource(&im.one, &record.Reader{Rest: s.value})
		im.one.key = s.key
		t.restoreSource(&im.one)
	}
	t.history.Restore(im.pasts)
}

func decodeAlarm(r *record.Reader, number []byte) Alarm {
	at := r.Int()
	k, ok := netkey.Parse(r.Take(netkey.Size))
	if !ok {
		r.Fail()
	}
	a := Alarm{ID: r.Number(number), Time: record.Moment(at), Addr: k.Prefix().Addr(), Acked: r.Bool(), User: r.Text(), Service: r.Text(),
		Reason: r.Text(), flags: stored}
	for range r.Count() {
		a.Evidence = append(a.Evidence, r.Text())
	}
	return a
}

func (t *Tracker) restoreSource(saved *decodedSource) {
	t.now = max(t.now, saved.seen)
	i := t.insert(saved.key, saved.seen)
	s := t.sources.At(i)
	s.flags |= stored
	s.score, s.absent, s.probes, s.unverified = saved.score, saved.absent, saved.probes, saved.unverified
	users := len(saved.users)
	for users > 0 && saved.users[users-1] == (contribution{}) {
		users--
	}
	s.users = t.users.Put(saved.users[:users])
	s.days, s.tries, s.lastDay = saved.days, saved.tries, saved.lastDay
	s.address = saved.address
	t.countKnown(s)
	s.flags |= saved.flags
	s.attempts = t.attempts.Put(saved.attempts)
	for _, line := range saved.lines {
		s.evidence = t.evidence.Add(s.evidence, line)
	}
	t.settleIn(i, saved.seen)
}

// decodeSource reads the value of a source, which must stay as it is while s is used.
func (t *Tracker) decodeSource(s *decodedSource, r *record.Reader) {
	*s = decodedSource{attempts: s.attempts[:0], lines: s.lines[:0]}
	s.seen, s.score, s.absent, s.probes, s.unverified = r.Int(), r.Float(), r.Float(), r.Float(), r.Float()
	s.address, s.flags = uint32(r.Uint()), r.Byte()&lasting
	s.days, s.tries, s.lastDay = r.Byte(), uint16(r.Uint()), uint16(r.Uint())
	for i := range r.Count() {
		s.users[i%len(s.users)] = contribution{uint32(r.Uint()), r.Float()}
	}
	a := attempt{rule: noRule}
	for range r.Count() {
		if t.decodeAttempt(r, &a, s.seen); a.rule != noRule {
			s.attempts = append(s.attempts, a)
		}
	}
	for range r.Count() {
		s.lines = append(s.lines, r.Take(r.Count()))
	}
}

// decodeAttempt turns an attempt into the next younger one. Its rule is noRule if there is no such rule any more.
func (t *Tracker) decodeAttempt(r *record.Reader, a *attempt, seen int64) {
	like := r.Byte()
	n, flags := min(max(1, int(r.Byte())), mostOfAttempt), r.Byte()&flagBits
	a.forms, a.others, a.points = uint16(r.Uint()), uint16(r.Uint()), uint16(r.Uint())
	a.stamp = stamp(seen-r.Int(), n, flags)
	if like&likeRule == 0 {
		i, ok := t.ruleIndex[r.Text()]
		if a.rule = i; !ok {
			a.rule = noRule
		}
	}
	if like&likeUser == 0 {
		a.user = uint32(r.Uint())
	}
	if like&likeSession == 0 {
		a.session = uint32(r.Uint())
	}
}
