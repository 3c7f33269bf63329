// Package nftset keeps bans in sets of the nftables table "inet mefdaemon", by netlink.
//
// Bans with the same trust, prefix length and ports form a kind, because they are looked up in the same way. Each kind has one hash set,
// whose keys are masked addresses, and one rule for each direction; a look-up costs the same for ten bans and for a hundred
// thousand, nested and overlapping bans are independent, and lifting one does not affect others. The kernel ends bans by their
// timeouts. Kinds other than the usual ones get their set and rules with their first ban.
//
// The table accepts loopback, the allow and grace sets, neighbour discovery and DHCP replies before any ban, all of it before
// conntrack and NAT. On output and forward it drops every packet to a banned address, which ends sessions in both directions.
//
// No other program should change the table, and this package changes nothing else. Every rule carries a fingerprint, so Check needs
// five small reads to compare the table. One lasting connection writes; a second one receives notifications of changes by others.
package nftset

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/ordered"
)

// A Backend keeps bans in the kernel. It implements enforce.Backend.
type Backend struct {
	conn     *conn // for writing, and for the reads that writes depend on
	finder   reader
	lister   reader
	log      *slog.Logger
	settings enforce.Settings
	udpEnd   uint16 // see tableSpec
	features Features
	lacks    atomic.Pointer[lacks]
	kinds    []setKind // those that have sets and rules, base kinds first; nil before the kernel was read
	checked  bool
	lists    map[string]*heldList // that have sets and rules; nil before the kernel was read
	loading  *listLoad            // the SetList that has begun; nil if none has

	// known is the generation of nf_tables up to which the caller has seen all changes, 0 if that is not certain: it is set by the
	// first Check and cleared by every call but Rebuild. Watch compares with it.
	known atomic.Uint32

	mu       sync.Mutex
	listener *netlink.Conn // of Watch, nil while it does not run
	changed  func(enforce.Notice)
	touched  map[string]bool // lists that others have changed, as notifications tell
	missed   bool            // notifications were lost
}

// Features are the results of a probe of the kernel.
type Features struct {
	// Counters reports whether elements count packets (since Linux 5.7). Without it bans work, and show no packets.
	Counters bool

	// Extends says that adding an element again gives it the new timeout (since 6.12). Otherwise it is deleted and added in one
	// transaction, and its counters begin anew.
	Extends bool

	// Log reports whether rules can log packets at a limited rate. It is probed only if logging is enabled.
	Log bool

	// Scan reports whether rules can report packets to closed ports, Flood whether they can limit sources. They are probed only if
	// enabled.
	Scan, Flood bool

	// Peers reports whether rules can report new connections, Page whether they can send connections to another port. They are probed only if
	// that is wanted. Resets reports whether they can also reset connections there (since 5.9), Samples whether they can report
	// samples of dropped packets.
	Peers, Page, Resets, Samples bool
}

// lacks are why what is enabled does not work; empty if it does.
type lacks struct{ log, scan, flood, peers, page, samples string }

// maxKinds bounds the sets: there is one for each distinct combination of prefix length and ports in use.
const maxKinds = 256

var errTooManyKinds = fmt.Errorf("%w are in force: there is room for %d", enforce.ErrTooManyKinds, maxKinds)

// bulk is the number of elements from which the listener is paused for a transaction: it would cost the kernel a message for each.
const bulk = 1000

// NewIn connects to nf_tables in the network namespace of a file descriptor, which must stay open, or in the caller's if it is 0, and probes the
// features of the kernel. It leaves no change behind. The zero Settings mean bans without logging and detectors. The error says which
// capability or module is missing.
func NewIn(netns int, log *slog.Logger, settings enforce.Settings) (*Backend, error) {
	c, err := dial(netns)
	if err != nil {
		return nil, err
	}
	return newOver(c, netns, log, settings)
}

