package wire

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"time"
)

// Limits of shared user names.
const (
	MaxNames     = 200      // of one batch, in each of its lists
	MaxHot       = 2048     // of one week of a list
	MaxNameList  = 64 << 10 // bytes of a list, which has at most two weeks
	maxNameBytes = 64
	nameTag      = "mef names 1\n"
)

// A Week is a number of weeks since 1970. Each has another salt for the hashes of user names.
type Week int64

// WeekOf returns the week of a time.
func WeekOf(t time.Time) Week { return Week(t.Unix() / (7 * 24 * 3600)) }

// A Salt makes the hashes of user names those of one server and one week.
type Salt [16]byte

// A NameHash stands for a user name: the first 8 bytes of HMAC-SHA256(salt, name). Its text is 16 digits in hex.
type NameHash uint64

// MarshalText returns the text of a hash.
func (h NameHash) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(h)), nil }

// UnmarshalText reads the text of a hash, which has one form only.
func (h *NameHash) UnmarshalText(text []byte) error {
	var raw [8]byte
	if n, err := hex.Decode(raw[:], text[:min(len(text), 16)]); err != nil || n != 8 || len(text) != 16 || bytes.ContainsAny(text, "ABCDEF") {
		return fmt.Errorf("%q is not the hash of a name: it has 16 digits in hex, in lower case", text[:min(len(text), 40)])
	}
	*h = NameHash(binary.BigEndian.Uint64(raw[:]))
	return nil
}

// A NameBatch is what a host sends of user names. It has hashes only, in ascending order, which shows nothing about the names.
type NameBatch struct {
	Week  Week       `json:"week"`
	Names []NameHash `json:"names"`         // that unrelated networks try here, and that do not exist here
	Own   []NameHash `json:"own,omitempty"` // names of the list that exist here; own hosts only send them
}

// Encode returns the body of a request, compressed.
func (b NameBatch) Encode() ([]byte, error) {
	if b.Names == nil {
		b.Names = []NameHash{} // in JSON not null
	}
	return encode(b)
}

// DecodeNames reads the compressed body of a request about user names at a time. It does not check the week.
func DecodeNames(body []byte) (b NameBatch, err error) {
	if err := decode(body, &b); err != nil {
		return b, err
	}
	if len(b.Names)+len(b.Own) == 0 || len(b.Names) > MaxNames || len(b.Own) > MaxNames {
		return b, fmt.Errorf("%d names and %d own ones; a request has 1 to %d of each", len(b.Names), len(b.Own), MaxNames)
	}
	for _, list := range [][]NameHash{b.Names, b.Own} {
		for i := range list {
			if i > 0 && list[i] <= list[i-1] {
				return b, errors.New("the hashes are not in ascending order, or one is repeated")
			}
		}
	}
	return b, nil
}

// A NameWeek is the hot names of one week's salt: two at once, because hosts report names again in each week.
type NameWeek struct {
	Week  Week
	Salt  Salt
	Names []NameHash // in ascending order
}

// A NameList is the user names that enough unrelated hosts see attacked. The server signs it.
//
// Its binary form is the tag, At in seconds since 1970, the number of weeks, and of each week its number, its salt, the number of hashes and the
// hashes; then the signature of all that. Numbers are varints; a hash has 8 bytes. The first week is the current one.
type NameList struct {
	At    time.Time
	Weeks []NameWeek
}

// Every list has the hash of listedName and none of unlistedName, which no host can have as users: so a host finds out whether it computes hashes as
// the server does, and whether the server lists everything.
const (
	listedName   = "\x00listed"
	unlistedName = "\x00unlisted"
)

