package nftset

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mef/internal/enforce"
	"mef/internal/prefixset"
)

// maxElements is how many elements one message names: with more, its length would overflow 16 bits and the kernel would
// lose some in silence.
const maxElements = 1000

// What unix does not name (include/uapi/linux/netfilter/nf_tables.h, libnftnl's udata.h).
const (
	attrSetExpr  = 0x11 // NFTA_SET_EXPR
	attrSetCount = 20   // NFTA_SET_COUNT

	udataSetKeyByteOrder   = 0
	udataSetMergeElements  = 2
	udataObjComment        = 0
	udataRuleStamp         = 'm' // ours: nft passes over types that it does not know
	udataBigEndian         = 2
	attrObjUserdata        = 8 // NFTA_OBJ_USERDATA
	attrTableFlagsDormant  = 1
	attrSetElemExpressions = 0x11 // NFTA_SET_ELEM_EXPRESSIONS

	gotoVerdict  = 1<<32 + unix.NFT_GOTO // -4 as it stands in 32 bits
	policyAccept = 1                     // NF_ACCEPT
)

func named(table string) attrs {
	var a attrs
	a.string(unix.NFTA_TABLE_NAME, table) // attribute 1 names the table in every message
	return a
}

func (t *tx) addTable(table string) { t.add(unix.NFT_MSG_NEWTABLE, netlink.Create, named(table)) }

// removeTable deletes a table with all that is in it, and does not mind if there is none.
func (t *tx) removeTable(table string) {
	t.addTable(table)
	t.add(unix.NFT_MSG_DELTABLE, 0, named(table))
}

func (t *tx) addSet(table string, s set) {
	t.lastID++
	a := named(table)
	a.string(unix.NFTA_SET_NAME, s.name)
	var flags uint32
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.timeout {
		flags |= unix.NFT_SET_TIMEOUT
	}
	a.uint32(unix.NFTA_SET_FLAGS, flags)
	a.uint32(unix.NFTA_SET_KEY_TYPE, s.keyType())
	a.uint32(unix.NFTA_SET_KEY_LEN, uint32(s.keyLen()))
	a.uint32(unix.NFTA_SET_ID, t.lastID)
	if s.interval {
		// A note for nft, so that an operator who adds an element by hand is told of no overlap. The kernel merges nothing.
		a.bytes(unix.NFTA_SET_USERDATA, append(udataUint32(udataSetKeyByteOrder, udataBigEndian), udataUint32(udataSetMergeElements, 1)...))
	}
	if s.counter {
		at := a.begin(attrSetExpr)
		a.string(unix.NFTA_EXPR_NAME, "counter")
		a.end(a.begin(unix.NFTA_EXPR_DATA))
		a.end(at)
	}
	t.add(unix.NFT_MSG_NEWSET, netlink.Create, a)
}

func (s set) keyType() uint32 {
	if s.v6 {
		return typeIP6Addr
	}
	return typeIPAddr
}

// udataUint32 is libnftnl's user data: type, length, value in host order.
func udataUint32(typ byte, v uint32) []byte {
	return binary.NativeEndian.AppendUint32([]byte{typ, 4}, v)
}

func (t *tx) addCounter(table, name, comment string) {
	a := named(table)
	a.string(unix.NFTA_OBJ_NAME, name)
	a.uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	a.end(a.begin(unix.NFTA_OBJ_DATA))
	a.bytes(attrObjUserdata, append(append([]byte{udataObjComment, byte(len(comment) + 1)}, comment...), 0))
	t.add(unix.NFT_MSG_NEWOBJ, netlink.Create, a)
}

func (t *tx) addChain(table string, c chain) {
	a := named(table)
	a.string(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook != nil {
		at := a.begin(unix.NFTA_CHAIN_HOOK)
		a.uint32(unix.NFTA_HOOK_HOOKNUM, c.hook.num)
		a.uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.hook.priority))
		a.end(at)
		a.uint32(unix.NFTA_CHAIN_POLICY, policyAccept)
		a.string(unix.NFTA_CHAIN_TYPE, "filter")
	}
	t.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, a)
}

// addRule appends a rule to its chain.
func (t *tx) addRule(table string, r rule) error {
	stamp, err := r.stamp()
	if err != nil {
		return err
	}
	list, err := r.encode(t.lastID + 1)
	if err != nil {
		return err
	}
	for _, s := range r.anon {
		t.addAnonSet(table, s)
	}
	a := named(table)
	a.string(unix.NFTA_RULE_CHAIN, r.chain)
	a.bytes(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list)
	a.bytes(unix.NFTA_RULE_USERDATA, binary.BigEndian.AppendUint64([]byte{udataRuleStamp, 8}, stamp))
	t.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, a)
	return nil
}

