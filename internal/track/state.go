package track

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"

	"mef/internal/ban"
)

// A Record is one entry of the tracker's state, as the store keeps it.
type Record struct {
	Key   []byte
	Value []byte // nil: the entry is gone
	Spare bool   // a source's: may be left out where room is short, and is then counted anew
}

// The kinds of record, the first byte of a key. Records are binary: numbers as varints, strings behind their length. The
// first byte of a value is the version of its form.
const (
	kindAlarm   = 'a' // an alarm; key: its number, 8 bytes big-endian
	kindLift    = 'f' // a lifted ban; key: length, address
	kindSeed    = 'g' // the seed of hashes; no more key
	kindHistory = 'h' // a past ban; key: its number, 8 bytes big-endian
	kindLogin   = 'l' // a known login or a guest; key: address, service, zero byte, user name
	kindName    = 'n' // a name of the dictionary; key: the name
	kindSource  = 's' // a source; key: length, address
	kindRule    = 'v' // the surge of a rule; key: its name

	stateVersion  = 1
	sourceVersion = 4 // of a source's value; earlier versions are not read any more
	loginVersion  = 2 // of a login's value; the first version is not read any more
)

// Changes returns what has changed since the last call, removals first, and takes it as stored; the caller keeps it until
// it is. Bans in force are not part of it: their keeper brings them back by Restore.
//
// Positions in logs are saved together with it, so it is all or nothing. As nothing else is counted meanwhile, it looks only
// at what has changed, and the records share a few large buffers.
func (t *Tracker) Changes() []Record {
	p := pack{records: make([]Record, 0, len(t.gone)+len(t.dirty)+len(t.logins.gone)+len(t.history.gone)+len(t.rules)+64)}
	for _, k := range t.gone {
		p.sourceKey(k)
		p.remove()
	}
	t.gone = t.gone[:0]
	if !t.seedStored {
		p.begin(kindSeed)
		p.value()
		p.uint(t.seed)
		p.end()
		t.seedStored = true
	}
	t.sourceChanges(&p)
	t.loginChanges(&p)
	t.historyChanges(&p)
	t.surgeChanges(&p)
	t.nameChanges(&p)
	t.alarmChanges(&p)
	t.liftChanges(&p)
	return p.records
}

// A pack gathers records. Key and value of a record are written behind each other into scratch, then kept in a buffer that
// many records share: two allocations for thousands of them.
type pack struct {
	records []Record
	buf     []byte // what is free of it is its capacity

	writer     // the record in the making
	keyLen int // bytes of it that are the key
}

// packSize is how large a buffer is.
const packSize = 256 << 10

// begin begins a record's key.
func (p *pack) begin(kind byte) { p.writer = append(p.writer[:0], kind) }

func (p *pack) sourceKey(k key) {
	p.begin(kindSource)
	p.key(k)
}

func (p *pack) loginKey(of pair) {
	p.begin(kindLogin)
	p.key(of.from)
	p.writer = append(append(append(p.writer, of.service...), 0), of.user...)
}

func (p *pack) historyKey(n uint64) {
	p.begin(kindHistory)
	p.writer = binary.BigEndian.AppendUint64(p.writer, n)
}

// value ends the key and begins the value.
func (p *pack) value() { p.valueOf(stateVersion) }

func (p *pack) valueOf(version byte) {
	p.keyLen = len(p.writer)
	p.writer = append(p.writer, version)
}

// end ends the record.
func (p *pack) end() {
	b := p.keep()
	p.records = append(p.records, Record{Key: b[:p.keyLen:p.keyLen], Value: b[p.keyLen:], Spare: b[0] == kindSource})
}

// remove ends a key and with it the record: the entry is gone.
func (p *pack) remove() { p.records = append(p.records, Record{Key: p.keep()}) }

// keep copies what was written.
func (p *pack) keep() []byte {
	n := len(p.writer)
	if cap(p.buf)-len(p.buf) < n {
		p.buf = make([]byte, 0, max(packSize, n))
	}
	start := len(p.buf)
	p.buf = append(p.buf, p.writer...)
	return p.buf[start:len(p.buf):len(p.buf)]
}

