package enforce

import (
	"hash/maphash"
	"iter"
	"net/netip"

	"mef/internal/ban"
	"mef/internal/track/bounded"
)

// A banTable holds an entry for each ban in force, of which there may be very many: in 42 bytes each, without a pointer that the
// garbage collector would follow.
type banTable struct {
	index   bounded.Index // of slots
	slots   bounded.Slab[slot]
	seed    maphash.Seed   // of the index
	kinds   map[kind]int   // how many bans there are of each
	forever int            // how many are permanent
	counted map[row]counts // of bans that have dropped something
	ports   []ban.Ports    // by number
	numbers map[ban.Ports]uint32
}

// A row is a ban.Key whose ports are a number. IPv4 is stored as IPv4-mapped IPv6, its length plus 96.
type row struct {
	addr  [16]byte
	ports uint32
	bits  uint8
	class ban.Class
}

// A slot has a ban, in 32 bytes.
type slot struct {
	until int64
	addr  [16]byte
	ports uint32
	bits  uint8
	class ban.Class
	flags uint8
}

const (
	used = 1 << iota
	unknown
	firm
	fresh
)

func (s *slot) row() row { return row{s.addr, s.ports, s.bits, s.class} }

func (s *slot) entry() entry {
	return entry{s.until, s.flags&unknown != 0, s.flags&firm != 0, s.flags&fresh != 0}
}

func (s *slot) set(r row, e entry) {
	flags := uint8(used + unknown*boolInt(e.unknown) + firm*boolInt(e.firm) + fresh*boolInt(e.fresh))
	*s = slot{e.until, r.addr, r.ports, r.bits, r.class, flags}
}

// A kind is what all bans have in common that are found by masking an address in the same way.
type kind struct {
	ports uint32
	bits  uint8
	v4    bool
	class ban.Class
}

func (r row) kind() kind { return kind{r.ports, r.bits, netip.AddrFrom16(r.addr).Is4In6(), r.class} }

// An entry is what is known of a ban in force.
type entry struct {
	until   int64 // Unix time in ns; forever if permanent
	unknown bool
	firm    bool // made by hand: no address in its network is excepted
	fresh   bool // begun or extended since begin was last called for it
}

// The kernel's counters start again when an element is replaced: before is what earlier elements had counted, last what the present
// one had when it was last read.
type counts struct{ before, last traffic }

type traffic struct{ packets, bytes uint64 }

const mappedBits = 96

func newBanTable() banTable {
	return banTable{seed: maphash.MakeSeed(), kinds: map[kind]int{}, counted: map[row]counts{}, ports: []ban.Ports{""}, numbers: map[ban.Ports]uint32{"": 0}}
}

// find returns the row of a key; ok is false if no ban has its ports.
func (l *banTable) find(k ban.Key) (r row, ok bool) {
	bits := k.Prefix.Bits()
	if k.Prefix.Addr().Is4() {
		bits += mappedBits
	}
	n, ok := l.numbers[k.Ports]
	return row{k.Prefix.Addr().As16(), n, uint8(bits), k.Class}, ok
}

// key is the reverse of find.
func (l *banTable) key(r row) ban.Key {
	addr, bits := netip.AddrFrom16(r.addr), int(r.bits)
	if addr.Is4In6() && bits >= mappedBits {
		addr, bits = addr.Unmap(), bits-mappedBits
	}
	return ban.Key{Prefix: netip.PrefixFrom(addr, bits), Ports: l.ports[r.ports], Class: r.class}
}

func (l *banTable) len() int { return l.index.Len() }

func (l *banTable) hash(r row) uint32 { return uint32(maphash.Bytes(l.seed, r.addr[:])) }

// slot returns the number of a row's slot, 0 if it is not in the table.
func (l *banTable) slot(r row) uint32 {
	return l.index.Find(l.hash(r), func(i uint32) bool { return l.slots.At(i).row() == r })
}

func (l *banTable) get(k ban.Key) (e entry, ok bool) {
	if r, known := l.find(k); known {
		if i := l.slot(r); i != 0 {
			return l.slots.At(i).entry(), true
		}
	}
	return e, false
}

// put enters a ban. Port lists are few: there is a set in the kernel for each.
func (l *banTable) put(k ban.Key, e entry) {
	r, ok := l.find(k)
	if !ok {
		r.ports = uint32(len(l.ports))
		l.ports = append(l.ports, k.Ports)
		l.numbers[k.Ports] = r.ports
	}
	i := l.slot(r)
	if i == 0 {
		i = l.slots.Get()
		l.index.Put(l.hash(r), i)
		l.kinds[r.kind()]++
	}
	s := l.slots.At(i)
	l.forever += boolInt(e.until == forever) - boolInt(s.until == forever)
	s.set(r, e)
}

// begin returns a ban, and whether it was begun or extended since the last call: however often that was, it is written once.
func (l *banTable) begin(k ban.Key) (e entry, begun bool) {
	e, _ = l.get(k)
	if e.fresh {
		e.fresh, begun = false, true
		l.put(k, e)
	}
	return e, begun
}

func (l *banTable) remove(k ban.Key) {
	if r, ok := l.find(k); ok {
		if i := l.slot(r); i != 0 {
			l.forever -= boolInt(l.slots.At(i).until == forever)
			l.index.Remove(l.hash(r), i)
			l.slots.Put(i)
			if l.kinds[r.kind()]--; l.kinds[r.kind()] == 0 {
				delete(l.kinds, r.kind())
			}
		}
		delete(l.counted, r)
	}
}

// over returns the bans that touch an address, in any order. The time it takes depends on how many kinds there are, not on how many
// bans. They may be removed meanwhile.
func (l *banTable) over(a netip.Addr) iter.Seq2[ban.Key, entry] {
	return func(yield func(ban.Key, entry) bool) {
		a = a.Unmap().WithZone("")
		for kind := range l.kinds {
			if kind.v4 != a.Is4() {
				continue
			}
			bits := int(kind.bits)
			if kind.v4 {
				bits -= mappedBits
			}
			r := row{netip.PrefixFrom(a, bits).Masked().Addr().As16(), kind.ports, kind.bits, kind.class}
			if i := l.slot(r); i != 0 && !yield(l.key(r), l.slots.At(i).entry()) {
				return
			}
		}
	}
}

// all returns the bans in any order. They may be removed meanwhile.
func (l *banTable) all() iter.Seq2[ban.Key, entry] {
	return func(yield func(ban.Key, entry) bool) {
		for i := uint32(1); i <= l.slots.Last(); i++ {
			if s := l.slots.At(i); s.flags&used != 0 && !yield(l.key(s.row()), s.entry()) {
				return
			}
		}
	}
}

func (l *banTable) keys() iter.Seq[ban.Key] {
	return func(yield func(ban.Key) bool) {
		for k := range l.all() {
			if !yield(k) {
				return
			}
		}
	}
}

// count learns what the present element of a ban has counted, and returns what earlier ones had.
func (l *banTable) count(k ban.Key, now traffic) (before traffic) {
	r, ok := l.find(k)
	if !ok {
		return traffic{}
	}
	c, ok := l.counted[r]
	if !ok && now == (traffic{}) {
		return traffic{}
	}
	if now.packets < c.last.packets {
		c.before.packets += c.last.packets
		c.before.bytes += c.last.bytes
	}
	c.last = now
	l.counted[r] = c
	return c.before
}
