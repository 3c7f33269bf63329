package nftset

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/enforce"
	"mef/internal/netlink/nfnl"
	"mef/internal/prefixset"
)

// A conn reads and writes tables of the inet family.
type conn struct{ *nfnl.Conn }

// dial opens a connection in a network namespace, 0 for the caller's.
func dial(netns int) (*conn, error) {
	c, err := nfnl.Dial(netns)
	return &conn{c}, err
}

// A tx is a transaction.
type tx struct{ nfnl.Tx }

func (c *conn) commit(t *tx) error { return c.Commit(&t.Tx) }

func (c *conn) get(typ int, a nfnl.Attrs) ([]byte, error) {
	return c.Get(nfnl.Tables(typ, unix.NFPROTO_INET, a))
}

func (c *conn) dump(typ int, a nfnl.Attrs, restart func(), fn func([]byte)) error {
	return c.Dump(nfnl.Tables(typ, unix.NFPROTO_INET, a), restart, func(_ byte, attrs []byte) { fn(attrs) })
}

// maxElements is the maximum number of elements in one message: with more, its length would overflow 16 bits and the kernel would
// silently lose some.
const maxElements = 1000

// Constants that package unix does not have (include/uapi/linux/netfilter/nf_tables.h, libnftnl's udata.h).
const (
	attrSetExpr  = 0x11 // NFTA_SET_EXPR
	attrSetCount = 20   // NFTA_SET_COUNT

	udataSetKeyByteOrder   = 0
	udataSetMergeElements  = 2
	udataObjComment        = 0
	udataRuleStamp         = 'm' // ours: nft skips types that it does not know
	udataBigEndian         = 2
	attrObjUserdata        = 8 // NFTA_OBJ_USERDATA
	attrTableFlagsDormant  = 1
	attrSetElemExpressions = 0x11 // NFTA_SET_ELEM_EXPRESSIONS

	gotoVerdict  = 1<<32 + unix.NFT_GOTO // -4 in 32 bits
	policyAccept = 1                     // NF_ACCEPT
)

func named(table string) nfnl.Attrs {
	var a nfnl.Attrs
	a.Text(unix.NFTA_TABLE_NAME, table) // attribute 1 names the table in every message
	return a
}

func (t *tx) addTable(table string) { t.Add(unix.NFT_MSG_NEWTABLE, netlink.Create, named(table)) }

// removeTable deletes a table with its contents. It is no error if there is none.
func (t *tx) removeTable(table string) {
	t.addTable(table)
	t.Add(unix.NFT_MSG_DELTABLE, 0, named(table))
}

func (t *tx) addSet(table string, s set) {
	t.LastID++
	a := named(table)
	a.Text(unix.NFTA_SET_NAME, s.name)
	var flags uint32
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.timeout {
		flags |= unix.NFT_SET_TIMEOUT
	}
	if s.dynamic {
		flags |= unix.NFT_SET_EVAL
	}
	a.Uint32(unix.NFTA_SET_FLAGS, flags)
	a.Uint32(unix.NFTA_SET_KEY_TYPE, s.keyType())
	a.Uint32(unix.NFTA_SET_KEY_LEN, uint32(s.keyLen()))
	a.Uint32(unix.NFTA_SET_ID, t.LastID)
	if s.size > 0 {
		at := a.Begin(unix.NFTA_SET_DESC)
		a.Uint32(unix.NFTA_SET_DESC_SIZE, s.size)
		a.End(at)
	}
	if s.lasting > 0 {
		a.Uint64(unix.NFTA_SET_TIMEOUT, uint64(s.lasting)*1000)
	}
	if s.interval {
		// A note for nft, so that it reports no overlap to an operator who adds an element by hand. The kernel merges nothing.
		a.Bytes(unix.NFTA_SET_USERDATA, append(udataUint32(udataSetKeyByteOrder, udataBigEndian), udataUint32(udataSetMergeElements, 1)...))
	}
	if s.counter {
		at := a.Begin(attrSetExpr)
		a.Text(unix.NFTA_EXPR_NAME, "counter")
		a.End(a.Begin(unix.NFTA_EXPR_DATA))
		a.End(at)
	}
	t.Add(unix.NFT_MSG_NEWSET, netlink.Create, a)
}

func (s set) keyType() uint32 {
	address := uint32(typeIPAddr)
	if s.v6 {
		address = typeIP6Addr
	}
	switch s.with {
	case portOnly:
		return concatenated(typeInetProto, typeInetService)
	case addressAndPort:
		return concatenated(address, typeInetProto, typeInetService)
	}
	return address
}

// concatenated returns nft's type for keys that consist of others: six bits for each.
func concatenated(types ...uint32) (all uint32) {
	for _, t := range types {
		all = all<<6 | t
	}
	return all
}

