package store

import (
	"bytes"
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
			Except:   []netip.Addr{netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("192.0.2.1")},
			Evidence: []string{"Failed password for root from 2001:db8::1 port 1 ssh2", "Failed password for root from 2001:db8::1 port 2 ssh2"},
		},
		{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, Rule: "sshd", ID: strings.Repeat("far off ", 192), Reason: "because"},
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
	if got, plain := len(e.ban(&b)), len(e.text); got > 260 {
		t.Errorf("a ban of %d bytes takes %d", plain, got)
	}
	b.Evidence = b.Evidence[4:]
	if got, plain := len(e.ban(&b)), len(e.text); got > 200 {
		t.Errorf("a ban of %d bytes takes %d", plain, got)
	}
}

// TestOtherForms has what other versions may have written, and what no version does.
func TestOtherForms(t *testing.T) {
	b := ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, Rule: "sshd", Except: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}
	var e encoder
	good := bytes.Clone(e.ban(&b))
	huge := append(bytes.Clone(good[:len(good)-len(dictionary.Encode(nil, make([]byte, 4)))]), 255, 255, 255, 255, 15)
	for name, v := range map[string][]byte{
		"nothing":             {},
		"an earlier form":     append([]byte{2}, good[1:]...),
		"a later form":        append([]byte{4}, good[1:]...),
		"cut off":             good[:len(good)-1],
		"cut off in front":    good[:untilSize+5],
		"a text of 4 GB":      huge,
		"something behind it": append(bytes.Clone(good), 1, 2, 3),
	} {
		var d decoder
		if got, err := d.ban(banKey(b.Key), v); err == nil {
			t.Errorf("%s was read as %+v", name, got)
		}
	}
	var d decoder
	if got, err := d.ban(banKey(b.Key), good); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("read %+v, %v; want %+v", got, err, b)
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
