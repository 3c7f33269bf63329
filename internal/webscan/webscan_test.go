package webscan_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/webscan"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// rule returns a rule with engine=webscan and these sections.
func rule(t testing.TB, text string) *conf.Rule {
	t.Helper()
	r, notices, errs := rulefile.Parse("web.conf", []byte("[rule]\nengine=webscan\n"+text), nil)
	if err := errs.Err(); err != nil || len(notices) > 0 {
		t.Fatal(err, notices)
	}
	return &r
}

// A visit is a source's way through a Scanner.
type visit struct {
	s      *webscan.Scanner
	source netip.Prefix
	is     webscan.Standing
	got    []string // thresholds reached
}

func (v *visit) ask(at time.Duration, path string, status int, agent string) {
	r := webscan.Request{Addr: v.source.Addr(), Method: []byte("GET"), Target: []byte(path), Status: status, Agent: []byte(agent)}
	line := fmt.Appendf(nil, "%s %s %d", v.source.Addr(), path, status)
	v.s.Count(v.source, &r, v.is, line, noon.Add(at), func(e webscan.Episode) {
		v.got = append(v.got, fmt.Sprintf("%s at %v: %s", e.Rule, at, e.Text))
	})
}

func newVisit(t testing.TB, text string) *visit {
	return &visit{s: webscan.New(rule(t, text)), source: netip.MustParsePrefix("192.0.2.7/32")}
}

func (v *visit) want(t *testing.T, want ...string) {
	t.Helper()
	if fmt.Sprint(v.got) != fmt.Sprint(want) {
		t.Errorf("reached %q, want %q", v.got, want)
	}
	v.got = nil
}

const rotating = `[thresholds]
rule_1_name=rotating
rule_1_requests_min=4
rule_1_uri_count_min=3
rule_1_ua_count_min=2
rule_1_status_code=404,5xx
rule_1_status_threshold=2
rule_1_window=60s
`

func TestAllThatAThresholdAsksFor(t *testing.T) {
	v := newVisit(t, rotating)
	v.ask(0, "/a", 200, "x")
	v.ask(1*time.Second, "/b", 404, "x")
	v.ask(2*time.Second, "/b?q", 503, "x") // the query makes no other path
	v.ask(3*time.Second, "/c", 200, "x")
	v.want(t) // one agent
	v.ask(4*time.Second, "/c", 200, "y")
	v.want(t, "webscan-web/rotating at 4s: 4 requests, 3 different paths, 2 different agents, 2 answers 404,5xx in 1m")
	v.ask(5*time.Second, "/d", 404, "z")
	v.want(t) // begins anew
	v.ask(6*time.Second, "/e", 404, "z")
	v.ask(7*time.Second, "/f", 404, "y")
	v.ask(8*time.Second, "/f", 404, "y")
	v.want(t, "webscan-web/rotating at 8s: 4 requests, 3 different paths, 2 different agents, 2 answers 404,5xx in 1m")
}

// The window slides: what counts is whether the requests lie together, wherever a minute begins.
func TestWindowSlides(t *testing.T) {
	v := newVisit(t, "[thresholds]\nrule_1_requests_min=3\nrule_1_window=60s\n")
	v.ask(0, "/", 200, "x")
	v.ask(50*time.Second, "/", 200, "x")
	v.ask(61*time.Second, "/", 200, "x")
	v.want(t)
	v.ask(110*time.Second, "/", 200, "x")
	v.want(t, "webscan-web/rule_1 at 1m50s: 3 requests in 1m")
	for i := range 20 {
		v.ask(time.Duration(200+i*31)*time.Second, "/", 200, "x")
	}
	v.want(t)
	v.ask(0, "/", 200, "x") // a clock that was set back: time stands still
	v.ask(0, "/", 200, "x")
	v.want(t, "webscan-web/rule_1 at 0s: 3 requests in 1m")
}

func TestDifferentPathsAreTheLast(t *testing.T) {
	v := newVisit(t, "[thresholds]\nrule_1_uri_count_min=3\nrule_1_window=60s\n")
	for i := range 100 {
		v.ask(time.Duration(i)*time.Second, fmt.Sprint("/", i%2), 200, "x")
	}
	v.want(t)
	v.ask(101*time.Second, "/2", 200, "x")
	v.want(t, "webscan-web/rule_1 at 1m41s: 3 different paths in 1m")
	for i := range 10 {
		v.ask(time.Duration(200+31*i)*time.Second, fmt.Sprint("/", i), 200, "x")
	}
	v.want(t)
}