// Encode returns the signed form, with the test entries.
func (l NameList) Encode(key ed25519.PrivateKey) []byte {
	out := binary.AppendUvarint([]byte(nameTag), uint64(l.At.Unix()))
	out = binary.AppendUvarint(out, uint64(len(l.Weeks)))
	for _, w := range l.Weeks {
		names := append(slices.Clone(w.Names), NewNameHasher(w.Salt).Sum(listedName))
		slices.Sort(names)
		names = slices.Compact(names)
		out = append(binary.AppendUvarint(out, uint64(w.Week)), w.Salt[:]...)
		out = binary.AppendUvarint(out, uint64(len(names)))
		for _, h := range names {
			out = binary.BigEndian.AppendUint64(out, uint64(h))
		}
	}
	return append(out, ed25519.Sign(key, out)...)
}

// DecodeNameList reads a list, and verifies its signature and its test entries.
func DecodeNameList(data []byte, key ed25519.PublicKey) (l NameList, err error) {
	r, err := open(data, key, nameTag, "list of names")
	if err != nil {
		return l, err
	}
	l.At = time.Unix(int64(r.number(1<<40)), 0)
	for range r.number(2) {
		w := NameWeek{Week: Week(r.number(1 << 32))}
		copy(w.Salt[:], r.bytes(uint64(len(w.Salt))))
		raw := r.bytes(8 * r.number(MaxHot+1))
		for ; len(raw) > 0; raw = raw[8:] {
			w.Names = append(w.Names, NameHash(binary.BigEndian.Uint64(raw)))
		}
		if !slices.IsSorted(w.Names) {
			r.err = cmp.Or(r.err, errors.New("its hashes are not in order"))
		}
		hasher := NewNameHasher(w.Salt)
		_, listed := slices.BinarySearch(w.Names, hasher.Sum(listedName))
		if _, all := slices.BinarySearch(w.Names, hasher.Sum(unlistedName)); all || !listed {
			r.err = cmp.Or(r.err, errors.New("its test entry is missing, or it lists everything"))
		}
		l.Weeks = append(l.Weeks, w)
	}
	if r.err == nil && len(l.Weeks) == 0 {
		r.err = errors.New("it has no week")
	}
	if r.err != nil || len(r.rest) > 0 {
		return NameList{}, fmt.Errorf("the list of names is malformed: %w", cmp.Or(r.err, errors.New("bytes follow it")))
	}
	return l, nil
}

// Len returns how many names the list has in the week that has most, without the test entry.
func (l NameList) Len() (n int) {
	for _, w := range l.Weeks {
		n = max(n, len(w.Names)-1)
	}
	return n
}

// Same reports whether two lists have the same names, whenever they were signed.
func (l NameList) Same(o NameList) bool {
	return slices.EqualFunc(l.Weeks, o.Weeks, func(x, y NameWeek) bool {
		return x.Week == y.Week && x.Salt == y.Salt && slices.Equal(x.Names, y.Names)
	})
}

// Matcher returns a function that reports whether the list has a name, as package track/dictionary spells accounts. It is not for several goroutines at once,
// and does not allocate.
func (l NameList) Matcher() func(name string) bool {
	hashers := make([]*NameHasher, len(l.Weeks))
	for i, w := range l.Weeks {
		hashers[i] = NewNameHasher(w.Salt)
	}
	return func(name string) bool {
		if name == "" || len(name) > maxNameBytes || name[0] == 0 {
			return false
		}
		for i, h := range hashers {
			if _, ok := slices.BinarySearch(l.Weeks[i].Names, h.Sum(name)); ok {
				return true
			}
		}
		return false
	}
}

// A NameHasher hashes user names with one salt. It is not for several goroutines at once.
type NameHasher struct {
	mac hash.Hash
	in  [maxNameBytes]byte
	out [sha256.Size]byte
}

// NewNameHasher returns the hasher of a salt.
func NewNameHasher(salt Salt) *NameHasher { return &NameHasher{mac: hmac.New(sha256.New, salt[:])} }

// Sum returns the hash of a name, of at most 64 bytes.
func (h *NameHasher) Sum(name string) NameHash {
	h.mac.Reset()
	n := copy(h.in[:], name)
	_, _ = h.mac.Write(h.in[:n]) // never fails
	return NameHash(binary.BigEndian.Uint64(h.mac.Sum(h.out[:0])))
}