func (t *Tracker) sourceChanges(p *pack) {
	for _, i := range t.dirty {
		s := t.sources.at(i)
		changed := s.flags&dirty != 0
		if s.flags &^= dirty | listed; !changed {
			continue // it was removed
		}
		s.flags |= stored
		p.sourceKey(s.key)
		p.valueOf(sourceVersion)
		p.writer = t.encodeSource(p.writer, s)
		p.end()
	}
	t.dirty = t.dirty[:0]
}

func (t *Tracker) loginChanges(p *pack) {
	for _, of := range t.logins.gone {
		p.loginKey(of)
		p.remove()
	}
	t.logins.gone = nil
	if !t.logins.changed {
		return
	}
	t.logins.changed = false
	for _, oldest := range []*login{t.logins.known.oldest, t.logins.strays.oldest} {
		for l := oldest; l != nil; l = l.newer {
			if l.flags&dirty != 0 {
				l.flags = stored
				p.loginKey(l.pair)
				p.valueOf(loginVersion)
				p.int(l.last)
				p.int(l.at)
				p.int(l.counted)
				p.float(l.spent)
				p.float(l.points)
				p.end()
			}
		}
	}
}

func (t *Tracker) historyChanges(p *pack) {
	for _, n := range t.history.gone {
		p.historyKey(n)
		p.remove()
	}
	t.history.gone = nil
	if t.history.changed == 0 {
		return
	}
	for n := max(t.history.changed, t.history.oldest()); n <= t.history.next; n++ {
		if h := t.history.at(n); h != nil && h.flags&dirty != 0 {
			h.flags = stored
			p.historyKey(n)
			p.value()
			encodePast(p, h)
			p.end()
		}
	}
	t.history.changed = 0
}

func (t *Tracker) surgeChanges(p *pack) {
	if !t.surgesDirty {
		return
	}
	t.surgesDirty = false
	for i := range t.rules {
		p.begin(kindRule)
		p.writer = append(p.writer, t.rules[i].rule.Name...)
		p.value()
		p.surge(&t.rules[i].surge)
		p.end()
	}
}

func (p *pack) nameKey(text string) {
	p.begin(kindName)
	p.writer = append(p.writer, text...)
}

func (t *Tracker) nameChanges(p *pack) {
	d := &t.names
	for _, text := range d.gone {
		if d.index[text] == nil || d.index[text].flags&dirty == 0 {
			p.nameKey(text)
			p.remove()
		}
	}
	d.gone = nil
	for _, n := range d.dirty {
		if n.flags&dirty == 0 || d.index[n.text] != n {
			continue
		}
		n.flags = stored
		p.nameKey(n.text)
		p.value()
		p.uint(n.networks[0])
		p.uint(n.networks[1])
		p.int(int64(n.period))
		p.uint(uint64(n.tries))
		p.int(n.first)
		p.int(n.last)
		p.int(n.success)
		p.writer = append(p.writer, flag(n.absent))
		p.surge(&n.surge)
		p.end()
	}
	d.dirty = nil
}

func (p *pack) alarmKey(id uint64) {
	p.begin(kindAlarm)
	p.writer = binary.BigEndian.AppendUint64(p.writer, id)
}

func (t *Tracker) alarmChanges(p *pack) {
	for _, id := range t.goneAlarms {
		p.alarmKey(id)
		p.remove()
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
		p.alarmKey(a.ID)
		p.value()
		p.int(a.Time.UnixNano())
		p.key(exact(a.Addr))
		p.writer = append(p.writer, flag(a.Acked))
		p.str(a.User)
		p.str(a.Service)
		p.str(a.Reason)
		p.uint(uint64(len(a.Evidence)))
		for _, line := range a.Evidence {
			p.str(line)
		}
		p.end()
	}
}

