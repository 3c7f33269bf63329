package enforce

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/prefixset"
)

// A model is what should hold.
type model struct {
	allow prefixset.Set
	grace map[netip.Prefix]time.Time
	bans  banTable

	exceptions exceptions
	unknown    int // how many entries are of unknown origin
}

// forever compares as later than every time.
const forever = 1<<63 - 1

// slack is how far the end of an element in the kernel may be from the one that should be: the kernel reports it as a duration, which
// is a little old when it arrives.
const slack = int64(2 * time.Second)

// maxUnverified is how long a ban lasts at most if its source can be forged.
const maxUnverified = 10 * time.Minute

func newModel(allow prefixset.Set) *model {
	return &model{allow: allow, grace: map[netip.Prefix]time.Time{}, bans: newBanTable(), exceptions: newExceptions()}
}

// untilOf treats times after 2262, which do not fit int64 nanoseconds, as permanent.
func untilOf(t time.Time) int64 {
	if t.IsZero() || t.After(time.Unix(0, forever)) {
		return forever
	}
	return t.UnixNano()
}

func (e entry) time() time.Time {
	if e.until == forever {
		return time.Time{}
	}
	return time.Unix(0, e.until)
}

func (e entry) timeout(now time.Time) Timeout { return TimeoutUntil(e.time(), now) }

// add puts a ban into the model, or extends it. The result lacks only At.
func (m *model) add(b ban.Ban, now time.Time, force bool) Result {
	b.Key = Normalize(b.Key)
	if err := Refuse(b.Key, force); err != nil {
		return Result{Ban: b, Err: err}
	}
	if len(b.Except) > ban.MaxExcept {
		return Result{Ban: b, Err: &RefusedError{b.Key, fmt.Sprintf("it excepts more than %d addresses", ban.MaxExcept)}}
	}
	until := untilOf(b.Until)
	if b.Class == ban.Unverified {
		until = min(until, now.Add(maxUnverified).UnixNano())
	}
	old, held := m.bans.get(b.Key)
	if held && old.unknown {
		m.unknown--
		old.unknown = false // now there is a record
	}
	changed := !held || until > old.until
	if changed {
		old.until, old.fresh = until, true
	}
	old.firm = old.firm || b.Rule == ban.ByHand
	m.bans.put(b.Key, old)
	m.except(b.Key, b.Except)
	return Result{Ban: b, Until: old.time(), Changed: changed}
}

func (m *model) remove(k ban.Key) {
	if e, _ := m.bans.get(k); e.unknown {
		m.unknown--
	}
	m.forgetExceptions(k)
	m.bans.remove(k)
}

func (m *model) keys() []ban.Key { return slices.Collect(m.bans.keys()) }

// prune forgets what is over.
func (m *model) prune(now time.Time) {
	for k, e := range m.bans.all() {
		if e.until <= now.UnixNano() {
			m.remove(k)
		}
	}
	maps.DeleteFunc(m.grace, func(_ netip.Prefix, until time.Time) bool { return !until.After(now) })
}

