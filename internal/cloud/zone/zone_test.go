package zone

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"mef/internal/cloud/reputation"
)

const testZone = "bl.example.org"

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// A listing is an entry of a zone of a test.
type listing struct {
	addr       string
	categories uint16
}

var listings = []listing{{"192.0.2.7", 1 << 1}, {"192.0.2.8", 1<<0 | 1<<4}, {"198.51.100.255", 0x7f}, {"2001:db8:1:2::", 1 << 3}, {"0.0.0.1", 1 << 6}}

func index(all ...listing) *Index {
	x := NewIndex()
	for _, l := range all {
		x.Set(netip.MustParseAddr(l.addr), NewInfo(l.categories, 87, 1, reputation.HourOf(time.Now())+48))
	}
	x.SetSerial(4711)
	return x
}

func aZone(t testing.TB) *Zone {
	t.Helper()
	z, err := newZone(Options{Zone: testZone, Server: "cloud.example.org:8443", Index: index(listings...)})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// start serves a zone on loopback.
func start(t testing.TB) *Zone {
	t.Helper()
	return serve(t, "127.0.0.1:0")
}

func serve(t testing.TB, listen string) *Zone {
	t.Helper()
	var z *Zone
	for range 20 { // the port may be taken over TCP
		var err error
		if z, err = Open(Options{Zone: testZone, Listen: listen, Server: "cloud.example.org:8443", Index: index(listings...)}); err == nil {
			break
		}
	}
	if z == nil {
		t.Fatal("no port is free")
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- z.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return z
}

func reversed(t testing.TB, addr string) string {
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(name, "in-addr.arpa."), "ip6.arpa.") + testZone + "."
}

func ask(t testing.TB, addr, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: time.Minute}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, kind), addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return m
}

func shown(m *dns.Msg) string {
	var all []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			all = append(all, rr.A.String())
		case *dns.TXT:
			all = append(all, strings.Join(rr.Txt, "|"))
		case *dns.NS:
			all = append(all, rr.Ns)
		case *dns.SOA:
			all = append(all, fmt.Sprint(rr.Serial, " ", rr.Minttl))
		}
	}
	if len(all) == 0 {
		all = []string{dns.RcodeToString[m.Rcode]}
		for _, rr := range m.Ns {
			all = append(all, dns.TypeToString[rr.Header().Rrtype])
		}
	}
	return strings.Join(all, " ")
}

