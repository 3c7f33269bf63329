// Package geodbtest writes mmdb files for tests.
package geodbtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
)

// An Entry is a network and its record. A record is a map, string, uint16, uint32, uint64, bool, float64 or list of these.
type Entry struct {
	Network netip.Prefix
	Record  Map
}

// A Map is a record, or a part of one; its keys are written in order.
type Map map[string]any

// Country returns an entry as MaxMind and DB-IP write them.
func Country(network, code string) Entry {
	return Entry{netip.MustParsePrefix(network), Map{"continent": Map{"code": "EU", "names": Map{"en": "Somewhere"}}, "country": Map{"geoname_id": uint32(1), "iso_code": code, "names": Map{"en": "Land " + code}}}}
}

// AS returns an entry as MaxMind and DB-IP write them.
func AS(network string, number uint32, name string) Entry {
	return Entry{netip.MustParsePrefix(network), Map{"autonomous_system_number": number, "autonomous_system_organization": name}}
}

// A Form is how a file is written. The zero value is a tree of IPv6 with numbers of 24 bits and no aliases of IPv4.
type Form struct {
	Bits    int // of numbers in the tree: 24, 28 or 32
	IPv4    bool
	Aliases bool // ::ffff:0:0/96 and 2002::/16 lead to the tree of IPv4
	Type    string
}

// Write writes a file, replacing one that is there by rename, and returns its path.
func Write(t testing.TB, path string, form Form, entries ...Entry) string {
	t.Helper()
	if err := os.WriteFile(path+".new", Bytes(form, slices.Values(entries)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// A child is nothing (0), a node (its index, which is never 0) or a record (its index after -1).
type child int

type writer struct {
	nodes   [][2]child
	records []string // encoded
	known   map[string]int
}

// Bytes returns the text of a file. Entries that lie in others come after them.
func Bytes(form Form, entries func(func(Entry) bool)) []byte {
	if form.Bits == 0 {
		form.Bits = 24
	}
	w := writer{nodes: make([][2]child, 1), known: make(map[string]int)}
	for e := range entries {
		w.insert(form, e)
	}
	if form.Aliases {
		v4 := w.nodes[0][0]
		for range 95 {
			v4 = w.nodes[v4][0]
		}
		w.put(netip.MustParseAddr("::ffff:0:0").As16(), 96, v4)
		w.put(netip.MustParseAddr("2002::").As16(), 16, v4)
	}
	return w.file(form)
}

func (w *writer) insert(form Form, e Entry) {
	var buf bytes.Buffer
	encode(&buf, e.Record)
	n, ok := w.known[buf.String()]
	if !ok {
		n = len(w.records)
		w.records = append(w.records, buf.String())
		w.known[buf.String()] = n
	}
	at, bits := e.Network.Addr().As16(), e.Network.Bits()
	switch {
	case e.Network.Addr().Is4() && form.IPv4:
		copy(at[:], at[12:])
	case e.Network.Addr().Is4():
		at[10], at[11] = 0, 0
		bits += 96
	}
	w.put(at, bits, child(-1-n))
}

func (w *writer) put(at [16]byte, bits int, what child) {
	n := child(0)
	for i := range bits {
		to := &w.nodes[n][at[i/8]>>(7-i%8)&1]
		if i == bits-1 {
			*to = what
			return
		}
		if *to <= 0 { // what was there goes on at both sides
			whole := *to
			w.nodes = append(w.nodes, [2]child{whole, whole})
			w.nodes[n][at[i/8]>>(7-i%8)&1] = child(len(w.nodes) - 1)
			to = &w.nodes[n][at[i/8]>>(7-i%8)&1]
		}
		n = *to
	}
}

func (w *writer) file(form Form) []byte {
	var data bytes.Buffer
	offsets := make([]uint32, len(w.records))
	for i, r := range w.records {
		offsets[i] = uint32(data.Len())
		data.WriteString(r)
	}
	count := uint32(len(w.nodes))
	var out bytes.Buffer
	for _, node := range w.nodes {
		var v [2]uint32
		for i, c := range node {
			switch {
			case c > 0:
				v[i] = uint32(c)
			case c == 0:
				v[i] = count
			default:
				v[i] = count + 16 + offsets[-1-c]
			}
		}
		switch form.Bits {
		case 24:
			out.Write([]byte{byte(v[0] >> 16), byte(v[0] >> 8), byte(v[0]), byte(v[1] >> 16), byte(v[1] >> 8), byte(v[1])})
		case 28:
			out.Write([]byte{byte(v[0] >> 16), byte(v[0] >> 8), byte(v[0]), byte(v[0]>>24)<<4 | byte(v[1]>>24)&15, byte(v[1] >> 16), byte(v[1] >> 8), byte(v[1])})
		default:
			out.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, v[0]), v[1]))
		}
	}
	out.Write(make([]byte, 16))
	out.Write(data.Bytes())
	out.WriteString("\xab\xcd\xefMaxMind.com")
	version := uint16(6)
	if form.IPv4 {
		version = 4
	}
	encode(&out, Map{"node_count": count, "record_size": uint16(form.Bits), "ip_version": version, "database_type": form.Type, "languages": []any{"en"},
		"binary_format_major_version": uint16(2), "binary_format_minor_version": uint16(0), "build_epoch": uint64(1_767_225_600), "description": Map{"en": "for a test"}})
	return out.Bytes()
}

// encode appends a value to the text of a data section.
func encode(out *bytes.Buffer, v any) {
	head := func(kind, size int) {
		more := []byte{}
		switch low := size; {
		case low >= 65821:
			size, more = 31, binary.BigEndian.AppendUint32(nil, uint32(low-65821))[1:]
		case low >= 285:
			size, more = 30, binary.BigEndian.AppendUint16(nil, uint16(low-285))
		case low >= 29:
			size, more = 29, []byte{byte(low - 29)}
		}
		if kind > 7 {
			out.Write([]byte{byte(size), byte(kind - 7)})
		} else {
			out.WriteByte(byte(kind<<5 | size))
		}
		out.Write(more)
	}
	number := func(kind int, n uint64) {
		b := bytes.TrimLeft(binary.BigEndian.AppendUint64(nil, n), "\x00")
		head(kind, len(b))
		out.Write(b)
	}
	switch v := v.(type) {
	case string:
		head(2, len(v))
		out.WriteString(v)
	case uint16:
		number(5, uint64(v))
	case uint32:
		number(6, uint64(v))
	case uint64:
		number(9, v)
	case float64:
		head(3, 8)
		out.Write(make([]byte, 8))
	case bool:
		n := 0
		if v {
			n = 1
		}
		head(14, n)
	case []any:
		head(11, len(v))
		for _, one := range v {
			encode(out, one)
		}
	case Map:
		head(7, len(v))
		keys := []string{}
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			encode(out, key)
			encode(out, v[key])
		}
	default:
		panic(fmt.Sprintf("geodbtest: a value of type %T", v))
	}
}
