package wire

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func pack(text string) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return out.Bytes()
}

func one(addr string) Report {
	return Report{Addr: netip.MustParseAddr(addr), Category: "ssh", Count: "2-9", Hour: now.Unix() / 3600}
}

func TestBatch(t *testing.T) {
	b := Batch{Rules: "0a1b", Reports: []Report{one("203.0.113.7"), one("2001:db8::7")}, Benign: []Addr{{netip.MustParseAddr("198.51.100.1")}}}
	body, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeBatch(body, now)
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("decoded %+v, %v", got, err)
	}
	b.Reports[0].Addr = netip.MustParseAddr("::ffff:203.0.113.7")
	body, _ = b.Encode()
	if got, err := DecodeBatch(body, now); err != nil || got.Reports[0].Addr != netip.MustParseAddr("203.0.113.7") {
		t.Errorf("a mapped address is decoded as %v, %v", got.Reports[0].Addr, err)
	}
}

func TestBadBatches(t *testing.T) {
	hour := now.Unix() / 3600
	report := func(addr string, hour int64) string {
		return fmt.Sprintf(`{"addr":%q,"category":"ssh","count":"1","hour":%d}`, addr, hour)
	}
	of := func(reports ...string) string {
		return `{"rules":"","reports":[` + strings.Join(reports, ",") + `]}`
	}
	many := make([]string, MaxReports+1)
	for i := range many {
		many[i] = report("203.0.113.7", hour)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"no reports":       {of(), "0 reports"},
		"too many":         {of(many...), "101 reports"},
		"repeated key":     {`{"rules":"","rules":"","reports":[` + many[0] + `]}`, `"rules" is repeated`},
		"key in capitals":  {`{"rules":"","Rules":"","reports":[` + many[0] + `]}`, `unknown key "Rules"`},
		"unknown key":      {`{"rules":"","line":"Failed password","reports":[` + many[0] + `]}`, `unknown field "line"`},
		"nested":           {strings.Repeat("[", 100000), "nested deeper"},
		"two objects":      {of(many[0]) + of(many[0]), "follows"},
		"not JSON":         {"reports", "not JSON"},
		"a list":           {"[]", "does not fit"},
		"null":             {"null", "0 reports"},
		"private address":  {of(report("10.0.0.1", hour)), "not a public address"},
		"loopback, mapped": {of(report("::ffff:127.0.0.1", hour)), "not a public address"},
		"metadata":         {of(report("169.254.169.254", hour)), "not a public address"},
		"NAT64":            {of(report("64:ff9b::a00:1", hour)), "not a public address"},
		"with a zone":      {of(report("2001:db8::1%eth0", hour)), "not a public address"},
		"future":           {of(report("203.0.113.7", hour+2)), "future"},
		"old":              {of(report("203.0.113.7", hour-200)), "older than a week"},
		"category":         {of(strings.Replace(many[0], "ssh", "other things", 1)), "unknown category"},
		"count":            {of(strings.Replace(many[0], `"1"`, `"17"`, 1)), "unknown count"},
		"rules":            {strings.Replace(of(many[0]), `"rules":""`, `"rules":"my host"`, 1), "not a hash"},
		"a bomb":           {strings.Repeat(" ", 10<<20), "after decompression"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := DecodeBatch(pack(tt.text), now)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, error %v, want %q", b, err, tt.want)
			}
		})
	}
	if _, err := DecodeBatch([]byte(of(many[0])), now); err == nil || !strings.Contains(err.Error(), "gzip") {
		t.Errorf("plain text: %v", err)
	}
	if _, err := DecodeBatch(make([]byte, MaxBody+1), now); err == nil {
		t.Error("a body that is too long is read")
	}
}

func TestSignature(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	body := []byte("body")
	req, _ := http.NewRequest("POST", "https://cloud.example/v1/reports?x=1", nil)
	Sign(req, key, now, 7, body)
	header := req.Header.Get(AuthHeader)
	a, err := ParseAuth(header)
	if err != nil || a.ID != KeyID(pub) || a.Seq != 7 {
		t.Fatalf("%+v, %v", a, err)
	}
	seq := a
	seq.Seq++
	for name, tt := range map[string]struct {
		auth               Auth
		key                ed25519.PublicKey
		at                 time.Time
		method, path, body string
		want               string
	}{
		"right":        {a, pub, now.Add(time.Minute), "POST", "/v1/reports?x=1", "body", ""},
		"other key":    {a, other, now, "POST", "/v1/reports?x=1", "body", "signature"},
		"no key":       {a, nil, now, "POST", "/v1/reports?x=1", "body", "signature"},
		"other method": {a, pub, now, "PUT", "/v1/reports?x=1", "body", "signature"},
		"other path":   {a, pub, now, "POST", "/v1/reports", "body", "signature"},
		"other body":   {a, pub, now, "POST", "/v1/reports?x=1", "bodY", "signature"},
		"other number": {seq, pub, now, "POST", "/v1/reports?x=1", "body", "signature"},
		"late":         {a, pub, now.Add(6 * time.Minute), "POST", "/v1/reports?x=1", "body", "clock"},
		"early":        {a, pub, now.Add(-6 * time.Minute), "POST", "/v1/reports?x=1", "body", "clock"},
	} {
		err := tt.auth.Verify(tt.key, tt.at, tt.method, tt.path, []byte(tt.body))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for _, bad := range []string{"", "v1", "v2" + header[2:], header + ",", strings.Replace(header, ",7,", ",-7,", 1), header[:len(header)-4]} {
		if _, err := ParseAuth(bad); err == nil {
			t.Errorf("%q is read as a signature", bad)
		}
	}
}

// TestKeyIDIsNoFlag checks that the name of a host can be an argument of a command.
func TestKeyIDIsNoFlag(t *testing.T) {
	for i := range 1000 {
		key := make(ed25519.PublicKey, ed25519.PublicKeySize)
		key[0], key[1] = byte(i), byte(i>>8)
		if id := KeyID(key); len(id) != 16 || id[0] == '-' {
			t.Fatalf("the name of key %d is %q", i, id)
		}
	}
}

func TestInvitation(t *testing.T) {
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	in := Invitation{Server: "cloud.example:8443", Feed: pub, Token: []byte("0123456789abcdef")}
	in.Pin[3] = 9
	got, err := ParseInvitation(" " + in.String() + "\n")
	if err != nil || !reflect.DeepEqual(got, in) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "mef1", in.String()[:40], "mef2" + in.String()[4:], in.String() + ".x", strings.Repeat("a", 2000)} {
		if _, err := ParseInvitation(bad); err == nil {
			t.Errorf("%q is read as an invitation", bad)
		}
	}
}