// TestAnswers asks over UDP and TCP for everything that RFC 5782 and the rules of DNS say of a list.
func TestAnswers(t *testing.T) {
	z := start(t)
	until := reputation.HourOf(time.Now()) + 48
	text := func(addr, cat string) string {
		return fmt.Sprintf("v=mef1 score=87 cat=%s n=3-5 until=%s https://cloud.example.org:8443/ip/%s", cat, until.Time().Format("2006-01-02T15Z"), addr)
	}
	for _, tt := range []struct {
		name string
		kind uint16
		want string
	}{
		{reversed(t, "127.0.0.2"), dns.TypeA, "127.0.0.2"},
		{reversed(t, "127.0.0.2"), dns.TypeTXT, "v=mef1 test entry (RFC 5782)"},
		{reversed(t, "127.0.0.1"), dns.TypeA, "NXDOMAIN SOA"},
		{"2.0.0.0.0.0.f.7.f.f.f.f." + strings.Repeat("0.", 20) + testZone + ".", dns.TypeA, "127.0.0.2"}, // ::ffff:127.0.0.2
		{"1.0.0.0.0.0.f.7.f.f.f.f." + strings.Repeat("0.", 20) + testZone + ".", dns.TypeA, "NXDOMAIN SOA"},
		{reversed(t, "192.0.2.7"), dns.TypeA, "127.0.0.2 127.0.0.4"},
		{reversed(t, "192.0.2.7"), dns.TypeTXT, text("192.0.2.7", "ssh")},
		{strings.ToUpper(reversed(t, "192.0.2.7")), dns.TypeA, "127.0.0.2 127.0.0.4"},
		{reversed(t, "192.0.2.8"), dns.TypeA, "127.0.0.2 127.0.0.5"},
		{reversed(t, "192.0.2.8"), dns.TypeTXT, text("192.0.2.8", "other,web")},
		{reversed(t, "198.51.100.255"), dns.TypeA, "127.0.0.2 127.0.0.4 127.0.0.5 127.0.0.6"},
		{reversed(t, "0.0.0.1"), dns.TypeA, "127.0.0.2 127.0.0.7"},
		{reversed(t, "192.0.2.9"), dns.TypeA, "NXDOMAIN SOA"},
		{reversed(t, "192.0.2.9"), dns.TypeTXT, "NXDOMAIN SOA"},
		{reversed(t, "192.0.2.7"), dns.TypeAAAA, "NOERROR SOA"},
		{reversed(t, "192.0.2.7"), dns.TypeANY, "REFUSED"},
		{reversed(t, "2001:db8:1:2::7"), dns.TypeA, "127.0.0.2 127.0.0.6"},
		{reversed(t, "2001:db8:1:2:ffff:ffff:ffff:ffff"), dns.TypeTXT, text("2001:db8:1:2:ffff:ffff:ffff:ffff", "mail")},
		{reversed(t, "2001:db8:1:3::7"), dns.TypeA, "NXDOMAIN SOA"},
		{"2.0.192." + testZone + ".", dns.TypeA, "NOERROR SOA"}, // the end of an address
		{"8.b.d.0.1.0.0.2." + testZone + ".", dns.TypeA, "NOERROR SOA"},
		{"7.2.0.256." + testZone + ".", dns.TypeA, "NXDOMAIN SOA"},
		{"07.2.0.192." + testZone + ".", dns.TypeA, "NXDOMAIN SOA"},
		{"1.7.2.0.192." + testZone + ".", dns.TypeA, "NXDOMAIN SOA"},
		{"www." + testZone + ".", dns.TypeA, "NXDOMAIN SOA"},
		{"attacker.example." + testZone + ".", dns.TypeA, "NXDOMAIN SOA"},
		{testZone + ".", dns.TypeSOA, "4711 60"},
		{testZone + ".", dns.TypeNS, "cloud.example.org."},
		{testZone + ".", dns.TypeA, "NOERROR SOA"},
		{testZone + ".", dns.TypeAXFR, "REFUSED"},
		{"example.org.", dns.TypeA, "REFUSED"},
		{"xbl.example.org.", dns.TypeA, "REFUSED"},
		{".", dns.TypeNS, "REFUSED"},
		{"version.bind.", dns.TypeTXT, "REFUSED"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if tt.kind == dns.TypeAXFR && network == "tcp" {
				continue // the client expects a transfer
			}
			m := ask(t, z.Addr().String(), network, tt.name, tt.kind)
			if got := shown(m); got != tt.want {
				t.Errorf("%s %s %s: %q, want %q", network, tt.name, dns.TypeToString[tt.kind], got, tt.want)
			}
			if want := tt.want != "REFUSED"; m.Authoritative != want || m.RecursionAvailable {
				t.Errorf("%s: authoritative is %t, recursion %t", tt.name, m.Authoritative, m.RecursionAvailable)
			}
			for _, rr := range m.Ns {
				if soa := rr.(*dns.SOA); soa.Hdr.Name != testZone+"." || soa.Hdr.Ttl != 60 || soa.Minttl != 60 || soa.Serial != 4711 {
					t.Errorf("%s: %v", tt.name, rr)
				}
			}
			for _, rr := range m.Answer {
				if ttl := rr.Header().Ttl; rr.Header().Rrtype == dns.TypeA && ttl != 300 {
					t.Errorf("%s: TTL %d", tt.name, ttl)
				}
			}
		}
	}
}

