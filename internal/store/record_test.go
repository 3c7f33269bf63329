package store

import (
	"bytes"
	"encoding/hex"
	"fmt"
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
		{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, Rule: "sshd", ID: strings.Repeat("far off ", briefSize), Reason: "because"},
	} {
		f.Add(banKey(b.Key), bytes.Clone(e.ban(&b)))
	}
	f.Fuzz(func(t *testing.T, k, v []byte) {
		var d decoder
		b, err := d.ban(k, v)
		if err != nil {
			return
		}
		same := b
		same.Reason, same.Author, same.Note, same.Evidence = "", "", "", nil
		if brief, err := d.brief(k, v); err != nil || !reflect.DeepEqual(brief, same) {
			t.Errorf("all of it %+v\nin brief  %+v, %v", b, brief, err)
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
	known := primed()
	f.Fuzz(func(t *testing.T, text, packed []byte) {
		text = append([]byte(primer), text[:min(len(text), packLimit-1-len(primer))]...)
		got, err := unpack([]byte(primer), pack(nil, text, known), packLimit)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%q became %q, %v", text, got, err)
		}
		if begin, err := unpack([]byte(primer), pack(nil, text, known), 10); err != nil || !bytes.HasPrefix(begin, text[:min(len(text), len(primer)+10)]) {
			t.Errorf("%q begins with %q, %v", text, begin, err)
		}
		if text, err := unpack([]byte(primer), packed, packLimit); err == nil && len(text) > packLimit {
			t.Errorf("%d bytes unpacked", len(text))
		}
	})
}

// TestBansAreShort has what a storm makes a hundred thousand of.
func TestBansAreShort(t *testing.T) {
	b := ban.Ban{
		Key:   ban.Key{Prefix: netip.MustParsePrefix("198.51.100.7/32")},
		Start: time.Unix(1772625600, 123456789), Until: time.Unix(1772626200, 123456789),
		Rule: "sshd", Service: "sshd", ID: "sshd 198.51.100.7/32 file:fe00:990052:0:84f377e8fb272675:5593029", Count: 1,
		Reason: "5 failures in 12s (limit 5 in 10m); first ban in 30d: 10m",
	}
	for i := range ban.MaxEvidence {
		b.Evidence = append(b.Evidence, fmt.Sprintf("Nov 27 12:42:%02d mail sshd[%d]: Failed password for invalid user admin1 from 198.51.100.7 port %d ssh2", i, 2740+i, 40001+7*i))
	}
	var e encoder
	if got, plain := len(e.ban(&b)), len(e.text)-len(primer); got > 240 {
		t.Errorf("a ban of %d bytes takes %d", plain, got)
	}
	b.Evidence = b.Evidence[4:]
	if got, plain := len(e.ban(&b)), len(e.text)-len(primer); got > 170 {
		t.Errorf("a ban of %d bytes takes %d", plain, got)
	}
}

// TestBansWithoutPrimer reads what an earlier version wrote.
func TestBansWithoutPrimer(t *testing.T) {
	const old = "010000000069a82cd00000000087010c80fbc09a0d050304737368640505420269640762656361757365000002334661696c65642070617373" +
		"776f726420666f7220726f6f742066726f6d203139322e302e322e3720706f7274203120737368322e3406322073736832"
	v, err := hex.DecodeString(old)
	if err != nil {
		t.Fatal(err)
	}
	want := ban.Ban{
		Key:   ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")},
		Start: time.Unix(1772625600, 5), Until: time.Unix(1772629200, 0),
		Rule: "sshd", Service: "sshd", ID: "id", Count: 3, Reason: "because",
		Evidence: []string{"Failed password for root from 192.0.2.7 port 1 ssh2", "Failed password for root from 192.0.2.7 port 2 ssh2"},
	}
	var d decoder
	for range 2 {
		if got, err := d.ban(banKey(want.Key), v); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v, %v", got, err)
		}
		var e encoder
		v = e.ban(&want) // and what is written today, by the same decoder
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