func TestFeed(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	var f Feed
	f.List, f.Seq, f.Since, f.At = "public", 9, 4, now
	for _, p := range []string{"0.0.0.0/32", "203.0.113.7/32", "255.255.255.255/32", "2001:db8::/64", "ffff:ffff:ffff:ffff::/64"} {
		f.Add = append(f.Add, netip.MustParsePrefix(p))
	}
	f.Remove = f.Add[1:2]
	packed := f.Encode(key)
	got, err := DecodeFeed(packed, pub, nil)
	if err != nil || !got.At.Equal(f.At) || !reflect.DeepEqual(got.Add, f.Add) || !reflect.DeepEqual(got.Remove, f.Remove) || got.Seq != 9 || got.Since != 4 || got.List != "public" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := DecodeFeed(packed, other, nil); err == nil {
		t.Error("a list that another key has signed is read")
	}
	for i := range packed {
		if i == 3 || i >= 4 && i < 10 { // flags, time and system in the header of gzip, which mean nothing
			continue
		}
		flipped := bytes.Clone(packed)
		flipped[i] ^= 1
		if f, err := DecodeFeed(flipped, pub, nil); err == nil && (f.Seq != 9 || !reflect.DeepEqual(f.Add, got.Add)) {
			t.Errorf("another list is read after a bit of byte %d was flipped", i)
		}
	}
}

// TestFeedSize checks that a list of a million addresses has at most 2.5 MB, and a change of one in a hundred of them at most 50 KB.
func TestFeedSize(t *testing.T) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	any4 := func(n int) (all []netip.Prefix) {
		for range n {
			a := rng.Uint32N(math.MaxUint32)
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), 32))
		}
		return all
	}
	packed := Feed{List: "public", Seq: 1, At: now, Add: any4(1_000_000)}.Encode(key)
	if len(packed) > 2_500_000 {
		t.Errorf("a million addresses take %d bytes", len(packed))
	}
	if f, err := DecodeFeed(packed, pub, nil); err != nil || len(f.Add) < 999_000 {
		t.Errorf("%d addresses, %v", len(f.Add), err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	if f, err := DecodeFeed(packed, pub, func(netip.Prefix) { n++ }); err != nil || n < 999_000 || len(f.Add) > 0 {
		t.Errorf("%d addresses, of which %d are kept, %v", n, len(f.Add), err)
	}
	if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 16<<20 {
		t.Errorf("reading a million addresses allocates %d bytes", after.TotalAlloc-before.TotalAlloc)
	}
	if packed := (Feed{List: "public", Seq: 2, Since: 1, At: now, Add: any4(5000), Remove: any4(5000)}).Encode(key); len(packed) > 50_000 {
		t.Errorf("ten thousand changes take %d bytes", len(packed))
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add([]byte(`{"rules":"0a","reports":[{"addr":"203.0.113.7","category":"ssh","count":"1","hour":492245}],"benign":[{"addr":"2001:db8::1"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := DecodeBatch(pack(string(text)), now)
		if err != nil {
			return
		}
		for _, r := range b.Reports {
			if !Reportable(r.Addr) || r.Addr.Is4In6() {
				t.Errorf("accepted %s", r.Addr)
			}
		}
		body, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := DecodeBatch(body, now); err != nil || len(again.Reports) != len(b.Reports) {
			t.Errorf("%+v does not survive: %+v, %v", b, again, err)
		}
	})
}

func FuzzDecodeFeed(f *testing.F) {
	seed := make([]byte, ed25519.SeedSize)
	key := ed25519.NewKeyFromSeed(seed)
	f.Add(Feed{List: "own", Seq: 2, At: now, Add: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}}.Encode(key), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, packed, rest []byte) {
		if f, err := DecodeFeed(packed, key.Public().(ed25519.PublicKey), nil); err == nil && len(f.Add) > len(packed)*2000 {
			t.Errorf("%d addresses", len(f.Add))
		}
		// What a server with the right key signs may be wrong as well.
		out := append([]byte(feedTag), rest...)
		out = append(out, ed25519.Sign(key, out)...)
		if f, err := DecodeFeed(pack(string(out)), key.Public().(ed25519.PublicKey), nil); err == nil {
			if again, err := DecodeFeed(f.Encode(key), key.Public().(ed25519.PublicKey), nil); err != nil || !reflect.DeepEqual(again, f) {
				t.Errorf("%+v becomes %+v, %v", f, again, err)
			}
		}
	})
}