// TestBothFamilies asks a zone that listens at all addresses, many clients at a time.
func TestBothFamilies(t *testing.T) {
	z := serve(t, ":0")
	_, port, err := net.SplitHostPort(z.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"127.0.0.1"}
	if c, err := net.ListenPacket("udp", "[::1]:0"); err == nil { // this machine has IPv6
		c.Close()
		hosts = append(hosts, "::1")
	}
	var asking sync.WaitGroup
	for range 4 * batchSize {
		for _, host := range hosts {
			asking.Go(func() {
				c := &dns.Client{Timeout: time.Minute}
				m, _, err := c.Exchange(new(dns.Msg).SetQuestion(reversed(t, "192.0.2.7"), dns.TypeA), net.JoinHostPort(host, port))
				if err != nil {
					t.Error(err)
				} else if got := shown(m); got != "127.0.0.2 127.0.0.4" {
					t.Errorf("%s: %q", host, got)
				}
			})
		}
	}
	asking.Wait()
}

// TestOddQueries sends what no client should.
func TestOddQueries(t *testing.T) {
	z := aZone(t)
	name := reversed(t, "192.0.2.7")
	for what, tt := range map[string]struct {
		change func(*dns.Msg)
		want   string
	}{
		"EDNS":         {func(m *dns.Msg) { m.SetEdns0(4096, true) }, "127.0.0.2 127.0.0.4"},
		"a later EDNS": {func(m *dns.Msg) { m.SetEdns0(4096, false); m.IsEdns0().SetVersion(1) }, "BADSIG"}, // which has the number of BADVERS
		"a cookie": {func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			opt := m.IsEdns0()
			opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"})
		}, "127.0.0.2 127.0.0.4"},
		"an update":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, "NOTIMP"},
		"two questions":    {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, "FORMERR"},
		"no question":      {func(m *dns.Msg) { m.Question = nil }, "FORMERR"},
		"another class":    {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, "REFUSED"},
		"an answer in it":  {func(m *dns.Msg) { m.Answer = []dns.RR{z.soaRecord()} }, "FORMERR"},
		"a signed request": {func(m *dns.Msg) { m.SetTsig("key.", dns.HmacSHA256, 300, now.Unix()) }, "127.0.0.2 127.0.0.4"},
	} {
		t.Run(what, func(t *testing.T) {
			q := new(dns.Msg).SetQuestion(name, dns.TypeA)
			tt.change(q)
			p, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			m := new(dns.Msg)
			if err := m.Unpack(z.reply(make([]byte, 0, maxUDP), p, now)); err != nil {
				t.Fatal(err)
			}
			if got := shown(m); got != tt.want || m.Id != q.Id {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if q.IsEdns0() != nil && (m.IsEdns0() == nil || m.IsEdns0().UDPSize() != maxUDP) {
				t.Error("the answer has no OPT record")
			}
		})
	}
	good, _ := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	answered, _ := new(dns.Msg).SetQuestion(name, dns.TypeA).SetReply(new(dns.Msg).SetQuestion(name, dns.TypeA)).Pack()
	for what, p := range map[string][]byte{"nothing": {}, "a short header": good[:11], "an answer": answered} {
		if got := z.reply(make([]byte, 0, maxUDP), p, now); len(got) > 0 {
			t.Errorf("%s is answered by %x", what, got)
		}
	}
	if got := z.reply(make([]byte, 0, maxUDP), good[:len(good)-3], now); len(got) < 4 || got[3]&15 != dns.RcodeFormatError {
		t.Errorf("a short question is answered by %x", got)
	}
}

// TestTTL checks that an answer is not kept for longer than the listing lasts.
func TestTTL(t *testing.T) {
	at := reputation.HourOf(now)
	for left, want := range map[time.Duration]uint32{72 * time.Hour: 300, 4 * time.Minute: 240, -time.Hour: 30} {
		if got := remaining(NewInfo(1, 1, 1, at+1), now.Add(time.Hour-left)); got != want {
			t.Errorf("%v left: %d, want %d", left, got, want)
		}
	}
}