func (t *Tracker) liftChanges(p *pack) {
	for k := range t.lifts.changed {
		p.begin(kindLift)
		p.key(k)
		if at, ok := t.lifts.at[k]; ok {
			p.value()
			p.int(at)
			p.end()
		} else {
			p.remove()
		}
	}
	clear(t.lifts.changed)
}

// What attempts of one source mostly share with the next older one, and what it is then not said of again.
const (
	likeRule = 1 << iota
	likeUser
	likeSession
)

// encodeSource appends the value of a source to w: a variable of its own, for thousands are encoded at a stretch. While a ban
// keeps the source out, its lines are with the ban.
func (t *Tracker) encodeSource(w writer, s *source) writer {
	w.int(s.seen)
	w.float(s.score)
	w.float(s.absent)
	w.float(s.probes)
	w.float(s.unverified)
	w.uint(uint64(s.address))
	w = append(w, s.flags&lasting, s.days)
	w.uint(uint64(s.tries))
	w.uint(uint64(s.lastDay))
	users := len(s.users)
	for users > 0 && s.users[users-1] == (contribution{}) {
		users--
	}
	w.uint(uint64(users))
	for _, c := range s.users[:users] {
		w.uint(uint64(c.user))
		w.float(c.points)
	}
	t.chain = t.chain[:0]
	for i := s.attempts; i != 0; i = t.attempts.at(i).next {
		t.chain = append(t.chain, i)
	}
	w.uint(uint64(len(t.chain)))
	older := attempt{rule: noRule}
	for n := len(t.chain) - 1; n >= 0; n-- {
		a := t.attempts.at(t.chain[n])
		w = t.encodeAttempt(w, a, &older, s.seen)
		older = *a
	}
	t.lines = t.lines[:0]
	if s.blockedUntil <= t.now {
		t.lines = t.evidence.lines(t.lines, s.evidence, ban.MaxEvidence)
	}
	w.uint(uint64(len(t.lines)))
	for _, line := range t.lines {
		w.str(line)
	}
	return w
}

// noRule is the number of no rule.
const noRule = math.MaxUint16

func (t *Tracker) encodeAttempt(w writer, a, older *attempt, seen int64) writer {
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
	w = append(w, like, a.n, a.flags)
	w.uint(uint64(a.forms))
	w.uint(uint64(a.others))
	w.uint(uint64(a.points))
	w.int(seen - a.at)
	if like&likeRule == 0 {
		w.str(t.rules[a.rule].rule.Name)
	}
	if like&likeUser == 0 {
		w.uint(uint64(a.user))
	}
	if like&likeSession == 0 {
		w.uint(uint64(a.session))
	}
	return w
}

