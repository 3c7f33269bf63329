package geodb_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"

	"mef/internal/conf"
	"mef/internal/geodb"
	. "mef/internal/geodb/geodbtest"
	"mef/internal/prefixset"
)

func open(t testing.TB, paths ...string) *geodb.DB {
	t.Helper()
	db, err := geodb.Open(paths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func lookup(t *testing.T, db *geodb.DB, addr string) geodb.Place {
	t.Helper()
	p, err := db.Lookup(netip.MustParseAddr(addr))
	if err != nil {
		t.Fatalf("Lookup(%s): %v", addr, err)
	}
	return p
}

// TestPublishers looks an address up in files with the names that each publisher uses.
func TestPublishers(t *testing.T) {
	network := netip.MustParsePrefix("192.0.2.0/24")
	for name, tt := range map[string]struct {
		record Map
		want   geodb.Place
	}{
		"GeoLite2-Country":    {Country("192.0.2.0/24", "DE").Record, geodb.Place{Country: "DE"}},
		"held by a country":   {Map{"registered_country": Map{"iso_code": "FR"}}, geodb.Place{Country: "FR"}},
		"used and held":       {Map{"country": Map{"iso_code": "DE"}, "registered_country": Map{"iso_code": "FR"}}, geodb.Place{Country: "DE"}},
		"GeoLite2-ASN":        {AS("192.0.2.0/24", 64500, "Example").Record, geodb.Place{AS: 64500, ASName: "Example"}},
		"IPinfo lite":         {Map{"asn": "AS64500", "as_name": "Example, Inc.", "as_domain": "example.net", "continent": "Europe", "country": "Germany", "country_code": "DE"}, geodb.Place{Country: "DE", AS: 64500, ASName: "Example, Inc."}},
		"IPinfo country_asn":  {Map{"asn": "AS64500", "as_name": "Example", "country": "de", "country_name": "Germany"}, geodb.Place{Country: "DE", AS: 64500, ASName: "Example"}},
		"a flat country_code": {Map{"country_code": "at"}, geodb.Place{Country: "AT"}},
		"asn as a number":     {Map{"asn": uint32(4200000000), "as_org": "Big"}, geodb.Place{AS: 4200000000, ASName: "Big"}},
		"a hostile name":      {Map{"asn": uint16(1), "as_name": "a\x1b[2J\u202eb\xff" + strings.Repeat("é", 100)}, geodb.Place{AS: 1, ASName: "a?[2J?b?" + strings.Repeat("é", 28)}},
		"codes of no country": {Map{"country": Map{"iso_code": "D3"}, "country_code": "", "asn": "AS12x", "autonomous_system_number": uint32(7)}, geodb.Place{AS: 7}},
		"other values":        {Map{"country_code": "DE", "a": true, "b": 1.5, "c": []any{"x", uint64(1 << 60)}, "d": strings.Repeat("x", 70_000), "e": strings.Repeat("y", 300)}, geodb.Place{Country: "DE"}},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, Write(t, filepath.Join(t.TempDir(), "x.mmdb"), Form{}, Entry{Network: network, Record: tt.record}))
			if got := lookup(t, db, "192.0.2.7"); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if got := lookup(t, db, "192.0.3.7"); got != (geodb.Place{}) {
				t.Errorf("an address beside it: %+v", got)
			}
		})
	}
}

func TestSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	country := Write(t, filepath.Join(dir, "country.mmdb"), Form{Type: "GeoLite2-Country"}, Country("192.0.2.0/24", "DE"), Country("2001:db8::/32", "AT"))
	as := Write(t, filepath.Join(dir, "asn.mmdb"), Form{Type: "GeoLite2-ASN"}, AS("192.0.2.0/25", 64500, "Example"), AS("2001:db8::/32", 64501, ""))
	both := Write(t, filepath.Join(dir, "both.mmdb"), Form{}, Entry{Network: netip.MustParsePrefix("192.0.2.0/24"), Record: Map{"country_code": "FR", "asn": "AS1"}})
	broken := filepath.Join(dir, "broken.mmdb")
	if err := os.WriteFile(broken, []byte("<html>"), 0o644); err != nil {
		t.Fatal(err)
	}
	db, err := geodb.Open(filepath.Join(dir, "missing.mmdb"), as, broken, country, both, dir)
	t.Cleanup(db.Close)
	for _, want := range []string{"missing.mmdb: no such file", "broken.mmdb: the file is damaged", dir + ": not a regular file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	if got, want := lookup(t, db, "::ffff:192.0.2.7"), (geodb.Place{Country: "DE", AS: 64500, ASName: "Example"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := lookup(t, db, "2001:db8::1"), (geodb.Place{Country: "AT", AS: 64501}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	sources := db.Sources()
	if len(sources) != 3 || !sources[0].Networks || sources[0].Countries || !sources[1].Countries || sources[2].Countries || sources[2].Networks || sources[1].Type != "GeoLite2-Country" || sources[1].Built.UTC().Year() != 2026 {
		t.Errorf("sources %+v", sources)
	}
	nothing, err := geodb.Open()
	if err != nil {
		t.Fatal(err)
	}
	if got := lookup(t, nothing, "192.0.2.7"); got != (geodb.Place{}) {
		t.Errorf("without files: %+v", got)
	}
}

func TestCollect(t *testing.T) {
	dir := t.TempDir()
	db := open(t, Write(t, filepath.Join(dir, "c.mmdb"), Form{Aliases: true}, Country("192.0.2.0/24", "DE"), Country("192.0.3.0/24", "DE"), Country("192.0.3.7/32", "AT"), Country("2001:db8::/32", "DE")),
		Write(t, filepath.Join(dir, "a.mmdb"), Form{IPv4: true}, AS("198.51.100.0/24", 64500, "x"), AS("198.51.102.0/24", 64501, "x")))
	de, at, as := conf.GeoGroup{Country: "DE"}, conf.GeoGroup{Country: "AT"}, conf.GeoGroup{AS: 64500}
	all, err := db.Collect([]conf.GeoGroup{de, at, as})
	if err != nil {
		t.Fatal(err)
	}
	for g, want := range map[conf.GeoGroup][]string{
		de: {"192.0.2.0-192.0.3.6", "192.0.3.8-192.0.3.255", "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
		at: {"192.0.3.7-192.0.3.7"},
		as: {"198.51.100.0-198.51.100.255"},
	} {
		if got := ranges(all[g]); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", g, got, want)
		}
	}
	if _, err := db.Collect([]conf.GeoGroup{de, {Country: "FR"}}); err == nil || !strings.Contains(err.Error(), "c.mmdb: it has no network of @country:FR") {
		t.Errorf("a country without networks: %v", err)
	}
	if _, err := open(t, filepath.Join(dir, "a.mmdb")).Collect([]conf.GeoGroup{de}); err == nil || !strings.Contains(err.Error(), "no database has countries") {
		t.Errorf("no file with countries: %v", err)
	}
}

func ranges(p *prefixset.Packed) (all []string) {
	var ranges []prefixset.Range
	for _, v6 := range []bool{false, true} {
		for a := range p.Hosts(v6) {
			ranges = append(ranges, prefixset.Range{First: a, Last: a})
		}
		ranges = slices.AppendSeq(ranges, p.Nets(v6))
	}
	for _, r := range prefixset.FromRanges(ranges).Ranges() {
		all = append(all, fmt.Sprintf("%s-%s", r.First, r.Last))
	}
	return all
}

// random returns entries that nest and touch, the wider ones first.
func random(r *rand.Rand, n int) (all []Entry) {
	for range n {
		e := Entry{Record: Map{"country": Map{"iso_code": []string{"DE", "AT", "CH"}[r.IntN(3)]}}}
		if r.IntN(3) > 0 {
			b := [4]byte{byte(1 + r.IntN(2)), byte(r.IntN(4)), byte(r.Uint32()), byte(r.Uint32())}
			e.Network = netip.PrefixFrom(netip.AddrFrom4(b), 6+r.IntN(27)).Masked()
		} else {
			b := [16]byte{0: 0x2a, 1: byte(r.IntN(2)), 3: byte(r.IntN(4)), 15: byte(r.Uint32())}
			e.Network = netip.PrefixFrom(netip.AddrFrom16(b), 8+r.IntN(121)).Masked()
		}
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.Network.Bits() - b.Network.Bits() })
	return all
}

