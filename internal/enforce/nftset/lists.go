package nftset

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/event"
	"mef/internal/prefixset"
)

// A list is held by four sets: for each family a hash set of single addresses and an interval set of networks. Its rules are in chains
// of their own, so that they can be replaced in one small transaction:
//
//	chain ban4 {
//		...
//		jump list4_both
//		tcp flags & (syn|ack) == syn jump list4
//		udp sport != { 53, 123, ... } udp dport < 32768 jump list4
//		ip saddr @except4 accept
//		...
//	}
//	chain list4 {
//		ip saddr @list_drop_3_h4 counter name list_drop drop
//		ip saddr @list_drop_3_n4 counter name list_drop drop
//	}
//
// A list that differs much from the one before is a new generation: its sets are filled over many transactions while no rule refers to them,
// and the last one replaces the rules and deletes the sets of the former generation. Small differences are made in place. The names
// of the sets tell all about a list but its addresses, so that lists found in the kernel can be kept.

// listKinds end the names of the sets of a list, in the order of their rules.
var listKinds = []struct {
	suffix   string
	v6, nets bool
}{{"h4", false, false}, {"n4", false, true}, {"h6", true, false}, {"n6", true, true}}

// A listSets is a generation of a list.
type listSets struct {
	name  string
	gen   int
	ports ban.Ports
	both  bool
}

// set returns the name of one of the sets: "list_drop_3_h4", "list_mail_1_both_p25.465-587_n6".
func (l listSets) set(kind int) string { return l.prefix() + listKinds[kind].suffix }

func (l listSets) prefix() string {
	s := listCounter(l.name) + "_" + strconv.Itoa(l.gen) + "_"
	if l.both {
		s += "both_"
	}
	if l.ports != "" {
		s += "p" + strings.ReplaceAll(string(l.ports), ",", ".") + "_"
	}
	return s
}

// parseListSet reads the name of a set. ok is false for any name that listSets.set does not return.
func parseListSet(name string) (l listSets, kind int, ok bool) {
	f := strings.Split(name, "_")
	if len(f) < 4 || len(f) > 6 || f[0] != "list" {
		return listSets{}, 0, false
	}
	kind = -1
	for i, k := range listKinds {
		if k.suffix == f[len(f)-1] {
			kind = i
		}
	}
	var err error
	if l.gen, err = strconv.Atoi(f[2]); err != nil || kind < 0 {
		return listSets{}, 0, false
	}
	l.name = f[1]
	for _, word := range f[3 : len(f)-1] {
		if ports, scoped := strings.CutPrefix(word, "p"); scoped {
			if l.ports, err = ban.ParsePorts(strings.ReplaceAll(ports, ".", ",")); err != nil {
				return listSets{}, 0, false
			}
		} else if word == "both" {
			l.both = true
		}
	}
	return l, kind, l.set(kind) == name
}

// listCounter names the counter of packets that a list dropped.
func listCounter(list string) string { return "list_" + list }

// sets returns the sets of a generation.
func (l listSets) sets() (all []set) {
	for i, k := range listKinds {
		all = append(all, set{name: l.set(i), v6: k.v6, interval: k.nets})
	}
	return all
}

// A heldList is a list in the kernel.
type heldList struct {
	listSets
	addrs  *prefixset.Packed // nil if not known: of an earlier run, or changed by others
	broken bool              // changed by others
}

// The chains of lists.
func listChain(v6 bool) string      { return "list" + familyName(v6) }
func listBothChain(v6 bool) string  { return "list" + familyName(v6) + "_both" }
func listReplyChain(v6 bool) string { return "list" + familyName(v6) + "_reply" }

var listChains = []string{
	listChain(false), listBothChain(false), listReplyChain(false), listChain(true), listBothChain(true), listReplyChain(true),
}

// listPart has the chains of lists, whose rules come with the lists.
func listPart() part {
	p := part{rules: func(tableSpec) []rule { return nil }}
	for _, name := range listChains {
		p.chains = append(p.chains, chain{name, nil})
	}
	return p
}

// listGates returns the rules that lead packets to the chains of lists.
func listGates(d direction, v6 bool) []rule {
	jump := func(r rule, chain string) rule { return r.with(&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}) }
	r := newRule(d.chain(v6))
	if !d.incoming {
		return []rule{jump(r, listReplyChain(v6))}
	}
	return []rule{
		jump(r, listBothChain(v6)),
		jump(r.protocol(unix.IPPROTO_TCP).opensTCP(), listChain(v6)),
		jump(r.protocol(unix.IPPROTO_UDP).fromAnswering(true).below(localPorts), listChain(v6)),
	}
}

