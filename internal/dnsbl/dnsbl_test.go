package dnsbl

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/event"
)

// patience is how long a test waits for what should happen.
const patience = 30 * time.Second

// A list serves a zone of RFC 5782 over UDP and TCP, and misbehaves as a test wants.
type list struct {
	addr string

	mu      sync.Mutex
	entries map[string]string // answers by name below the zone: "2.0.0.127"
	all     string            // the answer for every other name; empty: there is none
	rcode   int
	silent  bool
	slow    time.Duration
	cut     bool   // answers do not fit a datagram
	cutTCP  bool   // nor anything
	id      uint16 // added to the number of the question
	other   bool   // the question in the answer is another one
	asked   map[string]int
}

const testZone = "bl.example."

// The entries that every list has.
func tested() map[string]string {
	return map[string]string{"2.0.0.127": "127.0.0.2", reversed("::ffff:127.0.0.2"): "127.0.0.2"}
}

func reversed(addr string) string {
	return strings.TrimSuffix(name(netip.MustParseAddr(addr), testZone), "."+testZone)
}

// serve starts a list on loopback.
func serve(t testing.TB, addrs ...string) *list {
	t.Helper()
	l := &list{entries: tested(), asked: make(map[string]int)}
	for _, a := range addrs {
		l.entries[reversed(a)] = "127.0.0.4"
	}
	var conn net.PacketConn
	var stream net.Listener
	for range 20 { // the port may be taken over TCP
		var err error
		if conn, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if stream, err = net.Listen("tcp", conn.LocalAddr().String()); err == nil {
			break
		}
		conn.Close()
	}
	l.addr = conn.LocalAddr().String()
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: l}, {Listener: stream, Handler: l}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.ActivateAndServe()
		}()
		<-ready
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-ended
		})
	}
	return l
}

func (l *list) set(change func(*list)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

func (l *list) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, times := range l.asked {
		n += times
	}
	return n
}

func (l *list) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	l.mu.Lock()
	ask := q.Question[0]
	l.asked[ask.Name]++
	m := new(dns.Msg).SetRcode(q, l.rcode)
	code, ok := l.entries[strings.TrimSuffix(ask.Name, "."+testZone)]
	if !ok {
		code = l.all
	}
	udp := w.LocalAddr().Network() == "udp"
	silent, slow := l.silent, l.slow
	switch {
	case code == "" && l.rcode == dns.RcodeSuccess:
		m.Rcode = dns.RcodeNameError
	case code != "" && ask.Qtype == dns.TypeTXT:
		m.Answer = append(m.Answer, record(ask.Name+" 60 IN TXT \"see https://\" \"bl.example/why\""))
	case code != "":
		for _, c := range strings.Fields(code) {
			m.Answer = append(m.Answer, record(ask.Name+" 60 IN A "+c))
		}
	}
	if l.cut && udp || l.cutTCP {
		m.Answer, m.Truncated = nil, true
	}
	m.Id += l.id
	if l.other {
		m.Question[0].Name = "other." + testZone
	}
	l.mu.Unlock()
	if silent {
		return
	}
	time.Sleep(slow)
	_ = w.WriteMsg(m)
}

func record(text string) dns.RR {
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return rr
}

// zoneConf returns the configuration of the list.
func zoneConf() conf.RBLZone {
	return conf.RBLZone{Name: "own", Zone: "bl.example", Match: []string{"127.0.0.*"}, Weight: 40, BanTime: time.Hour, Timeout: patience,
		Positive: time.Hour, Negative: time.Hour, Error: time.Hour, Rate: 1000, InFlight: 8}
}

// reports are the listings that a Checker has reported.
type reports struct {
	mu   sync.Mutex
	list []*event.Event
}

func (r *reports) add(_ context.Context, ev *event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, ev)
	return nil
}

func (r *reports) all() []*event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list
}

// start runs a Checker of one list through name servers.
func start(t testing.TB, z conf.RBLZone, servers ...string) (*Checker, *reports) {
	t.Helper()
	c := New(conf.RBL{Enabled: true, Servers: servers, Zones: []conf.RBLZone{z}}, slog.New(slog.DiscardHandler))
	got := new(reports)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, got.add) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, got
}

// wait waits until the status of the only list is as wanted.
func wait(t testing.TB, c *Checker, what string, is func(control.DNSBLList) bool) control.DNSBLList {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s := c.Status(time.Now()).Lists[0]
		if is(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("not %s: %+v", what, s)
		}
	}
}

