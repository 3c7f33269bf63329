package nfnl

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Attrs is a list of netlink attributes in the making: length, type, value, each padded to four bytes. Numbers are in network
// byte order, as nfnetlink wants them.
type Attrs []byte

// Bytes appends an attribute.
func (a *Attrs) Bytes(typ uint16, value []byte) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(unix.SizeofRtAttr+len(value)))
	*a = binary.NativeEndian.AppendUint16(*a, typ)
	*a = append(*a, value...)
	a.pad()
}

func (a *Attrs) pad() {
	for len(*a)%unix.NLA_ALIGNTO != 0 {
		*a = append(*a, 0)
	}
}

// Text appends a string with the zero byte behind it.
func (a *Attrs) Text(typ uint16, s string) { a.Bytes(typ, append([]byte(s), 0)) }

// Uint32 appends a number.
func (a *Attrs) Uint32(typ uint16, v uint32) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	a.Bytes(typ, b[:])
}

// Uint64 appends a number.
func (a *Attrs) Uint64(typ uint16, v uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	a.Bytes(typ, b[:])
}

// Begin opens a nested attribute and returns its place for End.
func (a *Attrs) Begin(typ uint16) (at int) {
	at = len(*a)
	a.Bytes(typ|unix.NLA_F_NESTED, nil)
	return at
}

// End closes a nested attribute. Its length has 16 bits: more would be lost silently, so the caller bounds the list.
func (a *Attrs) End(at int) {
	n := len(*a) - at
	if n > 1<<16-1 {
		panic("nfnl: attribute longer than 64 KiB")
	}
	binary.NativeEndian.PutUint16((*a)[at:], uint16(n))
}

// Each yields the attributes of b, without the flags in their types, and stops at the first that is cut off.
func Each(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			typ := binary.NativeEndian.Uint16(b[2:])
			if n < unix.SizeofRtAttr || n > len(b) || !yield(typ&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
		}
	}
}

// Find returns the value of the first attribute of b with a type, nil if there is none.
func Find(b []byte, typ uint16) []byte {
	for t, v := range Each(b) {
		if t == typ {
			return v
		}
	}
	return nil
}

// Uint32 reads a number, 0 from less than four bytes.
func Uint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Uint64 reads a number, 0 from less than eight bytes.
func Uint64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Text reads a string, which a zero byte ends.
func Text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
