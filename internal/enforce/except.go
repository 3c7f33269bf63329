package enforce

import (
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/prefixset"
)

// exceptions are the addresses inside banned networks that stay reachable: see ban.Ban.Except. How long each holds follows from
// the bans that except it, so it is not kept here.
type exceptions struct {
	of    map[ban.Key][]netip.Addr // by ban
	by    map[netip.Addr][]ban.Key // by address
	stale map[netip.Addr]struct{}  // whose elements in the kernel may differ from what should hold
}

func newExceptions() exceptions {
	return exceptions{map[ban.Key][]netip.Addr{}, map[netip.Addr][]ban.Key{}, map[netip.Addr]struct{}{}}
}

// except adds exceptions to a ban of a network. If there are more than ban.MaxExcept, the latest count.
func (m *model) except(k ban.Key, addrs []netip.Addr) {
	if k.Prefix.IsSingleIP() {
		return
	}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if !k.Prefix.Contains(a) || slices.Contains(m.exceptions.of[k], a) {
			continue
		}
		if of := m.exceptions.of[k]; len(of) >= ban.MaxExcept {
			m.dropException(k, of[0])
		}
		m.exceptions.of[k] = append(m.exceptions.of[k], a)
		m.exceptions.by[a] = append(m.exceptions.by[a], k)
	}
	m.touchExceptions(k)
}

func (m *model) dropException(k ban.Key, a netip.Addr) {
	x := &m.exceptions
	x.stale[a] = struct{}{}
	if x.of[k] = slices.DeleteFunc(x.of[k], func(o netip.Addr) bool { return o == a }); len(x.of[k]) == 0 {
		delete(x.of, k)
	}
	if x.by[a] = slices.DeleteFunc(x.by[a], func(o ban.Key) bool { return o == k }); len(x.by[a]) == 0 {
		delete(x.by, a)
	}
}

// touchExceptions notes that a ban began, ended or changed its end: its own exceptions follow, and a firm ban ends those of others
// within its network.
func (m *model) touchExceptions(k ban.Key) {
	for _, a := range m.exceptions.of[k] {
		m.exceptions.stale[a] = struct{}{}
	}
	if e, _ := m.bans.get(k); e.firm && !k.Prefix.IsSingleIP() {
		for a := range m.exceptions.by {
			if k.Prefix.Contains(a) {
				m.exceptions.stale[a] = struct{}{}
			}
		}
	}
}

// forgetExceptions drops the exceptions of a ban that is removed.
func (m *model) forgetExceptions(k ban.Key) {
	m.touchExceptions(k)
	for _, a := range slices.Clone(m.exceptions.of[k]) {
		m.dropException(k, a)
	}
}

// exceptedUntil returns until when an address is excepted, in Unix nanoseconds; 0 if it is not, because no ban says so or a firm ban
// of its network forbids it.
func (m *model) exceptedUntil(a netip.Addr) int64 {
	var until int64
	for _, k := range m.exceptions.by[a] {
		e, _ := m.bans.get(k)
		until = max(until, e.until)
	}
	if until == 0 {
		return 0
	}
	for k, e := range m.bans.over(a) {
		if e.firm && !k.Prefix.IsSingleIP() {
			return 0
		}
	}
	return until
}

// exception returns the change that makes the kernel hold what it should about an address.
func (m *model) exception(a netip.Addr, now time.Time) Element {
	until := m.exceptedUntil(a)
	return Element{
		Prefix:  netip.PrefixFrom(a, a.BitLen()),
		Timeout: entry{until: until}.timeout(now),
		Remove:  until <= now.UnixNano(),
	}
}

// staleExceptions returns the changes that make the kernel hold what it should about the addresses that changed since it was last
// called.
func (m *model) staleExceptions(now time.Time) (changes []Element) {
	for a := range m.exceptions.stale {
		changes = append(changes, m.exception(a, now))
	}
	clear(m.exceptions.stale)
	return changes
}

// allExceptions returns the changes that make all exceptions hold from nothing.
func (m *model) allExceptions(now time.Time) (changes []Element) {
	for a := range m.exceptions.by {
		if c := m.exception(a, now); !c.Remove {
			changes = append(changes, c)
		}
	}
	clear(m.exceptions.stale)
	return changes
}

// missingExceptions returns the changes that make exactly the exceptions hold that should, beside those that the kernel holds.
func (m *model) missingExceptions(held []Element, now time.Time) (changes []Element) {
	have := make(map[netip.Addr]int64, len(held))
	for _, h := range held {
		until := untilOf(now.Add(time.Duration(h.Timeout)))
		if h.Timeout == Permanent {
			until = forever
		}
		have[h.Prefix.Addr()] = until
	}
	for a, until := range have {
		if m.exceptedUntil(a) == 0 && until > now.UnixNano()+slack {
			changes = append(changes, m.exception(a, now))
		}
	}
	for a := range m.exceptions.by {
		want := m.exceptedUntil(a)
		if want <= now.UnixNano()+slack {
			continue
		}
		if until, ok := have[a]; !ok || until != want && max(until, want)-min(until, want) > slack {
			changes = append(changes, m.exception(a, now))
		}
	}
	return changes
}

// adoptExceptions takes over exceptions that the kernel holds inside networks whose ban has no record.
func (m *model) adoptExceptions(held []Element) {
	for _, h := range held {
		a := h.Prefix.Addr()
		if len(m.exceptions.by[a]) > 0 {
			continue
		}
		for k, e := range m.bans.over(a) {
			if e.unknown && !k.Prefix.IsSingleIP() {
				m.except(k, []netip.Addr{a})
				break
			}
		}
	}
}

// exceptedNow returns the excepted addresses that no ban touches: a ban of the very address holds beside the exception.
func (m *model) exceptedNow(now time.Time) (spared []netip.Prefix) {
	for a := range m.exceptions.by {
		p := netip.PrefixFrom(a, a.BitLen())
		if _, banned := m.bans.get(ban.Key{Prefix: p}); !banned && m.exceptedUntil(a) > now.UnixNano() {
			spared = append(spared, p)
		}
	}
	return spared
}

// spared returns the addresses that no ban touches now.
func (m *model) spared() prefixset.Set {
	more := m.exceptedNow(time.Now())
	for p := range m.grace {
		more = append(more, p)
	}
	if len(more) == 0 {
		return m.allow
	}
	return m.allow.Union(prefixset.New(more...))
}
