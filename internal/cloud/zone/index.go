package zone

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"mef/internal/cloud/reputation"
)

// An Info is what an Index has of a listed address, in 48 bits: bits of categories (see wire.Categories), a score, a number of reporters, and the hour
// until which it is listed. The zero value stands for an address that is not listed.
type Info uint64

// NewInfo returns the Info of a listing. Scores are 0 to 100.
func NewInfo(categories uint16, score, reporters int, until reputation.Hour) Info {
	return Info(categories) | Info(min(max(score, 0), 100))<<16 | Info(min(max(reporters, 0), 15))<<24 | Info(min(max(until, 1), 1<<20-1))<<28
}

// Of returns the Info of a verdict: zero unless the address is listed.
func Of(v reputation.Verdict) Info {
	if !v.Listed {
		return 0
	}
	return NewInfo(v.Categories, v.Score, bucket(v.Reporters), v.Until)
}

// bucket returns the range of a number of reporters, as an index of Ranges.
func bucket(reporters int) int {
	switch {
	case reporters > 20:
		return 3
	case reporters > 5:
		return 2
	case reporters > 2:
		return 1
	}
	return 0
}

// ranges are the ranges of numbers of reporters, as TXT records have them.
var ranges = [...]string{"1-2", "3-5", "6-20", "20+"}

// Categories returns the categories of the attacks, as bits.
func (i Info) Categories() uint16 { return uint16(i) }

// Score returns how certain the listing is, from 0 to 100.
func (i Info) Score() int { return int(i >> 16 & 0xff) }

// Until returns when the listing ends unless there are new reports.
func (i Info) Until() reputation.Hour { return reputation.Hour(i >> 28) }

func (i Info) reporters() string { return ranges[min(int(i>>24&15), len(ranges)-1)] }

// An entry is a listed address: IPv4, or the upper half of an IPv6 address.
type entry struct {
	net  uint64
	info Info
}

// A bin has the entries of a /16 of IPv4, or of some /32 of IPv6, in order. It never changes: a change replaces it.
type bin []entry

func (b bin) find(net uint64) (int, bool) {
	return slices.BinarySearchFunc(b, net, func(e entry, net uint64) int { return cmp.Compare(e.net, net) })
}

const bins = 1 << 16

// An Index has the listed addresses in memory. Readers never wait: any goroutine may look up while another one changes entries.
type Index struct {
	seed   maphash.Seed
	mu     sync.Mutex // of changes
	v4, v6 []atomic.Pointer[bin]
	size   atomic.Int64
	serial atomic.Uint32
}

// NewIndex returns an empty Index.
func NewIndex() *Index {
	return &Index{seed: maphash.MakeSeed(), v4: make([]atomic.Pointer[bin], bins), v6: make([]atomic.Pointer[bin], bins)}
}

// at returns the bin of an address, and its number there. The address must not be IPv4-mapped.
func (x *Index) at(addr netip.Addr) (*atomic.Pointer[bin], uint64) {
	if addr.Is4() {
		b := addr.As4()
		return &x.v4[binary.BigEndian.Uint16(b[:])], uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := addr.As16()
	return &x.v6[uint16(maphash.Bytes(x.seed, b[:4]))], binary.BigEndian.Uint64(b[:])
}

// Get returns what is known of an address, zero if it is not listed. IPv6 addresses are listed by their /64.
func (x *Index) Get(addr netip.Addr) Info {
	if addr = addr.Unmap(); !addr.IsValid() {
		return 0
	}
	in, net := x.at(addr)
	if b := in.Load(); b != nil {
		if i, ok := b.find(net); ok {
			return (*b)[i].info
		}
	}
	return 0
}

// Set replaces what is known of an address. Zero removes it.
func (x *Index) Set(addr netip.Addr, info Info) {
	if addr = addr.Unmap(); !addr.IsValid() {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	in, net := x.at(addr)
	var old bin
	if b := in.Load(); b != nil {
		old = *b
	}
	i, found := old.find(net)
	var next bin
	switch {
	case !found && info == 0, found && old[i].info == info:
		return
	case info == 0:
		next = slices.Concat(old[:i], old[i+1:])
		x.size.Add(-1)
	case found:
		next = slices.Clone(old)
		next[i].info = info
	default:
		next = slices.Concat(old[:i], bin{{net, info}}, old[i:])
		x.size.Add(1)
	}
	in.Store(&next)
}

// Load fills an empty Index.
func (x *Index) Load(all iter.Seq2[netip.Addr, Info]) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for addr, info := range all {
		in, net := x.at(addr.Unmap())
		b := in.Load()
		if b == nil {
			b = new(bin)
			in.Store(b)
		}
		*b = append(*b, entry{net, info})
		x.size.Add(1)
	}
	for _, half := range [][]atomic.Pointer[bin]{x.v4, x.v6} {
		for i := range half {
			if b := half[i].Load(); b != nil {
				sorted := slices.Clone(*b) // without the space that append left
				slices.SortFunc(sorted, func(a, b entry) int { return cmp.Compare(a.net, b.net) })
				half[i].Store(&sorted)
			}
		}
	}
}

// Len returns how many addresses are listed.
func (x *Index) Len() int { return int(x.size.Load()) }

// SetSerial sets the serial number of the zone.
func (x *Index) SetSerial(serial uint32) { x.serial.Store(serial) }

// Prefix returns the listed addresses of the /16 of an IPv4 address, or the /32 of an IPv6 address, in order. Those of IPv6 are the first of
// their /64.
func (x *Index) Prefix(addr netip.Addr) iter.Seq2[netip.Addr, Info] {
	return func(yield func(netip.Addr, Info) bool) {
		in, net := x.at(addr.Unmap())
		b := in.Load()
		if b == nil {
			return
		}
		for _, e := range *b {
			if addr.Unmap().Is6() && e.net>>32 != net>>32 {
				continue
			}
			if !yield(e.addr(addr.Unmap().Is4()), e.info) {
				return
			}
		}
	}
}

func (e entry) addr(v4 bool) netip.Addr {
	if v4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(e.net))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], e.net)
	return netip.AddrFrom16(b)
}

// All returns all listed addresses.
func (x *Index) All() iter.Seq2[netip.Addr, Info] {
	return func(yield func(netip.Addr, Info) bool) {
		for n, half := range [][]atomic.Pointer[bin]{x.v4, x.v6} {
			for i := range half {
				b := half[i].Load()
				if b == nil {
					continue
				}
				for _, e := range *b {
					if !yield(e.addr(n == 0), e.info) {
						return
					}
				}
			}
		}
	}
}
