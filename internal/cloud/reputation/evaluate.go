package reputation

import (
	"net/netip"
	"slices"
)

// A mass is what speaks for the listing of an address.
type mass struct {
	mass          int64
	systems, nets int
	trusted       int // systems with an established reporter
}

func (m mass) lists(threshold int64) bool {
	return m.mass >= threshold && m.systems >= minSystems && m.nets >= minNets && m.trusted >= minTrusted
}

// weigh adds up the trust of the reporters of an address. It leaves in b.sums.trusted the trust of the established ones, by system.
func (b *Book) weigh(rec *record) mass {
	b.sums.clear()
	for i := range rec.Claims {
		if c := &rec.Claims[i]; b.now-c.Last <= week {
			b.count(c.By, b.days72.of(b.reporters[c.By].trust, int64(b.now-c.Last)))
		}
	}
	return b.sum()
}

// count adds to b.sums what the report of a reporter weighs.
func (b *Book) count(by int, weight int64) {
	r, s := b.reporters[by], &b.sums
	if r.trust == 0 {
		return
	}
	s.nets.add(r.net, weight)
	if r.trust >= established {
		s.trusted.add(r.system, r.trust)
	}
}

// sum returns what was counted, of which each network and each system adds a fixed amount at most.
func (b *Book) sum() (m mass) {
	s := &b.sums
	for _, net := range s.nets.used {
		strong, system := min(s.nets.of(net), capNet), b.systemOf[net]
		if strong < weakNet {
			s.weak.add(system, strong)
			strong = 0
		}
		s.systems.add(system, strong)
	}
	m.mass = s.systems.capped() + min(s.weak.capped(), capWeak)
	m.systems, m.nets, m.trusted = len(s.systems.used), len(s.nets.used), len(s.trusted.used)
	return m
}

// capped returns the sum of all systems.
func (t *tally) capped() (all int64) {
	for _, n := range t.used {
		all += min(t.sum[n], capSystem)
	}
	return all
}

// evaluate decides about an address anew.
func (b *Book) evaluate(key netip.Prefix, rec *record) {
	m := b.weigh(rec)
	b.credit(rec)
	b.expire(rec)
	b.settleContest(key, rec)
	need := int64(threshold)
	if rec.Appealed != 0 && b.now < rec.Appealed+appealEvery {
		need *= 2
	}
	switch {
	case rec.Listed && b.never(key.Addr()):
		b.unlist(key, rec, "it is never listed")
	case rec.Listed && m.mass < need/2 && b.now >= rec.ListedAt+minListed:
		b.unlist(key, rec, "its reports are too old")
	case !rec.Listed && m.lists(need) && !b.never(key.Addr()) && !b.quarantined(rec):
		rec.Listed, rec.Ever, rec.ListedAt = true, true, b.now
		b.changes = append(b.changes, Change{List: Public, Prefix: key, At: b.now, Why: "reported by unrelated networks"})
	}
	b.evaluateOwn(key, rec)
	if len(rec.Claims) == 0 && len(rec.Votes) == 0 && !rec.Listed && len(rec.Accused) == 0 && !b.quarantined(rec) &&
		(rec.Appealed == 0 || b.now >= rec.Appealed+appealEvery) && b.now >= rec.NoOwnUntil {
		delete(b.records, key)
	}
}

// evaluateOwn decides whether the own hosts ban an address.
func (b *Book) evaluateOwn(key netip.Prefix, rec *record) {
	own := b.now >= rec.NoOwnUntil && !b.never(key.Addr()) && slices.ContainsFunc(rec.Claims, func(c claim) bool {
		return c.Shared && b.reporters[c.By].Role == Own && b.now-c.Last <= ownFor
	})
	if own != rec.own {
		rec.own = own
		why := "an own host has banned it"
		if !own {
			why = "the bans of own hosts have ended"
		}
		b.changes = append(b.changes, Change{List: OwnHosts, Prefix: key, Removed: !own, At: b.now, Why: why})
	}
}

// credit rewards reporters whom enough trust in other systems confirms. Established reporters only can confirm, so that new ones do not confirm one
// another.
func (b *Book) credit(rec *record) {
	all := b.sums.trusted.capped()
	for i := range rec.Claims {
		c := &rec.Claims[i]
		r := b.reporters[c.By]
		if c.Corroborated || b.now-c.First > week || all-min(b.sums.trusted.of(r.system), capSystem) < confirmed {
			continue
		}
		c.Corroborated = true
		if b.newDay(r); c.Early && r.Credits < creditsDay {
			r.Credits++
			r.Credit += unit
		}
	}
}

// expire removes what is older than a week, and counts reports that nobody has confirmed in that time.
func (b *Book) expire(rec *record) {
	for i := range rec.Claims {
		if c := &rec.Claims[i]; !c.Corroborated && !c.Judged && b.now-c.First >= week {
			c.Judged = true
			b.reporters[c.By].Doubt += doubtUnproven
		}
	}
	rec.Claims = slices.DeleteFunc(rec.Claims, func(c claim) bool { return b.now-c.Last > week && (c.Judged || c.Corroborated) })
	rec.Votes = slices.DeleteFunc(rec.Votes, func(v vote) bool { return b.now-v.At > week })
}

// quarantined reports whether a contest keeps an address unlisted: for a week, unless an anchor has seen it attack since.
func (b *Book) quarantined(rec *record) bool {
	return rec.Contested != 0 && b.now < rec.Contested+quarantine && !b.refuted(rec)
}

func (b *Book) refuted(rec *record) bool {
	return slices.ContainsFunc(rec.Claims, func(c claim) bool { return c.Last > rec.Contested && b.reporters[c.By].anchor() })
}

// settleContest counts the votes that an address is benign.
func (b *Book) settleContest(key netip.Prefix, rec *record) {
	if len(rec.Accused) > 0 {
		switch {
		case b.refuted(rec):
			rec.Accused = nil
		case b.now >= rec.Contested+refuteIn:
			b.punish(rec)
		}
	}
	if len(rec.Votes) == 0 || rec.Contested != 0 && b.now < rec.Contested+quarantine {
		return
	}
	var trust int64
	systems := make(map[int]bool)
	for _, v := range rec.Votes {
		if r := b.reporters[v.By]; r.trust > 0 {
			trust += r.trust
			systems[r.system] = true
		}
	}
	if trust >= confirmed && len(systems) >= 2 {
		b.contest(key, rec, "reporters know it as benign")
	}
}

// contest removes an address whose reporters seem to be wrong.
func (b *Book) contest(key netip.Prefix, rec *record, why string) {
	rec.Contested, rec.Accused = b.now, nil
	for _, c := range rec.Claims {
		rec.Accused = append(rec.Accused, c.By)
	}
	b.unlist(key, rec, why)
}

// punish takes trust from the reporters of a contested address, and removes their reports.
func (b *Book) punish(rec *record) {
	for _, by := range rec.Accused {
		b.reporters[by].Doubt += doubtWrong
	}
	rec.Claims = slices.DeleteFunc(rec.Claims, func(c claim) bool { return slices.Contains(rec.Accused, c.By) })
	rec.Accused = nil
}

func (b *Book) unlist(key netip.Prefix, rec *record, why string) {
	if rec.Listed {
		rec.Listed = false
		b.changes = append(b.changes, Change{List: Public, Prefix: key, Removed: true, At: b.now, Why: why})
	}
}
