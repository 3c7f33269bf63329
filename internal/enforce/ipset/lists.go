package ipset

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/ordered"
	"mef/internal/prefixset"
)

// A list has two sets for each family: one of its entries, single addresses and networks alike, and one that counts the packets that it
// dropped. Names of sets are too short for names of lists, so that they have a hash in their place; what a list is called and which
// packets it drops is the comment of the elements of the second set, so that lists found in the kernel can be kept:
//
//	-A mefd-list -m set --match-set mefd_l0123456789abcdef_e4 src -j mefd-l0123456789abcdef
//	-A mefd-l0123456789abcdef -m set --match-set mefd_l0123456789abcdef_c4 src
//	-A mefd-l0123456789abcdef -j DROP
//
// A list that differs much from the one before is written to another set, which then takes its place. Small differences are made in place.

// A listForm is what the rules of a list depend on.
type listForm struct {
	name  string
	ports ban.Ports
	both  bool
}

// A heldList is a list in the kernel.
type heldList struct {
	listForm
	addrs  *prefixset.Packed // nil if not known: of an earlier run, or changed by others
	counts [2]int            // entries as the kernel counts them
}

const listPrefix = prefix + "l"

// id stands for the list in names.
func (l listForm) id() string {
	h := fnv.New64a()
	h.Write([]byte(l.name))
	return fmt.Sprintf("%016x", h.Sum64())
}

func (l listForm) entries(v6 bool) set {
	return set{name: listPrefix + l.id() + "_e" + familyName(v6), typ: hashNet, v6: v6}
}

func (l listForm) counter(v6 bool) set {
	return set{name: listPrefix + l.id() + "_c" + familyName(v6), typ: hashNet, v6: v6, counters: true, comments: true}
}

func (l listForm) sets() []set {
	return []set{l.entries(false), l.entries(true), l.counter(false), l.counter(true)}
}

// comment tells what the list is, for the next daemon: "drop-v4", "mail both 25,465-587".
func (l listForm) comment() string {
	text := l.name
	if l.both {
		text += " both"
	}
	if l.ports != "" {
		text += " " + string(l.ports)
	}
	return text
}

func parseComment(text string) (l listForm, ok bool) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return l, false
	}
	l.name = words[0]
	for _, word := range words[1:] {
		if word == "both" {
			l.both = true
			continue
		}
		ports, err := ban.ParsePorts(word)
		if err != nil {
			return l, false
		}
		l.ports = ports
	}
	return l, l.comment() == text
}

// The chains of lists. Those of single lists begin with chainsPrefix, too.
const (
	listChain      = "mefd-list"
	listBothChain  = "mefd-list-both"
	listReplyChain = "mefd-list-reply"
)

func (l listForm) chain() string      { return chainsPrefix + "l" + l.id() }
func (l listForm) replyChain() string { return chainsPrefix + "r" + l.id() }

// listGates lead packets from others to the rules of lists.
func listGates() []rule {
	return []rule{
		{banChain, "", listBothChain},
		{banChain, opens, listChain},
		{banChain, fmt.Sprintf("%s-m udp --dport 0:%d", notAnswers, localPorts-1), listChain},
	}
}

// listRules returns the rules of lists about packets from others, and their chains.
func (l layout) listRules(v6 bool) (chains []string, rules []rule) {
	chains = []string{listChain, listBothChain}
	for _, list := range l.lists {
		from := listChain
		if list.both {
			from = listBothChain
		}
		chains = append(chains, list.chain())
		rules = append(rules,
			rule{from, ofPorts(list.ports, "dst") + inSet(list.entries(v6), "src"), list.chain()},
			rule{list.chain(), inSet(list.counter(v6), "src"), ""})
		rules = append(rules, l.sampleLists(list.chain())...)
		rules = append(rules, rule{list.chain(), "", l.drop(ban.Verified)})
	}
	return chains, rules
}

// listReplies returns the rules of lists about packets to others, and their chains.
func (l layout) listReplies(v6 bool) (chains []string, rules []rule) {
	chains = []string{listReplyChain}
	for _, list := range l.lists {
		if !list.both {
			continue
		}
		chains = append(chains, list.replyChain())
		rules = append(rules,
			rule{listReplyChain, ofPorts(list.ports, "src") + inSet(list.entries(v6), "dst"), list.replyChain()},
			rule{list.replyChain(), inSet(list.counter(v6), "dst"), ""})
		rules = append(rules, l.sampleLists(list.replyChain())...)
		rules = append(rules, rule{list.replyChain(), "", "DROP"})
	}
	return chains, rules
}

