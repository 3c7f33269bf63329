package reputation

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
)

// A header begins the saved form of a Book.
type header struct {
	Now, Sweep Hour
	Reporters  []*Reporter
	Trust      []int64 // of the reporters, in this hour
	Records    int
	Weeks      int `json:",omitempty"` // of user names, which follow the records
}

// Save writes what the Book holds, for Load: a Book that was saved and loaded goes on like one that was not. It must be settled. Changes that nobody
// has fetched are not part of it.
//
// After the header, a line of JSON, each record is its address and numbers as varints: a million of them take less than a second. The weeks of user names
// follow.
func (b *Book) Save(w io.Writer) error {
	h := header{Now: b.now, Sweep: b.sweep, Reporters: b.reporters, Records: len(b.records), Weeks: len(b.userNames)}
	for _, r := range b.reporters {
		h.Trust = append(h.Trust, r.trust)
	}
	if err := json.NewEncoder(w).Encode(h); err != nil {
		return err
	}
	buf := make([]byte, 0, 1<<16)
	for key, rec := range b.records {
		buf = rec.append(buf, key)
		if len(buf) < cap(buf)/2 {
			continue
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
		buf = buf[:0]
	}
	for _, of := range b.userNames {
		buf = of.append(buf)
	}
	_, err := w.Write(buf)
	return err
}

// append appends the saved form of a record.
func (rec *record) append(out []byte, key netip.Prefix) []byte {
	raw := key.Addr().AsSlice()
	if len(raw) == 16 {
		raw = raw[:8]
	}
	out = append(append(out, byte(len(raw))), raw...)
	out = appendBits(out, rec.Listed, rec.Ever, rec.own)
	for _, h := range []Hour{rec.ListedAt, rec.Contested, rec.Appealed, rec.NoOwnUntil} {
		out = binary.AppendVarint(out, int64(h))
	}
	out = binary.AppendUvarint(out, uint64(len(rec.Claims)))
	for _, c := range rec.Claims {
		out = binary.AppendUvarint(out, uint64(c.By))
		out = binary.AppendVarint(binary.AppendVarint(out, int64(c.First)), int64(c.Last))
		out = binary.AppendUvarint(out, uint64(c.Categories))
		out = appendBits(out, c.Early, c.Credited, c.Corroborated, c.Judged, c.Shared)
	}
	out = binary.AppendUvarint(out, uint64(len(rec.Votes)))
	for _, v := range rec.Votes {
		out = binary.AppendVarint(binary.AppendUvarint(out, uint64(v.By)), int64(v.At))
	}
	out = binary.AppendUvarint(out, uint64(len(rec.Accused)))
	for _, by := range rec.Accused {
		out = binary.AppendUvarint(out, uint64(by))
	}
	return out
}

func appendBits(out []byte, all ...bool) []byte {
	var bits byte
	for i, b := range all {
		if b {
			bits |= 1 << i
		}
	}
	return append(out, bits)
}

// Load returns the Book that was saved. It never returns part of one.
func Load(r io.Reader, opt Options) (*Book, error) {
	b := New(opt)
	d := json.NewDecoder(r)
	var h header
	if err := d.Decode(&h); err != nil {
		return nil, fmt.Errorf("reputation: %w", err)
	}
	b.now, b.sweep = h.Now, h.Sweep
	for _, rep := range h.Reporters {
		if rep == nil {
			return nil, errors.New("reputation: a reporter is missing")
		}
		b.byID[rep.ID] = len(b.reporters)
		b.add(rep)
	}
	for i, t := range h.Trust { // what a reporter has earned or lost in this hour counts from the next one on
		if i < len(b.reporters) {
			b.reporters[i].trust = t
		}
	}
	if h.Records < 0 || h.Records > b.opt.MaxKeys {
		return nil, fmt.Errorf("reputation: %d records", h.Records)
	}
	b.records = make(map[netip.Prefix]*record, h.Records)
	in := loader{in: bufio.NewReaderSize(io.MultiReader(d.Buffered(), r), 1<<16), reporters: len(b.reporters)}
	if in.byte() != '\n' { // the end of the header
		return nil, errors.New("reputation: no records follow")
	}
	for range h.Records {
		key, rec := in.record()
		if in.err != nil {
			return nil, fmt.Errorf("reputation: %w", in.err)
		}
		b.records[key] = rec
	}
	if h.Weeks < 0 || h.Weeks > maxWeeks {
		return nil, fmt.Errorf("reputation: user names of %d weeks", h.Weeks)
	}
	for range h.Weeks {
		of := in.names()
		if in.err != nil {
			return nil, fmt.Errorf("reputation: user names: %w", in.err)
		}
		b.userNames[of.week] = of
	}
	return b, nil
}

// A loader reads records, until an error.
type loader struct {
	in        *bufio.Reader
	reporters int
	err       error
}

func (l *loader) failed(err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	l.err = cmp.Or(l.err, err)
}

func (l *loader) byte() byte {
	b, err := l.in.ReadByte()
	l.failed(err)
	return b
}

func (l *loader) hour() Hour {
	n, err := binary.ReadVarint(l.in)
	l.failed(err)
	return Hour(n)
}

func (l *loader) number(most int) int {
	n, err := binary.ReadUvarint(l.in)
	if l.failed(err); n > uint64(most) {
		l.failed(fmt.Errorf("%d is more than %d", n, most))
		return 0
	}
	return int(n)
}

// reporter reads the number of one.
func (l *loader) reporter() int {
	if l.reporters == 0 {
		l.failed(errors.New("a report of nobody"))
		return 0
	}
	return l.number(l.reporters - 1)
}

func (l *loader) bits(all ...*bool) {
	bits := l.byte()
	for i, b := range all {
		*b = bits&(1<<i) != 0
	}
}

func (l *loader) record() (key netip.Prefix, rec *record) {
	rec = new(record)
	var raw [16]byte
	n := int(l.byte())
	if n != 4 && n != 8 {
		l.failed(errors.New("an address is malformed"))
		return key, rec
	}
	_, err := io.ReadFull(l.in, raw[:n])
	l.failed(err)
	if n == 4 {
		key = netip.PrefixFrom(netip.AddrFrom4([4]byte(raw[:4])), 32)
	} else {
		key = netip.PrefixFrom(netip.AddrFrom16(raw), 64)
	}
	l.bits(&rec.Listed, &rec.Ever, &rec.own)
	for _, h := range []*Hour{&rec.ListedAt, &rec.Contested, &rec.Appealed, &rec.NoOwnUntil} {
		*h = l.hour()
	}
	if n := l.number(maxClaims); n > 0 {
		rec.Claims = make([]claim, n)
	}
	for i := range rec.Claims {
		c := &rec.Claims[i]
		c.By, c.First, c.Last, c.Categories = l.reporter(), l.hour(), l.hour(), uint16(l.number(math.MaxUint16))
		l.bits(&c.Early, &c.Credited, &c.Corroborated, &c.Judged, &c.Shared)
	}
	for range l.number(maxClaims) {
		rec.Votes = append(rec.Votes, vote{l.reporter(), l.hour()})
	}
	for range l.number(maxClaims) {
		rec.Accused = append(rec.Accused, l.reporter())
	}
	return key, rec
}