// setOfType sets the fields that follow from the type of the keys.
func (s *set) setOfType(key uint32) {
	for _, v6 := range []bool{false, true} {
		for with := addressOnly; with <= portOnly; with++ {
			if (set{v6: v6, with: with}).keyType() == key {
				s.v6, s.with = v6 && with != portOnly, with
			}
		}
	}
}

// udataUint32 is libnftnl's user data: type, length, value in host order.
func udataUint32(typ byte, v uint32) []byte {
	return binary.NativeEndian.AppendUint32([]byte{typ, 4}, v)
}

// addCounter adds a counter that goes on with what was counted.
func (t *tx) addCounter(table, name, comment string, before count) {
	a := named(table)
	a.Text(unix.NFTA_OBJ_NAME, name)
	a.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	data := a.Begin(unix.NFTA_OBJ_DATA)
	a.Uint64(unix.NFTA_COUNTER_PACKETS, before.packets)
	a.Uint64(unix.NFTA_COUNTER_BYTES, before.bytes)
	a.End(data)
	a.Bytes(attrObjUserdata, append(append([]byte{udataObjComment, byte(len(comment) + 1)}, comment...), 0))
	t.Add(unix.NFT_MSG_NEWOBJ, netlink.Create, a)
}

func (t *tx) addChain(table string, c chain) {
	a := named(table)
	a.Text(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook != nil {
		at := a.Begin(unix.NFTA_CHAIN_HOOK)
		a.Uint32(unix.NFTA_HOOK_HOOKNUM, c.hook.num)
		a.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.hook.priority))
		a.End(at)
		a.Uint32(unix.NFTA_CHAIN_POLICY, policyAccept)
		a.Text(unix.NFTA_CHAIN_TYPE, "filter")
	}
	t.Add(unix.NFT_MSG_NEWCHAIN, netlink.Create, a)
}

// flushChain deletes the rules of a chain.
func (t *tx) flushChain(name string) {
	a := named(tableName)
	a.Text(unix.NFTA_RULE_CHAIN, name)
	t.Add(unix.NFT_MSG_DELRULE, 0, a)
}

func (t *tx) deleteSets(sets []set) {
	for _, s := range sets {
		a := named(tableName)
		a.Text(unix.NFTA_SET_NAME, s.name)
		t.Add(unix.NFT_MSG_DELSET, 0, a)
	}
}

func (t *tx) removeCounter(table, name string) {
	a := named(table)
	a.Text(unix.NFTA_OBJ_NAME, name)
	a.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	t.Add(unix.NFT_MSG_DELOBJ, 0, a)
}

// addRule appends a rule to its chain.
func (t *tx) addRule(table string, r rule) error {
	fingerprint, err := r.fingerprint()
	if err != nil {
		return err
	}
	list, err := r.encode(t.LastID + 1)
	if err != nil {
		return err
	}
	for _, s := range r.anon {
		t.addAnonSet(table, s)
	}
	a := named(table)
	a.Text(unix.NFTA_RULE_CHAIN, r.chain)
	a.Bytes(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list)
	a.Bytes(unix.NFTA_RULE_USERDATA, binary.BigEndian.AppendUint64([]byte{udataRuleStamp, 8}, fingerprint))
	t.Add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, a)
	return nil
}

func (t *tx) addAnonSet(table string, s anonSet) {
	t.LastID++
	name, flags := anonSetName, uint32(unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT)
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.vmap {
		name, flags = anonMapName, flags|unix.NFT_SET_MAP
	}
	a := named(table)
	a.Text(unix.NFTA_SET_NAME, name)
	a.Uint32(unix.NFTA_SET_FLAGS, flags)
	a.Uint32(unix.NFTA_SET_KEY_TYPE, s.keyType)
	a.Uint32(unix.NFTA_SET_KEY_LEN, s.keyLen)
	a.Uint32(unix.NFTA_SET_ID, t.LastID)
	if s.vmap {
		a.Uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		a.Uint32(unix.NFTA_SET_DATA_LEN, 16)
	}
	at := a.Begin(unix.NFTA_SET_DESC)
	a.Uint32(unix.NFTA_SET_DESC_SIZE, uint32(len(s.elements)))
	a.End(at)
	a.Bytes(unix.NFTA_SET_USERDATA, udataUint32(udataSetKeyByteOrder, s.byteOrder()))
	t.Add(unix.NFT_MSG_NEWSET, netlink.Create, a)

	e := elementsOf(table, name, t.LastID)
	at = e.Begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, el := range s.elements {
		el.append(&e)
	}
	e.End(at)
	t.Add(unix.NFT_MSG_NEWSETELEM, netlink.Create, e)
}

