package wire

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
)

// MaxFeed is how many bytes a compressed feed has at most.
const MaxFeed = 16 << 20

// MaxNever is how many networks a server never lists at most.
const MaxNever = 10_000

const (
	maxPlainFeed = 64 << 20
	maxEntries   = 5_000_000
	feedTag      = "mef feed 1\n"
)

// A Feed is a list of a server, or how it has changed. The server signs it, so that it can come through anyone.
//
// Its binary form, compressed by gzip, is the tag, the name of the list and its length, the numbers Seq, Since and At in seconds since 1970, the four
// sets of addresses (added IPv4 addresses and /64 networks of IPv6, and those removed), the networks that are never listed, and the signature of all
// that. Numbers are varints; a set is its size and the differences of its sorted elements; a network is its bytes, after their number and its length in bits.
type Feed struct {
	List   string
	Seq    uint64 // of this version, never smaller than that of an older one
	Since  uint64 // of the version to which the changes apply; 0: Add is the whole list
	At     time.Time
	Add    []netip.Prefix // /32 and /64
	Remove []netip.Prefix
	Never  []netip.Prefix // networks that the operator of the server never lists, all of them
}

// Encode returns the signed form.
func (f Feed) Encode(key ed25519.PrivateKey) []byte {
	out := []byte(feedTag)
	out = binary.AppendUvarint(out, uint64(len(f.List)))
	out = append(out, f.List...)
	for _, n := range []uint64{f.Seq, f.Since, uint64(f.At.Unix())} {
		out = binary.AppendUvarint(out, n)
	}
	for _, set := range [][]netip.Prefix{f.Add, f.Remove} {
		for _, v6 := range []bool{false, true} {
			out = appendSet(out, set, v6)
		}
	}
	out = binary.AppendUvarint(out, uint64(len(f.Never)))
	for _, p := range f.Never {
		raw := p.Addr().AsSlice()
		out = append(append(out, byte(len(raw)), byte(p.Bits())), raw...)
	}
	out = append(out, ed25519.Sign(key, out)...)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(out) // a buffer takes everything
	_ = z.Close()
	return packed.Bytes()
}

func number(p netip.Prefix) uint64 {
	if a := p.Addr(); a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := p.Addr().As16()
	return binary.BigEndian.Uint64(b[:8])
}

func appendSet(out []byte, set []netip.Prefix, v6 bool) []byte {
	var all []uint64
	for _, p := range set {
		if p.Addr().Is6() == v6 {
			all = append(all, number(p))
		}
	}
	slices.SortFunc(all, cmp.Compare)
	all = slices.Compact(all)
	out = binary.AppendUvarint(out, uint64(len(all)))
	var last uint64
	for _, n := range all {
		out = binary.AppendUvarint(out, n-last)
		last = n
	}
	return out
}

// DecodeFeed reads a feed and verifies its signature. Unless add is nil, it is called for each address that is added, and Add stays empty, which would take
// much more memory than the list that is made of them; after an error they do not count.
func DecodeFeed(packed []byte, key ed25519.PublicKey, add func(netip.Prefix)) (f Feed, err error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return f, errors.New("the list is not compressed by gzip")
	}
	all, err := io.ReadAll(io.LimitReader(z, maxPlainFeed+1))
	if err != nil || len(all) > maxPlainFeed {
		return f, errors.New("the list is damaged or too long")
	}
	r, err := open(all, key, feedTag, "list")
	if err != nil {
		return f, err
	}
	f.List = string(r.bytes(r.number(64)))
	f.Seq, f.Since = r.number(1<<63), r.number(1<<63)
	f.At = time.Unix(int64(r.number(1<<40)), 0)
	if add == nil {
		add = func(p netip.Prefix) { f.Add = append(f.Add, p) }
	}
	remove := func(p netip.Prefix) { f.Remove = append(f.Remove, p) }
	for _, each := range []func(netip.Prefix){add, remove} {
		r.set(false, each)
		r.set(true, each)
	}
	for range r.number(MaxNever) {
		f.Never = append(f.Never, r.network())
	}
	if r.err != nil || len(r.rest) > 0 {
		return Feed{}, fmt.Errorf("the list is malformed: %w", cmp.Or(r.err, errors.New("bytes follow it")))
	}
	return f, nil
}

// open verifies the signature behind what a server sends, and the tag that it begins with, and returns the reader of the rest. what is what it is.
func open(data []byte, key ed25519.PublicKey, tag, what string) (r reader, err error) {
	n := len(data) - ed25519.SignatureSize
	if len(key) != ed25519.PublicKeySize || n < 0 || !ed25519.Verify(key, data[:n], data[n:]) {
		return r, fmt.Errorf("the signature of the %s is wrong", what)
	}
	rest, ok := bytes.CutPrefix(data[:n], []byte(tag))
	if !ok {
		return r, fmt.Errorf("the %s has a form that this version of mef does not understand", what)
	}
	return reader{rest: rest}, nil
}

// A reader takes values from bytes, until an error.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) number(most uint64) uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > most {
		r.err = errors.New("a number is missing or too large")
		r.rest = nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if uint64(len(r.rest)) < n {
		r.err = errors.New("it ends early")
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) network() netip.Prefix {
	var p netip.Prefix
	if head := r.bytes(2); head != nil && (head[0] == 4 || head[0] == 16) {
		addr, _ := netip.AddrFromSlice(r.bytes(uint64(head[0])))
		p = netip.PrefixFrom(addr, int(head[1]))
	}
	if !p.IsValid() || p != p.Masked() {
		r.err = cmp.Or(r.err, errors.New("a network is malformed"))
	}
	return p
}

// set calls each for the elements of a set.
func (r *reader) set(v6 bool, each func(netip.Prefix)) {
	most := uint64(1<<32 - 1)
	if v6 {
		most = 1<<64 - 1
	}
	count := r.number(maxEntries)
	if count > uint64(len(r.rest)) { // each takes a byte at least
		r.err = errors.New("it ends early")
		return
	}
	var last uint64
	for i := range count {
		d := r.number(most)
		if r.err != nil || d > most-last || i > 0 && d == 0 {
			r.err = errors.New("its addresses are not in order")
			return
		}
		last += d
		if v6 {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:8], last)
			each(netip.PrefixFrom(netip.AddrFrom16(b), 64))
		} else {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], uint32(last))
			each(netip.PrefixFrom(netip.AddrFrom4(b), 32))
		}
	}
}