// TestFastAnswersAllocateNothing covers each kind of answer of the usual form.
func TestFastAnswersAllocateNothing(t *testing.T) {
	z := aZone(t)
	out := make([]byte, 0, maxUDP)
	for _, addr := range []string{"192.0.2.7", "192.0.2.9", "127.0.0.2", "2001:db8:1:2::7", "2001:db8::1"} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeTXT, dns.TypeAAAA} {
			q := new(dns.Msg).SetQuestion(reversed(t, addr), kind).SetEdns0(1232, false)
			p, _ := q.Pack()
			if n := testing.AllocsPerRun(100, func() { z.reply(out, p, now) }); n != 0 {
				t.Errorf("%s %d: %v allocations", addr, kind, n)
			}
		}
	}
}

// FuzzPacket checks that no packet does harm, and that the answers of the fast path are those of package dns.
func FuzzPacket(f *testing.F) {
	for _, l := range listings {
		for _, kind := range []uint16{dns.TypeA, dns.TypeTXT, dns.TypeMX, dns.TypeANY} {
			p, _ := new(dns.Msg).SetQuestion(reversed(f, l.addr), kind).Pack()
			f.Add(p)
			p, _ = new(dns.Msg).SetQuestion(reversed(f, l.addr), kind).SetEdns0(1232, true).Pack()
			f.Add(p)
		}
	}
	p, _ := new(dns.Msg).SetQuestion(testZone+".", dns.TypeSOA).Pack()
	f.Add(p)
	p, _ = new(dns.Msg).SetQuestion("2.0.192."+testZone+".", dns.TypeA).Pack()
	f.Add(p)
	z := aZone(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > maxUDP {
			return
		}
		got := slices.Clone(z.reply(make([]byte, 0, maxUDP), p, now))
		if len(got) == 0 {
			return
		}
		if len(got) > 512 && len(got) > len(p) {
			t.Errorf("an answer has %d bytes", len(got))
		}
		if got[2]&flagQR == 0 || got[0] != p[0] || got[1] != p[1] {
			t.Errorf("%x is answered by %x", p, got)
		}
		fast := new(dns.Msg)
		if err := fast.Unpack(got); err != nil {
			t.Fatalf("%x is answered by %x: %v", p, got, err)
		}
		if _, usual := z.parse(p); usual {
			m, ok := z.unusual(p, now)
			if !ok || !strings.EqualFold(m.String(), fast.String()) {
				t.Errorf("%x: fast\n%s\nslow\n%s", p, fast, m)
			}
		}
	})
}

// TestChangesAreSeenAtOnce changes entries while others ask.
func TestChangesAreSeenAtOnce(t *testing.T) {
	x := NewIndex()
	want := make(map[netip.Addr]Info)
	var asking sync.WaitGroup
	done := make(chan struct{})
	steady := netip.MustParseAddr("10.1.0.1")
	x.Set(steady, NewInfo(1, 1, 1, 1))
	for range 2 {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if x.Get(steady) == 0 {
					t.Error("an entry is missing while others change")
					return
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 8_000 {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(rng.IntN(4)), byte(rng.IntN(256))})
		if rng.IntN(2) == 0 {
			b := netip.MustParseAddr("2001:db8::").As16()
			b[5], b[7] = byte(rng.IntN(2)), byte(rng.IntN(256))
			addr = netip.AddrFrom16(b)
		}
		if addr == steady {
			continue
		}
		info := NewInfo(uint16(i), 50, 2, reputation.Hour(i))
		if rng.IntN(3) == 0 {
			info = 0
			delete(want, addr)
		} else {
			want[addr] = info
		}
		x.Set(addr, info)
		if x.Get(addr) != info {
			t.Fatalf("%s: %x, want %x", addr, x.Get(addr), info)
		}
	}
	close(done)
	asking.Wait()
	want[steady] = NewInfo(1, 1, 1, 1)
	got := make(map[netip.Addr]Info)
	for addr, info := range x.All() {
		got[addr] = info
	}
	if len(got) != len(want) || x.Len() != len(want) {
		t.Fatalf("%d entries (%d), want %d", len(got), x.Len(), len(want))
	}
	inPrefix := 0
	for addr, info := range want {
		if got[addr] != info {
			t.Errorf("%s: %x, want %x", addr, got[addr], info)
		}
		if addr.Is6() && addr.As16()[5] == 1 {
			inPrefix++
		}
	}
	for addr := range x.Prefix(netip.MustParseAddr("2001:db8:1::")) {
		if !addr.Is6() {
			t.Errorf("%s is in an IPv6 prefix", addr)
		}
	}
	loaded := NewIndex()
	loaded.Load(x.All())
	for addr, info := range want {
		if loaded.Get(addr) != info {
			t.Errorf("%s is loaded as %x, want %x", addr, loaded.Get(addr), info)
		}
	}
}

