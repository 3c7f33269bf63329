// Package ipset keeps bans in sets of ipset, and looks them up in rules of iptables and ip6tables. It is for kernels without nf_tables,
// and for firewall_backend=iptables.
//
// Bans with the same trust and ports form a kind, and each family has one set of addresses and one of networks for a kind. Elements have
// timeouts, by which the kernel ends bans, and counters. The sets are written by netlink, many elements in a message, so that a ban starts
// no process. Rules change only with the kinds and the settings; iptables-restore replaces all of ours in a table in one step. Either form of iptables
// will do: the legacy one and the one that writes nftables.
//
// A packet meets the rules in the table raw, before connection tracking and address translation: loopback, the allow and grace sets,
// neighbour discovery and DHCP replies pass before any ban. Replies are dropped in raw, those of containers in mangle.
//
// There is no transaction over sets and rules. So the order of changes is such that a ban is never missing in between and an allowed address is
// never blocked: sets are filled under other names and exchanged, those of allowed addresses first, and rules follow the sets that they
// name. The kernel sends no notifications about sets or legacy rules: Watch compares what is cheap to read twice a second.
package ipset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/ordered"
)

// A Backend keeps bans in the kernel. It implements enforce.Backend.
type Backend struct {
	tables  *xtables
	log     *slog.Logger
	longest uint64 // seconds that the kernel can hold an element

	// exchange is held while sets are exchanged, and for reading while they are listed: the kernel does not exchange a set that is
	// being listed.
	exchange sync.RWMutex

	write     sync.Mutex // held while something is changed or compared
	conn      *conn
	layout    layout // without kinds as long as those in the kernel are not known
	maxElem   uint32 // elements of a set of bans
	seen      view
	lists     map[string]*heldList // by name
	loading   *listLoad            // the SetList that is under way
	written   map[bool]written     // of IPv6, and IPv4
	expected  map[string]int       // elements of the sets that only we change, by name; nil as long as that is not known
	verified  verified
	refreshAt time.Time // when bans that last longer than the kernel can hold an element are written again

	read   sync.Mutex // held while Held reads
	reader *conn

	mu    sync.Mutex
	lacks lacks
	long  map[ban.Key]time.Time // ends of the bans that last longer than the kernel can hold an element
	ports map[string]ban.Ports  // lists of ports by the names of their sets
}

// maxKinds bounds the sets of bans.
const maxKinds = 256

var errTooManyKinds = fmt.Errorf("%w are in force: there is room for %d", enforce.ErrTooManyKinds, maxKinds)

// NewIn connects to the kernel in the network namespace of a file descriptor, which must stay open, or in the caller's if it is 0, and tries what
// it needs. It leaves no change behind. The zero Settings mean bans without logging and detectors. The error names the program, module or
// capability that is missing.
func NewIn(netns int, log *slog.Logger, settings enforce.Settings) (*Backend, error) {
	c, err := dial(netns)
	if err != nil {
		return nil, err
	}
	return newOver(c, netns, log, settings, forms())
}

// newOver takes over the connection.
func newOver(c *conn, netns int, log *slog.Logger, settings enforce.Settings, forms []string) (*Backend, error) {
	if err := c.hasSets(); err != nil {
		c.Close()
		return nil, err
	}
	tables, err := findXtables(netns, forms)
	if err != nil {
		c.Close()
		return nil, err
	}
	reader, err := dial(netns)
	if err != nil {
		c.Close()
		return nil, err
	}
	b := &Backend{conn: c, tables: tables, log: log, reader: reader, longest: longest, maxElem: maxSetSize,
		written: map[bool]written{}, long: map[ban.Key]time.Time{}, ports: map[string]ban.Ports{}}
	if err := b.Configure(settings); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// hasSets returns why the kernel has no sets, nil if it has them.
func (c *conn) hasSets() error {
	if _, err := c.Get(query(cmdProtocol, unix.AF_INET, message(""))); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("this kernel lacks ip_set; load the modules ip_set, ip_set_hash_ip, ip_set_hash_net and xt_set: %w", errors.ErrUnsupported)
		}
		return fmt.Errorf("open ip_set: %w", explain(err))
	}
	return nil
}

// Close closes the connections. Everything stays in force.
func (b *Backend) Close() error { return errors.Join(b.conn.Close(), b.reader.Close()) }

