package nftset

import (
	"cmp"
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/netlink/nfnl"
	"mef/internal/prefixset"
)

// The objects of the table as the kernel reports them, read by the functions below.
type (
	foundSet struct {
		set
		anonymous bool
		count     int // of elements; -1 if the kernel does not report it
	}
	foundChain struct {
		chain
		policy uint32
	}
	foundElement struct {
		addr      netip.Addr
		end       bool
		permanent bool
		left      time.Duration
		packets   uint64
		bytes     uint64
	}
)

// readTable reports whether the table exists and is not dormant.
func (c *conn) readTable() (bool, error) {
	b, err := c.get(unix.NFT_MSG_GETTABLE, named(tableName))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && nfnl.Uint32(nfnl.Find(b, unix.NFTA_TABLE_FLAGS))&attrTableFlagsDormant == 0, err
}

func (c *conn) readSets(table string) (map[string]foundSet, error) {
	found := map[string]foundSet{}
	err := c.dump(unix.NFT_MSG_GETSET, named(table), func() { clear(found) }, func(b []byte) {
		if nfnl.Text(nfnl.Find(b, unix.NFTA_SET_TABLE)) != table {
			return
		}
		s := parseSet(b)
		found[s.name] = s
	})
	return found, ignoreAbsent(err)
}

func parseSet(b []byte) foundSet {
	s := foundSet{count: -1}
	for typ, v := range nfnl.Each(b) {
		switch typ {
		case unix.NFTA_SET_NAME:
			s.name = nfnl.Text(v)
		case unix.NFTA_SET_FLAGS:
			flags := nfnl.Uint32(v)
			s.interval = flags&unix.NFT_SET_INTERVAL != 0
			s.timeout = flags&unix.NFT_SET_TIMEOUT != 0
			s.anonymous = flags&unix.NFT_SET_ANONYMOUS != 0
			s.dynamic = flags&unix.NFT_SET_EVAL != 0
		case unix.NFTA_SET_TIMEOUT:
			s.lasting = uint32(nfnl.Uint64(v) / 1000)
		case unix.NFTA_SET_KEY_TYPE:
			s.setOfType(nfnl.Uint32(v))
		case unix.NFTA_SET_DESC:
			s.size = nfnl.Uint32(nfnl.Find(v, unix.NFTA_SET_DESC_SIZE))
		case attrSetExpr:
			s.counter = nfnl.Text(nfnl.Find(v, unix.NFTA_EXPR_NAME)) == "counter"
		case attrSetCount:
			s.count = int(nfnl.Uint32(v))
		}
	}
	return s
}

func (c *conn) readChains(table string) (map[string]foundChain, error) {
	found := map[string]foundChain{}
	err := c.dump(unix.NFT_MSG_GETCHAIN, nil, func() { clear(found) }, func(b []byte) {
		if nfnl.Text(nfnl.Find(b, unix.NFTA_CHAIN_TABLE)) != table {
			return
		}
		ch := foundChain{chain: chain{name: nfnl.Text(nfnl.Find(b, unix.NFTA_CHAIN_NAME))}}
		ch.policy = nfnl.Uint32(nfnl.Find(b, unix.NFTA_CHAIN_POLICY))
		if h := nfnl.Find(b, unix.NFTA_CHAIN_HOOK); h != nil {
			ch.hook = &hook{nfnl.Uint32(nfnl.Find(h, unix.NFTA_HOOK_HOOKNUM)), int32(nfnl.Uint32(nfnl.Find(h, unix.NFTA_HOOK_PRIORITY)))}
		}
		found[ch.name] = ch
	})
	return found, ignoreAbsent(err)
}

// readFingerprints returns the fingerprints of the rules of each chain, in order; 0 stands for a rule without one.
func (c *conn) readFingerprints(table string) (map[string][]uint64, error) {
	found := map[string][]uint64{}
	err := c.dump(unix.NFT_MSG_GETRULE, named(table), func() { clear(found) }, func(b []byte) {
		if nfnl.Text(nfnl.Find(b, unix.NFTA_RULE_TABLE)) != table {
			return
		}
		chain := nfnl.Text(nfnl.Find(b, unix.NFTA_RULE_CHAIN))
		found[chain] = append(found[chain], parseFingerprint(nfnl.Find(b, unix.NFTA_RULE_USERDATA)))
	})
	return found, ignoreAbsent(err)
}