func TestNarrowThresholds(t *testing.T) {
	v := newVisit(t, "[thresholds]\nrule_1_uri=*/.env,/A/*\nrule_1_ua=*bad*\nrule_1_status_code=4xx\nrule_1_requests_min=3\n")
	for i, ask := range []struct {
		path   string
		status int
		agent  string
		counts bool
	}{
		{"/.env", 200, "x", false}, {"/x", 404, "x", false}, {"/x/%2eENV", 404, "x", true}, {"/a/b?c", 403, "x", true}, {"/", 404, "so BAD", true},
	} {
		v.ask(time.Duration(i)*time.Second, ask.path, ask.status, ask.agent)
	}
	v.want(t, "webscan-web/rule_1 at 4s: 3 requests in 5m")
	v = newVisit(t, "[thresholds]\nrule_1_requests_min=3\n[whitelist]\nuri=/health*\nua=*monitor*\nextension=.css,PNG\n")
	for _, path := range []string{"/healthz", "/a/b.css?x", "/A.PNG", "/a.css/b", "/x"} {
		v.ask(0, path, 200, "x")
	}
	v.ask(0, "/y", 200, "Monitor/1")
	v.want(t)
	v.ask(0, "/z.css.bak", 200, "x")
	v.want(t, "webscan-web/rule_1 at 0s: 3 requests in 5m")
}

func TestCrawlers(t *testing.T) {
	const google = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
	v := newVisit(t, "[thresholds]\nrule_1_name=many\nrule_1_requests_min=2\nrule_2_name=false\nrule_2_crawler=false\nrule_2_requests_min=1\n")
	if c := v.s.Crawler(&webscan.Request{Agent: []byte(google)}); c == nil || c.Name != "Google" {
		t.Fatalf("%q is of %v", google, c)
	}
	if c := v.s.Crawler(&webscan.Request{Agent: []byte("Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")}); c != nil {
		t.Fatalf("a browser is of %v", c)
	}
	v.is = webscan.Verified
	for range 10 {
		v.ask(0, "/", 404, google)
	}
	v.want(t)
	v.is = webscan.Pending
	for range 3 {
		v.ask(0, "/", 404, google)
	}
	v.want(t)
	v.is = webscan.False
	v.ask(time.Second, "/", 404, google)
	v.want(t, "webscan-web/many at 1s: 2 requests in 5m", "webscan-web/false at 1s: the agent is that of a search engine, the address is not: 1 request in 5m")
}

// A threshold of very many requests is reached a little late, and keeps no more than others.
func TestVeryManyRequests(t *testing.T) {
	v := newVisit(t, "[thresholds]\nrule_1_requests_min=100000\nrule_1_window=1h\n")
	n := 0
	for ; n < 110000 && len(v.got) == 0; n++ {
		v.ask(time.Duration(n)*time.Millisecond, "/", 200, "x")
	}
	if n < 100000 || n > 101000 {
		t.Errorf("reached after %d requests", n)
	}
}

