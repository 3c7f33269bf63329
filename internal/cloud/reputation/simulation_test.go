package reputation

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
)

// A group is some reporters of the simulation who attack the reputation of their own victims from day 45 on.
type group struct {
	name         string
	size         int
	attacks      int  // victims
	nets, system int  // over how many networks and systems they are spread
	copies       bool // for 30 days they repeat what is listed
	sees         bool // for 30 days they report real attackers
	unknown      bool // nobody knows the victims as benign
	ids          []string
	victims      []netip.Addr
	listed       map[netip.Addr]int // hours
}

const (
	simDays   = 60
	simAttack = 45 // the day from which victims are reported
	honest    = 600
)

func addr(block, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(block), byte(i >> 16), byte(i >> 8), byte(i)})
}

// simulate runs a world of 600 honest reporters, of which some are anchors, 400 attackers and the groups for 60 days. It returns how many of
// 20,000 innocent addresses were listed, the attackers with at least 10 victims that were listed, and the number of those.
func simulate(seed uint64, anchors int, groups []*group) (innocents, found, heavy int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := New(Options{})
	b.Advance(480_000)
	begin := b.Now()
	var ids []string
	joined := make([]int, honest) // days
	for i := range honest {
		id := fmt.Sprintf("h%d", i)
		role := Member
		if i < anchors {
			role = Anchor
		} else {
			joined[i] = rng.IntN(40)
		}
		ids = append(ids, id)
		b.Enrol(Reporter{ID: id, Role: role, System: fmt.Sprintf("as%d", rng.IntN(150)), Net: fmt.Sprintf("n%d", i), Since: begin + Hour(joined[i])*day})
	}
	for gi, g := range groups {
		g.listed = make(map[netip.Addr]int)
		for i := range g.size {
			id := fmt.Sprintf("%s%d", g.name, i)
			since := begin + (simAttack-1)*day
			if g.copies || g.sees {
				since = begin + (simAttack-30)*day
			}
			g.ids = append(g.ids, id)
			b.Enrol(Reporter{ID: id, System: fmt.Sprintf("%s as%d", g.name, i%g.system), Net: fmt.Sprintf("%s n%d", g.name, i%g.nets), Since: since})
		}
		for i := range g.attacks {
			g.victims = append(g.victims, addr(200, gi<<8+i))
		}
	}
	friends := make(map[netip.Addr][]string) // who knows a victim as benign
	for _, g := range groups {
		for _, v := range g.victims {
			for range 5 * b2i(!g.unknown) {
				friends[v] = append(friends[v], ids[rng.IntN(honest)])
			}
		}
	}
	type attacker struct {
		addr  netip.Addr
		from  int // day
		rate  float64
		total int
	}
	attackers := make([]attacker, 400)
	for i := range attackers {
		// The number of reporters that an attacker tries in a day is heavy-tailed: 3 for most, up to 100.
		attackers[i] = attacker{addr: addr(100, i), from: rng.IntN(simDays) - 10, rate: min(100, 3/(1-rng.Float64()))}
	}
	everListed := make(map[netip.Prefix]bool)
	listedNow := make(map[netip.Prefix]bool)
	for d := range simDays {
		hours := make([][]func(), 24)
		once := func(f func()) { hours[12] = append(hours[12], f) }
		at := func(f func()) { h := rng.IntN(24); hours[h] = append(hours[h], f) }
		for i := range attackers {
			a := &attackers[i]
			if d < a.from || d >= a.from+20 {
				continue
			}
			report := func(id string) { at(func() { _ = b.Report(id, a.addr, 1, b.Now()) }) }
			for range int(a.rate) {
				if r := rng.IntN(honest); joined[r] <= d {
					report(ids[r])
					a.total++
				}
			}
			for _, g := range groups {
				for _, id := range g.ids {
					if g.sees && d >= simAttack-30 && rng.Float64() < a.rate/honest {
						report(id)
					}
				}
			}
		}
		for range honest * 3 / 100 {
			if r := rng.IntN(honest); joined[r] <= d {
				innocent := addr(150, rng.IntN(20000))
				at(func() { _ = b.Report(ids[r], innocent, 1, b.Now()) })
			}
		}
		for _, g := range groups {
			if g.copies && d >= simAttack-30 {
				for _, id := range g.ids {
					at(func() {
						n := 0
						for p := range listedNow { // any 20 of the list
							if n++; n > 20 {
								break
							}
							_ = b.Report(id, p.Addr(), 1, b.Now())
						}
					})
				}
			}
			for _, id := range g.ids {
				if d >= simAttack && (d-simAttack)%6 == 0 {
					once(func() {
						for _, v := range g.victims {
							_ = b.Report(id, v, 1, b.Now())
						}
					})
				}
			}
			if d >= simAttack {
				for _, v := range g.victims {
					for _, f := range friends[v] {
						if rng.IntN(2) == 0 {
							at(func() {
								if listedNow[Key(v)] {
									_ = b.Benign(f, v)
								}
							})
						}
					}
				}
			}
		}
		for _, events := range hours {
			b.Advance(b.Now() + 1)
			for _, f := range events {
				f()
			}
			b.Settle()
			for _, c := range b.Changes() {
				if c.List == Public && c.Removed {
					delete(listedNow, c.Prefix)
				} else if c.List == Public {
					listedNow[c.Prefix], everListed[c.Prefix] = true, true
				}
			}
			for _, g := range groups {
				for _, v := range g.victims {
					if listedNow[Key(v)] {
						g.listed[v]++
					}
				}
			}
		}
	}
	for p := range everListed {
		if p.Addr().As4()[0] == 150 {
			innocents++
		}
	}
	for _, a := range attackers {
		if a.total >= 10 {
			heavy++
			if everListed[Key(a.addr)] {
				found++
			}
		}
	}
	return innocents, found, heavy
}

