package ipset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/netlink/nfnl"
)

// The messages and attributes of include/uapi/linux/netfilter/ipset/ip_set.h.
const (
	subsystem = 6 // NFNL_SUBSYS_IPSET
	protocol  = 6 // IPSET_PROTOCOL_MIN: every kernel that has sets with counters speaks it

	cmdProtocol = 1
	cmdCreate   = 2
	cmdDestroy  = 3
	cmdRename   = 5
	cmdSwap     = 6
	cmdList     = 7
	cmdAdd      = 9
	cmdDel      = 10
	cmdTest     = 11
	cmdType     = 13

	attrProtocol = 1
	attrSetName  = 2
	attrTypeName = 3
	attrSetName2 = 3 // of swap and rename
	attrRevision = 4
	attrFamily   = 5
	attrFlags    = 6
	attrData     = 7
	attrADT      = 8
	attrLine     = 9

	attrIP      = 1
	attrCIDR    = 3
	attrPort    = 4
	attrPortTo  = 5
	attrTimeout = 6
	attrProto   = 7
	attrCADT    = 8

	attrHashSize   = 18
	attrMaxElem    = 19
	attrNetmask    = 20
	attrElements   = 24
	attrReferences = 25

	attrBytes   = 24
	attrPackets = 25
	attrComment = 26

	flagListHeader   = 1 << 2
	flagWithCounters = 1 << 3
	flagWithComment  = 1 << 4

	errBusy  = syscall.Errno(4100) // IPSET_ERR_BUSY: a set is in use
	errExist = syscall.Errno(4103) // IPSET_ERR_EXIST: an element is there, or is not
	errFull  = syscall.Errno(4352) // IPSET_ERR_HASH_FULL

	inOrder = unix.NLA_F_NET_BYTEORDER
)

// maxElements is how many elements one message adds or removes: its list of attributes must stay below 64 KiB.
const maxElements = 400

// A conn speaks to the part of the kernel that holds the sets.
type conn struct{ *nfnl.Conn }

func dial(netns int) (*conn, error) {
	c, err := nfnl.Dial(netns)
	return &conn{c}, err
}

// A message has the attributes that every message begins with.
func message(set string) (a nfnl.Attrs) {
	a.Bytes(attrProtocol, []byte{protocol})
	if set != "" {
		a.Text(attrSetName, set)
	}
	return a
}

func query(cmd uint16, family byte, a nfnl.Attrs) nfnl.Query {
	return nfnl.Query{Type: subsystem<<8 | cmd, Family: family, Attrs: a}
}

func (c *conn) do(cmd uint16, a nfnl.Attrs) error { return explain(c.Do(query(cmd, unix.AF_INET, a))) }

// explain gives the errors of sets, which the system has no text for, a text.
func explain(err error) error {
	var code syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return nfnl.Explain(err)
	case !errors.As(err, &code) || code < 4096:
		return err
	}
	text, known := map[syscall.Errno]string{
		4097:     "protocol error",
		4098:     "this kernel lacks the type of set; load the modules ip_set_hash_ip, ip_set_hash_net and ip_set_bitmap_port",
		4099:     "the kernel has no room for another set",
		errBusy:  "the set is in use",
		4101:     "there is a set of the new name",
		4102:     "the sets are of different types",
		errExist: "no such element",
		4104:     "wrong prefix length",
		4107:     "the set has no timeouts",
		4110:     "wrong family",
		4111:     "wrong family",
		4112:     "the set has no counters",
	}[code]
	if !known {
		text = fmt.Sprintf("error %d of ip_set", code)
	}
	return &setError{code, text}
}

// A setError is an error of the kernel about a set.
type setError struct {
	code syscall.Errno
	text string
}

func (e *setError) Error() string { return e.text }
func (e *setError) Unwrap() error { return e.code }

// A set is a set as it should be.
type set struct {
	name     string
	typ      string
	v6       bool
	timeout  bool
	counters bool
	comments bool
	netmask  uint8  // of what packets add; 0: all bits
	lasting  uint32 // seconds until an element ends that a packet has added
}

const (
	hashIP     = "hash:ip"
	hashNet    = "hash:net"
	bitmapPort = "bitmap:port"

	hashIPPort  = "hash:ip,port"
	hashNetPort = "hash:net,port" // of TCP ports
)