// TestAgreesWithMaxMindsReader compares look-ups and networks with those of the reader that others use.
func TestAgreesWithMaxMindsReader(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		form := Form{Bits: []int{24, 28, 32}[i%3], Aliases: i%2 == 0, IPv4: i%5 == 4}
		entries := random(r, 40)
		if form.IPv4 {
			form.Aliases = false
			entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.Network.Addr().Is6() })
		}
		text := Bytes(form, slices.Values(entries))
		path := filepath.Join(t.TempDir(), "x.mmdb")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		theirs, err := maxminddb.OpenBytes(text)
		if err != nil {
			t.Fatal(err)
		}
		code := func(res maxminddb.Result) (s string) {
			if err := res.DecodePath(&s, "country", "iso_code"); err != nil {
				t.Fatal(err)
			}
			return s
		}
		ours := open(t, path)
		want := make(map[conf.GeoGroup]*prefixset.Packer)
		for res := range theirs.Networks() {
			g := conf.GeoGroup{Country: code(res)}
			if want[g] == nil {
				want[g] = &prefixset.Packer{}
			}
			want[g].Add(res.Prefix())
		}
		for g, networks := range want {
			got, err := ours.Collect([]conf.GeoGroup{g})
			if err != nil {
				t.Fatal(err)
			}
			if all := networks.Pack(); !slices.Equal(ranges(got[g]), ranges(all)) {
				t.Fatalf("%s in %+v:\n%v\n%v", g, form, ranges(got[g]), ranges(all))
			}
		}
		for range 500 {
			addr := random(r, 1)[0].Network.Addr()
			if form.IPv4 && addr.Is6() {
				continue
			}
			if got, want := lookup(t, ours, addr.String()).Country, code(theirs.Lookup(addr)); got != want {
				t.Fatalf("%s: %q, want %q", addr, got, want)
			}
		}
	}
}

// TestCutWhileOpen cuts a file that is open: as a mapping, that would end the process.
func TestCutWhileOpen(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var entries []Entry
	for range 50_000 {
		entries = append(entries, Country(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + r.IntN(200)), byte(r.Uint32()), byte(r.Uint32()), 0}), 24).String(), "DE"))
	}
	path := Write(t, filepath.Join(t.TempDir(), "x.mmdb"), Form{}, entries...)
	db := open(t, path)
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Collect([]conf.GeoGroup{{Country: "DE"}}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("error %v", err)
	}
}