func parseFingerprint(udata []byte) uint64 {
	if len(udata) == 10 && udata[0] == udataRuleStamp && udata[1] == 8 {
		return binary.BigEndian.Uint64(udata[2:])
	}
	return 0
}

// readCounter returns the packets of a named counter, and whether it exists.
func (c *conn) readCounter(name string) (packets uint64, ok bool, err error) {
	a := named(tableName)
	a.Text(unix.NFTA_OBJ_NAME, name)
	a.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	b, err := c.get(unix.NFT_MSG_GETOBJ, a)
	if err != nil {
		return 0, false, ignoreAbsent(err)
	}
	return nfnl.Uint64(nfnl.Find(nfnl.Find(b, unix.NFTA_OBJ_DATA), unix.NFTA_COUNTER_PACKETS)), true, nil
}

// readElements reads all elements of a set; none if there is no such set.
func (c *conn) readElements(set string) ([]foundElement, error) {
	var found []foundElement
	err := c.dump(unix.NFT_MSG_GETSETELEM, elementsOf(tableName, set, 0), func() { found = found[:0] }, func(b []byte) {
		found = slices.AppendSeq(found, elements(b))
	})
	return found, ignoreAbsent(err)
}

// appendBans reads all bans of a kind. There may be very many, so no list of elements is built in between.
func (c *conn) appendBans(bans []enforce.Held, cl setKind) ([]enforce.Held, error) {
	n := len(bans)
	err := c.dump(unix.NFT_MSG_GETSETELEM, elementsOf(tableName, cl.set(), 0), func() { bans = bans[:n] }, func(b []byte) {
		now := time.Now()
		for e := range elements(b) {
			bans = append(bans, e.held(cl, now))
		}
	})
	return bans, ignoreAbsent(err)
}

// readElement reads one element of a set.
func (c *conn) readElement(table, set string, addr netip.Addr) (e foundElement, ok bool, err error) {
	a := elementsOf(table, set, 0)
	at := a.Begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	element{addr: addr}.append(&a)
	a.End(at)
	b, err := c.get(unix.NFT_MSG_GETSETELEM, a)
	if err != nil {
		return e, false, ignoreAbsent(err)
	}
	for e := range elements(b) {
		return e, true, nil
	}
	return e, false, nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// elements yields the elements that a message lists, without those that have ended.
func elements(b []byte) iter.Seq[foundElement] {
	return func(yield func(foundElement) bool) {
		for typ, v := range nfnl.Each(nfnl.Find(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			if typ != unix.NFTA_LIST_ELEM {
				continue
			}
			if e, ok := parseElement(v); ok && !yield(e) {
				return
			}
		}
	}
}

func parseElement(b []byte) (e foundElement, ok bool) {
	e.permanent = true
	for typ, v := range nfnl.Each(b) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			e.addr, ok = netip.AddrFromSlice(nfnl.Find(v, unix.NFTA_DATA_VALUE))
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = nfnl.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.permanent = false
			e.left = time.Duration(nfnl.Uint64(v)) * time.Millisecond
		case unix.NFTA_SET_ELEM_EXPR:
			e.count(v)
		case attrSetElemExpressions:
			for _, inner := range nfnl.Each(v) {
				e.count(inner)
			}
		}
	}
	return e, ok && (e.permanent || e.left > 0)
}

func (e *foundElement) count(expr []byte) {
	if nfnl.Text(nfnl.Find(expr, unix.NFTA_EXPR_NAME)) == "counter" {
		data := nfnl.Find(expr, unix.NFTA_EXPR_DATA)
		e.packets = nfnl.Uint64(nfnl.Find(data, unix.NFTA_COUNTER_PACKETS))
		e.bytes = nfnl.Uint64(nfnl.Find(data, unix.NFTA_COUNTER_BYTES))
	}
}

// held returns the ban that an element of a kind represents.
func (e foundElement) held(c setKind, now time.Time) enforce.Held {
	h := enforce.Held{Key: c.key(e.addr), Packets: e.packets, Bytes: e.bytes}
	if !e.permanent {
		h.Until = now.Add(e.left)
	}
	return h
}