// listRules returns the rules of a generation of a list.
func (s tableSpec) listRules(l listSets) (rules []rule) {
	for i, k := range listKinds {
		end := func(chain string, d direction) {
			r := newRule(chain)
			if l.ports != "" {
				r = r.protocols(unix.IPPROTO_TCP, unix.IPPROTO_UDP).port(d, l.ports.Ranges())
			}
			r = r.inSet(d, k.v6, addrBits(k.v6), l.set(i)).counter(listCounter(l.name))
			if d.incoming {
				rules = append(rules, s.dropListed(r))
			} else {
				rules = append(rules, s.dropSampled(r, event.DroppedList))
			}
		}
		if !l.both {
			end(listChain(k.v6), directions[0])
			continue
		}
		end(listBothChain(k.v6), directions[0])
		end(listReplyChain(k.v6), directions[1])
	}
	return rules
}

// listsOf returns the lists that sets in the kernel stand for. Of two generations of a list, the later one was being filled.
func listsOf(sets map[string]foundSet) map[string]*heldList {
	parts := make(map[listSets]int)
	for name := range sets {
		if l, _, ok := parseListSet(name); ok {
			parts[l]++
		}
	}
	lists := make(map[string]*heldList)
	for l, n := range parts {
		if before, twice := lists[l.name]; n == len(listKinds) && (!twice || l.gen < before.gen) {
			lists[l.name] = &heldList{listSets: l}
		}
	}
	return lists
}

// held returns the lists in the order of their names.
func held(lists map[string]*heldList) (all []*heldList) {
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		all = append(all, lists[name])
	}
	return all
}

// replaceListRules replaces the rules of all lists.
func (t *tx) replaceListRules(s tableSpec, lists map[string]*heldList) error {
	for _, name := range listChains {
		t.flushChain(name)
	}
	return t.addListRules(s, lists)
}

