package ipset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/prefixset"
)

// learn notes which list of ports the name of a set stands for.
func (b *Backend) learn(name string, ports ban.Ports) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ports[name] = ports
}

// kindsOf returns the kinds whose sets were found, and the sets whose kind cannot be told. c reads lists of ports that are not known.
func (b *Backend) kindsOf(c *conn, found map[string]header) (kinds []kind, strange []string, err error) {
	for name := range found {
		k, hash, ok := parseKind(name)
		if !ok {
			continue
		}
		if hash != "" {
			ports := portsPrefix + hash
			b.mu.Lock()
			k.ports, ok = b.ports[ports]
			b.mu.Unlock()
			if !ok {
				if k.ports, ok, err = c.readPorts(ports); err != nil {
					return nil, nil, err
				}
				if ok {
					b.learn(ports, k.ports)
				}
			}
		}
		if !ok || k.name() != name {
			strange = append(strange, name)
			continue
		}
		kinds = append(kinds, k)
	}
	return withBase(kinds), strange, nil
}

// readKinds reads which kinds have sets in the kernel, unless that is known.
func (b *Backend) readKinds() error {
	if b.layout.kinds != nil {
		return nil
	}
	found, err := b.conn.headers()
	if err != nil {
		return err
	}
	kinds, _, err := b.kindsOf(b.conn, found)
	if err != nil {
		return err
	}
	lists, _, err := b.conn.listsOf(found)
	if err != nil {
		return err
	}
	byName := map[string]*heldList{}
	for _, l := range lists {
		byName[l.name] = l
	}
	b.setLists(byName)
	b.layout.kinds = kinds
	return nil
}

// verified is when all rules were last read and found to be right, and how they looked.
type verified struct {
	rules string
	at    time.Time
}

// readRulesEvery is how often rules are read that seem to be unchanged.
const readRulesEvery = 25 * time.Second

// Check implements enforce.Backend. It reads the headers of sets, and rules if they may have changed.
func (b *Backend) Check(context.Context) (enforce.Check, error) {
	b.write.Lock()
	defer b.write.Unlock()
	if err := b.refresh(time.Now()); err != nil {
		return enforce.Check{}, err
	}
	found, err := b.conn.headers()
	if err != nil {
		return enforce.Check{}, err
	}
	if err := b.readKinds(); err != nil {
		return enforce.Check{}, err
	}
	check := enforce.Check{Damaged: b.damagedSets(found), Bans: bans(found), Lists: b.damagedLists(found)}
	rules, err := b.damagedRules()
	if err != nil {
		return enforce.Check{}, err
	}
	check.Damaged = append(check.Damaged, rules...)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(name string) bool { return strings.HasPrefix(name, prefix) }) {
		check.Damaged = []string{"table"}
	}
	if b.seen.fixed == nil {
		b.seen.fixed = fixedCounts(found)
	}
	return check, nil
}

// damagedSets returns the sets that are missing, different, or should not be there.
func (b *Backend) damagedSets(found map[string]header) (damaged []string) {
	wanted := map[string]set{}
	for _, s := range b.layout.fixedSets() {
		wanted[s.name] = s
	}
	for _, k := range b.layout.kinds {
		wanted[k.name()] = k.set()
	}
	for _, l := range b.layout.lists {
		for _, s := range l.sets() {
			wanted[s.name] = s
		}
	}
	ports := b.layout.portSets()
	for name, p := range ports {
		wanted[name] = portsSet(p)
	}
	for name, want := range wanted {
		got := found[name]
		if got.set != want || ports[name] != "" && got.elements >= 0 && got.elements != portCount(ports[name]) {
			damaged = append(damaged, "set "+name)
		}
	}
	for name, expected := range b.expected {
		if got := found[name]; got.name == name && got.elements >= 0 && got.elements != expected {
			damaged = append(damaged, "set "+name)
		}
	}
	for name, want := range wanted {
		// These have all addresses.
		if got := found[name]; want.counters && !want.timeout && got.set == want && got.elements >= 0 && got.elements != len(everything(false)) {
			damaged = append(damaged, "set "+name)
		}
	}
	for name, h := range found {
		ours := strings.HasPrefix(name, prefix) || strings.HasPrefix(name, newPrefix) && b.loading == nil
		if _, ok := wanted[name]; !ok && ours && h.references == 0 {
			damaged = append(damaged, "set "+name)
		}
	}
	slices.Sort(damaged)
	return damaged
}

// bans returns the number of bans in the sets; -1 if the kernel does not report it.
func bans(found map[string]header) (n int) {
	for name, h := range found {
		if _, _, ok := parseKind(name); !ok {
			continue
		}
		if h.elements < 0 {
			return -1
		}
		n += h.elements
	}
	return n
}