// However many sources come, with a request or two each, one that scans meanwhile is found, and memory has an end.
func TestFloodOfSources(t *testing.T) {
	r := rule(t, "[webscan]\nmax_active_ips=1000\n[thresholds]\nrule_1_uri_count_min=15\nrule_1_window=1h\nrule_1_status_code=4xx\nrule_1_status_threshold=10\n")
	s := webscan.New(r)
	scanner := &visit{s: s, source: netip.MustParsePrefix("192.0.2.7/32")}
	before := heap()
	for i := range 200_000 {
		at := time.Duration(i) * 10 * time.Millisecond
		if i%5000 == 0 {
			scanner.ask(at, fmt.Sprint("/", i), 404, "x")
			scanner.ask(at, fmt.Sprint("/", i, "b"), 404, "x")
		}
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		v := &visit{s: s, source: netip.PrefixFrom(a, 32)}
		v.ask(at, "/.env", 404, "x")
	}
	if st := s.Stats(); st.Sources != 1000 || st.Limit != 1000 || st.Evicted < 190_000 {
		t.Errorf("%+v", st)
	}
	if len(scanner.got) == 0 {
		t.Errorf("the scanner is not found: %q", s.Explain(scanner.source, noon))
	}
	if grown := heap() - before; grown > 2<<20 {
		t.Errorf("%d bytes for 1000 sources", grown)
	}
	runtime.KeepAlive(s)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Sources that are idle go first, and are forgotten.
func TestIdleSources(t *testing.T) {
	s := webscan.New(rule(t, "[webscan]\nmax_active_ips=16\nip_inactivity_timeout=10m\n[thresholds]\nrule_1_requests_min=3\nrule_1_window=1d\n"))
	ask := func(n int, at time.Duration) *visit {
		v := &visit{s: s, source: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 32)}
		v.ask(at, "/", 200, "x")
		return v
	}
	ask(1, 0)
	ask(1, 0)
	ask(1, 11*time.Minute)
	ask(1, 12*time.Minute).want(t)
	ask(1, 13*time.Minute).want(t, "webscan-web/rule_1 at 13m0s: 3 requests in 1d")
	for n := range 100 {
		ask(n+2, time.Duration(n+1)*time.Hour)
	}
	if st := s.Stats(); st.Evicted != 0 || st.Sources != 16 {
		t.Errorf("%+v", st)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	v := newVisit(t, "[thresholds]\nrule_1_ua_count_min=3\nrule_2_uri=*/.env,*/.git/*\nrule_2_status_code=4xx\nrule_2_requests_min=1000\nrule_3_requests_min=1000\nrule_4_uri_count_min=9\n[whitelist]\nuri=/health*\n")
	var p webscan.Reader
	lines := [][]byte{
		[]byte(`192.0.2.7 - - ` + date + ` "GET /a?b=c HTTP/1.1" 200 12 "-" "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"`),
		[]byte(`192.0.2.7 - - ` + date + ` "GET /a/.git/config HTTP/1.1" 404 12 "-" "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"`),
		[]byte(`{"logger":"http.log.access","request":{"remote_ip":"192.0.2.7","method":"GET","uri":"/a\n","headers":{"User-Agent":["x"]}},"status":404}`),
	}
	var r webscan.Request
	all := func() {
		for _, line := range lines {
			if !p.Read(line, 0, &r) {
				t.Fatalf("%s says nothing", line)
			}
			v.s.Crawler(&r)
			v.s.Count(v.source, &r, webscan.Ordinary, line, noon, func(e webscan.Episode) { t.Fatalf("%+v", e) })
		}
	}
	for range 100 { // the machines meet what they have not seen
		all()
	}
	if n := testing.AllocsPerRun(100, all); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestReloadKeepsWhatIsCounted(t *testing.T) {
	v := newVisit(t, rotating)
	v.ask(0, "/a", 404, "x")
	v.ask(0, "/b", 404, "y")
	v.ask(0, "/c", 404, "y")
	same, other := webscan.New(rule(t, rotating)), webscan.New(rule(t, strings.Replace(rotating, "requests_min=4", "requests_min=5", 1)))
	if other.Inherit(v.s) {
		t.Error("another threshold takes over what is counted")
	}
	if !same.Inherit(v.s) {
		t.Error("the same thresholds begin anew")
	}
	v.s = same
	if got := strings.Join(same.Explain(v.source, noon), "; "); got != "webscan-web/rotating: 3 of 4 requests, 3 of 3 different paths, 2 of 2 different agents, 2 of 2 answers 404,5xx in 1m" {
		t.Errorf("it explains %q", got)
	}
	v.ask(0, "/d", 404, "y")
	if len(v.got) != 1 {
		t.Errorf("reached %q", v.got)
	}
	if got := same.Explain(netip.MustParsePrefix("192.0.2.8/32"), noon); got != nil {
		t.Errorf("nothing is counted for another source: %q", got)
	}
}

func TestOwnPatterns(t *testing.T) {
	s := webscan.New(rule(t, "[detection]\nfailregex=^(?P<ip>\\S+) \\S+ \\S+ \\[[^\\]]+\\] \"(?P<method>\\S+) (?P<uri>[^\\s?]+)[^\"]*\" (?P<status>\\d+) \\d+ \"[^\"]*\" \"(?P<ua>[^\"]*)\"$\n[thresholds]\nrule_1_requests_min=3\n"))
	var r webscan.Request
	if own, ok := s.Read([]byte(`192.0.2.7 - - `+date+` "GET /a?b=c HTTP/1.1" 404 12 "-" "x y"`), &r); !own || !ok || r.Addr.String() != "192.0.2.7" || string(r.Method) != "GET" ||
		string(r.Target) != "/a" || r.Status != 404 || string(r.Agent) != "x y" {
		t.Errorf("%v %v %+v", own, ok, r)
	}
	for _, line := range []string{`x - - ` + date + ` "GET /a HTTP/1.1" 404 12 "-" "x"`, `192.0.2.7 - - ` + date + ` "GET /a HTTP/1.1" 4040 12 "-" "x"`, "hello"} {
		if own, ok := s.Read([]byte(line), &r); !own || ok {
			t.Errorf("%s: %v %v", line, own, ok)
		}
	}
}

func BenchmarkLine(b *testing.B) {
	v := newVisit(b, rotating+"rule_2_uri=*/.env,*/.git/*\nrule_2_status_code=4xx\nrule_2_requests_min=100000\n")
	var p webscan.Reader
	var r webscan.Request
	line := []byte(`192.0.2.7 - - ` + date + ` "GET /a?b=c HTTP/1.1" 200 12 "-" "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"`)
	b.ReportAllocs()
	for b.Loop() {
		p.Read(line, 0, &r)
		v.s.Count(v.source, &r, webscan.Ordinary, line, noon, func(webscan.Episode) {})
	}
}

func BenchmarkOtherLine(b *testing.B) {
	var p webscan.Reader
	var r webscan.Request
	line := []byte(`Jan  2 03:04:05 host sshd[4711]: Failed password for invalid user admin from 192.0.2.7 port 4711 ssh2`)
	b.ReportAllocs()
	for b.Loop() {
		p.Read(line, 0, &r)
	}
}