// Configure implements enforce.Backend. What the kernel lacks is left out.
func (b *Backend) Configure(settings enforce.Settings) error {
	b.write.Lock()
	defer b.write.Unlock()
	found, err := b.probe(settings)
	if err != nil {
		return err
	}
	if settings.Page.HTTP != 0 {
		found.page = "banned clients are not shown a page: block_page needs nftables"
	}
	b.mu.Lock()
	b.lacks = found
	b.mu.Unlock()
	b.layout.log = settings.Log
	b.layout.log.Enabled = settings.Log.Enabled && found.log == ""
	b.layout.samples = settings.Samples && found.samples == ""
	b.layout.scan = settings.Scan
	b.layout.scan.Enabled = settings.Scan.Enabled && found.scan == ""
	b.layout.flood, b.layout.proxies, b.layout.cdns = settings.Flood, settings.Proxies, settings.CDNs
	b.layout.flood.Enabled = settings.Flood.Enabled && found.flood == ""
	b.layout.peers = settings.Peers
	if found.peers != "" {
		b.layout.peers = ""
	}
	ports, _ := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range") // if it cannot be read: the usual value
	if _, err := fmt.Sscan(string(ports), &b.layout.udpEnd); err != nil || b.layout.udpEnd == 0 {
		b.layout.udpEnd = localPorts
	}
	b.layout.udpEnd = min(b.layout.udpEnd, localPorts)
	for _, lack := range found.all() {
		b.log.Warn("the packet filter is limited", "reason", lack)
	}
	return nil
}

// Names implements enforce.Backend.
func (b *Backend) Names() enforce.Names {
	b.mu.Lock()
	defer b.mu.Unlock()
	return enforce.Names{Filter: "iptables", Table: "ipset mefd_*", Lacks: b.lacks.enforcing()}
}

// SetOf implements enforce.Backend: the name that ipset list takes.
func (b *Backend) SetOf(k ban.Key) string { return kindOf(k).name() }

// Apply implements enforce.Backend. Allowed addresses are written first; there is no transaction over sets.
func (b *Backend) Apply(_ context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	b.write.Lock()
	defer b.write.Unlock()
	if err := b.readKinds(); err != nil {
		return nil, err
	}
	kinds, refused := b.room(c.Bans)
	fresh := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return slices.Contains(b.layout.kinds, k) })
	before := b.layout.kinds
	b.layout.kinds = kinds
	failed, err := b.apply(c, fresh, refused)
	if err != nil {
		b.layout.kinds = before
	}
	return failed, err
}

func (b *Backend) apply(c enforce.Changes, fresh []kind, refused map[kind]error) ([]enforce.Failure, error) {
	if err := b.addKinds(fresh); err != nil {
		return nil, err
	}
	if c.Allow != nil {
		for _, v6 := range []bool{false, true} {
			es := prefixElements(*c.Allow, v6)
			if err := b.replace(allowSet(v6), es); err != nil {
				return nil, err
			}
			if b.expected != nil {
				b.expected[allowSet(v6).name] = len(es)
			}
		}
	}
	if err := b.setElements(graceSet, c.Grace); err != nil {
		return nil, err
	}
	if err := b.setElements(exceptSet, c.Except); err != nil {
		return nil, err
	}
	failed, err := b.changeBans(c.Bans, refused, kind.set)
	if err != nil {
		return nil, err
	}
	if len(fresh) > 0 {
		for _, v6 := range b.tables.families() {
			if slices.ContainsFunc(fresh, func(k kind) bool { return k.v6 == v6 }) {
				if err := b.writeRules(v6); err != nil {
					return nil, err
				}
			}
		}
	}
	if c.Allow != nil || len(c.Grace) > 0 || len(c.Except) > 0 {
		if err := b.noteFixed(); err != nil {
			return nil, err
		}
	}
	return failed, nil
}

// room returns the kinds that there will be with some bans, and the bans that cannot be held and why: there may be too many kinds, or no
// rules for their family.
func (b *Backend) room(bans []enforce.Change) (kinds []kind, refused map[kind]error) {
	refused = map[kind]error{}
	known := map[kind]bool{}
	for _, k := range b.layout.kinds {
		known[k] = true
	}
	kinds = slices.Clone(b.layout.kinds)
	for i := range bans {
		k := kindOf(bans[i].Key)
		switch {
		case bans[i].Remove || refused[k] != nil:
		case k.v6 && !b.tables.v6:
			refused[k] = fmt.Errorf("bans of IPv6 addresses are not enforced: %s", b.tables.lacks6)
		case known[k]:
		case len(kinds) == maxKinds:
			refused[k] = errTooManyKinds
		default:
			known[k] = true
			kinds = append(kinds, k)
		}
	}
	return withBase(kinds), refused
}

