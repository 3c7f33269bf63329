package names

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// patience is how long a test waits for what should happen.
const patience = 30 * time.Second

// A server answers from a zone that a test changes.
type server struct {
	addr string

	mu     sync.Mutex
	zone   map[string][]string // records by name and type: "a.example. A"
	rcode  int
	asked  map[string]int
	silent bool
}

// serve starts a DNS server on loopback, over UDP and TCP.
func serve(t *testing.T, zone map[string][]string) *server {
	t.Helper()
	s := &server{zone: zone, asked: make(map[string]int)}
	conn, l, err := listen()
	for again := 1; again < 10 && err != nil; again++ {
		conn, l, err = listen()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.addr = conn.LocalAddr().String()
	for _, srv := range []*dns.Server{{PacketConn: conn, Handler: s}, {Listener: l, Handler: s}} {
		go srv.ActivateAndServe()
		t.Cleanup(func() { srv.Shutdown() })
	}
	return s
}

// listen opens a port that is free over UDP, and over TCP too unless somebody has it.
func listen() (net.PacketConn, net.Listener, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, l, nil
}

func (s *server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
	s.asked[key]++
	if s.silent {
		return
	}
	m := new(dns.Msg).SetRcode(q, s.rcode)
	m.RecursionAvailable = true
	for _, text := range s.zone[key] {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	if w.LocalAddr().Network() == "udp" {
		m.Truncate(512)
	}
	w.WriteMsg(m)
}

func (s *server) set(rcode int, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcode, s.silent = rcode, silent
}

func (s *server) keeper() *Keeper {
	return New(Options{Servers: []string{s.addr}, Timeout: patience})
}

func show(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, " ")
}

func TestLookup(t *testing.T) {
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("many.example. 60 IN A 192.0.2.%d", i+1))
	}
	s := serve(t, map[string][]string{
		"one.example. A":      {"one.example. 60 IN A 192.0.2.7"},
		"both.example. A":     {"both.example. 600 IN A 192.0.2.7", "both.example. 300 IN A 192.0.2.8"},
		"both.example. AAAA":  {"both.example. 90 IN AAAA 2001:db8::7"},
		"alias.example. A":    {"alias.example. 40 IN CNAME b.example.", "b.example. 50 IN CNAME c.example.", "c.example. 60 IN A 192.0.2.9"},
		"alias.example. AAAA": {"alias.example. 40 IN CNAME b.example."},
		"loop.example. A":     {"loop.example. 40 IN CNAME loop.example."},
		"liar.example. A":     {"liar.example. 60 IN A 192.0.2.7", "victim.example. 60 IN A 203.0.113.66"},
		"many.example. A":     many, // more than fits a datagram
	})
	for name, tt := range map[string]struct {
		want, err string
		ttl       time.Duration
	}{
		"one.example":   {"192.0.2.7", "", time.Minute},
		"ONE.example.":  {"192.0.2.7", "", time.Minute},
		"both.example":  {"192.0.2.7 192.0.2.8 2001:db8::7", "", 90 * time.Second},
		"alias.example": {"192.0.2.9", "", 40 * time.Second},
		"loop.example":  {"", "too many aliases", 0},
		"liar.example":  {"192.0.2.7", "", time.Minute},
		"none.example":  {"", "no addresses", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s.mu.Lock()
			if name == "ONE.example." { // a server answers with the case of the question
				s.zone["ONE.example. A"] = s.zone["one.example. A"]
			}
			s.mu.Unlock()
			addrs, ttl, err := s.keeper().lookup(t.Context(), name)
			if show(addrs) != tt.want || ttl != tt.ttl || fmt.Sprint(err) != fmt.Sprint(tt.err) && tt.err != "" {
				t.Errorf("lookup = %q for %v, %v; want %q for %v, %q", show(addrs), ttl, err, tt.want, tt.ttl, tt.err)
			}
		})
	}
	if addrs, _, err := s.keeper().lookup(t.Context(), "many.example"); len(addrs) != 60 || err != nil {
		t.Errorf("%d addresses, %v; want the 60 that come over TCP", len(addrs), err)
	}
	s.set(dns.RcodeServerFailure, false)
	if _, _, err := s.keeper().lookup(t.Context(), "one.example"); err == nil || !strings.HasSuffix(err.Error(), "the answer is SERVFAIL") {
		t.Errorf("err = %v, want SERVFAIL", err)
	}
}