// TestHostile opens files that no publisher writes: each must lead to an error, and soon.
func TestHostile(t *testing.T) {
	good := Bytes(Form{}, slices.Values([]Entry{Country("192.0.2.0/24", "DE"), Country("2001:db8::/32", "AT")}))
	meta := bytes.LastIndex(good, []byte("MaxMind.com"))
	change := func(old, with string) []byte {
		i := meta + bytes.Index(good[meta:], []byte(old))
		out := bytes.Clone(good)
		copy(out[i:], with)
		return out
	}
	// Both sides of each node are the next one, and those of the last one the first.
	loops := bytes.Clone(good)
	nodes := bytes.Index(good, make([]byte, 16)) / 6
	for i := range nodes {
		n := byte((i + 1) % nodes)
		copy(loops[6*i:], []byte{0, 0, n, 0, 0, n})
	}
	for name, text := range map[string][]byte{
		"empty": nil, "zeros": make([]byte, 100_000), "a page": []byte("<html><body>" + strings.Repeat("x", 5000)),
		"cut in the tree": append(bytes.Clone(good[:100]), good[meta-3:]...), "cut in the metadata": good[:len(good)-40], "no metadata": good[:meta-3],
		"another record size": change("record_size\xa1\x18", "record_size\xa1\x07"), "another version": change("_major_version\xa1\x02", "_major_version\xa1\x03"),
		"another family": change("ip_version\xa1\x06", "ip_version\xa1\x05"), "loops": loops,
		"many long records":             manyLongRecords(20_000),
		"a record that contains itself": bytes.Replace(good, []byte("\xe2\x49continent"), []byte("\xe2\x20\x00ntinent"), 1),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.mmdb")
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			db, err := geodb.Open(path)
			t.Cleanup(db.Close)
			if err == nil {
				_, err = db.Collect([]conf.GeoGroup{{Country: "DE"}})
			}
			if err == nil {
				t.Error("no error")
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// manyLongRecords returns a small file with so many nodes, in which each network has a pointer of its own to the same record of thousands of
// values.
func manyLongRecords(nodes int) (out []byte) {
	const pairs, pointer = 6000, 3 // bytes of one
	for i := range nodes {
		for _, child := range []int{2*i + 1, 2*i + 2} {
			n := child
			if child >= nodes {
				n = nodes + 16 + pointer*(child-nodes)
			}
			out = append(out, byte(n>>16), byte(n>>8), byte(n))
		}
	}
	out = append(out, make([]byte, 16)...)
	to := pointer * (nodes + 1)
	for range nodes + 1 {
		out = append(out, 0x28|byte((to-2048)>>16), byte((to-2048)>>8), byte(to-2048))
	}
	out = append(out, 0xfe, byte((pairs-285)>>8), byte((pairs-285)&255))
	out = append(out, bytes.Repeat([]byte{0x40}, 2*pairs)...)
	out = append(out, "\xab\xcd\xefMaxMind.com\xe5"...)
	for _, number := range []struct {
		key   string
		value int
	}{{"node_count", nodes}, {"record_size", 24}, {"ip_version", 4}, {"binary_format_major_version", 2}} {
		out = append(append(out, 0x40|byte(len(number.key))), number.key...)
		out = append(out, 0xc4, 0, 0, byte(number.value>>8), byte(number.value))
	}
	return append(out, "\x4ddatabase_type\x44Long"...)
}

func FuzzOpen(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for i, bits := range []int{24, 28, 32} {
		f.Add(Bytes(Form{Bits: bits, IPv4: i == 1, Aliases: i == 2}, slices.Values(random(r, 3))))
	}
	f.Add(Bytes(Form{}, slices.Values([]Entry{Country("192.0.2.0/24", "DE"), AS("2001:db8::/32", 64500, "x")})))
	path := filepath.Join(f.TempDir(), "x.mmdb")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		db, err := geodb.Open(path)
		t.Cleanup(db.Close)
		if err != nil {
			return
		}
		for _, addr := range []string{"192.0.2.7", "2001:db8::1"} {
			p, _ := db.Lookup(netip.MustParseAddr(addr))
			if len(p.ASName) > 64 || len(p.Country) != 0 && len(p.Country) != 2 {
				t.Errorf("%+v", p)
			}
		}
		_, _ = db.Collect([]conf.GeoGroup{{Country: "DE"}, {AS: 64500}})
	})
}

// BenchmarkCollect collects a country of 300,000 networks out of a million.
func BenchmarkCollect(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	records := []Map{Country("0.0.0.0/0", "US").Record, Country("0.0.0.0/0", "DE").Record, Country("0.0.0.0/0", "CN").Record}
	text := Bytes(Form{Bits: 28, Aliases: true}, func(yield func(Entry) bool) {
		for i := range 900_000 {
			n := 1<<24 + uint32(i)*4096 + uint32(r.IntN(2))<<11 // no two adjacent ones of a country merge often
			e := Entry{Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 21).Masked(), Record: records[i%3]}
			if !yield(e) {
				return
			}
		}
	})
	path := filepath.Join(b.TempDir(), "x.mmdb")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		all, err := open(b, path).Collect([]conf.GeoGroup{{Country: "US"}})
		if err != nil {
			b.Fatal(err)
		}
		n = all[conf.GeoGroup{Country: "US"}].Len()
	}
	runtime.GC()
	b.ReportMetric(float64(n), "networks")
	b.ReportMetric(float64(len(text))/1e6, "MB/file")
}