func (b *Backend) damagedRules() (damaged []string, err error) {
	rules, err := b.tables.seen(b.conn)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	if rules == b.verified.rules && (b.tables.nft || time.Since(b.verified.at) < readRulesEvery) {
		return nil, nil
	}
	if b.seen.rules == "" {
		b.seen.rules = rules
	}
	for _, v6 := range b.tables.families() {
		found, err := b.tables.save(v6)
		if err != nil {
			return nil, err
		}
		damaged = append(damaged, damage(b.tables.program(v6), b.layout.tables(v6), found)...)
	}
	if damaged == nil {
		b.verified = verified{rules, time.Now()}
	}
	return damaged, nil
}

// Held implements enforce.Backend.
func (b *Backend) Held(_ context.Context, keys ...ban.Key) (enforce.State, error) {
	b.read.Lock()
	defer b.read.Unlock()
	b.exchange.RLock()
	defer b.exchange.RUnlock()
	if len(keys) > 0 {
		return b.lookUp(keys)
	}
	state := enforce.State{}
	found, err := b.reader.headers()
	if err != nil {
		return state, err
	}
	kinds, _, err := b.kindsOf(b.reader, found)
	if err != nil {
		return state, err
	}
	for _, k := range kinds {
		if found[k.name()].elements != 0 {
			if err := b.readBans(k, func(h enforce.Held) { state.Bans = append(state.Bans, h) }); err != nil {
				return state, err
			}
		}
	}
	var allow []netip.Prefix
	for _, v6 := range []bool{false, true} {
		err := errors.Join(
			b.reader.each(allowSet(v6), func(e element) { allow = append(allow, e.prefix) }),
			b.reader.each(graceSet(v6), func(e element) { state.Grace = append(state.Grace, left(e)) }),
			b.reader.each(exceptSet(v6), func(e element) { state.Except = append(state.Except, left(e)) }),
			b.reader.each(repliesSet(v6), func(e element) { state.Replies += e.packets }))
		if err != nil {
			return state, err
		}
	}
	state.Allow = prefixset.New(allow...)
	return state, nil
}

// left returns an element with the time that it has left.
func left(e element) enforce.Element {
	if e.timeout == 0 {
		return enforce.Element{Prefix: e.prefix, Timeout: enforce.Permanent}
	}
	return enforce.Element{Prefix: e.prefix, Timeout: enforce.Timeout(time.Duration(e.timeout) * time.Second)}
}

// readBans calls fn for the bans of a kind.
func (b *Backend) readBans(k kind, fn func(enforce.Held)) error {
	now := time.Now()
	return b.reader.each(k.set(), func(e element) {
		h := enforce.Held{Key: k.key(e.prefix), Packets: e.packets, Bytes: e.bytes}
		if e.timeout > 0 {
			h.Until = now.Add(time.Duration(e.timeout) * time.Second)
			b.mu.Lock()
			if end, long := b.long[h.Key]; long {
				h.Until = end
			}
			b.mu.Unlock()
		}
		fn(h)
	})
}

// lookUp reads single bans. The kernel answers at once whether there is one; its end and counters take reading the set.
func (b *Backend) lookUp(keys []ban.Key) (state enforce.State, err error) {
	wanted := map[kind]map[ban.Key]bool{}
	for _, key := range keys {
		k := kindOf(key)
		held, err := b.reader.has(k.set(), element{prefix: key.Prefix})
		if err != nil {
			return state, err
		}
		if held {
			if wanted[k] == nil {
				wanted[k] = map[ban.Key]bool{}
			}
			wanted[k][key] = true
		}
	}
	for k, keys := range wanted {
		err := b.readBans(k, func(h enforce.Held) {
			if keys[h.Key] {
				state.Bans = append(state.Bans, h)
			}
		})
		if err != nil {
			return state, err
		}
	}
	return state, nil
}

// refreshEvery is how often bans are written again that last longer than the kernel can hold an element.
const refreshEvery = 12 * time.Hour

// refresh gives bans that last longer than the kernel can hold an element the longest timeout again.
func (b *Backend) refresh(now time.Time) error {
	if now.Before(b.refreshAt) || b.layout.kinds == nil {
		return nil
	}
	b.refreshAt = now.Add(min(refreshEvery, time.Duration(b.longest)*time.Second/4))
	longer := map[kind][]element{}
	b.mu.Lock()
	for key, end := range b.long {
		k := kindOf(key)
		rest := end.Sub(now)
		if rest <= 0 {
			delete(b.long, key)
			continue
		}
		secs := uint64((rest + time.Second - 1) / time.Second)
		if secs <= b.longest {
			delete(b.long, key)
		}
		longer[k] = append(longer[k], element{prefix: key.Prefix, timeout: uint32(min(secs, b.longest))})
	}
	b.mu.Unlock()
	for k, es := range longer {
		s := k.set()
		s.counters = false // they go on
		if _, err := b.addAll(s, es); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