func isTested(s control.DNSBLList) bool { return len(s.Servers) > 0 && s.Servers[0].Tested != nil }

// look asks about an address and waits until the answer is known, or the list is suspended. It returns the listing, "" if there is none.
func look(t *testing.T, c *Checker, got *reports, addr string) string {
	t.Helper()
	a := netip.MustParseAddr(addr)
	wait(t, c, "tested", isTested)
	z := c.all()[0]
	left := z.left.Load()
	c.Ask(a, true)
	wait(t, c, "answered", func(s control.DNSBLList) bool {
		z.mu.Lock()
		defer z.mu.Unlock()
		found, ok := z.cache.by[a]
		return s.LeftOut > left || !s.Usable || ok && (found.listing != nil || time.Until(found.until) > 2*maxWait) && len(z.slots) == 0
	})
	for _, ev := range got.all() {
		if ev.Addr == a {
			return fmt.Sprintf("%s %v %s", ev.Rule, ev.Verified, (*ev.Listings)[0])
		}
	}
	return ""
}

// Only a list that is well, and has the address, leads to a listing. Everything else is shown in status.
func TestOnlyListingsAreReported(t *testing.T) {
	const listed = `dnsbl/own true bl.example (127.0.0.4: "see https://bl.example/why")`
	for name, tt := range map[string]struct {
		list    func(*list)
		conf    func(*conf.RBLZone)
		want    string
		problem string
	}{
		"listed":        {want: listed},
		"not listed":    {list: func(l *list) { delete(l.entries, reversed("198.51.100.7")) }},
		"several":       {list: func(l *list) { l.entries[reversed("198.51.100.7")] = "127.0.0.9 127.0.1.1 127.0.0.4" }, want: strings.Replace(listed, "127.0.0.4", "127.0.0.4, 127.0.0.9", 1)},
		"other answer":  {list: func(l *list) { l.entries[reversed("198.51.100.7")] = "127.0.1.4" }},
		"not asked for": {conf: func(z *conf.RBLZone) { z.Match = []string{"127.0.0.2-3"} }},
		"public name server": {list: func(l *list) { l.entries, l.all = nil, "127.255.255.254" },
			problem: "it does not answer public name servers (127.255.255.254); name server ADDR, asked again in 10m0s; run a name server of your own, and name it in rbl_servers"},
		"too many queries":  {list: func(l *list) { l.entries, l.all = nil, "127.255.255.255" }, problem: "there were too many queries (127.255.255.255)"},
		"wrong zone":        {list: func(l *list) { l.entries, l.all = nil, "127.255.255.252" }, problem: "the name of the zone is mistyped"},
		"one error code":    {list: func(l *list) { l.entries[reversed("198.51.100.7")] = "127.255.255.254" }, problem: "it does not answer public name servers"},
		"refused silently":  {list: func(l *list) { l.entries = nil }, problem: "its test entry 127.0.0.2 is missing: it is closed, has another name, or does not answer this name server"},
		"lists the world":   {list: func(l *list) { l.all = "127.0.0.2" }, problem: "it contains 127.0.0.1, which no list contains: it lists everything"},
		"domain was sold":   {list: func(l *list) { l.entries, l.all = nil, "203.0.113.80" }, problem: "the answer 203.0.113.80 is none of a block list"},
		"partly sold":       {list: func(l *list) { l.all = "203.0.113.80" }, problem: "the answer 203.0.113.80 is none of a block list"},
		"server failure":    {list: func(l *list) { l.rcode = dns.RcodeServerFailure; l.entries = nil }, problem: "the answer is SERVFAIL"},
		"query refused":     {list: func(l *list) { l.rcode = dns.RcodeRefused; l.entries = nil }, problem: "the answer is REFUSED"},
		"silent":            {list: func(l *list) { l.silent = true }, conf: func(z *conf.RBLZone) { z.Timeout = 50 * time.Millisecond }, problem: "no answer in time"},
		"slow":              {list: func(l *list) { l.slow = 300 * time.Millisecond }, conf: func(z *conf.RBLZone) { z.Timeout = 50 * time.Millisecond }, problem: "no answer in time"},
		"large":             {list: func(l *list) { l.cut = true }, want: listed},
		"cut short":         {list: func(l *list) { l.cut, l.cutTCP = true, true }, problem: "the answer is cut short"},
		"forged number":     {list: func(l *list) { l.id = 1 }, conf: func(z *conf.RBLZone) { z.Timeout = 50 * time.Millisecond }, problem: "no answer in time"},
		"other question":    {list: func(l *list) { l.other = true }, problem: "the answer is to another question"},
		"own test entry":    {list: func(l *list) { delete(l.entries, "2.0.0.127") }, conf: func(z *conf.RBLZone) { z.Canary = []netip.Addr{netip.MustParseAddr("198.51.100.7")} }, want: listed},
		"no own test entry": {conf: func(z *conf.RBLZone) { z.Canary = []netip.Addr{netip.MustParseAddr("198.51.100.8")} }, problem: "its test entry 198.51.100.8 is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			l, z := serve(t, "198.51.100.7"), zoneConf()
			if tt.list != nil {
				l.set(tt.list)
			}
			if tt.conf != nil {
				tt.conf(&z)
			}
			c, got := start(t, z, l.addr)
			if found := look(t, c, got, "198.51.100.7"); found != tt.want {
				t.Errorf("found %s, want %s", found, tt.want)
			}
			s := c.Status(time.Now()).Lists[0]
			if want := strings.ReplaceAll(tt.problem, "ADDR", l.addr); !strings.HasPrefix(s.Problem, want) || (want == "") != (s.Problem == "") {
				t.Errorf("problem %q, want %q", s.Problem, want)
			}
			answer := c.Check(t.Context(), netip.MustParseAddr("198.51.100.7"))[0]
			if answer.Listed != (tt.want != "") || tt.want != "" && answer.Action != "40 points" || tt.problem != "" && answer.Problem == "" {
				t.Errorf("check: %+v", answer)
			}
		})
	}
}

