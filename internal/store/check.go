package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// The form of a bbolt file, version 2. Numbers are in the machine's own byte order.
//
//	page     id 8, flags 2, count 2, overflow 4; then count elements of 16 bytes, then what they point to
//	branch   element: position 4, key length 4, child's page 8
//	leaf     element: flags 4, position 4, key length 4, value length 4; positions count from the element
//	bucket   a leaf's value: root page 8, sequence 8; with root 0 a whole leaf page follows
//	meta     magic 4, version 4, page size 4, flags 4, root bucket 16, free list's page 8, pages 8, transaction 8, checksum 8
const (
	headerSize  = 16
	elementSize = 16
	bucketSize  = 16
	metaSize    = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreeList = 0x10

	boltMagic   = 0xED0CDAED
	boltVersion = 2

	noFreeList = ^uint64(0)
	maxDepth   = 32 // of pages below each other; 64 MB need four
)

// A checker walks through all pages that the newest transaction reaches.
type checker struct {
	file  io.ReaderAt
	pages uint64   // how many there are
	seen  []bool   // by page
	bufs  [][]byte // by depth
}

// check reports whether bbolt can read the file without going astray: every page is what it should be, lies in the file,
// is used once, and has its keys in order. Values are not looked at. It reads the file, once, and not through memory.
func check(file io.ReaderAt, size int64) error {
	c := &checker{file: file, pages: uint64(size) / pageSize}
	root, err := c.meta()
	if err != nil {
		return err
	}
	c.seen = make([]bool, c.pages)
	return c.page(root, nil, nil, 0, 0)
}

// meta reads the two meta pages, of which at least one is whole at any time, and returns the root page of the newer.
func (c *checker) meta() (root uint64, err error) {
	var newest, pages, free uint64
	found := false
	for i := range int64(2) {
		var buf [headerSize + metaSize]byte
		if _, err := c.file.ReadAt(buf[:], i*pageSize); err != nil {
			return 0, fmt.Errorf("page %d: %w", i, err)
		}
		m := buf[headerSize:]
		if !validMeta(m) || binary.NativeEndian.Uint16(buf[8:])&flagMeta == 0 {
			continue
		}
		if tx := binary.NativeEndian.Uint64(m[48:]); !found || tx > newest {
			found, newest = true, tx
			root = binary.NativeEndian.Uint64(m[16:])
			free = binary.NativeEndian.Uint64(m[32:])
			pages = binary.NativeEndian.Uint64(m[40:])
		}
	}
	if !found {
		return 0, fmt.Errorf("no valid meta page")
	}
	// The last pages may be free and never written.
	c.pages = min(c.pages, pages)
	if free != noFreeList {
		return root, c.emptyList(free)
	}
	return root, nil
}

func validMeta(m []byte) bool {
	sum := fnv.New64a()
	sum.Write(m[:metaSize-8])
	return binary.NativeEndian.Uint32(m) == boltMagic &&
		binary.NativeEndian.Uint32(m[4:]) == boltVersion &&
		binary.NativeEndian.Uint32(m[8:]) == pageSize &&
		binary.NativeEndian.Uint64(m[metaSize-8:]) == sum.Sum64()
}

// emptyList checks the list of free pages that only a file without any transaction has.
func (c *checker) emptyList(id uint64) error {
	var buf [headerSize]byte
	if id < 2 || id >= c.pages {
		return fmt.Errorf("free list: no page %d", id)
	}
	if _, err := c.file.ReadAt(buf[:], int64(id)*pageSize); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	p := page(buf[:])
	if p.id() != id || p.flags() != flagFreeList || p.count() != 0 || p.overflow() != 0 {
		return fmt.Errorf("page %d: not an empty free list", id)
	}
	return nil
}

