package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"

	"mef/internal/ban"
)

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sealSize = 4

// seal returns the value with its checksum, over key and value, behind it.
func seal(k, v []byte) []byte {
	return appendSum(append(make([]byte, 0, len(v)+sealSize), v...), k, v)
}

func appendSum(out, k, v []byte) []byte {
	return binary.BigEndian.AppendUint32(out, crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v))
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

// A ban's value begins with the version of its form, the end at a fixed place, and what is read at every start: start, count, rule,
// service, ID and exceptions. Behind it, compressed, is what only an operator reads: reason, author, note and evidence. Strings stand
// behind their length, lists behind their number. (Forms 1 and 2 are not read any more.)
const banForm = 3

// An end of a ban takes seconds and nanoseconds of Unix time, 8 and 4 bytes.
const untilSize = 8 + 4

// maxString bounds each string of a ban in bytes; what is longer is cut. maxText bounds what is compressed.
const (
	maxString = 4096
	maxText   = (3 + ban.MaxEvidence) * (maxString + binary.MaxVarintLen64)
)

// dictionary is what texts are compressed against: texts that are common in bans, so that the first line of evidence is short as well. Bans in
// files rest on every byte of it: another dictionary needs another form of bans. S2 costs 3 µs a ban, where compress/flate costs 35 to
// save a sixth more, and bans come by the hundred thousand.
var dictionary = s2.MakeDict([]byte("as the kernel held it; an operator's word; score 100 (limit 100): attempts at dovecot 4, sshd 4; "+
	"all of 2001:db8::/64, for 3 networks in it are banned; second ban in 30d: 10m × 4 = 40m; third ban in 30d: 10m × 16 = 2h40m; "+
	" sources are trying where 10 are usual); 2026-01-01T00:00:00.000000+00:00 server dovecot: imap-login: Disconnected (auth failed, "+
	"1 attempts in 2 secs): user=<info>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS, session=<"+
	"Jan  1 00:00:00 server postfix/smtpd[1000]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6"+
	"pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1  user=root"+
	"Connection closed by authenticating user root 192.0.2.1 port 40000 [preauth]"+
	"Invalid user admin from 192.0.2.1 port 40000Failed password for invalid user admin from 192.0.2.1 port 40000 ssh2"+
	"5 failures in under 1s (limit 3 in 10m instead of 5, for 100 sources are trying user \"root\"); first ban in 30d: 10m"+
	"Jan  1 00:00:00 server sshd-session[1000]: sshd[1000]: Failed password for root from 192.0.2.1 port 40000 ssh2"), nil)

// An encoder turns bans into values, each valid until its next call.
type encoder struct {
	text, value []byte
}

func (e *encoder) ban(b *ban.Ban) []byte {
	v := append(e.value[:0], banForm)
	v = binary.BigEndian.AppendUint64(v, uint64(b.Until.Unix()))
	v = binary.BigEndian.AppendUint32(v, uint32(b.Until.Nanosecond()))
	v = binary.AppendVarint(v, b.Start.Unix())
	v = binary.AppendUvarint(v, uint64(b.Start.Nanosecond()))
	v = binary.AppendUvarint(v, uint64(max(b.Count, 0)))
	for _, s := range []string{b.Rule, b.Service, shortID(b)} {
		v = appendString(v, s)
	}
	except := b.Except[max(0, len(b.Except)-ban.MaxExcept):]
	v = binary.AppendUvarint(v, uint64(len(except)))
	for _, a := range except {
		v = appendString(v, string(a.AsSlice()))
	}

	w := e.text[:0]
	for _, s := range []string{b.Reason, b.Author, b.Note} {
		w = appendString(w, s)
	}
	lines := b.Evidence[max(0, len(b.Evidence)-ban.MaxEvidence):]
	w = binary.AppendUvarint(w, uint64(len(lines)))
	for _, line := range lines {
		w = appendString(w, line)
	}
	front := len(v)
	v = slices.Grow(v, s2.MaxEncodedLen(len(w)))
	e.text, e.value = w, v
	return v[:front+len(dictionary.Encode(v[front:cap(v)], w))]
}

// IDs usually begin with the ban's own rule and prefix; idMark stands for these.
const idMark = "\x00"

func shortID(b *ban.Ban) string {
	if rest, ok := strings.CutPrefix(b.ID, longID(b)); ok {
		return idMark + rest
	}
	return b.ID
}

func longID(b *ban.Ban) string { return b.Rule + " " + b.Prefix.String() + " " }

func appendString(w []byte, s string) []byte {
	s = s[:min(len(s), maxString)]
	return append(binary.AppendUvarint(w, uint64(len(s))), s...)
}

// decodeUntil reads the end of a ban alone.
func decodeUntil(v []byte) (time.Time, error) {
	if len(v) < 1+untilSize || v[0] != banForm {
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
	text  []byte
	names map[string]string // of rules and services, which are few
}

// brief reads what a ban is and not why: without Reason, Author, Note and Evidence, which are most of it.
func (d *decoder) brief(k, v []byte) (ban.Ban, error) {
	b, _, err := d.front(k, v)
	return b, err
}

// ban reads all of a ban.
func (d *decoder) ban(k, v []byte) (ban.Ban, error) {
	b, packed, err := d.front(k, v)
	if err != nil {
		return b, err
	}
	if n, err := s2.DecodedLen(packed); err != nil || n > maxText {
		return b, errRecord
	}
	text, err := dictionary.Decode(d.text[:cap(d.text)], packed)
	if err != nil {
		return b, errRecord
	}
	d.text = text
	r := reader[string]{rest: string(text)} // one string for all: its parts share its memory
	for _, s := range []*string{&b.Reason, &b.Author, &b.Note} {
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
	if r.bad || len(r.rest) > 0 {
		return b, errRecord
	}
	return b, nil
}

// front reads what is not compressed, and returns what is.
func (d *decoder) front(k, v []byte) (b ban.Ban, packed []byte, err error) {
	if b.Key, err = decodeBanKey(k); err != nil {
		return b, nil, err
	}
	if b.Until, err = decodeUntil(v); err != nil {
		return b, nil, err
	}
	r := reader[[]byte]{rest: v[1+untilSize:]}
	b.Start = unix(r.varint(), r.uvarint())
	b.Count = int(r.uvarint())
	b.Rule, b.Service, b.ID = d.name(r.text()), d.name(r.text()), string(r.text())
	if rest, ok := strings.CutPrefix(b.ID, idMark); ok {
		b.ID = longID(&b) + rest
	}
	n := r.uvarint()
	if n > ban.MaxExcept {
		return b, nil, errRecord
	}
	for range n {
		a, ok := netip.AddrFromSlice(r.text())
		if !ok {
			return b, nil, errRecord
		}
		b.Except = append(b.Except, a)
	}
	if r.bad || b.Count < 0 {
		return b, nil, errRecord
	}
	return b, r.rest, nil
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

// A reader takes a text apart. After an error everything is zero.
type reader[T string | []byte] struct {
	rest T
	bad  bool
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