// listsOf returns the lists whose sets were found, in the order of their names.
func (c *conn) listsOf(found map[string]header) (lists []*heldList, packets map[string]uint64, err error) {
	packets = map[string]uint64{}
	for name := range found {
		if !strings.HasPrefix(name, listPrefix) || !strings.HasSuffix(name, "_c4") {
			continue
		}
		list := &heldList{}
		ok := false
		if err := c.each(set{name: name, typ: hashNet}, func(e element) { list.listForm, ok = parseComment(e.comment) }); err != nil {
			return nil, nil, err
		}
		whole := !slices.ContainsFunc(list.sets(), func(s set) bool { return found[s.name].set != s })
		if !ok || list.counter(false).name != name || !whole {
			continue
		}
		for _, v6 := range []bool{false, true} {
			if err := c.each(list.counter(v6), func(e element) { packets[list.name] += e.packets }); err != nil {
				return nil, nil, err
			}
		}
		lists = append(lists, list)
	}
	ordered.Sort(lists, func(a, b *heldList) int { return strings.Compare(a.name, b.name) })
	return lists, packets, nil
}

// setLists takes over which lists there are.
func (b *Backend) setLists(lists map[string]*heldList) {
	b.lists = lists
	b.layout.lists = nil
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		b.layout.lists = append(b.layout.lists, lists[name].listForm)
	}
}

// stepEntries is how many entries of a list are written in a step, so that a ban between two of them need not wait for longer than a few
// milliseconds.
const stepEntries = 4000

// A listLoad is a SetList that has begun.
type listLoad struct {
	list    enforce.List
	begun   bool
	inPlace bool
	rest    []listWrite
}

// A listWrite adds entries to a set of a list, or removes them.
type listWrite struct {
	v6, remove bool
	entries    []netip.Prefix
}

// SetList implements enforce.Backend.
func (b *Backend) SetList(l enforce.List) func(context.Context) (bool, error) {
	load := &listLoad{list: l}
	b.loading = load
	return func(context.Context) (done bool, err error) {
		b.write.Lock()
		defer b.write.Unlock()
		if err = b.readKinds(); err == nil {
			if b.loading != load { // everything was built anew meanwhile
				*load = listLoad{list: l}
				b.loading = load
			}
			done, err = b.listStep(load)
		}
		if done || err != nil {
			b.loading = nil
		}
		if err != nil {
			return false, fmt.Errorf("write list %s: %w", l.Name, err)
		}
		return done, nil
	}
}

func (b *Backend) listStep(load *listLoad) (done bool, err error) {
	form := listForm{load.list.Name, load.list.Ports, load.list.Both}
	now := b.lists[form.name]
	switch {
	case load.list.Addrs.Len() == 0:
		return true, b.removeLists(func(name string) bool { return name == form.name })
	case !load.begun && now != nil && now.addrs != nil && now.listForm == form && now.addrs.Equal(load.list.Addrs):
		return true, nil
	case !load.begun:
		load.begun = true
		if load.inPlace = now != nil && now.addrs != nil && now.listForm == form && load.planChanges(now.addrs); load.inPlace {
			return false, nil
		}
		for _, v6 := range []bool{false, true} {
			load.rest = append(load.rest, writes(prefixesOf(load.list.Addrs, v6), v6, false)...)
			if err := b.create(newOf(form.entries(v6)), load.list.Addrs.Len()); err != nil {
				return false, err
			}
		}
		return false, nil
	case len(load.rest) > 0:
		w := load.rest[0]
		load.rest = load.rest[1:]
		return false, b.writeEntries(load, form, now, w)
	case load.inPlace:
		now.addrs = load.list.Addrs
		return true, b.countList(now)
	}
	return true, b.switchList(form, load.list.Addrs)
}

// create makes an empty set, in the place of one of that name that was left over.
func (b *Backend) create(s set, n int) error {
	if err := b.conn.destroy(s.name); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return b.conn.create(s, n, maxSetSize)
}

// newOf returns a set that is to take the place of s.
func newOf(s set) set {
	s.name = newPrefix + strings.TrimPrefix(s.name, prefix)
	return s
}

