package enforce

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"mef/internal/ban"
)

// A table has what was put into it and not removed since, by key and by address.
func TestBanTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	table, want := newBanTable(), map[ban.Key]entry{}
	keys := func() ban.Key {
		addr := netip.AddrFrom4([4]byte{192, 0, byte(r.IntN(4)), byte(r.IntN(64))})
		if r.IntN(2) == 0 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(r.IntN(4)), 15: byte(r.IntN(64))})
		}
		p, err := addr.Prefix(addr.BitLen() - 8*r.IntN(2))
		if err != nil {
			t.Fatal(err)
		}
		return ban.Key{Prefix: p, Ports: []ban.Ports{"", "22", "80,443"}[r.IntN(3)], Class: []ban.Class{ban.Verified, ban.Unverified}[r.IntN(2)]}
	}
	permanent := func() (n int) {
		for _, e := range want {
			n += boolInt(e.until == forever)
		}
		return n
	}
	for i := range 20_000 {
		k := keys()
		switch r.IntN(3) {
		case 0:
			table.remove(k)
			delete(want, k)
		case 1:
			e, begun := table.begin(k)
			if old := want[k]; begun != old.fresh {
				t.Fatalf("step %d: begin(%v) = %v, %v; it was %+v", i, k, e, begun, old)
			} else if begun {
				old.fresh = false
				want[k] = old
			}
		default:
			e := entry{until: []int64{forever, int64(i + 1)}[r.IntN(2)], unknown: r.IntN(2) == 0, firm: r.IntN(2) == 0, fresh: r.IntN(2) == 0}
			table.put(k, e)
			want[k] = e
		}
		if e, ok := table.get(k); e != want[k] || ok != (want[k] != entry{}) {
			t.Fatalf("step %d: get(%v) = %+v, %v; want %+v", i, k, e, ok, want[k])
		}
		if i%500 > 0 {
			continue
		}
		if got := maps.Collect(table.all()); !maps.Equal(got, want) || table.len() != len(want) || table.forever != permanent() {
			t.Fatalf("step %d: %d bans, %d of them permanent; want %d and %d", i, len(got), table.forever, len(want), permanent())
		}
		addr, over := k.Prefix.Addr(), map[ban.Key]entry{}
		for k, e := range want {
			if k.Prefix.Contains(addr) {
				over[k] = e
			}
		}
		if got := maps.Collect(table.over(addr)); !maps.Equal(got, over) {
			t.Fatalf("step %d: over %s are %v, want %v", i, addr, got, over)
		}
	}
	for k := range table.all() {
		table.remove(k)
	}
	if n := len(maps.Collect(table.all())); n+table.len()+table.slots.Len()+len(table.kinds)+table.forever > 0 {
		t.Errorf("after all are removed: %d bans, %d slots, %d kinds", n, table.slots.Len(), len(table.kinds))
	}
}
