package geodb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// A file is an open mmdb file:
//
//	search tree | 16 zero bytes | data section | marker | metadata
//
// The tree has meta.nodes nodes of two numbers each, one for a next bit of 0 and one for 1. A number below meta.nodes is that of a node, this
// number itself is "nothing is known", and a greater one points into the data section. IPv4 addresses are below ::/96 of a tree of IPv6.
type file struct {
	path  string
	fd    io.Closer
	in    *pages
	meta  meta
	data  int64 // where the data section begins
	end   int64 // where it ends
	knows int

	v4     uint32 // the number at ::/96: where IPv4 begins, or what all of IPv4 is
	v4bits int    // how many bits lead there
}

func (f *file) close() { f.fd.Close() }

// corrupt is what a file has that no publisher writes.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("the file is damaged: "+format, args...)
}

// errCut is a file that ends too early.
var errCut = errors.New("the file is damaged: it ends too early, or is no mmdb file")

// A meta is the metadata of a file.
type meta struct {
	at    int64 // where it begins: the marker
	nodes uint32
	size  int // bits of a number in the tree: 24, 28 or 32
	ip    int // 4 or 6
	kind  string
	built int64
}

func (m meta) treeSize() int64 { return int64(m.nodes) * int64(m.size) / 4 }

const (
	marker    = "\xab\xcd\xefMaxMind.com"
	maxMeta   = 128 << 10
	pageSize  = 16 << 10
	pageCount = 64
)

// readMeta finds and reads the metadata.
func readMeta(in *pages, size int64) (m meta, err error) {
	tail := make([]byte, min(size, maxMeta))
	if err := in.read(size-int64(len(tail)), tail); err != nil {
		return m, err
	}
	i := bytes.LastIndex(tail, []byte(marker))
	if i < 0 {
		return m, errCut
	}
	m.at = size - int64(len(tail)) + int64(i)
	begin := m.at + int64(len(marker))
	d := decoder{in: in, base: begin, end: size, left: maxItems}
	version := uint64(0)
	err = d.eachKey(0, func(key string, at int64) error {
		switch key {
		case "node_count", "record_size", "ip_version", "build_epoch", "binary_format_major_version":
			n, err := d.number(at)
			switch key {
			case "node_count":
				m.nodes = uint32(min(n, 1<<31))
			case "record_size":
				m.size = int(min(n, 255))
			case "ip_version":
				m.ip = int(min(n, 255))
			case "build_epoch":
				m.built = int64(min(n, 1<<40))
			default:
				version = n
			}
			return err
		case "database_type":
			m.kind, err = d.text(at)
			m.kind = printable(m.kind)
			return err
		}
		return nil
	})
	switch {
	case err != nil:
		return m, err
	case version != 2:
		return m, fmt.Errorf("version %d of the mmdb format is not known", version)
	case m.size != 24 && m.size != 28 && m.size != 32:
		return m, corrupt("record_size is %d", m.size)
	case m.ip != 4 && m.ip != 6:
		return m, corrupt("ip_version is %d", m.ip)
	case m.nodes == 0 || m.treeSize()+16 > m.at:
		return m, corrupt("%d nodes do not fit into it", m.nodes)
	}
	return m, nil
}

// node returns the two numbers of a node.
func (f *file) node(n uint32) (zero, one uint32, err error) {
	var b [8]byte
	width := f.meta.size / 4
	if err := f.in.read(int64(n)*int64(width), b[:width]); err != nil {
		return 0, 0, err
	}
	switch f.meta.size {
	case 24:
		return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]), uint32(b[3])<<16 | uint32(b[4])<<8 | uint32(b[5]), nil
	case 28:
		return uint32(b[3]>>4)<<24 | uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]), uint32(b[3]&15)<<24 | uint32(b[4])<<16 | uint32(b[5])<<8 | uint32(b[6]), nil
	}
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]), uint32(b[4])<<24 | uint32(b[5])<<16 | uint32(b[6])<<8 | uint32(b[7]), nil
}

// rootOf4 returns where IPv4 begins.
func (f *file) rootOf4() (n uint32, bits int, err error) {
	if f.meta.ip == 4 {
		return 0, 0, nil
	}
	for bits < 96 && n < f.meta.nodes {
		if n, _, err = f.node(n); err != nil {
			return 0, 0, err
		}
		bits++
	}
	return n, bits, nil
}

// lookup returns what the file has about an address.
func (f *file) lookup(addr netip.Addr) (Place, error) {
	n, bits := f.v4, 0
	b := addr.AsSlice()
	if addr.Is6() {
		if f.meta.ip == 4 {
			return Place{}, nil
		}
		n = 0
	}
	for ; bits < len(b)*8 && n < f.meta.nodes; bits++ {
		zero, one, err := f.node(n)
		if err != nil {
			return Place{}, err
		}
		if n = zero; b[bits/8]>>(7-bits%8)&1 == 1 {
			n = one
		}
	}
	switch {
	case n < f.meta.nodes:
		return Place{}, corrupt("its tree is deeper than an address")
	case n == f.meta.nodes:
		return Place{}, nil
	}
	return f.place(n)
}

