package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"time"

	"mef/internal/ban"
)

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sealSize = 4

// seal returns the value with its checksum, over key and value, behind it.
func seal(k, v []byte) []byte {
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v)
	out := make([]byte, len(v), len(v)+sealSize)
	copy(out, v)
	return binary.BigEndian.AppendUint32(out, sum)
}

// unseal returns the value without its checksum, and whether that holds.
func unseal(k, sealed []byte) ([]byte, bool) {
	n := len(sealed) - sealSize
	if n < 0 {
		return nil, false
	}
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, sealed[:n])
	return sealed[:n], binary.BigEndian.Uint32(sealed[n:]) == sum
}

// errRecord is what an unreadable record is.
var errRecord = errors.New("unreadable record")

// The key of a ban: address as 4 or 16 bytes behind their number, length of the prefix, class, ports. Neighbours in the
// network are neighbours in the file.
func banKey(k ban.Key) []byte {
	addr := k.Prefix.Addr().AsSlice()
	out := make([]byte, 0, 1+len(addr)+2+len(k.Ports))
	out = append(out, byte(len(addr)))
	out = append(out, addr...)
	out = append(out, byte(k.Prefix.Bits()), byte(k.Class))
	return append(out, k.Ports...)
}

func decodeBanKey(key []byte) (k ban.Key, err error) {
	if len(key) == 0 || key[0] != 4 && key[0] != 16 || len(key) < 1+int(key[0])+2 {
		return k, errRecord
	}
	n := 1 + int(key[0])
	addr, _ := netip.AddrFromSlice(key[1:n])
	k.Prefix = netip.PrefixFrom(addr, int(key[n]))
	if !k.Prefix.IsValid() || k.Prefix != k.Prefix.Masked() || addr.Is4In6() || key[n+1] > byte(ban.Unverified) {
		return k, errRecord
	}
	k.Class = ban.Class(key[n+1])
	ports := string(key[n+2:])
	if k.Ports, err = ban.ParsePorts(ports); err != nil || string(k.Ports) != ports {
		return k, errRecord
	}
	return k, nil
}

// A ban's value begins with the version of its form. It is followed by the end, at a fixed place, and then, packed, by start,
// count, strings behind their length, and lines of evidence behind their number.
const (
	banPlain  = 1 // packed without the primer; not written any more
	banPrimed = 2
)

// An end of a ban takes seconds and nanoseconds of Unix time, 8 and 4 bytes.
const untilSize = 8 + 4

// maxString bounds each string of a ban in bytes; what is longer is cut.
const maxString = 4096

// An encoder turns bans into values, each valid until its next call.
type encoder struct {
	text, value []byte
	primed      *places // nil before the first call
}

func (e *encoder) ban(b *ban.Ban) []byte {
	if e.primed == nil {
		e.primed = primed()
	}
	w := append(e.text[:0], primer...)
	w = binary.AppendVarint(w, b.Start.Unix())
	w = binary.AppendUvarint(w, uint64(b.Start.Nanosecond()))
	w = binary.AppendUvarint(w, uint64(max(b.Count, 0)))
	for _, s := range []string{b.Rule, b.Service, b.ID, b.Reason, b.Author, b.Note} {
		w = appendString(w, s)
	}
	lines := b.Evidence[max(0, len(b.Evidence)-ban.MaxEvidence):]
	w = binary.AppendUvarint(w, uint64(len(lines)))
	for _, line := range lines {
		w = appendString(w, line)
	}
	e.text = w

	v := append(e.value[:0], banPrimed)
	v = binary.BigEndian.AppendUint64(v, uint64(b.Until.Unix()))
	v = binary.BigEndian.AppendUint32(v, uint32(b.Until.Nanosecond()))
	e.value = pack(v, e.text, e.primed)
	return e.value
}

func appendString(w []byte, s string) []byte {
	s = s[:min(len(s), maxString)]
	return append(binary.AppendUvarint(w, uint64(len(s))), s...)
}

// decodeUntil reads the end of a ban alone.
func decodeUntil(v []byte) (time.Time, error) {
	if len(v) < 1+untilSize || v[0] != banPlain && v[0] != banPrimed {
		return time.Time{}, errRecord
	}
	return unix(int64(binary.BigEndian.Uint64(v[1:])), uint64(binary.BigEndian.Uint32(v[9:]))), nil
}