// TestLimit checks that a network beyond its limit is not answered, or has to use TCP, and that it learns there why.
func TestLimit(t *testing.T) {
	z := aZone(t)
	stranger := netip.MustParseAddr("198.51.100.9")
	now := time.Now()
	for z.allow(stranger, now) {
	}
	if z.allow(stranger, now) || !z.allow(netip.MustParseAddr("127.0.0.1"), now) {
		t.Error("the limit is that of others")
	}
	p, _ := new(dns.Msg).SetQuestion(reversed(t, "192.0.2.7"), dns.TypeA).SetEdns0(1232, false).Pack()
	q, ok := z.parse(p)
	m := new(dns.Msg)
	if err := m.Unpack(z.truncated(nil, p, q)); !ok || err != nil || !m.Truncated || len(m.Answer) > 0 {
		t.Errorf("%v %v", m, err)
	}
	for z.allow(stranger, time.Now()) {
	}
	w := &recorder{from: &net.TCPAddr{IP: net.ParseIP("198.51.100.9"), Port: 1}}
	for kind, want := range map[uint16]string{dns.TypeA: "127.255.255.255", dns.TypeTXT: "too many queries from this network"} {
		for range 3 { // a query may be allowed between
			z.overTCP(w, new(dns.Msg).SetQuestion(reversed(t, "192.0.2.7"), kind))
			if shown(w.got) == want {
				break
			}
		}
		if got := shown(w.got); got != want {
			t.Errorf("%d: %q, want %q", kind, got, want)
		}
	}
}

// A recorder is a connection.
type recorder struct {
	dns.ResponseWriter
	from net.Addr
	got  *dns.Msg
}

func (r *recorder) RemoteAddr() net.Addr      { return r.from }
func (r *recorder) WriteMsg(m *dns.Msg) error { r.got = m; return nil }

// TestSlowClientsAreCut checks that a connection that sends nothing, or a byte now and then, does not stay open.
func TestSlowClientsAreCut(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a time limit")
	}
	z := start(t)
	c, err := net.Dial("tcp", z.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte{0})
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadAll(c); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("a slow connection is still open")
	}
	if got := shown(ask(t, z.Addr().String(), "udp", reversed(t, "192.0.2.7"), dns.TypeA)); got != "127.0.0.2 127.0.0.4" {
		t.Errorf("afterwards: %q", got)
	}
}

func TestZoneNames(t *testing.T) {
	for _, name := range []string{"", ".", "example", "a..b", strings.Repeat("a.", 40) + "example", `a\.b.example`, "a b\x00.example", "-"} {
		if _, err := newZone(Options{Zone: name, Server: "localhost:8443", Index: NewIndex()}); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, server := range []string{"192.0.2.1:8443", "[2001:db8::1]:443", strings.Repeat("a", 70) + ":1"} {
		z, err := newZone(Options{Zone: testZone, Server: server, Index: index(listings...)})
		if err != nil {
			t.Fatal(err)
		}
		p, _ := new(dns.Msg).SetQuestion(testZone+".", dns.TypeNS).Pack()
		m := new(dns.Msg)
		if err := m.Unpack(z.reply(make([]byte, 0, maxUDP), p, now)); err != nil || shown(m) != testZone+"." {
			t.Errorf("%s: %v %v", server, m, err)
		}
	}
}