// place returns the record that a number above that of nodes points to.
func (f *file) place(n uint32) (Place, error) {
	left := maxItems
	return f.placeWithin(n, &left)
}

// placeWithin is place for a caller who bounds how many values are read.
func (f *file) placeWithin(n uint32, left *int) (Place, error) {
	d := decoder{in: f.in, base: f.data, end: f.end, left: min(*left, maxItems)}
	before := d.left
	p, err := d.place(int64(n) - int64(f.meta.nodes) - 16)
	*left -= before - d.left
	return p, err
}

// A walk reads at most maxWalk values, five times those of the largest databases of cities, and of a small file no more than a few for each byte:
// where all networks have records that contain others, it would go on for minutes otherwise.
const (
	maxWalk  = 500_000_000
	walkBase = 200_000
	walkEach = 32
)

// maxCached is how many records walk keeps decoded. Many networks share one.
const maxCached = 1 << 14

// walk calls do for every network of the file that has a record, in ascending order, until it returns an error. What stands for IPv4 in
// IPv6 (::ffff:0:0/96, 2002::/16, 2001::/32) has the tree of IPv4 once more and is left out; IPv4 is yielded as such.
func (f *file) walk(do func(netip.Prefix, Place) error) error {
	w := walker{file: f, do: do, known: make(map[uint32]Place), left: 2*int64(f.meta.nodes) + 1024, items: int(min(maxWalk, walkBase+walkEach*f.end))}
	if f.meta.ip == 4 {
		return w.node(0, [16]byte{10: 0xff, 11: 0xff}, 96)
	}
	return w.node(0, [16]byte{}, 0)
}

// A walker is a walk over the networks of a file.
type walker struct {
	*file
	do    func(netip.Prefix, Place) error
	known map[uint32]Place
	left  int64 // nodes that may still be visited: a tree has each once
	items int   // values of records that may still be read
}

// node walks below the number n, to which the first bits of at lead. Depth is at most 128.
func (w *walker) node(n uint32, at [16]byte, bits int) error {
	four := bits >= 96 && (w.meta.ip == 4 || [12]byte(at[:12]) == [12]byte{})
	switch {
	case n == w.meta.nodes:
		return nil
	case n > w.meta.nodes:
		return w.record(n, at, bits, four)
	case n == w.v4 && w.v4bits == 96 && !(bits == 96 && at == [16]byte{}):
		return nil // an alias of IPv4
	case bits == 128:
		return corrupt("its tree is deeper than an address")
	}
	if w.left--; w.left < 0 {
		return corrupt("its tree has loops")
	}
	zero, one, err := w.file.node(n)
	if err != nil {
		return err
	}
	if err := w.node(zero, at, bits+1); err != nil {
		return err
	}
	at[bits/8] |= 0x80 >> (bits % 8)
	return w.node(one, at, bits+1)
}

// record yields a network.
func (w *walker) record(n uint32, at [16]byte, bits int, four bool) error {
	p, ok := w.known[n]
	if !ok {
		var err error
		if p, err = w.placeWithin(n, &w.items); err != nil {
			return err
		}
		if len(w.known) == maxCached {
			clear(w.known)
		}
		w.known[n] = p
	}
	if p == (Place{}) {
		return nil
	}
	switch {
	case four:
		return w.do(netip.PrefixFrom(netip.AddrFrom4([4]byte(at[12:])), bits-96), p)
	case at == [16]byte{} && bits < 96: // a record wider than all of IPv4 has that, too
		if err := w.do(netip.PrefixFrom(netip.IPv4Unspecified(), 0), p); err != nil {
			return err
		}
	}
	return w.do(netip.PrefixFrom(netip.AddrFrom16(at), bits), p)
}

// pages reads a file through a few pages of it, each in the place that its number gives.
type pages struct {
	r    io.ReaderAt
	page [pageCount]struct {
		off  int64 // plus 1; 0: nothing is there
		data []byte
	}
}

// read fills b with what is at off.
func (p *pages) read(off int64, b []byte) error {
	if off < 0 {
		return errCut
	}
	for len(b) > 0 {
		begin := off - off%pageSize
		slot := &p.page[begin/pageSize%pageCount]
		if slot.off != begin+1 {
			if slot.data == nil {
				slot.data = make([]byte, pageSize)
			}
			slot.off = 0
			n, err := p.r.ReadAt(slot.data[:pageSize], begin)
			if err != nil && err != io.EOF {
				return err
			}
			slot.off, slot.data = begin+1, slot.data[:n]
		}
		if off-begin >= int64(len(slot.data)) {
			return errCut
		}
		n := copy(b, slot.data[off-begin:])
		b, off = b[n:], off+int64(n)
	}
	return nil
}