// addKinds makes the sets of kinds, which are in the layout.
func (b *Backend) addKinds(kinds []kind) error {
	if len(kinds) == 0 {
		return nil
	}
	if err := b.ensurePorts(); err != nil {
		return err
	}
	found, err := b.conn.headers()
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if _, there := found[k.name()]; there {
			continue
		}
		if err := b.conn.create(k.set(), 0, b.maxElem); err != nil {
			return err
		}
	}
	return nil
}

// ensurePorts makes the sets of lists of ports that the layout needs.
func (b *Backend) ensurePorts() error {
	sets := b.layout.portSets()
	if len(sets) == 0 {
		return nil
	}
	found, err := b.conn.headers()
	if err != nil {
		return err
	}
	for name, ports := range sets {
		if _, there := found[name]; there {
			continue
		}
		if err := b.conn.create(portsSet(ports), 0, maxSetSize); err != nil {
			return err
		}
		if err := b.conn.add(portsSet(ports), portElements(ports)); err != nil {
			return err
		}
		b.learn(name, ports)
	}
	return nil
}

// replace gives a set other elements at one moment.
func (b *Backend) replace(s set, es []element) error {
	fresh := newOf(s)
	if err := b.create(fresh, len(es)); err != nil {
		return err
	}
	if err := b.conn.add(fresh, es); err != nil {
		return err
	}
	return b.exchangeSets(fresh.name, s.name)
}

// setElements adds, renews and removes elements of the set of each family.
func (b *Backend) setElements(setOf func(v6 bool) set, changes []enforce.Element) error {
	for _, change := range changes {
		v6 := change.Prefix.Addr().Is6()
		e := element{prefix: change.Prefix}
		if change.Remove {
			if err := b.conn.remove(setOf(v6), []element{e}); err != nil {
				return err
			}
			continue
		}
		left, err := seconds(change.Timeout)
		if err != nil {
			return err
		}
		e.timeout = uint32(min(left, b.longest))
		if err := b.conn.add(setOf(v6), []element{e}); err != nil {
			return err
		}
	}
	return nil
}

// changeBans removes and adds bans. setOf returns the set of a kind, or another that will take its place.
func (b *Backend) changeBans(bans []enforce.Change, refused map[kind]error, setOf func(kind) set) (failed []enforce.Failure, err error) {
	add, remove := map[kind][]int32{}, map[kind][]int32{}
	lefts := make([]uint32, len(bans))
	now := time.Now()
	b.mu.Lock()
	for i := range bans {
		change := &bans[i]
		k := kindOf(change.Key)
		delete(b.long, change.Key)
		switch {
		case refused[k] != nil:
			failed = append(failed, enforce.Failure{Key: change.Key, Err: refused[k]})
		case change.Remove:
			if slices.Contains(b.layout.kinds, k) {
				remove[k] = append(remove[k], int32(i))
			}
		default:
			left, timeoutErr := seconds(change.Timeout)
			if timeoutErr != nil {
				b.mu.Unlock()
				return nil, fmt.Errorf("ban %s: %w", change.Key, timeoutErr)
			}
			if left > b.longest {
				b.long[change.Key] = now.Add(time.Duration(change.Timeout))
				left = b.longest
			}
			lefts[i] = uint32(left)
			add[k] = append(add[k], int32(i))
		}
	}
	b.mu.Unlock()
	elements := func(at []int32) []element {
		es := make([]element, len(at))
		for i, j := range at {
			es[i] = element{prefix: bans[j].Key.Prefix, timeout: lefts[j]}
		}
		return es
	}
	for k, at := range remove {
		if err := b.conn.remove(setOf(k), elements(at)); err != nil {
			return nil, err
		}
	}
	for k, at := range add {
		b.seen.bans += len(at) // more, if some were there; then the next poll finds fewer, and the enforcer counts
		refusals, err := b.addAll(setOf(k), elements(at))
		if err != nil {
			return nil, err
		}
		for _, r := range refusals {
			failed = append(failed, enforce.Failure{Key: k.key(r.prefix), Err: r.err})
		}
	}
	return failed, nil
}