// unix is time.Unix in UTC for times that have no end, whose zero value must stay what it is.
func unix(sec int64, nsec uint64) time.Time {
	t := time.Unix(sec, int64(nsec))
	if t.IsZero() {
		return time.Time{}
	}
	return t
}

// A decoder turns values into bans, which stay valid.
type decoder struct {
	text  []byte            // begins with the primer, unless it is empty
	names map[string]string // of rules and services, which are few
}

// ban reads all of a ban.
func (d *decoder) ban(k, v []byte) (b ban.Ban, err error) {
	if err := begin(&b, k, v); err != nil {
		return b, err
	}
	text, err := d.unpack(v, packLimit)
	if err != nil {
		return b, err
	}
	r := reader[string]{rest: string(text)} // one string for all: its parts share its memory
	r.numbers(&b)
	for _, s := range []*string{&b.Rule, &b.Service, &b.ID, &b.Reason, &b.Author, &b.Note} {
		*s = r.text()
	}
	n := r.uvarint()
	if n > ban.MaxEvidence {
		return b, errRecord
	}
	if n > 0 {
		b.Evidence = make([]string, n)
	}
	for i := range b.Evidence {
		b.Evidence[i] = r.text()
	}
	if r.bad || len(r.rest) > 0 || b.Count < 0 {
		return b, errRecord
	}
	return b, nil
}

// briefSize is how much of most bans is read when a brief word is enough, in bytes.
const briefSize = 192

// brief reads what a ban is and not why: without Reason, Author, Note and Evidence, which are most of it.
func (d *decoder) brief(k, v []byte) (b ban.Ban, err error) {
	if err := begin(&b, k, v); err != nil {
		return b, err
	}
	for _, size := range []int{briefSize, packLimit} { // the end of what is wanted may be further off
		text, err := d.unpack(v, size)
		if err != nil {
			return b, err
		}
		r := reader[[]byte]{rest: text}
		r.numbers(&b)
		b.Rule, b.Service, b.ID = d.name(r.text()), d.name(r.text()), string(r.text())
		if !r.bad && b.Count >= 0 {
			return b, nil
		}
	}
	return b, errRecord
}

// name returns a string that was read before, if there is such a one.
func (d *decoder) name(b []byte) string {
	s, ok := d.names[string(b)]
	if !ok {
		if d.names == nil {
			d.names = make(map[string]string)
		}
		s = string(b)
		d.names[s] = s
	}
	return s
}

// begin reads what stands in front of the packed text.
func begin(b *ban.Ban, k, v []byte) (err error) {
	if b.Key, err = decodeBanKey(k); err != nil {
		return err
	}
	b.Until, err = decodeUntil(v)
	return err
}

// unpack returns the text in the value of a ban that was begun, and of a longer one its beginning. It is valid until the next call.
func (d *decoder) unpack(v []byte, size int) ([]byte, error) {
	known := 0
	if v[0] == banPrimed {
		known = len(primer)
	}
	if len(d.text) < known {
		d.text = []byte(primer)
	}
	text, err := unpack(d.text[:known], v[1+untilSize:], size)
	if err != nil {
		return nil, err
	}
	if known > 0 {
		d.text = text
	}
	return text[known:], nil
}

// A reader takes a text apart. After an error everything is zero.
type reader[T string | []byte] struct {
	rest T
	bad  bool
}

// numbers reads what stands in front of the strings of a ban.
func (r *reader[T]) numbers(b *ban.Ban) {
	b.Start = unix(r.varint(), r.uvarint())
	b.Count = int(r.uvarint())
}

func (r *reader[T]) uvarint() uint64 {
	var v uint64
	for i := 0; i < len(r.rest) && i < binary.MaxVarintLen64; i++ {
		c := r.rest[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.rest = r.rest[i+1:]
			return v
		}
	}
	r.fail()
	return 0
}

func (r *reader[T]) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// text reads a string behind its length.
func (r *reader[T]) text() (s T) {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail()
		return s
	}
	s = r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

func (r *reader[T]) fail() { r.bad, r.rest = true, r.rest[:0] }