// byteOrder returns the byte order in which nft prints the keys: ports are in network order, single bytes in host order.
func (s anonSet) byteOrder() uint32 {
	if s.keyType == typeInetService {
		return udataBigEndian
	}
	return 1
}

func (el anonElement) append(a *nfnl.Attrs) {
	at := a.Begin(unix.NFTA_LIST_ELEM)
	if el.end {
		a.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	key := a.Begin(unix.NFTA_SET_ELEM_KEY)
	a.Bytes(unix.NFTA_DATA_VALUE, el.key)
	a.End(key)
	if el.goTo != "" {
		data := a.Begin(unix.NFTA_SET_ELEM_DATA)
		verdict := a.Begin(unix.NFTA_DATA_VERDICT)
		a.Uint32(unix.NFTA_VERDICT_CODE, gotoVerdict)
		a.Text(unix.NFTA_VERDICT_CHAIN, el.goTo)
		a.End(verdict)
		a.End(data)
	}
	a.End(at)
}

// elementsOf begins a message about elements of a set. A set created in the same transaction is named by its number.
func elementsOf(table, name string, id uint32) nfnl.Attrs {
	a := named(table)
	a.Text(unix.NFTA_SET_ELEM_LIST_SET, name)
	if id != 0 {
		a.Uint32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
	}
	return a
}

// An element is one member of a set.
type element struct {
	addr    netip.Addr
	timeout uint64 // in ms; 0 for none
	end     bool   // first address after a range
}

func (e element) append(a *nfnl.Attrs) {
	at := a.Begin(unix.NFTA_LIST_ELEM)
	if e.end {
		a.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	key := a.Begin(unix.NFTA_SET_ELEM_KEY)
	if e.addr.Is4() {
		b := e.addr.As4()
		a.Bytes(unix.NFTA_DATA_VALUE, b[:])
	} else {
		b := e.addr.As16()
		a.Bytes(unix.NFTA_DATA_VALUE, b[:])
	}
	a.End(key)
	if e.timeout != 0 {
		a.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, e.timeout)
		// Without this, the timeout of an existing element with the same timeout would not restart.
		a.Uint64(unix.NFTA_SET_ELEM_EXPIRATION, e.timeout)
	}
	a.End(at)
}

func (t *tx) addElements(set string, es []element) {
	t.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, set, es)
}
func (t *tx) deleteElements(set string, es []element) {
	t.elements(unix.NFT_MSG_DELSETELEM, 0, set, es)
}

// elementSize is the maximum size of an element in a message, in bytes.
const elementSize = 56

func (t *tx) elements(typ int, flags netlink.HeaderFlags, set string, es []element) {
	t.Buf = slices.Grow(t.Buf, len(es)*elementSize)
	for chunk := range slices.Chunk(es, maxElements) {
		t.Begin(typ, flags)
		t.Buf = append(t.Buf, elementsOf(tableName, set, 0)...)
		at := t.Buf.Begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range chunk {
			e.append(&t.Buf)
		}
		t.Buf.End(at)
		t.End()
	}
}

// flushSet deletes all elements of a set.
func (t *tx) flushSet(set string) {
	t.Add(unix.NFT_MSG_DELSETELEM, 0, elementsOf(tableName, set, 0))
}

// removeElements deletes elements that may be absent, because they may have ended a moment ago: deleting an absent one would
// abort the transaction, so each is added first.
func (t *tx) removeElements(set string, es []element) {
	t.addElements(set, es)
	t.deleteElements(set, es)
}

// rangeElements returns the elements of an interval set: the first address of each range and the first one after it.
func rangeElements(ranges []prefixset.Range, v6 bool) []element {
	var es []element
	for _, r := range ranges {
		if r.First.Is6() != v6 {
			continue
		}
		es = append(es, element{addr: r.First})
		if behind := r.Last.Next(); behind.IsValid() {
			es = append(es, element{addr: behind, end: true})
		}
	}
	return es
}

// setAllow replaces the allow sets.
func (t *tx) setAllow(allow prefixset.Set) {
	for _, s := range allowSets {
		t.flushSet(s.name)
		t.addElements(s.name, rangeElements(allow.Ranges(), s.v6))
	}
}

// setElements adds, renews and removes elements of the set of each family.
func (t *tx) setElements(sets []set, changes []enforce.Element) error {
	for _, g := range changes {
		s := sets[0]
		if g.Prefix.Addr().Is6() {
			s = sets[1]
		}
		es := []element{{addr: g.Prefix.Addr()}}
		t.removeElements(s.name, es)
		if g.Remove {
			continue
		}
		var err error
		if es[0].timeout, err = g.Timeout.Milliseconds(); err != nil {
			return err
		}
		t.addElements(s.name, es)
	}
	return nil
}