// prefixesOf returns the entries of a family as prefixes.
func prefixesOf(p *prefixset.Packed, v6 bool) (all []netip.Prefix) {
	for a := range p.Hosts(v6) {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	for r := range p.Nets(v6) {
		for _, p := range r.Prefixes() {
			if p.Bits() == 0 { // a set cannot hold all addresses as one
				low, high := halves(p)
				all = append(all, low, high)
				continue
			}
			all = append(all, p)
		}
	}
	return all
}

func writes(entries []netip.Prefix, v6, remove bool) (all []listWrite) {
	for part := range slices.Chunk(entries, stepEntries) {
		all = append(all, listWrite{v6, remove, part})
	}
	return all
}

// planChanges plans the change of a list in place, and reports whether that is worth while. What comes is written before what goes: an
// address that is in an entry before and in another one afterwards stays listed.
func (load *listLoad) planChanges(now *prefixset.Packed) bool {
	gone, came := prefixset.Changes(now, load.list.Addrs)
	if n := gone.Len() + came.Len(); n > stepEntries && n > load.list.Addrs.Len()/4 {
		return false
	}
	var removes []listWrite
	for _, v6 := range []bool{false, true} {
		add, remove := prefixesOf(came, v6), prefixesOf(gone, v6)
		// Two ranges may be made up of the same prefixes in part.
		stays := make(map[netip.Prefix]bool, len(add))
		for _, p := range add {
			stays[p] = true
		}
		remove = slices.DeleteFunc(remove, func(p netip.Prefix) bool { return stays[p] })
		load.rest = append(load.rest, writes(add, v6, false)...)
		removes = append(removes, writes(remove, v6, true)...)
	}
	load.rest = append(load.rest, removes...)
	return true
}

// writeEntries makes a write of a load.
func (b *Backend) writeEntries(load *listLoad, form listForm, now *heldList, w listWrite) error {
	s := form.entries(w.v6)
	if load.inPlace {
		now.addrs = nil // until the last one has been made
	} else {
		s = newOf(s)
	}
	es := make([]element, len(w.entries))
	for i, p := range w.entries {
		es[i] = element{prefix: p}
	}
	if w.remove {
		return errors.Join(b.conn.remove(s, es), b.noteFixed())
	}
	refused, err := b.addAll(s, es)
	if err == nil && len(refused) > 0 {
		err = refused[0].err
	}
	if load.inPlace {
		err = errors.Join(err, b.noteFixed())
	}
	return err
}

// switchList puts a filled set in the place of the one before, with its rules if they change.
func (b *Backend) switchList(form listForm, addrs *prefixset.Packed) error {
	before := b.lists[form.name]
	for _, v6 := range []bool{false, true} {
		if before == nil {
			for _, s := range []set{form.entries(v6), form.counter(v6)} {
				if err := b.create(s, 0); err != nil {
					return err
				}
			}
		}
		if err := b.exchangeSets(newOf(form.entries(v6)).name, form.entries(v6).name); err != nil {
			return err
		}
	}
	if err := b.nameList(form, before == nil); err != nil {
		return err
	}
	lists := maps.Clone(b.lists)
	if lists == nil {
		lists = map[string]*heldList{}
	}
	now := &heldList{listForm: form, addrs: addrs}
	lists[form.name] = now
	if err := b.useLists(lists, before == nil || before.listForm != form); err != nil {
		return err
	}
	return b.countList(now)
}

// nameList fills the sets that tell what a list is and count what it drops, which begins anew with fresh.
func (b *Backend) nameList(form listForm, fresh bool) error {
	for _, v6 := range []bool{false, true} {
		s, es := form.counter(v6), everything(v6)
		s.counters = fresh
		for i := range es {
			es[i].comment = form.comment()
		}
		if err := b.conn.add(s, es); err != nil {
			return err
		}
	}
	return nil
}

// exchangeSets gives a set the elements of another one, which is destroyed.
func (b *Backend) exchangeSets(fresh, name string) error {
	b.exchange.Lock()
	defer b.exchange.Unlock()
	if err := b.conn.swap(fresh, name); err != nil {
		return err
	}
	return b.conn.destroy(fresh)
}

// useLists makes rules for these lists, if they change.
func (b *Backend) useLists(lists map[string]*heldList, change bool) error {
	before := b.lists
	b.setLists(lists)
	if !change {
		return nil
	}
	if err := b.ensurePorts(); err != nil {
		return err
	}
	for _, v6 := range b.tables.families() {
		if err := b.writeRules(v6); err != nil {
			b.setLists(before)
			return err
		}
	}
	return nil
}

// countList notes how many entries a list has that was just written, as the kernel counts them.
func (b *Backend) countList(l *heldList) error {
	found, err := b.conn.headers()
	if err != nil {
		return err
	}
	for i, v6 := range []bool{false, true} {
		l.counts[i] = found[l.entries(v6).name].elements
	}
	b.seen.fixed = fixedCounts(found)
	return nil
}

// removeLists removes the lists whose names are chosen.
func (b *Backend) removeLists(chosen func(name string) bool) error {
	lists := maps.Clone(b.lists)
	maps.DeleteFunc(lists, func(name string, _ *heldList) bool { return chosen(name) })
	if len(lists) == len(b.lists) {
		return nil
	}
	before := b.lists
	if err := b.useLists(lists, true); err != nil {
		return err
	}
	b.exchange.Lock()
	defer b.exchange.Unlock()
	for name, l := range before {
		if !chosen(name) {
			continue
		}
		for _, s := range l.sets() {
			if err := b.conn.destroy(s.name); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return b.noteFixed()
}

// KeepLists implements enforce.Backend.
func (b *Backend) KeepLists(_ context.Context, names []string) error {
	b.write.Lock()
	defer b.write.Unlock()
	err := b.readKinds()
	if err == nil {
		err = b.removeLists(func(name string) bool { return !slices.Contains(names, name) })
	}
	if err == nil && b.loading == nil {
		err = b.removeLeftovers()
	}
	if err != nil {
		return fmt.Errorf("remove lists: %w", err)
	}
	return nil
}

// removeLeftovers destroys sets that were being filled.
func (b *Backend) removeLeftovers() error {
	found, err := b.conn.headers()
	if err != nil {
		return err
	}
	for name := range found {
		if strings.HasPrefix(name, newPrefix) {
			if err := b.conn.destroy(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Lists implements enforce.Backend.
func (b *Backend) Lists(context.Context) (all []enforce.HeldList, err error) {
	b.read.Lock()
	defer b.read.Unlock()
	b.exchange.RLock()
	defer b.exchange.RUnlock()
	lists, packets, err := b.foundLists()
	for _, l := range lists {
		// The kernel counts prefixes, and a range may be made up of several.
		all = append(all, enforce.HeldList{Name: l.name, Packets: packets[l.name], Entries: -1})
	}
	return all, err
}

// Drops implements enforce.Backend.
func (b *Backend) Drops(context.Context) (d enforce.Drops, err error) {
	b.read.Lock()
	defer b.read.Unlock()
	b.exchange.RLock()
	defer b.exchange.RUnlock()
	for _, v6 := range []bool{false, true} {
		for set, n := range map[set]*uint64{dropsSet(ban.Verified, v6): &d.Verified, dropsSet(ban.Unverified, v6): &d.Unverified, repliesSet(v6): &d.Replies} {
			if err := b.reader.each(set, func(e element) { *n += e.packets }); err != nil {
				return d, err
			}
		}
	}
	_, lists, err := b.foundLists()
	for _, n := range lists {
		d.Lists += n
	}
	return d, err
}

func (b *Backend) foundLists() ([]*heldList, map[string]uint64, error) {
	found, err := b.reader.headers()
	if err != nil {
		return nil, nil, err
	}
	return b.reader.listsOf(found)
}

// Listed implements enforce.Backend.
func (b *Backend) Listed(_ context.Context, addr netip.Addr) (names []string, err error) {
	b.read.Lock()
	defer b.read.Unlock()
	b.exchange.RLock()
	defer b.exchange.RUnlock()
	lists, _, err := b.foundLists()
	if err != nil {
		return nil, err
	}
	for _, l := range lists {
		// A single address is looked up in networks of all widths.
		listed, err := b.reader.has(l.entries(addr.Is6()), element{prefix: netip.PrefixFrom(addr, addr.BitLen())})
		if err != nil {
			return nil, err
		}
		if listed {
			names = append(names, l.name)
		}
	}
	return names, nil
}

// damagedLists returns the lists that do not have as many entries as they should, and has them written anew by the next SetList.
func (b *Backend) damagedLists(found map[string]header) (names []string) {
	for _, form := range b.layout.lists {
		l := b.lists[form.name]
		for i, v6 := range []bool{false, true} {
			if h := found[l.entries(v6).name]; l.addrs != nil && h.elements >= 0 && h.elements != l.counts[i] {
				l.addrs = nil
				names = append(names, l.name)
			}
		}
	}
	return names
}
