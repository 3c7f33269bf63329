package nftset

import (
	"maps"
	"slices"
)

// A table is the table as found in the kernel, without elements.
type table struct {
	table  bool
	sets   map[string]foundSet
	chains map[string]foundChain
	rules  map[string][]uint64 // fingerprints by chain
	counts map[string]count    // by counter
}

func (c *conn) readAll() (t table, err error) {
	if t.table, err = c.readTable(); err != nil || !t.table {
		return t, err
	}
	if t.sets, err = c.readSets(tableName); err != nil {
		return t, err
	}
	if t.chains, err = c.readChains(tableName); err != nil {
		return t, err
	}
	if t.rules, err = c.readFingerprints(tableName); err != nil {
		return t, err
	}
	t.counts, err = c.readCounters()
	return t, err
}

// compare returns the objects that are missing, different, or not ours.
func (t table) compare(kinds []setKind, lists map[string]*heldList, s tableSpec) (damaged []string, err error) {
	wantSets := map[string]set{}
	for _, want := range s.sets() {
		wantSets[want.name] = want
	}
	for _, c := range kinds {
		wantSets[c.set()] = s.set(c)
	}
	for _, l := range lists {
		for _, want := range l.sets() {
			wantSets[want.name] = want
		}
	}
	for name, want := range wantSets {
		if got, ok := t.sets[name]; !ok || got.set != want {
			damaged = append(damaged, "set "+name)
		}
	}
	for name, got := range t.sets {
		_, wanted := wantSets[name]
		_, _, filling := parseListSet(name) // a generation that is not in force yet, or never came into force
		if !wanted && !filling && !got.anonymous {
			damaged = append(damaged, "set "+name)
		}
	}
	wantRules, err := s.fingerprints(kinds, lists)
	if err != nil {
		return nil, err
	}
	wantChains := s.chains()
	for _, want := range wantChains {
		if got, ok := t.chains[want.name]; !ok || !got.equal(want) || !wantRules[want.name].equal(t.rules[want.name]) {
			damaged = append(damaged, "chain "+want.name)
		}
	}
	for name := range t.chains {
		if !slices.ContainsFunc(wantChains, func(c chain) bool { return c.name == name }) {
			damaged = append(damaged, "chain "+name)
		}
	}
	for _, want := range s.counts() {
		if _, ok := t.counts[want.name]; !ok {
			damaged = append(damaged, "counter "+want.name)
		}
	}
	slices.Sort(damaged)
	return damaged, nil
}

func (c foundChain) equal(want chain) bool {
	if want.hook == nil || c.hook == nil {
		return want.hook == c.hook
	}
	return *c.hook == *want.hook && c.policy == policyAccept
}

// chainPrints are the fingerprints of a chain's rules: some in a fixed order, then those of the kinds and lists in any order.
type chainPrints struct{ fixed, kinds []uint64 }

func (s tableSpec) fingerprints(kinds []setKind, lists map[string]*heldList) (map[string]chainPrints, error) {
	out := map[string]chainPrints{}
	for _, r := range s.fixedRules() {
		fingerprint, err := r.fingerprint()
		if err != nil {
			return nil, err
		}
		of := out[r.chain]
		of.fixed = append(of.fixed, fingerprint)
		out[r.chain] = of
	}
	var rules []rule
	for _, c := range kinds {
		rules = append(rules, s.rules(c)...)
	}
	for _, l := range lists {
		rules = append(rules, s.listRules(l.listSets)...)
	}
	for _, r := range rules {
		fingerprint, err := r.fingerprint()
		if err != nil {
			return nil, err
		}
		of := out[r.chain]
		of.kinds = append(of.kinds, fingerprint)
		out[r.chain] = of
	}
	return out, nil
}

func (s chainPrints) equal(got []uint64) bool {
	n := len(s.fixed)
	return len(got) == n+len(s.kinds) && slices.Equal(got[:n], s.fixed) &&
		slices.Equal(slices.Sorted(slices.Values(got[n:])), slices.Sorted(slices.Values(s.kinds)))
}

// bans returns the number of bans in the sets; -1 if the kernel does not report it.
func (t table) bans() int {
	sum := 0
	for s := range maps.Values(t.sets) {
		if _, ok := parseKind(s.name); !ok {
			continue
		}
		if s.count < 0 {
			return -1
		}
		sum += s.count
	}
	return sum
}