// A list that is closed while it is used begins to contain everything. What the name server remembers of its test entries still looks well.
func TestClosedList(t *testing.T) {
	l := serve(t)
	c, got := start(t, zoneConf(), l.addr)
	if found := look(t, c, got, "198.51.100.1"); found != "" {
		t.Fatal(found)
	}
	l.set(func(l *list) {
		l.entries["1.0.0.127"] = "" // remembered to be missing
		l.all = "127.0.0.2"
	})
	if found := look(t, c, got, "198.51.100.2"); found != "" {
		t.Errorf("reported as listed: %s", found)
	}
	if s := c.Status(time.Now()).Lists[0]; s.Usable || !strings.Contains(s.Problem, "it may be closed and list everything") {
		t.Errorf("status %+v", s)
	}
	before := l.count()
	c.Ask(netip.MustParseAddr("198.51.100.3"), true)
	if n := len(c.all()[0].queue); n > 0 || l.count() != before {
		t.Error("a suspended list is asked")
	}
}

func TestIPv6(t *testing.T) {
	l := serve(t, "2001:db8::7")
	c, got := start(t, zoneConf(), l.addr)
	if found := look(t, c, got, "2001:db8::7"); !strings.Contains(found, "127.0.0.4") {
		t.Errorf("found %q", found)
	}
	const want = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example."
	l.mu.Lock()
	if l.asked[want] == 0 {
		t.Errorf("asked for %v, want %s", l.asked, want)
	}
	l.mu.Unlock()

	l = serve(t, "2001:db8::7", "198.51.100.7")
	l.set(func(l *list) { delete(l.entries, reversed("::ffff:127.0.0.2")) })
	c, got = start(t, zoneConf(), l.addr)
	if found := look(t, c, got, "2001:db8::7"); found != "" {
		t.Errorf("a list without IPv6 test entry is asked about IPv6 addresses: %s", found)
	}
	if found := look(t, c, got, "198.51.100.7"); found == "" {
		t.Error("nor about IPv4 addresses")
	}
}

// The first name server that can be used is asked, and the next one as soon as it cannot.
func TestSeveralNameServers(t *testing.T) {
	blocked, good := serve(t), serve(t, "198.51.100.7", "198.51.100.8")
	blocked.set(func(l *list) { l.entries, l.all = nil, "127.255.255.254" })
	c, got := start(t, zoneConf(), blocked.addr, good.addr)
	wait(t, c, "usable", func(s control.DNSBLList) bool { return s.Usable })
	if found := look(t, c, got, "198.51.100.7"); found == "" {
		t.Error("the second name server is not asked")
	}
	s := c.Status(time.Now()).Lists[0]
	if s.Problem != "" || len(s.Servers) != 2 || !strings.Contains(s.Servers[0].Cause+s.Servers[1].Cause, "127.255.255.254") {
		t.Errorf("status %+v", s)
	}
	// The test entries of the first are there again, and it is due.
	blocked.set(func(l *list) { l.entries, l.all = tested(), "" })
	z := c.all()[0]
	z.mu.Lock()
	z.states[blocked.addr].retry = time.Time{}
	z.mu.Unlock()
	if found := look(t, c, got, "198.51.100.8"); found != "" {
		t.Errorf("the first name server, which has not this address, was not asked: %s", found)
	}
}

