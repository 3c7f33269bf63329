package bans

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/track/netkey"
	"mef/internal/track/record"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Bans that are over are cleared away, however many there were.
func TestActiveIsBounded(t *testing.T) {
	h := NewActive()
	for i := range 100_000 {
		at := start.Add(time.Duration(i) * time.Second)
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)}), 64)
		h.Add(&ban.Ban{Key: ban.Key{Prefix: p}, Rule: "sshd", Start: at, Until: at.Add(time.Minute)}, uint64(i), false, at.UnixNano())
	}
	if n := h.Len(); n > 2048 {
		t.Errorf("%d prefixes are held, 60 are banned", n)
	}
	if n := len(h.members); n > 8192 {
		t.Errorf("%d networks have members", n)
	}
}

// However bans are entered, replaced, taken out and cleared away, those on an address are the ones that a plain list has.
func TestActiveIsAList(t *testing.T) {
	r, h := rand.New(rand.NewPCG(1, 2)), NewActive()
	list := map[ban.Key]ban.Ban{}
	prefixes := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("2001:db8::7/128"), netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("2001:db8::/48")}
	now := start
	for step := range 5_000 {
		now = now.Add(time.Second)
		k := ban.Key{Prefix: prefixes[r.IntN(len(prefixes))], Ports: []ban.Ports{"", "22", "80,443"}[r.IntN(3)], Class: ban.Class(r.IntN(2))}
		switch {
		case r.IntN(3) == 0:
			h.Remove(k)
			delete(list, k)
		default:
			b := ban.Ban{Key: k, Start: now, Until: now.Add(time.Duration(1+r.IntN(60)) * time.Second), Rule: "sshd"}
			if r.IntN(4) == 0 && !k.Prefix.IsSingleIP() {
				b.Except = []netip.Addr{k.Prefix.Addr().Next()}
			}
			h.Add(&b, uint64(step), false, now.UnixNano())
			list[k] = b
		}
		if step%100 == 0 {
			h.clear(now.UnixNano())
		}
		for _, p := range prefixes {
			for _, addr := range []netip.Addr{p.Addr(), p.Addr().Next()} {
				got, want := map[ban.Key]time.Time{}, map[ban.Key]time.Time{}
				for _, b := range h.Covering(nil, addr, now.UnixNano()) {
					got[b.Key] = b.Until.UTC()
				}
				for k, b := range list {
					if k.Prefix.Contains(addr) && b.Until.After(now) && !slices.Contains(b.Except, addr) {
						want[k] = b.Until
					}
				}
				if !maps.Equal(got, want) {
					t.Fatalf("step %d: bans on %s: %v, want %v", step, addr, got, want)
				}
				for _, verified := range []bool{false, true} {
					kept := false
					for k := range want {
						kept = kept || k.Ports.Covers("22") && (!verified || k.Class == ban.Verified)
					}
					if h.Keeps(addr, "22", verified, now.UnixNano()) != kept {
						t.Fatalf("step %d: %s is kept from port 22: %v, want %v", step, addr, !kept, kept)
					}
				}
			}
		}
	}
	h.clear(now.Add(time.Hour).UnixNano())
	if h.Len() != 0 || h.bans.Len() != 0 || len(h.except) != 0 || len(h.lengths.Of(netkey.Exact(start4))) != 0 {
		t.Errorf("after the last ban: %d prefixes, %d bans, %d exceptions", h.Len(), h.bans.Len(), len(h.except))
	}
}

var start4 = netip.MustParseAddr("192.0.2.1")

// A history has the latest bans of each source, before and after it is saved and read again, however often the ring has gone round.
func TestHistoryIsARing(t *testing.T) {
	const size = 1000 // not a multiple of a chunk
	r, h := rand.New(rand.NewPCG(1, 2)), NewHistory(size)
	type entry struct {
		key  netkey.Key
		id   uint64
		rule string
		lift bool
	}
	var all []entry
	disk := map[string][]byte{}
	save := func() {
		var p record.Pack
		h.Changes(&p)
		for _, rec := range p.Records {
			if disk[string(rec.Key)] = slices.Clone(rec.Value); len(rec.Value) == 0 {
				delete(disk, string(rec.Key))
			}
		}
	}
	check := func(when string) {
		t.Helper()
		want := map[netkey.Key][]string{}
		for _, e := range all[max(0, len(all)-size):] {
			want[e.key] = append(want[e.key], fmt.Sprint(e.id, e.rule, e.lift))
		}
		for _, e := range all {
			var got []string
			for _, p := range h.Past(nil, e.key, forever, 0) {
				got = append(got, fmt.Sprint(p.ID, p.Rule, p.Lifted))
			}
			if !slices.Equal(got, want[e.key]) {
				t.Fatalf("%s: the history of %v is %q, want %q", when, e.key, got, want[e.key])
			}
		}
		if n := min(len(all), size); h.Len() != n {
			t.Errorf("%s: %d bans, want %d", when, h.Len(), n)
		}
	}
	for i := range 3*size + 7 {
		addr := netip.AddrFrom4([4]byte{192, 0, byte(r.IntN(2)), byte(r.IntN(200))})
		e := entry{key: netkey.Exact(addr), id: uint64(i), rule: fmt.Sprint("rule", i%5)}
		at := start.Add(time.Duration(i) * time.Hour)
		h.Record(&ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(addr, 32)}, Rule: e.rule, Start: at, Until: at.Add(time.Minute)}, e.key, e.id)
		if i%7 == 0 {
			h.Lift(e.key, at.UnixNano())
			e.lift = true
		}
		all = append(all, e)
		if i%333 == 0 {
			save()
		}
		if i%500 == 0 {
			check(fmt.Sprint("after ", i))
		}
	}
	save()
	if len(disk) != size {
		t.Errorf("%d bans are saved, want %d", len(disk), size)
	}
	read := Saved{}
	for k, v := range disk {
		read.Read(&record.Reader{Rest: v[1:]}, []byte(k[1:]))
	}
	h = NewHistory(size)
	h.Restore(read)
	check("read again")
	for i := range size / 2 {
		e := entry{key: netkey.Exact(start4), id: uint64(1e6 + i), rule: "late"}
		at := start.Add(time.Duration(4*size+i) * time.Hour)
		h.Record(&ban.Ban{Key: ban.Key{Prefix: netip.PrefixFrom(start4, 32)}, Rule: "late", Start: at, Until: at.Add(time.Minute)}, e.key, e.id)
		all = append(all, e)
	}
	check("after more")
}