func encodePast(p *pack, h *past) {
	p.key(h.key)
	p.writer = append(p.writer, flag(h.joined), flag(h.lifted))
	p.int(h.start)
	p.int(h.until)
	p.uint(h.id)
	p.str(h.rule)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// errState is wrapped by the errors of records that cannot be read.
var errState = errors.New("unreadable state")

// Import fills an empty tracker with stored entries, in any order. Records that cannot be read are left out; the error names
// how many, and the first. Rules must be configured before: attempts at unknown rules are left out.
func (t *Tracker) Import(entries iter.Seq2[[]byte, []byte]) error {
	im := importer{t: t, pasts: map[uint64]past{}}
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
	logins  []*login
	names   []*name
	pasts   map[uint64]past
}

type savedSource struct {
	source
	attempts []attempt
	lines    []string
}

func (im *importer) read(k, v []byte) error {
	if len(k) == 0 || len(v) == 0 {
		return fmt.Errorf("%w: %q", errState, k)
	}
	version := byte(stateVersion)
	switch k[0] {
	case kindSource:
		version = sourceVersion
	case kindLogin:
		version = loginVersion
	}
	switch {
	case v[0] < version:
		return nil // of an earlier program: that source or login begins anew
	case v[0] > version:
		return fmt.Errorf("%w: %q", errState, k)
	}
	r := &reader{rest: v[1:]}
	switch rest := k[1:]; k[0] {
	case kindSeed:
		im.t.seed, im.t.seedStored = r.uint(), true
		for i := range im.t.rules {
			im.t.rules[i].service = im.t.serviceHash(im.t.rules[i].rule.Service)
		}
	case kindSource:
		s := im.t.decodeSource(r)
		s.key = r.key(rest)
		im.sources = append(im.sources, s)
	case kindLogin:
		l := &login{last: r.int(), at: r.int(), counted: r.int(), spent: r.float(), points: r.float(), flags: stored}
		if len(rest) < 17 {
			return fmt.Errorf("%w: %q", errState, k)
		}
		service, user, ok := bytes.Cut(rest[17:], []byte{0})
		if !ok {
			return fmt.Errorf("%w: %q", errState, k)
		}
		l.pair = pair{r.key(rest[:17]), string(service), string(user)}
		im.logins = append(im.logins, l)
	case kindName:
		if n := decodeName(r, string(rest)); r.err == nil {
			im.names = append(im.names, n)
		}
	case kindAlarm:
		if len(rest) != 8 {
			return fmt.Errorf("%w: %q", errState, k)
		}
		if a := decodeAlarm(r, binary.BigEndian.Uint64(rest)); r.err == nil {
			im.t.alarms = append(im.t.alarms, a)
		}
	case kindLift:
		if at, of := r.int(), r.key(rest); r.err == nil {
			im.t.lifts.add(of, at)
		}
	case kindHistory:
		if len(rest) != 8 {
			return fmt.Errorf("%w: %q", errState, k)
		}
		if p := decodePast(r); r.err == nil {
			im.pasts[binary.BigEndian.Uint64(rest)] = p
		}
	case kindRule:
		s := r.surge(1)
		if i, ok := im.t.ruleIndex[string(rest)]; ok && r.err == nil {
			im.t.rules[i].surge = s
		}
	default:
		return fmt.Errorf("%w: %q", errState, k)
	}
	if r.err != nil {
		im.drop(k[0])
		return fmt.Errorf("%w: %q", errState, k)
	}
	return nil
}

// drop takes back what was just gathered and turned out to be unreadable.
func (im *importer) drop(kind byte) {
	switch kind {
	case kindSource:
		im.sources = im.sources[:len(im.sources)-1]
	case kindLogin:
		im.logins = im.logins[:len(im.logins)-1]
	}
}

// finish enters what was gathered, in order of time: eviction goes by it.
func (im *importer) finish() {
	t := im.t
	slices.SortFunc(im.logins, func(a, b *login) int {
		return cmp.Or(cmp.Compare(a.last, b.last), cmp.Compare(a.user, b.user), bytes.Compare(a.from.addr[:], b.from.addr[:]))
	})
	for _, l := range im.logins {
		if l.last == 0 {
			continue
		}
		t.makeRoom(l.pair)
		t.addLogin(l)
		t.logins.known.linkNewest(l)
	}
	t.importGuests(im.logins)
	t.importNames(im.names)
	sortAlarms(t.alarms)
	if n := len(t.alarms); n > 0 {
		t.lastAlarm = t.alarms[n-1].ID
	}
	clear(t.lifts.changed)
	slices.SortFunc(im.sources, func(a, b savedSource) int {
		return cmp.Or(cmp.Compare(a.seen, b.seen), bytes.Compare(a.key.addr[:], b.key.addr[:]))
	})
	for i := range im.sources {
		t.restoreSource(&im.sources[i])
	}
	t.history.restore(im.pasts)
}

func (t *Tracker) importGuests(logins []*login) {
	logins = slices.DeleteFunc(logins, func(l *login) bool { return l.last != 0 })
	slices.SortStableFunc(logins, func(a, b *login) int { return cmp.Compare(a.at, b.at) })
	for _, l := range logins[max(0, len(logins)-t.cfg.Known.Total):] {
		t.logins.guests[l.pair] = l
		t.logins.guest[l.from]++
		t.logins.strays.linkNewest(l)
	}
}

// importNames enters names into an empty dictionary, the oldest first.
func (t *Tracker) importNames(names []*name) {
	d := &t.names
	slices.SortFunc(names, func(a, b *name) int {
		return cmp.Or(cmp.Compare(a.success, b.success), cmp.Compare(a.last, b.last), cmp.Compare(a.text, b.text))
	})
	for _, n := range names {
		d.index[n.text] = n
		if n.success > 0 {
			d.succeeded.add(n)
		} else {
			d.demanded.add(n)
		}
	}
	for d.succeeded.n > t.cfg.Known.Total {
		d.remove(d.succeeded.oldest)
	}
	for d.demanded.n > maxDemanded {
		d.remove(d.demanded.oldest)
	}
	d.stale = true
}

func decodeName(r *reader, text string) *name {
	n := &name{text: text, networks: [2]uint64{r.uint(), r.uint()}, period: int32(r.int()), tries: uint32(r.uint()), first: r.int(), last: r.int(),
		success: r.int(), absent: r.byte() != 0, flags: stored}
	n.surge = r.surge(nameScale().least)
	return n
}

func decodeAlarm(r *reader, id uint64) Alarm {
	a := Alarm{ID: id, Time: moment(r.int()), Addr: r.key(r.take(17)).prefix().Addr(), Acked: r.byte() != 0, User: r.str(), Service: r.str(), Reason: r.str(),
		flags: stored}
	for range r.count() {
		a.Evidence = append(a.Evidence, r.str())
	}
	return a
}

func (t *Tracker) restoreSource(saved *savedSource) {
	t.now = max(t.now, saved.seen)
	i := t.insert(saved.key, saved.seen)
	s := t.sources.at(i)
	s.flags = stored
	s.score, s.absent, s.probes, s.unverified, s.users = saved.score, saved.absent, saved.probes, saved.unverified, saved.users
	s.days, s.tries, s.lastDay = saved.days, saved.tries, saved.lastDay
	s.address, s.known = saved.address, uint8(min(t.logins.within[s.key], 255))
	s.flags |= saved.flags
	for _, a := range saved.attempts {
		a.next = s.attempts
		n := t.attempts.get()
		*t.attempts.at(n) = a
		s.attempts = n
	}
	for _, line := range saved.lines {
		s.evidence = t.evidence.add(s.evidence, line)
	}
	t.settleIn(i, saved.seen)
}

// restore fills an empty history. Numbers stay what they are; those between that are missing hold nothing.
func (h *history) restore(pasts map[uint64]past) {
	numbers := make([]uint64, 0, len(pasts))
	for n := range pasts {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	if extra := len(numbers) - h.size; extra > 0 {
		h.gone = append(h.gone, numbers[:extra]...)
		numbers = numbers[extra:]
	}
	if len(numbers) == 0 {
		return
	}
	last := numbers[len(numbers)-1]
	h.ring = make([]past, min(last, uint64(h.size)))
	h.next = last
	for _, n := range numbers {
		if n+uint64(h.size) <= last || n == 0 {
			h.gone = append(h.gone, n)
			continue
		}
		p := pasts[n]
		p.flags = stored
		p.prev = h.latest[p.key]
		h.ring[(n-1)%uint64(h.size)] = p
		h.latest[p.key] = n
	}
}

func (t *Tracker) decodeSource(r *reader) (s savedSource) {
	s.seen, s.score, s.absent, s.probes, s.unverified = r.int(), r.float(), r.float(), r.float(), r.float()
	s.address, s.flags = uint32(r.uint()), r.byte()&lasting
	s.days, s.tries, s.lastDay = r.byte(), uint16(r.uint()), uint16(r.uint())
	for i := range r.count() {
		s.users[i%len(s.users)] = contribution{uint32(r.uint()), r.float()}
	}
	a := attempt{rule: noRule}
	for range r.count() {
		if t.decodeAttempt(r, &a, s.seen); a.rule != noRule {
			s.attempts = append(s.attempts, a)
		}
	}
	for range r.count() {
		s.lines = append(s.lines, r.str())
	}
	return s
}

// decodeAttempt turns an attempt into the next younger one. Its rule is noRule if there is no such rule any more.
func (t *Tracker) decodeAttempt(r *reader, a *attempt, seen int64) {
	like := r.byte()
	a.n, a.flags = max(1, r.byte()), r.byte()
	a.forms, a.others, a.points = uint16(r.uint()), uint16(r.uint()), uint16(r.uint())
	a.at = seen - r.int()
	if like&likeRule == 0 {
		i, ok := t.ruleIndex[r.str()]
		if a.rule = i; !ok {
			a.rule = noRule
		}
	}
	if like&likeUser == 0 {
		a.user = uint32(r.uint())
	}
	if like&likeSession == 0 {
		a.session = uint32(r.uint())
	}
}

func decodePast(r *reader) past {
	p := past{key: r.key(r.take(17))}
	p.joined, p.lifted = r.byte() != 0, r.byte() != 0
	p.start, p.until, p.id, p.rule = r.int(), r.int(), r.uint(), r.str()
	return p
}

// A writer is a value in the making.
type writer []byte

func (w *writer) uint(v uint64)   { *w = binary.AppendUvarint(*w, v) }
func (w *writer) int(v int64)     { *w = binary.AppendVarint(*w, v) }
func (w *writer) float(v float32) { *w = binary.BigEndian.AppendUint32(*w, math.Float32bits(v)) }

// key writes the 17 bytes of a key.
func (w *writer) key(k key) { *w = append(append(*w, k.bits), k.addr[:]...) }

func (w *writer) str(s string) {
	w.uint(uint64(len(s)))
	*w = append(*w, s...)
}

func (w *writer) surge(s *surge) {
	w.int(s.start)
	w.uint(uint64(s.cur))
	w.uint(uint64(s.prev))
	w.uint(math.Float64bits(s.usual))
}

// A reader takes a value apart. After an error everything is zero.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.err, r.rest = errState, nil
		return make([]byte, min(n, 64))
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) byte() byte { return r.take(1)[0] }

// float reads points: a number from 0 to something finite.
func (r *reader) float() float32 {
	f := math.Float32frombits(binary.BigEndian.Uint32(r.take(4)))
	if !(f >= 0 && f <= math.MaxFloat32) {
		r.err = errState
		return 0
	}
	return f
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.took(n)
	return v
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.rest)
	r.took(n)
	return v
}