// A refusal is an element that the kernel did not take.
type refusal struct {
	prefix netip.Prefix
	err    error
}

// addAll adds elements. If the kernel refuses them for a reason that a single one can cause, each half is tried separately.
func (b *Backend) addAll(s set, es []element) ([]refusal, error) {
	err := b.conn.add(s, es)
	switch {
	case err == nil:
		return nil, nil
	case !divisible(err):
		return nil, err
	case len(es) == 1:
		if errors.Is(err, errFull) {
			err = fmt.Errorf("set %s is full: %w", s.name, unix.ENFILE)
		}
		return []refusal{{es[0].prefix, err}}, nil
	}
	refused, err := b.addAll(s, es[:len(es)/2])
	if err != nil {
		return nil, err
	}
	more, err := b.addAll(s, es[len(es)/2:])
	return append(refused, more...), err
}

// divisible reports whether elements may have been refused because of one of them, or for want of room.
func divisible(err error) bool {
	for _, e := range []error{errFull, unix.ENOMEM, unix.ENOBUFS, unix.EMSGSIZE, unix.EINVAL, unix.ERANGE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// writeRules replaces the rules of a family. The next poll takes that for a change by others and has them compared: another program may
// have changed them at the same time.
func (b *Backend) writeRules(v6 bool) error {
	now, err := b.tables.seen(b.conn)
	if err != nil {
		return fmt.Errorf("read rules: %w", err)
	}
	found := b.written[v6].tables
	if found == nil || now != b.written[v6].seen {
		if found, err = b.tables.save(v6); err != nil {
			return err
		}
	}
	clear(b.written)
	b.verified = verified{}
	tables := b.layout.tables(v6)
	if err := b.tables.restore(v6, restore(tables, found)); err != nil {
		return err
	}
	now, err = b.tables.seen(b.conn)
	b.written[v6] = written{now, asFound(tables)}
	return err
}

// written is what was last written of a family, and how the rules of all families looked then: as long as they look like that there is no
// need to read them.
type written struct {
	seen   string
	tables map[string]*foundTable
}

// Rebuild implements enforce.Backend. Every set is filled under another name and then takes the place of the old one.
func (b *Backend) Rebuild(_ context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	b.write.Lock()
	defer b.write.Unlock()
	before := b.layout.kinds
	failed, err := b.rebuild(c)
	if err != nil {
		b.layout.kinds = before
		return nil, fmt.Errorf("build sets and rules: %w", err)
	}
	return failed, nil
}

func (b *Backend) rebuild(c enforce.Changes) ([]enforce.Failure, error) {
	found, err := b.conn.headers()
	if err != nil {
		return nil, err
	}
	if err := b.readKinds(); err != nil {
		return nil, err
	}
	b.loading = nil // it begins again
	for name := range found {
		if strings.HasPrefix(name, newPrefix) { // left over from a killed daemon
			if err := b.conn.destroy(name); err != nil {
				return nil, err
			}
		}
	}
	whole := maps.Clone(b.lists)
	maps.DeleteFunc(whole, func(_ string, l *heldList) bool {
		return slices.ContainsFunc(l.sets(), func(s set) bool { return found[s.name].set != s })
	})
	b.setLists(whole)
	b.layout.kinds = baseKinds()
	kinds, refused := b.room(c.Bans)
	b.layout.kinds = kinds
	b.expected = map[string]int{}
	fresh, failed, err := b.fill(c, refused, found)
	if err != nil {
		return nil, err
	}
	if err := b.exchangeAll(fresh, found); err != nil {
		return nil, err
	}
	for _, s := range totals() {
		fresh[s.name] = s
		whole := s
		whole.counters = false // they go on
		if err := b.conn.add(whole, everything(s.v6)); err != nil {
			return nil, err
		}
	}
	clear(b.written)
	for _, v6 := range b.tables.families() {
		if err := b.writeRules(v6); err != nil {
			return nil, err
		}
	}
	for _, l := range b.layout.lists {
		for _, s := range l.sets() {
			fresh[s.name] = s
		}
		if err := b.nameList(l, false); err != nil {
			return nil, err
		}
	}
	for name, h := range found {
		_, wanted := fresh[name]
		if wanted || !strings.HasPrefix(name, prefix) {
			continue
		}
		if err := b.conn.destroy(name); err != nil && !errors.Is(err, unix.ENOENT) {
			b.log.Warn("a set of ours cannot be removed: rules of others use it", "set", name, "references", h.references, "err", err)
		}
	}
	return failed, b.noteFixed()
}

// fill makes all sets under other names, with the elements of c, and returns them by the names that they are to have. The totals that were found
// are kept.
func (b *Backend) fill(c enforce.Changes, refused map[kind]error, found map[string]header) (map[string]set, []enforce.Failure, error) {
	fresh := map[string]set{}
	sizes := map[string]int{}
	for i := range c.Bans {
		sizes[kindOf(c.Bans[i].Key).name()]++
	}
	add := func(s set) error {
		renamed := newOf(s)
		fresh[s.name] = renamed
		limit := b.maxElem
		if s.lasting > 0 {
			limit = maxFilled
		}
		return b.conn.create(renamed, sizes[s.name], limit)
	}
	for name, ports := range b.layout.portSets() {
		s := portsSet(ports)
		if err := errors.Join(add(s), b.conn.add(newOf(s), portElements(ports))); err != nil {
			return nil, nil, err
		}
		b.learn(name, ports)
	}
	for _, s := range b.layout.fixedSets() {
		if slices.Contains(totals(), s) && found[s.name].set == s {
			continue
		}
		err := add(s)
		switch {
		case err != nil:
		case s.counters:
			err = b.conn.add(newOf(s), everything(s.v6))
		case s.typ == hashNetPort:
			err = b.conn.add(newOf(s), []element{floodSeed()})
		}
		if err != nil {
			return nil, nil, err
		}
	}
	for s, es := range b.layout.sharedElements() {
		if err := b.conn.add(newOf(s), es); err != nil {
			return nil, nil, err
		}
		b.expected[s.name] = len(es)
	}
	for _, k := range b.layout.kinds {
		if err := add(k.set()); err != nil {
			return nil, nil, err
		}
	}
	for _, v6 := range []bool{false, true} {
		if c.Allow == nil {
			continue
		}
		es := prefixElements(*c.Allow, v6)
		if err := b.conn.add(newOf(allowSet(v6)), es); err != nil {
			return nil, nil, err
		}
		b.expected[allowSet(v6).name] = len(es)
	}
	err := b.setElements(func(v6 bool) set { return newOf(graceSet(v6)) }, c.Grace)
	if err == nil {
		err = b.setElements(func(v6 bool) set { return newOf(exceptSet(v6)) }, c.Except)
	}
	if err != nil {
		return nil, nil, err
	}
	failed, err := b.changeBans(c.Bans, refused, func(k kind) set { return newOf(k.set()) })
	return fresh, failed, err
}

// exchangeAll gives the new sets their names, those of allowed addresses first. found is what there was.
func (b *Backend) exchangeAll(fresh map[string]set, found map[string]header) error {
	b.exchange.Lock()
	defer b.exchange.Unlock()
	first := func(name string) int {
		return slices.IndexFunc([]string{prefix + "ban", prefix + "susp"}, func(p string) bool { return strings.HasPrefix(name, p) })
	}
	names := slices.Collect(maps.Keys(fresh))
	ordered.Sort(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(a, b))
	})
	for _, name := range names {
		s, old := fresh[name], found[name]
		if old.name != "" && (old.v6 != s.v6 || (old.typ == bitmapPort) != (s.typ == bitmapPort)) {
			// Somebody has put another kind of set there, which cannot be exchanged with ours.
			if err := b.release(name, old); err != nil {
				return err
			}
			old.name = ""
		}
		if old.name == "" {
			if err := b.conn.rename(s.name, name); err != nil {
				return err
			}
			continue
		}
		if err := b.conn.swap(s.name, name); err != nil {
			return err
		}
		if err := b.conn.destroy(s.name); err != nil {
			return err
		}
	}
	return nil
}

// release destroys a set that is not of our type, and before that the rules that use it.
func (b *Backend) release(name string, h header) error {
	if h.references > 0 {
		if err := eraseRules(b.tables); err != nil {
			return err
		}
	}
	return b.conn.destroy(name)
}
