package store

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
)

func FuzzBan(f *testing.F) {
	var e encoder
	for _, b := range []ban.Ban{
		{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}},
		{
			Key:   ban.Key{Prefix: netip.MustParsePrefix("2001:db8::/64"), Ports: "22,8000-8010", Class: ban.Unverified},
			Start: time.Unix(1772625600, 5), Until: time.Unix(1772629200, 0),
			Rule: "sshd", Service: "sshd", ID: "id", Count: 3, Reason: "because", Author: "root", Note: "note",
			Evidence: []string{"Failed password for root from 2001:db8::1 port 1 ssh2", "Failed password for root from 2001:db8::1 port 2 ssh2"},
		},
	} {
		f.Add(banKey(b.Key), bytes.Clone(e.ban(&b)))
	}
	f.Fuzz(func(t *testing.T, k, v []byte) {
		var d decoder
		b, err := d.ban(k, v)
		if err != nil {
			return
		}
		// What can be read is written so that it reads the same.
		var e encoder
		again, err := d.ban(banKey(b.Key), e.ban(&b))
		if err != nil {
			t.Fatalf("%+v: %v", b, err)
		}
		for i := range b.Evidence {
			b.Evidence[i] = b.Evidence[i][:min(len(b.Evidence[i]), maxString)]
		}
		for _, s := range []*string{&b.Rule, &b.Service, &b.ID, &b.Reason, &b.Author, &b.Note} {
			*s = (*s)[:min(len(*s), maxString)]
		}
		if !reflect.DeepEqual(b, again) {
			t.Errorf("wrote %+v\nread  %+v", b, again)
		}
	})
}

func FuzzPack(f *testing.F) {
	f.Add([]byte(""), []byte{0, 0})
	f.Add([]byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), []byte{9, 1, 'a', 8, 1, 0})
	f.Add([]byte(strings.Repeat("Failed password for root from 192.0.2.7 port 4711 ssh2", 9)), []byte{255, 255, 3, 1, 'a', 255, 255, 3, 1})
	f.Fuzz(func(t *testing.T, text, packed []byte) {
		text = text[:min(len(text), packLimit-1)]
		got, err := unpack(nil, pack(nil, text))
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%q became %q, %v", text, got, err)
		}
		if text, err := unpack(nil, packed); err == nil && len(text) > packLimit {
			t.Errorf("%d bytes unpacked", len(text))
		}
	})
}

func TestPackHalvesEvidence(t *testing.T) {
	line := "Failed password for invalid user admin1 from 198.51.100.7 port 40001 ssh2"
	text := strings.Repeat(line, ban.MaxEvidence)
	if packed := pack(nil, []byte(text)); len(packed) > len(text)/2 {
		t.Errorf("%d bytes of evidence take %d", len(text), len(packed))
	}
}

func TestLongStringsAreCut(t *testing.T) {
	b := ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, Note: strings.Repeat("n", 1<<20)}
	for range 2 * ban.MaxEvidence {
		b.Evidence = append(b.Evidence, strings.Repeat("e", 1<<20))
	}
	var e encoder
	var d decoder
	got, err := d.ban(banKey(b.Key), e.ban(&b))
	if err != nil || len(got.Note) != maxString || len(got.Evidence) != ban.MaxEvidence {
		t.Errorf("note of %d bytes, %d lines, %v; want %d, %d", len(got.Note), len(got.Evidence), err, maxString, ban.MaxEvidence)
	}
}