func newOver(c *conn, netns int, log *slog.Logger, settings enforce.Settings) (*Backend, error) {
	b := &Backend{conn: c, log: log}
	b.finder.netns, b.lister.netns = netns, netns
	if err := b.Configure(settings); err != nil {
		c.Close()
		return nil, err
	}
	if !b.features.Counters {
		log.Warn("this kernel cannot count packets per ban; bans work without counters")
	}
	return b, nil
}

// Configure implements enforce.Backend. Features that the kernel lacks are left out. Only the goroutine that calls Apply may call it.
func (b *Backend) Configure(settings enforce.Settings) error {
	found, lacks, err := probe(b.conn, settings)
	if err != nil {
		return fmt.Errorf("probe nf_tables: %w", err)
	}
	b.settings, b.features = settings, found
	ports, _ := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range") // if it cannot be read: the usual value
	b.udpEnd = firstLocalPort(string(ports))
	b.lacks.Store(&lacks)
	if lacks.log != "" {
		b.log.Warn("packets that bans drop are not logged; bans work without that", "reason", lacks.log)
	}
	if lacks.scan != "" {
		b.log.Warn("port scans are not detected; bans work without that", "reason", lacks.scan)
	}
	if lacks.peers != "" {
		b.log.Warn("new connections are not reported, so block lists are not asked about them", "reason", lacks.peers)
	}
	if lacks.page != "" {
		b.log.Warn("banned clients are not shown a page; bans work without it", "reason", lacks.page)
	}
	if lacks.samples != "" {
		b.log.Warn(enforce.NoSamples, "reason", lacks.samples)
	}
	if lacks.flood != "" {
		b.log.Warn("there is no flood guard; bans work without it", "reason", lacks.flood)
	}
	return nil
}

// Close closes the connection. Everything stays in force.
func (b *Backend) Close() error {
	return errors.Join(b.conn.Close(), b.finder.close(), b.lister.close())
}

// tableSpec returns the layout of the table with the current settings.
func (b *Backend) tableSpec() tableSpec {
	s := tableSpec{counters: b.features.Counters, log: b.settings.Log, scan: b.settings.Scan, udpEnd: b.udpEnd, flood: b.settings.Flood,
		proxies: b.settings.Proxies, cdns: b.settings.CDNs, samples: b.settings.Samples && b.features.Samples}
	s.flood.Enabled = s.flood.Enabled && b.features.Flood
	if b.features.Peers {
		s.peers = b.settings.Peers
	}
	if b.features.Page {
		s.page, s.resets = b.settings.Page, b.features.Resets
	}
	s.log.Enabled = s.log.Enabled && b.features.Log
	s.scan.Enabled = s.scan.Enabled && b.features.Scan
	return s
}

// Names implements enforce.Backend.
func (b *Backend) Names() enforce.Names {
	names := enforce.Names{Filter: "nftables", Table: "table inet " + tableName, Uncounted: !b.features.Counters}
	lacks := b.lacks.Load()
	if lacks.log != "" {
		names.Lacks = append(names.Lacks, "packets that bans drop are not logged: "+lacks.log)
	}
	if lacks.page != "" {
		names.Lacks = append(names.Lacks, "banned clients are not shown a page: "+lacks.page)
	}
	if lacks.samples != "" {
		names.Lacks = append(names.Lacks, enforce.NoSamples+": "+lacks.samples)
	}
	return names
}

// Features returns what the probe found.
func (b *Backend) Features() Features { return b.features }

// Delete removes the table, and with it all bans, in the network namespace of the caller, and reports whether there was one. It
// needs no daemon; a running one would restore the table.
func Delete() (deleted bool, err error) {
	c, err := dial(0)
	if err != nil {
		return false, err
	}
	defer c.Close()
	var t tx
	t.Add(unix.NFT_MSG_DELTABLE, 0, named(tableName))
	switch err := c.commit(&t); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.EINVAL): // the latter two without nf_tables
		return false, nil
	case err != nil:
		return false, fmt.Errorf("delete table inet %s: %w", tableName, err)
	}
	return true, nil
}