func (s set) family() byte {
	switch {
	case s.typ == bitmapPort:
		return unix.AF_UNSPEC
	case s.v6:
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// create makes an empty set of at most limit elements, with room for n before it has to grow.
func (c *conn) create(s set, n int, limit uint32) error {
	revision, err := c.revision(s)
	if err != nil {
		return fmt.Errorf("create set %s: %w", s.name, err)
	}
	a := message(s.name)
	a.Text(attrTypeName, s.typ)
	a.Bytes(attrRevision, []byte{revision})
	a.Bytes(attrFamily, []byte{s.family()})
	at := a.Begin(attrData)
	if s.typ == bitmapPort {
		a.Bytes(attrPort|inOrder, []byte{0, 0})
		a.Bytes(attrPortTo|inOrder, []byte{255, 255})
	} else {
		size := uint32(64)
		for int(size) < n && size < 1<<20 {
			size *= 2
		}
		a.Uint32(attrHashSize|inOrder, size)
		a.Uint32(attrMaxElem|inOrder, limit)
	}
	if s.netmask > 0 {
		a.Bytes(attrNetmask, []byte{s.netmask})
	}
	if s.timeout {
		a.Uint32(attrTimeout|inOrder, s.lasting) // of elements without a timeout of their own
	}
	flags := uint32(0)
	if s.counters {
		flags |= flagWithCounters
	}
	if s.comments {
		flags |= flagWithComment
	}
	if flags != 0 {
		a.Uint32(attrCADT|inOrder, flags)
	}
	a.End(at)
	if err := explain(c.Do(query(cmdCreate, s.family(), a))); err != nil {
		return fmt.Errorf("create set %s: %w", s.name, err)
	}
	return nil
}

// maxSetSize is the number of elements from which the kernel calls a set full.
const maxSetSize = 1 << 22

// revision returns the newest form of a type of sets that the kernel knows.
func (c *conn) revision(s set) (byte, error) {
	a := message("")
	a.Text(attrTypeName, s.typ)
	a.Bytes(attrFamily, []byte{s.family()})
	b, err := c.Get(query(cmdType, s.family(), a))
	if err != nil {
		return 0, explain(err)
	}
	if r := nfnl.Find(b, attrRevision); len(r) == 1 {
		return r[0], nil
	}
	return 0, nil
}

func (c *conn) destroy(name string) error {
	if err := whileBusy(func() error { return c.do(cmdDestroy, message(name)) }); err != nil {
		return fmt.Errorf("destroy set %s: %w", name, err)
	}
	return nil
}

// swap exchanges the elements of two sets, for the rules that use them at one moment.
func (c *conn) swap(a, b string) error { return c.pair(cmdSwap, "swap", a, b) }

func (c *conn) rename(from, to string) error { return c.pair(cmdRename, "rename", from, to) }

func (c *conn) pair(cmd uint16, verb, from, to string) error {
	a := message(from)
	a.Text(attrSetName2, to)
	if err := whileBusy(func() error { return c.do(cmd, a) }); err != nil {
		return fmt.Errorf("%s set %s and %s: %w", verb, from, to, err)
	}
	return nil
}

// whileBusy tries again for a while: another program that lists a set keeps it from being swapped and destroyed.
func whileBusy(try func() error) error {
	for end := time.Now().Add(200 * time.Millisecond); ; time.Sleep(5 * time.Millisecond) {
		err := try()
		if err == nil || !errors.Is(err, errBusy) && !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// An element is a member of a set: an address or a prefix, or a range of ports.
type element struct {
	prefix  netip.Prefix
	first   uint16 // of ports
	last    uint16
	timeout uint32 // seconds; 0: none

	packets, bytes uint64
	comment        string
}

func (s set) encode(a *nfnl.Attrs, e element, add bool) {
	at := a.Begin(attrData)
	if s.typ == bitmapPort {
		a.Bytes(attrPort|inOrder, binary.BigEndian.AppendUint16(nil, e.first))
		a.Bytes(attrPortTo|inOrder, binary.BigEndian.AppendUint16(nil, e.last))
	} else {
		ip := a.Begin(attrIP)
		if s.v6 {
			addr := e.prefix.Addr().As16()
			a.Bytes(2|inOrder, addr[:])
		} else {
			addr := e.prefix.Addr().As4()
			a.Bytes(1|inOrder, addr[:])
		}
		a.End(ip)
		if s.typ == hashNet || s.typ == hashNetPort {
			a.Bytes(attrCIDR, []byte{byte(e.prefix.Bits())})
		}
		if s.typ == hashNetPort {
			a.Bytes(attrPort|inOrder, binary.BigEndian.AppendUint16(nil, e.first))
			a.Bytes(attrProto, []byte{unix.IPPROTO_TCP})
		}
	}
	if add && s.timeout {
		a.Uint32(attrTimeout|inOrder, e.timeout)
	}
	if add && s.counters {
		// The kernel may give an element the place of one that has ended, with what that had counted.
		a.Uint64(attrBytes|inOrder, e.bytes)
		a.Uint64(attrPackets|inOrder, e.packets)
	}
	if add && s.comments {
		a.Text(attrComment, e.comment)
	}
	a.End(at)
}

// add adds elements, or gives those that are there a new timeout. After an error some may have been added.
func (c *conn) add(s set, es []element) error { return c.change(cmdAdd, s, es) }

// remove removes elements, of which some may not be there.
func (c *conn) remove(s set, es []element) error { return c.change(cmdDel, s, es) }

func (c *conn) change(cmd uint16, s set, es []element) error {
	for len(es) > 0 {
		n := min(len(es), maxElements)
		a := message(s.name)
		a.Uint32(attrLine|inOrder, 0)
		at := a.Begin(attrADT)
		for _, e := range es[:n] {
			s.encode(&a, e, cmd == cmdAdd)
		}
		a.End(at)
		if err := c.do(cmd, a); err != nil {
			return fmt.Errorf("write set %s: %w", s.name, err)
		}
		es = es[n:]
	}
	return nil
}

// has reports whether a set has an element.
func (c *conn) has(s set, e element) (bool, error) {
	a := message(s.name)
	s.encode(&a, e, false)
	err := c.do(cmdTest, a)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errExist), errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return false, fmt.Errorf("read set %s: %w", s.name, err)
}

// A header is what the kernel reports of a set beside its elements.
type header struct {
	set
	elements   int // -1 if the kernel does not report it
	references int // of rules
}

// headers returns all sets of the namespace, by name.
func (c *conn) headers() (map[string]header, error) {
	found := map[string]header{}
	a := message("")
	a.Uint32(attrFlags|inOrder, flagListHeader)
	err := c.Dump(query(cmdList, unix.AF_INET, a), func() { clear(found) }, func(_ byte, b []byte) {
		h := parseHeader(b)
		found[h.name] = h
	})
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", explain(err))
	}
	return found, nil
}

func parseHeader(b []byte) header {
	h := header{elements: -1}
	for typ, v := range nfnl.Each(b) {
		switch typ {
		case attrSetName:
			h.name = nfnl.Text(v)
		case attrTypeName:
			h.typ = nfnl.Text(v)
		case attrFamily:
			h.v6 = len(v) == 1 && v[0] == unix.AF_INET6
		case attrData:
			for typ, v := range nfnl.Each(v) {
				switch typ {
				case attrTimeout:
					h.timeout, h.lasting = true, nfnl.Uint32(v)
				case attrNetmask:
					if len(v) == 1 {
						h.netmask = v[0]
					}
				case attrCADT:
					h.counters = nfnl.Uint32(v)&flagWithCounters != 0
					h.comments = nfnl.Uint32(v)&flagWithComment != 0
				case attrElements:
					h.elements = int(nfnl.Uint32(v))
				case attrReferences:
					h.references = int(nfnl.Uint32(v))
				}
			}
		}
	}
	return h
}

// each calls fn for every element of a set, which need not exist.
func (c *conn) each(s set, fn func(element)) error {
	_, err := c.DumpOnce(query(cmdList, unix.AF_INET, message(s.name)), func(_ byte, b []byte) {
		for typ, v := range nfnl.Each(nfnl.Find(b, attrADT)) {
			if typ == attrData {
				if e, ok := s.parse(v); ok {
					fn(e)
				}
			}
		}
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("read set %s: %w", s.name, explain(err))
	}
	return nil
}

func (s set) parse(b []byte) (e element, ok bool) {
	addr, bits := netip.Addr{}, -1
	for typ, v := range nfnl.Each(b) {
		switch typ {
		case attrIP:
			for typ, v := range nfnl.Each(v) {
				if typ == 1 && len(v) == 4 || typ == 2 && len(v) == 16 {
					addr, _ = netip.AddrFromSlice(v)
				}
			}
		case attrCIDR:
			if len(v) == 1 {
				bits = int(v[0])
			}
		case attrPort:
			if len(v) == 2 {
				e.first = binary.BigEndian.Uint16(v)
				e.last = e.first
			}
		case attrTimeout:
			e.timeout = nfnl.Uint32(v)
		case attrBytes:
			e.bytes = nfnl.Uint64(v)
		case attrPackets:
			e.packets = nfnl.Uint64(v)
		case attrComment:
			e.comment = nfnl.Text(v)
		}
	}
	if s.typ == bitmapPort {
		return e, true
	}
	if bits < 0 {
		bits = addr.BitLen()
	}
	e.prefix = netip.PrefixFrom(addr, bits)
	return e, e.prefix.IsValid() && addr.Is6() == s.v6
}