// page checks a page and all below it. Its first key is low, by which bbolt finds it again in its branch, and all are less
// than high; nil is no bound.
func (c *checker) page(id uint64, low, high []byte, depth, buckets int) error {
	if depth >= maxDepth {
		return fmt.Errorf("page %d: too deep", id)
	}
	p, err := c.read(id, depth)
	if err != nil {
		return err
	}
	if err := p.check(low, high); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	for i := range p.count() {
		key, value := p.element(i)
		switch {
		case p.flags() == flagBranch:
			next := high
			if i+1 < p.count() {
				next, _ = p.element(i + 1)
			}
			err = c.page(binary.NativeEndian.Uint64(value), key, next, depth+1, buckets)
		case p.isBucket(i):
			err = c.bucket(value, depth+1, buckets+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads a page into the buffer of its depth, which it keeps until the next page of that depth.
func (c *checker) read(id uint64, depth int) (page, error) {
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("page %d: not in the file", id)
	}
	if depth == len(c.bufs) {
		c.bufs = append(c.bufs, make([]byte, pageSize))
	}
	p := page(c.bufs[depth][:pageSize])
	if _, err := c.file.ReadAt(p, int64(id)*pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if p.id() != id || p.flags() != flagBranch && p.flags() != flagLeaf {
		return nil, fmt.Errorf("page %d: not a page of data", id)
	}
	last := id + uint64(p.overflow())
	if last >= c.pages {
		return nil, fmt.Errorf("page %d: not all in the file", id)
	}
	for i := id; i <= last; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d: used twice", i)
		}
		c.seen[i] = true
	}
	if last == id {
		return p, nil
	}
	c.bufs[depth] = make([]byte, (last-id+1)*pageSize)
	if _, err := c.file.ReadAt(c.bufs[depth], int64(id)*pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return c.bufs[depth], nil
}

// bucket checks what a bucket consists of.
func (c *checker) bucket(value []byte, depth, buckets int) error {
	if len(value) < bucketSize || buckets > 1 {
		return fmt.Errorf("not a bucket of ours")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.page(root, nil, nil, depth, buckets)
	}
	p := page(value[bucketSize:])
	if len(p) < headerSize || p.flags() != flagLeaf {
		return fmt.Errorf("not a bucket")
	}
	if err := p.check(nil, nil); err != nil {
		return fmt.Errorf("bucket: %w", err)
	}
	for i := range p.count() {
		if p.isBucket(i) {
			return fmt.Errorf("not a bucket of ours")
		}
	}
	return nil
}

// A page is a page's bytes, overflow included, at least a header.
type page []byte

func (p page) id() uint64       { return binary.NativeEndian.Uint64(p) }
func (p page) flags() uint16    { return binary.NativeEndian.Uint16(p[8:]) }
func (p page) count() int       { return int(binary.NativeEndian.Uint16(p[10:])) }
func (p page) overflow() uint32 { return binary.NativeEndian.Uint32(p[12:]) }

// isBucket reports whether element i of a leaf is a bucket.
func (p page) isBucket(i int) bool {
	return p.flags() == flagLeaf && binary.NativeEndian.Uint32(p[headerSize+i*elementSize:]) != 0
}

// element returns the key of element i, and the value of a leaf's or the child's page ID of a branch's; nil if they do not
// lie within the page.
func (p page) element(i int) (key, value []byte) {
	at := headerSize + i*elementSize
	e := p[at : at+elementSize]
	num := func(i int) uint64 { return uint64(binary.NativeEndian.Uint32(e[i:])) }
	pos, klen, vlen := num(0), num(4), uint64(0)
	if p.flags() == flagLeaf {
		pos, klen, vlen = num(4), num(8), num(12)
	}
	start := uint64(at) + pos
	if start < uint64(headerSize+p.count()*elementSize) || start+klen+vlen > uint64(len(p)) {
		return nil, nil
	}
	key, value = p[start:start+klen], p[start+klen:start+klen+vlen]
	if p.flags() == flagBranch {
		value = e[8:]
	}
	return key, value
}

// check checks that all elements lie within the page, their keys in order.
func (p page) check(low, high []byte) error {
	if headerSize+p.count()*elementSize > len(p) {
		return fmt.Errorf("too many elements")
	}
	if p.count() == 0 && (p.flags() == flagBranch || low != nil) {
		return fmt.Errorf("no elements")
	}
	var last []byte
	for i := range p.count() {
		key, _ := p.element(i)
		if len(key) == 0 {
			return fmt.Errorf("element %d: not in the page", i)
		}
		if p.flags() == flagLeaf && binary.NativeEndian.Uint32(p[headerSize+i*elementSize:]) > 1 {
			return fmt.Errorf("element %d: unknown flags", i)
		}
		if i == 0 && low != nil && !bytes.Equal(key, low) || i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("element %d: not in order", i)
		}
		last = key
	}
	if high != nil && p.count() > 0 && bytes.Compare(last, high) >= 0 {
		return fmt.Errorf("keys of another page")
	}
	return nil
}