// Present reports whether the table exists in the network namespace of the caller.
func Present() (bool, error) {
	c, err := dial(0)
	if err != nil {
		return false, err
	}
	defer c.Close()
	present, err := c.readTable()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errors.ErrUnsupported) { // this kernel lacks nf_tables
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	return present, nil
}

// Apply implements enforce.Backend.
func (b *Backend) Apply(_ context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	b.known.Store(0) // a transaction that changes nothing has no generation, so it cannot be counted
	if err := b.readKinds(); err != nil {
		return nil, err
	}
	defer b.pauseListener(len(c.Bans))()
	failed, err := b.apply(c)
	if err != nil {
		return nil, fmt.Errorf("write table inet %s: %w", tableName, err)
	}
	return failed, nil
}

// apply makes changes in one transaction. If the kernel refuses it for a reason that a single element can cause, each half is
// tried separately.
func (b *Backend) apply(c enforce.Changes) ([]enforce.Failure, error) {
	var t tx
	fresh, err := b.addKinds(&t, c.Bans)
	if err == nil {
		err = b.addChanges(&t, c)
	}
	if err == nil {
		err = b.conn.commit(&t)
	}
	switch {
	case err == nil:
		b.kinds = append(b.kinds, fresh...)
		return nil, nil
	case !divisible(err):
		return nil, err
	case len(c.Bans) <= 1 && (c.Allow != nil || len(c.Grace) > 0 || len(c.Except) > 0):
		return nil, err
	case len(c.Bans) == 1:
		return []enforce.Failure{{Key: c.Bans[0].Key, Err: err}}, nil
	}
	half := len(c.Bans) / 2
	failed, err := b.apply(enforce.Changes{Allow: c.Allow, Grace: c.Grace, Except: c.Except, Bans: c.Bans[:half]})
	if err != nil {
		return nil, err
	}
	more, err := b.apply(enforce.Changes{Bans: c.Bans[half:]})
	return append(failed, more...), err
}