// An answer is asked for once while it is valid; a listing that bans is reported again, for the ban may be over.
func TestCache(t *testing.T) {
	l, z := serve(t, "198.51.100.7"), zoneConf()
	z.Codes = []conf.RBLCode{{Match: "127.0.0.4", Action: conf.RBLBan}}
	c, got := start(t, z, l.addr)
	look(t, c, got, "198.51.100.7")
	look(t, c, got, "198.51.100.8")
	if ev := got.all()[0]; !(*ev.Listings)[0].Ban || (*ev.Listings)[0].Points != 0 || ev.Line != "bl.example lists 198.51.100.7: 127.0.0.4 see https://bl.example/why" {
		t.Errorf("event %+v, %+v", ev, *ev.Listings)
	}
	before := l.count()
	for range 100 {
		c.Ask(netip.MustParseAddr("198.51.100.7"), true)
		c.Ask(netip.MustParseAddr("198.51.100.8"), true)
	}
	if l.count() != before || len(got.all()) != 1 {
		t.Errorf("%d more queries, %d reports", l.count()-before, len(got.all()))
	}
	list := c.all()[0]
	list.mu.Lock()
	a := list.cache.by[netip.MustParseAddr("198.51.100.7")]
	a.reported = time.Now().Add(-againAfter)
	list.cache.put(netip.MustParseAddr("198.51.100.7"), a)
	list.mu.Unlock()
	c.Ask(netip.MustParseAddr("198.51.100.7"), true)
	wait(t, c, "reported again", func(control.DNSBLList) bool { return len(got.all()) == 2 })
	if l.count() != before {
		t.Error("asked again")
	}
}

// A connection, which may be forged, comes before the failures on it: these are reported at once all the same.
func TestVerifiedAfterUnverified(t *testing.T) {
	l, z := serve(t, "198.51.100.7"), zoneConf()
	z.Codes = []conf.RBLCode{{Match: "127.0.0.4", Action: conf.RBLBan}}
	c, got := start(t, z, l.addr)
	addr := netip.MustParseAddr("198.51.100.7")
	c.Ask(addr, false)
	wait(t, c, "the connection is reported", func(control.DNSBLList) bool { return len(got.all()) == 1 })
	c.Ask(addr, true)
	wait(t, c, "the failure is reported", func(control.DNSBLList) bool { return len(got.all()) == 2 })
	c.Ask(addr, true)
	c.Ask(addr, false)
	wait(t, c, "no more than that", func(s control.DNSBLList) bool { return s.Waiting == 0 })
	if all := got.all(); len(all) != 2 || all[0].Verified || !all[1].Verified {
		t.Errorf("%d reports: %+v", len(all), all)
	}
}

// However many connections are forged, there is room for addresses that are not.
func TestForgedConnectionsLeaveRoom(t *testing.T) {
	z := newZone(zoneConf(), func() ([]string, error) { return nil, nil }, nil, slog.New(slog.DiscardHandler))
	now := time.Now()
	for i := range 2 * maxQueue {
		z.ask(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), false, now)
	}
	if n := len(z.queue); n != maxUnverified || z.left.Load() != 2*maxQueue-maxUnverified {
		t.Errorf("%d forged addresses wait, and %d are left out", n, z.left.Load())
	}
	for i := range maxQueue - maxUnverified {
		z.ask(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), true, now)
	}
	if n := len(z.queue); n != maxQueue {
		t.Errorf("%d addresses wait, want %d", n, maxQueue)
	}
}