// TestSimulation checks over 20 worlds that nobody can have an innocent address listed by many, patient or clever reporters, unless they are
// really useful from as many systems as the rules ask for, and that these are then found out.
func TestSimulation(t *testing.T) {
	seeds := 20
	if testing.Short() {
		seeds = 3
	}
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	results := make(chan func(), seeds)
	for seed := range seeds {
		go func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			poisoners := []*group{
				{name: "10 fresh in 10 systems", size: 10, attacks: 50, nets: 10, system: 10},
				{name: "1000 fresh in 2 systems", size: 1000, attacks: 10, nets: 10, system: 2},
				{name: "1000 fresh in 50 systems", size: 1000, attacks: 10, nets: 1000, system: 50},
				{name: "100 that copy the list, in 100 systems", size: 100, attacks: 50, nets: 100, system: 100, copies: true},
				{name: "100 useful in 2 systems", size: 100, attacks: 50, nets: 100, system: 2, sees: true},
				{name: "3 useful in 3 systems", size: 3, attacks: 50, nets: 3, system: 3, sees: true},
			}
			innocents, found, heavy := simulate(uint64(seed), 20, poisoners)
			results <- func() {
				if innocents != 0 {
					t.Errorf("seed %d: %d innocent addresses were listed by honest mistakes", seed, innocents)
				}
				for _, g := range poisoners {
					if len(g.listed) != 0 {
						t.Errorf("seed %d: %s had %d of %d victims listed", seed, g.name, len(g.listed), g.attacks)
					}
				}
				if found*100 < heavy*80 {
					t.Errorf("seed %d: only %d of %d attackers were listed", seed, found, heavy)
				}
				t.Logf("seed %d: %d of %d attackers", seed, found, heavy)
			}
		}()
	}
	for range seeds {
		(<-results)()
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestPatientReporters shows the limit of the rules: ten patient reporters in ten systems that have been truly useful for 30 days can have an address
// listed. What bounds the damage is that hosts which know the address contest that: the listing ends within days, the address is not listed
// again, and the reporters have lost what they earned. Without a contest it would last until their reports have gone unconfirmed for a week.
func TestPatientReporters(t *testing.T) {
	hours := func(seed uint64, unknown bool) (mean float64, listed int) {
		g := &group{name: "10 useful in 10 systems", size: 10, attacks: 50, nets: 10, system: 10, sees: true, unknown: unknown}
		simulate(seed, 20, []*group{g})
		for _, h := range g.listed {
			mean += float64(h) / float64(len(g.listed))
		}
		return mean, len(g.listed)
	}
	for seed := range uint64(2) {
		with, listed := hours(seed, false)
		without, all := hours(seed, true)
		t.Logf("seed %d: %d of 50 victims were listed for %.0f hours, and %d for %.0f without a contest", seed, listed, with, all, without)
		if listed > 0 && with > 72 {
			t.Errorf("seed %d: %d victims were listed for %.0f hours each", seed, listed, with)
		}
		if all < 40 || without < 100 || without < 5*with/2 {
			t.Errorf("seed %d: without a contest %d victims were listed for %.0f hours: the simulation does not show what a contest is for", seed, all, without)
		}
	}
}