func (t *tx) addAnonSet(table string, s anonSet) {
	t.lastID++
	name, flags := anonSetName, uint32(unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT)
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.vmap {
		name, flags = anonMapName, flags|unix.NFT_SET_MAP
	}
	a := named(table)
	a.string(unix.NFTA_SET_NAME, name)
	a.uint32(unix.NFTA_SET_FLAGS, flags)
	a.uint32(unix.NFTA_SET_KEY_TYPE, s.keyType)
	a.uint32(unix.NFTA_SET_KEY_LEN, s.keyLen)
	a.uint32(unix.NFTA_SET_ID, t.lastID)
	if s.vmap {
		a.uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		a.uint32(unix.NFTA_SET_DATA_LEN, 16)
	}
	at := a.begin(unix.NFTA_SET_DESC)
	a.uint32(unix.NFTA_SET_DESC_SIZE, uint32(len(s.elements)))
	a.end(at)
	a.bytes(unix.NFTA_SET_USERDATA, udataUint32(udataSetKeyByteOrder, s.byteOrder()))
	t.add(unix.NFT_MSG_NEWSET, netlink.Create, a)

	e := elementsOf(table, name, t.lastID)
	at = e.begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, el := range s.elements {
		el.append(&e)
	}
	e.end(at)
	t.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, e)
}

// byteOrder tells nft how to print the keys: ports are in network order, single bytes in host order.
func (s anonSet) byteOrder() uint32 {
	if s.keyType == typeInetService {
		return udataBigEndian
	}
	return 1
}

func (el anonElement) append(a *attrs) {
	at := a.begin(unix.NFTA_LIST_ELEM)
	if el.end {
		a.uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	key := a.begin(unix.NFTA_SET_ELEM_KEY)
	a.bytes(unix.NFTA_DATA_VALUE, el.key)
	a.end(key)
	if el.goTo != "" {
		data := a.begin(unix.NFTA_SET_ELEM_DATA)
		verdict := a.begin(unix.NFTA_DATA_VERDICT)
		a.uint32(unix.NFTA_VERDICT_CODE, gotoVerdict)
		a.string(unix.NFTA_VERDICT_CHAIN, el.goTo)
		a.end(verdict)
		a.end(data)
	}
	a.end(at)
}

// elementsOf begins a message about elements of a set. A set made in the same transaction is known by its number.
func elementsOf(table, name string, id uint32) attrs {
	a := named(table)
	a.string(unix.NFTA_SET_ELEM_LIST_SET, name)
	if id != 0 {
		a.uint32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
	}
	return a
}

// An element is one member of a set.
type element struct {
	addr    netip.Addr
	timeout uint64 // in ms; 0 for none
	end     bool   // first address behind a range
}

func (e element) append(a *attrs) {
	at := a.begin(unix.NFTA_LIST_ELEM)
	if e.end {
		a.uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	key := a.begin(unix.NFTA_SET_ELEM_KEY)
	if e.addr.Is4() {
		b := e.addr.As4()
		a.bytes(unix.NFTA_DATA_VALUE, b[:])
	} else {
		b := e.addr.As16()
		a.bytes(unix.NFTA_DATA_VALUE, b[:])
	}
	a.end(key)
	if e.timeout != 0 {
		a.uint64(unix.NFTA_SET_ELEM_TIMEOUT, e.timeout)
		// Without this, an element that is there already, with the very same timeout, would not begin anew.
		a.uint64(unix.NFTA_SET_ELEM_EXPIRATION, e.timeout)
	}
	a.end(at)
}

func (t *tx) addElements(set string, es []element) {
	t.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, set, es)
}
func (t *tx) deleteElements(set string, es []element) {
	t.elements(unix.NFT_MSG_DELSETELEM, 0, set, es)
}

// elementSize is how many bytes an element takes in a message at most.
const elementSize = 56

func (t *tx) elements(typ int, flags netlink.HeaderFlags, set string, es []element) {
	t.buf = slices.Grow(t.buf, len(es)*elementSize)
	for chunk := range slices.Chunk(es, maxElements) {
		t.begin(typ, flags)
		t.buf = append(t.buf, elementsOf(tableName, set, 0)...)
		at := t.buf.begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range chunk {
			e.append(&t.buf)
		}
		t.buf.end(at)
		t.end()
	}
}

// flushSet deletes all elements of a set.
func (t *tx) flushSet(set string) {
	t.add(unix.NFT_MSG_DELSETELEM, 0, elementsOf(tableName, set, 0))
}

// removeElements deletes elements that may be absent, because they may have ended a moment ago: deleting an absent one would
// abort the transaction, so each is added first.
func (t *tx) removeElements(set string, es []element) {
	t.addElements(set, es)
	t.deleteElements(set, es)
}

// rangeElements returns the elements of an interval set: the first address of each range and the first one behind it.
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