func (t *tx) addListRules(s tableSpec, lists map[string]*heldList) error {
	for _, l := range held(lists) {
		for _, r := range s.listRules(l.listSets) {
			if err := t.addRule(tableName, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// stepEntries is how many entries of a list are written in one transaction, so that a ban between two of them need not wait for longer than
// a few milliseconds.
const stepEntries = 4000

// A listLoad is a SetList that has begun.
type listLoad struct {
	list    enforce.List
	begun   bool
	inPlace bool
	next    listSets      // the generation that is written
	rest    [][]listWrite // by transaction
}

// A listWrite adds entries to a set of a list, or removes them.
type listWrite struct {
	kind    int
	entries *prefixset.Packed // of this kind only
	remove  bool
}

// SetList implements enforce.Backend.
func (b *Backend) SetList(l enforce.List) func(context.Context) (bool, error) {
	load := &listLoad{list: l}
	b.loading = load
	return func(context.Context) (done bool, err error) {
		b.known.Store(0)
		if err = b.readKinds(); err == nil {
			if b.loading != load { // the table was rebuilt meanwhile
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
	now := b.lists[load.list.Name]
	switch {
	case load.list.Addrs.Len() == 0:
		return true, b.removeLists(func(name string) bool { return name == load.list.Name })
	case !load.begun && now != nil && now.holds(load.list):
		return true, nil
	case !load.begun:
		load.begun = true
		if load.inPlace = now != nil && load.planChanges(now); load.inPlace {
			return false, nil
		}
		return false, b.beginGeneration(load, now)
	case len(load.rest) > 0:
		return false, b.writeEntries(load, now)
	case load.inPlace:
		now.addrs = load.list.Addrs
		return true, nil
	}
	return true, b.switchList(load)
}

// holds reports whether the kernel has a list as it is to be.
func (l *heldList) holds(want enforce.List) bool {
	return l.addrs != nil && l.ports == want.Ports && l.both == want.Both && l.addrs.Equal(want.Addrs)
}

// writes returns the writes of entries, each of at most stepEntries.
func writes(entries *prefixset.Packed, remove bool) (all []listWrite) {
	for part := range entries.Chunks(stepEntries) {
		for kind, k := range listKinds {
			hosts, nets := part.Counts(k.v6)
			if !k.nets && hosts > 0 || k.nets && nets > 0 {
				all = append(all, listWrite{kind, part, remove})
			}
		}
	}
	return all
}

// maxNetChanges bounds the networks that are changed in place, because that takes one transaction.
const maxNetChanges = 10_000

// planChanges plans the change of a list in place, and reports whether that is worth while.
func (load *listLoad) planChanges(now *heldList) bool {
	if now.addrs == nil || now.ports != load.list.Ports || now.both != load.list.Both {
		return false
	}
	gone, came := prefixset.Changes(now.addrs, load.list.Addrs)
	if n := gone.Len() + came.Len(); n > stepEntries && n > load.list.Addrs.Len()/4 {
		return false
	}
	// An address that is in a network before and a host afterwards, or the other way, stays listed: hosts come first and go last. Networks
	// that change their ends must do so in one transaction.
	var hosts, goneHosts [][]listWrite
	var nets []listWrite
	changed := 0
	for _, w := range slices.Concat(writes(gone, true), writes(came, false)) {
		switch {
		case listKinds[w.kind].nets:
			nets = append(nets, w)
			changed += w.entries.Len()
		case w.remove:
			goneHosts = append(goneHosts, []listWrite{w})
		default:
			hosts = append(hosts, []listWrite{w})
		}
	}
	if changed > maxNetChanges {
		return false
	}
	if load.next, load.rest = now.listSets, hosts; len(nets) > 0 {
		load.rest = append(load.rest, nets)
	}
	load.rest = append(load.rest, goneHosts...)
	return true
}

// beginGeneration creates the sets of a new generation and plans how they are filled.
func (b *Backend) beginGeneration(load *listLoad, now *heldList) error {
	*load = listLoad{list: load.list, begun: true, next: listSets{name: load.list.Name, gen: 1, ports: load.list.Ports, both: load.list.Both}}
	if now != nil {
		load.next.gen = now.gen + 1
	}
	for _, w := range writes(load.list.Addrs, false) {
		load.rest = append(load.rest, []listWrite{w})
	}
	var t tx
	for _, s := range load.next.sets() {
		t.addSet(tableName, s) // one may be left of a SetList that was given up
		t.flushSet(s.name)
	}
	return b.conn.commit(&t)
}

// writeEntries makes the next transaction of a load.
func (b *Backend) writeEntries(load *listLoad, now *heldList) error {
	if load.inPlace {
		now.addrs = nil // until the last one has been made
	}
	var t tx
	n := 0
	for _, w := range load.rest[0] {
		n += w.entries.Len()
		t.listEntries(load.next.set(w.kind), w)
	}
	defer b.pauseListener(n)()
	err := b.conn.commit(&t)
	switch {
	case err == nil:
		load.rest = load.rest[1:]
		return nil
	case divisible(err) && len(load.rest[0]) == 1 && n > 1:
		w := load.rest[0][0]
		var parts [][]listWrite
		for part := range w.entries.Chunks((n + 1) / 2) {
			parts = append(parts, []listWrite{{w.kind, part, w.remove}})
		}
		load.rest = append(parts, load.rest[1:]...)
		return nil
	case load.inPlace:
		// Too many networks for one transaction, or another program has changed the sets: a new generation does not depend on them.
		return b.beginGeneration(load, now)
	}
	return err
}

// listEntries appends the entries of a write.
func (t *tx) listEntries(set string, w listWrite) {
	k := listKinds[w.kind]
	es := make([]element, 0, 2*w.entries.Len())
	if k.nets {
		es = rangeElements(slices.AppendSeq(make([]prefixset.Range, 0, w.entries.Len()), w.entries.Nets(k.v6)), k.v6)
	} else {
		for a := range w.entries.Hosts(k.v6) {
			es = append(es, element{addr: a})
		}
	}
	if w.remove {
		t.deleteElements(set, es)
	} else {
		t.addElements(set, es)
	}
}

// switchList puts a filled generation in force, and deletes the one before.
func (b *Backend) switchList(load *listLoad) error {
	lists := maps.Clone(b.lists)
	lists[load.list.Name] = &heldList{listSets: load.next, addrs: load.list.Addrs}
	before, replaces := b.lists[load.list.Name]
	var t tx
	if !replaces {
		t.addCounter(tableName, listCounter(load.list.Name), "packets dropped by list "+load.list.Name, count{})
	}
	if err := t.replaceListRules(b.tableSpec(), lists); err != nil {
		return err
	}
	if replaces {
		t.deleteSets(before.sets())
	}
	if err := b.conn.commit(&t); err != nil {
		return err
	}
	b.lists = lists
	return nil
}

// removeLists removes the lists whose names are chosen.
func (b *Backend) removeLists(chosen func(name string) bool) error {
	lists := maps.Clone(b.lists)
	maps.DeleteFunc(lists, func(name string, _ *heldList) bool { return chosen(name) })
	if len(lists) == len(b.lists) {
		return nil
	}
	var t tx
	if err := t.replaceListRules(b.tableSpec(), lists); err != nil {
		return err
	}
	for _, l := range held(b.lists) {
		if chosen(l.name) {
			t.deleteSets(l.sets())
			t.removeCounter(tableName, listCounter(l.name))
		}
	}
	if err := b.conn.commit(&t); err != nil {
		return err
	}
	b.lists = lists
	return nil
}

// KeepLists implements enforce.Backend.
func (b *Backend) KeepLists(_ context.Context, names []string) error {
	b.known.Store(0)
	err := b.readKinds()
	if err == nil {
		err = b.removeLists(func(name string) bool { return !slices.Contains(names, name) })
	}
	if err == nil && b.loading == nil {
		err = b.removeLeftovers()
	}
	if err != nil {
		return fmt.Errorf("remove lists from table inet %s: %w", tableName, err)
	}
	return nil
}

// removeLeftovers deletes sets of lists that belong to no list.
func (b *Backend) removeLeftovers() error {
	sets, err := b.conn.readSets(tableName)
	if err != nil {
		return err
	}
	var t tx
	for name := range sets {
		l, _, ok := parseListSet(name)
		if now := b.lists[l.name]; ok && (now == nil || now.listSets != l) {
			t.deleteSets([]set{{name: name}})
		}
	}
	return b.conn.commit(&t)
}

// Drops implements enforce.Backend.
func (b *Backend) Drops(context.Context) (d enforce.Drops, err error) {
	err = b.lister.do(func(c *conn) error {
		counts, err := c.readCounters()
		d = enforce.Drops{Verified: counts[dropCounter(ban.Verified)].packets, Unverified: counts[dropCounter(ban.Unverified)].packets, Replies: counts[repliesCounter].packets}
		for name, n := range counts {
			if strings.HasPrefix(name, listCounter("")) {
				d.Lists += n.packets
			}
		}
		return err
	})
	return d, err
}

// Lists implements enforce.Backend.
func (b *Backend) Lists(context.Context) (all []enforce.HeldList, err error) {
	err = b.lister.do(func(c *conn) error {
		sets, err := c.readSets(tableName)
		if err != nil {
			return err
		}
		counts, err := c.readCounters()
		if err != nil {
			return err
		}
		all = all[:0]
		for _, l := range held(listsOf(sets)) {
			n := 0
			for i := range listKinds {
				count := sets[l.set(i)].count
				if n < 0 || count < 0 {
					n = -1
				} else {
					n += count
				}
			}
			all = append(all, enforce.HeldList{Name: l.name, Packets: counts[listCounter(l.name)].packets, Entries: n})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	return all, nil
}

// Listed implements enforce.Backend.
func (b *Backend) Listed(_ context.Context, addr netip.Addr) (names []string, err error) {
	err = b.finder.do(func(c *conn) error {
		names = names[:0]
		sets, err := c.readSets(tableName)
		if err != nil {
			return err
		}
		for _, l := range held(listsOf(sets)) {
			for i, k := range listKinds {
				if k.v6 != addr.Is6() {
					continue
				}
				_, found, err := c.readElement(tableName, l.set(i), addr)
				if err != nil {
					return err
				}
				if found {
					names = append(names, l.name)
					break
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	return names, nil
}

// damagedLists returns the lists whose sets do not have as many elements as they should, or were changed by others, and has them written
// anew by the next SetList.
func (b *Backend) damagedLists(sets map[string]foundSet) (names []string) {
	touched, all := b.takeTouched()
	for _, l := range held(b.lists) {
		counted := true
		for i, k := range listKinds {
			want, nets := l.addrs.Counts(k.v6)
			if k.nets {
				want = nets
				if l.addrs.Contains(lastAddr(k.v6)) {
					want-- // the kernel counts pairs of a first address and an end, and this network has no end
				}
			}
			count := sets[l.set(i)].count
			counted = counted && count >= 0
			if l.addrs != nil && count >= 0 && count != want {
				l.broken = true
			}
		}
		if l.broken = l.broken || touched[l.name] || all && !counted; l.broken {
			l.addrs = nil
			names = append(names, l.name)
		}
	}
	return names
}

func lastAddr(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte(slices.Repeat([]byte{255}, 16)))
	}
	return netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