// evict forgets bans until at most limit are in force, and returns them: first those inside a wider ban that holds as long, then
// those with the least time left. Permanent bans stay.
func (m *model) evict(limit int) []ban.Key {
	if m.bans.len() <= limit {
		return nil
	}
	type end struct {
		key    ban.Key
		until  int64
		needed bool
	}
	var ends []end
	widths := m.widths()
	for k, e := range m.bans.all() {
		if e.until != forever {
			ends = append(ends, end{k, e.until, !m.covered(k, e.until, widths)})
		}
	}
	slices.SortFunc(ends, func(a, b end) int {
		if a.needed != b.needed {
			return cmp.Compare(boolInt(a.needed), boolInt(b.needed))
		}
		return cmp.Or(cmp.Compare(a.until, b.until), a.key.Compare(b.key))
	})
	ends = ends[:min(len(ends), m.bans.len()-limit)]
	keys := make([]ban.Key, len(ends))
	for i, end := range ends {
		keys[i] = end.key
		m.remove(end.key)
	}
	return keys
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// widths returns the prefix lengths of bans that may contain others: verified ones of all ports on networks, IPv4 first.
func (m *model) widths() (widths [2][]int) {
	for kind := range m.bans.kinds {
		switch {
		case kind.class != ban.Verified || kind.ports != 0 || kind.bits == 128:
		case kind.v4:
			widths[0] = append(widths[0], int(kind.bits)-mappedBits)
		default:
			widths[1] = append(widths[1], int(kind.bits))
		}
	}
	return widths
}

func family(k ban.Key) int {
	if k.Prefix.Addr().Is4() {
		return 0
	}
	return 1
}

// covered reports whether a wider ban does all that the ban of k does, until then or longer.
func (m *model) covered(k ban.Key, until int64, widths [2][]int) bool {
	for _, bits := range widths[family(k)] {
		if bits >= k.Prefix.Bits() {
			continue
		}
		wide := ban.Key{Prefix: netip.PrefixFrom(k.Prefix.Addr(), bits).Masked()}
		if e, held := m.bans.get(wide); held && e.until >= until {
			return true
		}
	}
	return false
}

// grant begins a grace period and returns the change that makes it hold.
func (m *model) grant(p netip.Prefix, d time.Duration, now time.Time) Element {
	until := now.Add(d)
	if old := m.grace[p]; old.After(until) {
		until = old
	}
	m.grace[p] = until
	return Element{Prefix: p, Timeout: TimeoutUntil(until, now)}
}

// revoke ends the grace periods within p and returns the changes that do so.
func (m *model) revoke(p netip.Prefix) []Element {
	var gone []Element
	for g := range m.grace {
		if g.Overlaps(p) {
			delete(m.grace, g)
			gone = append(gone, Element{Prefix: g, Remove: true})
		}
	}
	return gone
}

// adopt takes over what the kernel holds beyond the model: bans without a record, later ends, and counters. It returns the bans
// that must not be there.
func (m *model) adopt(s State, now time.Time) (wrong []ban.Key) {
	for _, h := range s.Bans {
		until := untilOf(h.Until)
		e, ok := m.bans.get(h.Key)
		switch {
		case !ok && Refuse(h.Key, true) != nil:
			// Accept any prefix length that was added by hand, but never a protected address.
			wrong = append(wrong, h.Key)
			continue
		case !ok:
			e = entry{until: until, unknown: true}
			m.unknown++
		case e.until != forever && until > e.until+slack:
			e.until = until
		}
		m.bans.put(h.Key, e)
		m.bans.count(h.Key, traffic{h.Packets, h.Bytes})
	}
	m.adoptExceptions(s.Except)
	for _, g := range s.Grace {
		if until := now.Add(time.Duration(g.Timeout)); until.After(m.grace[g.Prefix]) {
			m.grace[g.Prefix] = until
		}
	}
	return wrong
}

// all returns the changes that make everything hold from nothing.
func (m *model) all(now time.Time) Changes {
	allow := m.allow
	c := Changes{Allow: &allow, Except: m.allExceptions(now), Bans: make([]Change, 0, m.bans.len())}
	for p, until := range m.grace {
		c.Grace = append(c.Grace, Element{Prefix: p, Timeout: TimeoutUntil(until, now)})
	}
	for k, e := range m.bans.all() {
		if e.until > now.UnixNano() {
			c.Bans = append(c.Bans, Change{Key: k, Timeout: e.timeout(now)})
		}
	}
	return c
}

// missing returns the changes that make everything hold beside what s holds.
func (m *model) missing(s State, now time.Time) Changes {
	var c Changes
	if !s.Allow.Equal(m.allow) {
		allow := m.allow
		c.Allow = &allow
	}
	grace := map[netip.Prefix]bool{}
	for _, g := range s.Grace {
		grace[g.Prefix] = true
	}
	for p, until := range m.grace {
		if !grace[p] && until.After(now.Add(time.Second)) {
			c.Grace = append(c.Grace, Element{Prefix: p, Timeout: TimeoutUntil(until, now)})
		}
	}
	c.Except = m.missingExceptions(s.Except, now)
	expected := 0
	for _, h := range s.Bans {
		e, ok := m.bans.get(h.Key)
		if !ok {
			continue
		}
		expected++
		if until := untilOf(h.Until); e.until > until && e.until-until > slack {
			c.Bans = append(c.Bans, Change{Key: h.Key, Timeout: e.timeout(now)})
		}
	}
	if expected < m.bans.len() {
		c.Bans = append(c.Bans, m.absent(s, now)...)
	}
	return c
}

// absent returns the changes that put in force what s does not hold.
func (m *model) absent(s State, now time.Time) (bans []Change) {
	held := make(map[ban.Key]bool, len(s.Bans))
	for _, h := range s.Bans {
		held[h.Key] = true
	}
	for k, e := range m.bans.all() {
		over := e.until <= now.UnixNano()+slack // what ends this moment need not be restored
		if !held[k] && !over {
			bans = append(bans, Change{Key: k, Timeout: e.timeout(now)})
		}
	}
	return bans
}

// overlooked returns the bans that should hold and that s, which was to have all, does not have: they are not there, or began while
// the kernel was read, or were passed over because others ended then.
func (m *model) overlooked(s State, now time.Time) (keys []ban.Key) {
	if len(s.Bans) >= m.bans.len() {
		return nil // enough for all but what ends this moment
	}
	for _, change := range m.absent(s, now) {
		keys = append(keys, change.Key)
	}
	return keys
}

func (c Changes) empty() bool {
	return c.Allow == nil && len(c.Grace) == 0 && len(c.Except) == 0 && len(c.Bans) == 0
}

// count completes the counters of s by what earlier elements had counted, and marks the bans of unknown origin.
func (m *model) count(s State) {
	for i := range s.Bans {
		h := &s.Bans[i]
		e, ok := m.bans.get(h.Key)
		if !ok {
			h.Unknown = true
			continue
		}
		before := m.bans.count(h.Key, traffic{h.Packets, h.Bytes})
		h.Packets += before.packets
		h.Bytes += before.bytes
		h.Unknown = e.unknown
	}
}