func (r *reader) took(n int) {
	if n <= 0 {
		r.err, r.rest = errState, nil
		return
	}
	r.rest = r.rest[n:]
}

// count reads how many items follow; each has a byte at least.
func (r *reader) count() int {
	n := r.uint()
	if n > uint64(len(r.rest)) {
		r.err, r.rest = errState, nil
		return 0
	}
	return int(n)
}

func (r *reader) str() string { return string(r.take(r.count())) }

// surge reads a surge; usual is at least the given number of sources.
func (r *reader) surge(least float64) surge {
	s := surge{
		start: r.int(), cur: uint32(r.uint()), prev: uint32(r.uint()), usual: math.Float64frombits(r.uint()),
	}
	if !(s.usual >= least && s.usual < math.MaxUint32) {
		s.usual = least
	}
	return s
}

// key reads the 17 bytes of a key: the prefix must be masked.
func (r *reader) key(b []byte) key {
	if len(b) != 17 || b[0] > 128 || b[0] == 0 {
		r.err = errState
		return key{}
	}
	k := key{[16]byte(b[1:]), b[0]}
	if k.is4() && k.bits < mappedBits {
		r.err = errState
	}
	if p, err := netip.AddrFrom16(k.addr).Prefix(int(k.bits)); err != nil || p.Addr().As16() != k.addr {
		r.err = errState
	}
	return k
}