// A name server that hangs delays nobody, and no more queries than allowed are at it.
func TestHangingServer(t *testing.T) {
	l, z := serve(t), zoneConf()
	z.Timeout, z.InFlight = time.Minute, 4
	c, _ := start(t, z, l.addr)
	wait(t, c, "tested", isTested)
	l.set(func(l *list) { l.silent = true })
	began := time.Now()
	for i := range 100_000 {
		c.Ask(netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)}), true)
	}
	if took := time.Since(began); took > patience/3 {
		t.Errorf("asking took %v", took)
	}
	s := wait(t, c, "left out", func(s control.DNSBLList) bool { return s.LeftOut >= 100_000-maxQueue-8 && s.Waiting >= maxQueue-8 })
	if s.Cached > maxCached {
		t.Errorf("%d answers are kept", s.Cached)
	}
	if n := len(c.all()[0].slots); n > 4 {
		t.Errorf("%d queries at a time", n)
	}
}

// The answers for very many sources take a bounded amount of memory.
func TestMemory(t *testing.T) {
	var z zone
	z.cfg = zoneConf()
	size := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := size()
	for i := range 100_000 {
		z.cache.put(netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)}), answer{until: time.Now().Add(time.Hour)})
	}
	grown := int64(size()) - int64(before)
	if n := len(z.cache.by); n != maxCached || grown > 8<<20 {
		t.Errorf("%d answers in %d KB", n, grown>>10)
	}
	if _, ok := z.cache.get(netip.AddrFrom4([4]byte{198, 19, 0x86, 0x9f}), time.Now()); !ok {
		t.Error("the latest answer is gone")
	}
	runtime.KeepAlive(&z)
}

// A changed configuration begins anew what has changed, and only that. Nothing is asked once lists are off.
func TestConfigure(t *testing.T) {
	l := serve(t, "198.51.100.7")
	c, got := start(t, zoneConf(), l.addr)
	look(t, c, got, "198.51.100.7")
	first := c.all()[0]
	cfg := conf.RBL{Enabled: true, Servers: []string{l.addr}, Zones: []conf.RBLZone{zoneConf()}}
	if c.Configure(cfg); c.all()[0] != first {
		t.Error("an unchanged list has begun anew")
	}
	cfg.Zones[0].Weight = 50
	if c.Configure(cfg); c.all()[0] == first {
		t.Error("a changed list goes on")
	}
	if found := look(t, c, got, "198.51.100.7"); found == "" || len(got.all()) != 2 || (*got.all()[1].Listings)[0].Points != 50 {
		t.Errorf("found %q, %d reports", found, len(got.all()))
	}
	c.Configure(conf.RBL{})
	before := l.count()
	c.Ask(netip.MustParseAddr("198.51.100.8"), true)
	if len(c.Status(time.Now()).Lists) != 0 || l.count() != before {
		t.Error("lists are asked although they are off")
	}
}

// Queries are spread over the time: not more than a second's worth at once.
func TestRate(t *testing.T) {
	l, z := serve(t), zoneConf()
	z.Rate = 50
	c, _ := start(t, z, l.addr)
	wait(t, c, "tested", isTested)
	before := l.count()
	began := time.Now()
	for i := range 100 {
		c.Ask(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), true)
	}
	wait(t, c, "asked about all", func(s control.DNSBLList) bool { return l.count()-before == 100 })
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("100 queries took %v at 50 a second", took)
	}
}

// BenchmarkAsk is what asking costs the engine: of addresses whose answers are known, and with an answer of a server on loopback for each.
func BenchmarkAsk(b *testing.B) {
	addr := func(i int) netip.Addr {
		return netip.AddrFrom4([4]byte{198, 18 + byte(i>>16&1), byte(i >> 8), byte(i)})
	}
	l, z := serve(b), zoneConf()
	z.Rate, z.InFlight = 1_000_000, 32
	c, _ := start(b, z, l.addr)
	wait(b, c, "tested", isTested)
	b.Run("answered", func(b *testing.B) {
		before := int(c.Status(time.Now()).Lists[0].Queries)
		for i := range b.N {
			for len(c.all()[0].queue) >= maxQueue {
				runtime.Gosched()
			}
			c.Ask(addr(i), true)
		}
		for c.all()[0].underWay() > 0 {
			runtime.Gosched()
		}
		b.ReportMetric(float64(int(c.Status(time.Now()).Lists[0].Queries)-before)/b.Elapsed().Seconds(), "queries/s")
	})
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		known := addr(1 << 30)
		c.all()[0].mu.Lock()
		c.all()[0].cache.put(known, answer{until: time.Now().Add(time.Hour)})
		c.all()[0].mu.Unlock()
		for range b.N {
			c.Ask(known, true)
		}
	})
}

// underWay returns how many queries wait or are under way.
func (z *zone) underWay() int { return len(z.queue) + len(z.slots) }