// A reader is a connection for reading that several goroutines share. It is kept open, because closing any nf_tables connection
// waits until objects deleted over another one are freed, which takes milliseconds.
type reader struct {
	netns int
	mu    sync.Mutex
	conn  *conn // nil before its first use
}

// do calls read, and calls it again with a new connection if the current one was closed.
func (r *reader) do(read func(*conn) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		c, err := dial(r.netns)
		if err != nil {
			return err
		}
		r.conn = c
	}
	err := read(r.conn)
	if err != nil && r.conn.Closed() {
		err = read(r.conn)
	}
	return err
}

func (r *reader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return nil
	}
	return r.conn.Close()
}

// maxLookups is the number of keys up to which each is looked up; for more, all elements are read.
const maxLookups = 100

func (c *conn) held(keys []ban.Key) (enforce.State, error) {
	var s enforce.State
	sets, err := c.readSets(tableName)
	if err != nil {
		return s, err
	}
	if s.Replies, _, err = c.readCounter(repliesCounter); err != nil {
		return s, err
	}
	if s.Allow, err = c.readAllow(); err != nil {
		return s, err
	}
	if s.Grace, err = c.readTimed(graceSets, graceBits); err != nil {
		return s, err
	}
	if s.Except, err = c.readTimed(exceptSets, addrBits); err != nil {
		return s, err
	}
	s.Bans = make([]enforce.Held, 0, max(0, table{sets: sets}.bans()))
	for _, cl := range kindsOf(sets) {
		if s.Bans, err = c.appendBans(s.Bans, cl); err != nil {
			return s, err
		}
	}
	if len(keys) > 0 {
		wanted := map[ban.Key]bool{}
		for _, k := range keys {
			wanted[k] = true
		}
		s.Bans = slices.DeleteFunc(s.Bans, func(h enforce.Held) bool { return !wanted[h.Key] })
	}
	return s, nil
}

func (c *conn) lookUp(keys []ban.Key) (s enforce.State, err error) {
	for _, k := range keys {
		cl := kindOf(k)
		e, ok, err := c.readElement(tableName, cl.set(), k.Prefix.Addr())
		if err != nil {
			return s, err
		}
		if ok {
			s.Bans = append(s.Bans, e.held(cl, time.Now()))
		}
	}
	return s, nil
}

func (c *conn) readAllow() (prefixset.Set, error) {
	var all []prefixset.Range
	for _, s := range allowSets {
		es, err := c.readElements(s.name)
		if err != nil {
			return prefixset.Set{}, err
		}
		all = append(all, ranges(es, s.v6)...)
	}
	return prefixset.FromRanges(all), nil
}

// readTimed reads the prefixes of a pair of sets with the time left of each.
func (c *conn) readTimed(sets []set, bits func(v6 bool) int) (out []enforce.Element, err error) {
	for _, s := range sets {
		es, err := c.readElements(s.name)
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			p, _ := e.addr.Prefix(bits(s.v6))
			timeout := max(enforce.Timeout(e.left), enforce.MinTimeout)
			if e.permanent {
				timeout = enforce.Permanent
			}
			out = append(out, enforce.Element{Prefix: p, Timeout: timeout})
		}
	}
	return out, nil
}

// ranges pairs the first addresses of an interval set with the ends, in ascending order.
func ranges(es []foundElement, v6 bool) []prefixset.Range {
	slices.SortFunc(es, func(a, b foundElement) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(boolInt(b.end), boolInt(a.end)))
	})
	last := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if v6 {
		last = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	end := prefixset.RangeOf(last).Last
	var out []prefixset.Range
	for i, e := range es {
		switch {
		case e.end:
		case i+1 < len(es) && es[i+1].end:
			out = append(out, prefixset.Range{First: e.addr, Last: es[i+1].addr.Prev()})
		case i+1 == len(es):
			out = append(out, prefixset.Range{First: e.addr, Last: end})
		default: // this range ends where the next one begins
			out = append(out, prefixset.Range{First: e.addr, Last: es[i+1].addr.Prev()})
		}
	}
	return out
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
