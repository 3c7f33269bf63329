package wire

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func hashesOf(salt Salt, names ...string) (all []NameHash) {
	for _, n := range names {
		all = append(all, NewNameHasher(salt).Sum(n))
	}
	slices.Sort(all)
	return all
}

// A list of names comes back as it was signed, and matches the names of both of its weeks and no others.
func TestNameList(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	now := time.Unix(1_800_000_000, 0)
	one, two := Salt{1}, Salt{2}
	sent := NameList{At: now, Weeks: []NameWeek{{WeekOf(now), one, hashesOf(one, "oracle", "jsmith")}, {WeekOf(now) - 1, two, hashesOf(two, "hadoop9")}}}
	data := sent.Encode(key)
	got, err := DecodeNameList(data, pub)
	if err != nil || !got.At.Equal(now) || got.Len() != 2 || got.Weeks[0].Salt != one || got.Weeks[1].Week != WeekOf(now)-1 {
		t.Fatalf("%+v %v", got, err)
	}
	match := got.Matcher()
	for name, want := range map[string]bool{"oracle": true, "jsmith": true, "hadoop9": true, "alice": false, "": false, "\x00listed": false, strings.Repeat("x", 65): false} {
		if match(name) != want {
			t.Errorf("the list has %q: %v", name, !want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { match("alice") }); n != 0 {
		t.Errorf("looking for a name allocates %v times", n)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if _, err := DecodeNameList(bad, pub); err == nil {
			t.Fatalf("a list with byte %d wrong is accepted", i)
		}
		if _, err := DecodeNameList(data[:i], pub); err == nil {
			t.Fatalf("the first %d bytes of a list are accepted", i)
		}
	}
}

// What a server with its own key may sign and a host must not use all the same.
func TestBadNameLists(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	now := time.Unix(1_800_000_000, 0)
	salt := Salt{1}
	sign := func(body []byte) []byte { return append(body, ed25519.Sign(key, body)...) }
	plain := func(l NameList) []byte { d := l.Encode(key); return d[:len(d)-ed25519.SignatureSize] }
	good := plain(NameList{now, []NameWeek{{1, salt, hashesOf(salt, "a")}}})
	var long []NameHash
	for i := range NameHash(MaxHot + 2) {
		long = append(long, i)
	}
	for what, data := range map[string][]byte{
		"another form":      sign([]byte("mef feed 1\n")),
		"no weeks":          NameList{At: now}.Encode(key),
		"three weeks":       NameList{now, make([]NameWeek, 3)}.Encode(key),
		"bytes behind":      sign(append(slices.Clone(good), 0)),
		"cut":               sign(slices.Clone(good[:len(good)-1])),
		"too long":          NameList{now, []NameWeek{{1, salt, long}}}.Encode(key),
		"lists everything":  NameList{now, []NameWeek{{1, salt, hashesOf(salt, unlistedName)}}}.Encode(key),
		"hash of its own":   sign(append(slices.Clone(good[:len(good)-16]), bytes.Repeat([]byte{7}, 16)...)),
		"no list of anyone": nil,
	} {
		if l, err := DecodeNameList(data, pub); err == nil {
			t.Errorf("%s: %+v is accepted", what, l)
		}
	}
	if _, err := DecodeNameList(sign(slices.Clone(good)), pub); err != nil {
		t.Error(err)
	}
}

func TestDecodeNames(t *testing.T) {
	pack := func(text string) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = io.WriteString(z, text) // a buffer takes everything
		_ = z.Close()
		return out.Bytes()
	}
	b := NameBatch{Week: 2900, Names: hashesOf(Salt{1}, "oracle", "jsmith"), Own: hashesOf(Salt{1}, "alice")}
	body, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeNames(body); err != nil || !slices.Equal(got.Names, b.Names) || !slices.Equal(got.Own, b.Own) || got.Week != b.Week {
		t.Errorf("%+v %v", got, err)
	}
	var many []string
	for i := range MaxNames + 1 {
		many = append(many, fmt.Sprintf(`"%016x"`, i))
	}
	for what, text := range map[string]string{
		"nothing":     `{"week":1,"names":[]}`,
		"too many":    `{"week":1,"names":[` + strings.Join(many, ",") + `]}`,
		"a name":      `{"week":1,"names":["alice"]}`,
		"upper case":  `{"week":1,"names":["00000000000000AB"]}`,
		"not hex":     `{"week":1,"names":["000000000000000g"]}`,
		"too long":    `{"week":1,"names":["00000000000000000"]}`,
		"a number":    `{"week":1,"names":[7]}`,
		"twice":       `{"week":1,"names":["0000000000000001","0000000000000001"]}`,
		"not ordered": `{"week":1,"names":["0000000000000002","0000000000000001"]}`,
		"unknown key": `{"week":1,"names":["0000000000000001"],"host":"web1"}`,
		"same key":    `{"week":1,"week":2,"names":["0000000000000001"]}`,
		"nested":      `{"week":1,"names":[[[[["0000000000000001"]]]]]}`,
		"more":        `{"week":1,"names":["0000000000000001"]} {}`,
	} {
		if got, err := DecodeNames(pack(text)); err == nil {
			t.Errorf("%s: %+v is accepted", what, got)
		}
	}
	if _, err := DecodeNames([]byte("{}")); err == nil {
		t.Error("a body that is not compressed is accepted")
	}
}

func FuzzNameList(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	f.Add(NameList{time.Unix(1_800_000_000, 0), []NameWeek{{1, Salt{1}, []NameHash{1, 2}}}}.Encode(key))
	f.Fuzz(func(t *testing.T, body []byte) { // signed, so that the rest is read
		l, err := DecodeNameList(append(body, ed25519.Sign(key, body)...), key.Public().(ed25519.PublicKey))
		if err == nil && (len(l.Weeks) == 0 || len(l.Weeks) > 2 || l.Len() > MaxHot) {
			t.Errorf("%+v", l)
		}
	})
}