// divisible reports whether a transaction may have failed because of one of its elements, or because of its size.
func divisible(err error) bool {
	for _, e := range []error{unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.EMSGSIZE, unix.E2BIG, unix.ENOSPC, unix.EINVAL, errTooManyKinds} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// addChanges appends the elements of c, whose sets and rules exist.
func (b *Backend) addChanges(t *tx, c enforce.Changes) error {
	if c.Allow != nil {
		t.setAllow(*c.Allow)
	}
	if err := t.setElements(graceSets, c.Grace); err != nil {
		return err
	}
	if err := t.setElements(exceptSets, c.Except); err != nil {
		return err
	}
	// There may be very many bans, and the first access to memory takes longer than anything else here: only their indexes are listed.
	add, remove := map[setKind][]int32{}, map[setKind][]int32{}
	for i, change := range c.Bans {
		cl := kindOf(change.Key)
		if !change.Remove {
			if _, err := change.Timeout.Milliseconds(); err != nil {
				return fmt.Errorf("ban %s: %w", change.Key, err)
			}
			add[cl] = append(add[cl], int32(i))
		} else if slices.Contains(b.kinds, cl) {
			remove[cl] = append(remove[cl], int32(i))
		}
	}
	t.Buf = slices.Grow(t.Buf, len(c.Bans)*elementSize)
	for cl, places := range remove {
		for es := range elementsAt(c.Bans, places) {
			t.removeElements(cl.set(), es)
		}
	}
	for cl, places := range add {
		for es := range elementsAt(c.Bans, places) {
			if !b.features.Extends {
				t.removeElements(cl.set(), es)
			}
			t.addElements(cl.set(), es)
		}
	}
	return nil
}

// elementsAt yields the elements of the bans at some indexes, at most maxElements at once. A slice is valid until the next one.
func elementsAt(bans []enforce.Change, places []int32) iter.Seq[[]element] {
	return func(yield func([]element) bool) {
		es := make([]element, 0, min(len(places), maxElements))
		for chunk := range slices.Chunk(places, maxElements) {
			es = es[:0]
			for _, i := range chunk {
				e := element{addr: bans[i].Key.Prefix.Addr()}
				if !bans[i].Remove {
					e.timeout, _ = bans[i].Timeout.Milliseconds() // checked before
				}
				es = append(es, e)
			}
			if !yield(es) {
				return
			}
		}
	}
}

// addKinds appends the sets and rules of the kinds that the bans need and that do not exist yet, and returns these kinds.
func (b *Backend) addKinds(t *tx, bans []enforce.Change) ([]setKind, error) {
	var fresh []setKind
	for _, change := range bans {
		if c := kindOf(change.Key); !change.Remove && !slices.Contains(b.kinds, c) && !slices.Contains(fresh, c) {
			fresh = append(fresh, c)
		}
	}
	if len(b.kinds)+len(fresh) > maxKinds {
		return nil, errTooManyKinds
	}
	ordered.Sort(fresh, compareKinds)
	for _, c := range fresh {
		if err := t.addKind(b.tableSpec(), c); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

func (t *tx) addKind(s tableSpec, c setKind) error {
	t.addSet(tableName, s.set(c))
	for _, r := range s.rules(c) {
		if err := t.addRule(tableName, r); err != nil {
			return err
		}
	}
	return nil
}

// Rebuild implements enforce.Backend.
func (b *Backend) Rebuild(ctx context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	defer b.pauseListener(len(c.Bans))()
	first, rest := c, enforce.Changes{}
	for keepLists := true; ; {
		err := b.rebuild(first, keepLists)
		if err == nil {
			break
		}
		if keepLists && (!divisible(err) || len(first.Bans) == 0) {
			keepLists = false // something else in the table may prevent it
			continue
		}
		if !divisible(err) || len(first.Bans) == 0 {
			return nil, fmt.Errorf("build table inet %s: %w", tableName, err)
		}
		// Too large for one transaction, or one ban is refused: build the table with as many bans as possible first.
		half := len(first.Bans) / 2
		rest.Bans = append(rest.Bans, first.Bans[half:]...)
		first.Bans = first.Bans[:half]
	}
	if len(rest.Bans) == 0 {
		return nil, nil
	}
	return b.apply(rest)
}

// rebuild replaces the table in one transaction.
func (b *Backend) rebuild(c enforce.Changes, keepLists bool) error {
	needed := map[setKind]bool{}
	for _, change := range c.Bans {
		needed[kindOf(change.Key)] = true
	}
	kinds := withBase(slices.Collect(maps.Keys(needed)))
	if len(kinds) > maxKinds {
		return errTooManyKinds
	}
	var t tx
	lists, counts, err := b.clearTable(&t, keepLists)
	if err != nil {
		return err
	}
	spec := b.tableSpec()
	for _, c := range spec.counts() {
		t.addCounter(tableName, c.name, c.comment, counts[c.name])
	}
	for _, s := range spec.sets() {
		t.addSet(tableName, s)
	}
	for _, ch := range spec.chains() {
		t.addChain(tableName, ch)
	}
	for _, r := range spec.fixedRules() {
		if err := t.addRule(tableName, r); err != nil {
			return err
		}
	}
	for _, cl := range kinds {
		if err := t.addKind(spec, cl); err != nil {
			return err
		}
	}
	if err := t.addListRules(spec, lists); err != nil {
		return err
	}
	before := b.kinds
	b.kinds = kinds
	err = b.addChanges(&t, c)
	if err == nil {
		err = b.conn.commit(&t)
	}
	if err != nil {
		b.kinds = before
		return err
	}
	b.lists, b.loading = lists, nil
	if known := b.known.Load(); known != 0 {
		b.known.Store(known + 1)
	}
	return nil
}

// clearTable appends what removes the table, or all of it but the sets and counters of lists that are whole, which it returns: very
// long lists take seconds to write. It also returns what the counters have counted, with which new ones go on.
func (b *Backend) clearTable(t *tx, keepLists bool) (kept map[string]*heldList, counts map[string]count, err error) {
	kept = map[string]*heldList{}
	found, err := b.conn.readAll()
	if err != nil {
		return nil, nil, err
	}
	known := b.lists
	if known == nil {
		known = listsOf(found.sets)
	}
	for name, l := range known {
		whole := found.table && keepLists
		for _, want := range l.sets() {
			got, ok := found.sets[want.name]
			whole = whole && ok && got.set == want
		}
		if _, counts := found.counts[listCounter(name)]; whole && counts {
			kept[name] = l
		}
	}
	if len(kept) == 0 {
		t.removeTable(tableName)
		t.addTable(tableName)
		return kept, found.counts, nil
	}
	t.Add(unix.NFT_MSG_DELRULE, 0, named(tableName))
	for name, s := range found.sets {
		l, _, ok := parseListSet(name)
		if held := kept[l.name]; !s.anonymous && (!ok || held == nil || held.listSets != l) {
			t.deleteSets([]set{s.set})
		}
	}
	for name := range found.counts {
		if list, ok := strings.CutPrefix(name, listCounter("")); !ok || kept[list] == nil {
			t.removeCounter(tableName, name)
		}
	}
	for name := range found.chains {
		a := named(tableName)
		a.Text(unix.NFTA_CHAIN_NAME, name)
		t.Add(unix.NFT_MSG_DELCHAIN, 0, a)
	}
	return kept, found.counts, nil
}

// readKinds reads which kinds have sets in the kernel, unless that is known.
func (b *Backend) readKinds() error {
	if b.kinds != nil {
		return nil
	}
	sets, err := b.conn.readSets(tableName)
	if err != nil {
		return fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	b.kinds, b.lists = kindsOf(sets), listsOf(sets)
	return nil
}

func kindsOf(sets map[string]foundSet) []setKind {
	var cs []setKind
	for name := range sets {
		if c, ok := parseKind(name); ok {
			cs = append(cs, c)
		}
	}
	return withBase(cs)
}

// Check implements enforce.Backend.
func (b *Backend) Check(context.Context) (enforce.Check, error) {
	if !b.checked {
		b.checked = true
		generation, err := b.conn.Generation()
		if err != nil {
			return enforce.Check{}, fmt.Errorf("read nf_tables: %w", err)
		}
		b.known.Store(generation)
	}
	found, err := b.conn.readAll()
	if err != nil {
		return enforce.Check{}, fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	if !found.table {
		b.kinds = slices.Clone(baseKinds)
		return enforce.Check{Damaged: []string{"table"}}, nil
	}
	if b.kinds == nil {
		b.kinds, b.lists = kindsOf(found.sets), listsOf(found.sets)
	}
	damaged, err := found.compare(b.kinds, b.lists, b.tableSpec())
	return enforce.Check{Damaged: damaged, Bans: found.bans(), Lists: b.damagedLists(found.sets)}, err
}

// Held implements enforce.Backend. It reads over connections of its own, so that a long list delays neither bans nor the
// look-up of a lifted one.
func (b *Backend) Held(_ context.Context, keys ...ban.Key) (state enforce.State, err error) {
	if len(keys) > 0 && len(keys) <= maxLookups {
		err = b.finder.do(func(c *conn) error { state, err = c.lookUp(keys); return err })
	} else {
		err = b.lister.do(func(c *conn) error { state, err = c.held(keys); return err })
	}
	if err != nil {
		return enforce.State{}, fmt.Errorf("read table inet %s: %w", tableName, err)
	}
	return state, nil
}