func TestNextServerIsAsked(t *testing.T) {
	silent := serve(t, nil)
	silent.set(0, true)
	good := serve(t, map[string][]string{"one.example. A": {"one.example. 60 IN A 192.0.2.7"}})
	k := New(Options{Servers: []string{silent.addr, good.addr}, Timeout: 2 * time.Second})
	if addrs, _, err := k.lookup(t.Context(), "one.example"); show(addrs) != "192.0.2.7" {
		t.Errorf("lookup = %v, %v", addrs, err)
	}
}

// running starts the keeper and returns a function that waits until it says of the name what is wanted.
func running(t *testing.T, k *Keeper) (await func(name string, ok func(Answer) bool) Answer) {
	t.Helper()
	done := make(chan error)
	go func() { done <- k.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return func(name string, ok func(Answer) bool) Answer {
		t.Helper()
		limit := time.After(2 * patience)
		for {
			if a := k.Answers()[name]; ok(a) {
				return a
			}
			select {
			case <-k.Changed():
			case <-limit:
				t.Fatalf("%s: %+v", name, k.Answers()[name])
			}
		}
	}
}

func TestKeeperKeepsTheLastGoodAnswer(t *testing.T) {
	s := serve(t, map[string][]string{
		"one.example. A":   {"one.example. 1 IN A 192.0.2.7"},
		"never.example. A": {"never.example. 86400 IN A 192.0.2.8"},
	})
	k := New(Options{Servers: []string{s.addr}, Timeout: 2 * time.Second}) // which silence takes
	await := running(t, k)
	k.Want([]string{"one.example", "never.example", "one.example"})
	a := await("one.example", func(a Answer) bool { return len(a.Addrs) == 1 })
	if kept := a.Next.Sub(a.At); kept != minTTL {
		t.Errorf("a TTL of a second is kept for %v, want %v", kept, minTTL)
	}
	a = await("never.example", func(a Answer) bool { return len(a.Addrs) == 1 })
	if kept := a.Next.Sub(a.At); kept != maxTTL {
		t.Errorf("a TTL of a day is kept for %v, want %v", kept, maxTTL)
	}
	for name, fail := range map[string]func(){
		"SERVFAIL": func() { s.set(dns.RcodeServerFailure, false) },
		"NXDOMAIN": func() { s.set(dns.RcodeNameError, false) },
		"silence":  func() { s.set(0, true) },
	} {
		fail()
		k.Know(k.Answers()) // forgets when to ask again
		k.Want([]string{"one.example"})
		a := await("one.example", func(a Answer) bool { return a.Err != "" && a.Next.After(time.Now()) })
		if show(a.Addrs) != "192.0.2.7" {
			t.Errorf("%s: addresses %v, want the last good ones", name, a.Addrs)
		}
	}
	s.set(0, false)
	k.Know(k.Answers())
	k.Want([]string{"one.example"})
	await("one.example", func(a Answer) bool { return a.Err == "" && len(a.Addrs) == 1 })
	if _, there := k.Answers()["never.example"]; there {
		t.Error("a name that is not wanted any more is still there")
	}
}

func TestLastGoodAnswerEnds(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	good := Answer{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, At: now}
	for name, tt := range map[string]struct {
		after time.Duration
		want  string
	}{
		"a minute":         {time.Minute, "192.0.2.7"},
		"almost a week":    {keepGood - time.Second, "192.0.2.7"},
		"a week":           {keepGood, ""},
		"the clock is set": {-time.Hour, "192.0.2.7"},
	} {
		t.Run(name, func(t *testing.T) {
			if a := good.merge(nil, errNone, now.Add(tt.after)); show(a.Addrs) != tt.want || a.Err == "" {
				t.Errorf("%+v, want addresses %q and the error", a, tt.want)
			}
		})
	}
}

func TestAtMostSixteenAddresses(t *testing.T) {
	var addrs []netip.Addr
	for i := range 40 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(200 - i)}))
	}
	a := Answer{}.merge(addrs, nil, time.Now())
	if len(a.Addrs) != MaxAddrs || a.More != 40-MaxAddrs || !slices.IsSortedFunc(a.Addrs, netip.Addr.Compare) || a.Addrs[0].String() != "192.0.2.161" {
		t.Errorf("%d addresses from %v and %d more, want the lowest %d", len(a.Addrs), a.Addrs[0], a.More, MaxAddrs)
	}
	var names []string
	for i := range MaxNames + 3 {
		names = append(names, fmt.Sprintf("n%d.example", i))
	}
	k := New(Options{})
	if leftOut := k.Want(names); leftOut != 3 || len(k.Answers()) != MaxNames {
		t.Errorf("%d names left out and %d known, want 3 and %d", leftOut, len(k.Answers()), MaxNames)
	}
}
