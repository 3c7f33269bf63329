package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// server answers over UDP and TCP at one port of loopback as answer tells, until the test ends.
func server(t *testing.T, answer func(m *dns.Msg, stream bool)) string {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := packets.LocalAddr().String()
	stream, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		answer(m, w.RemoteAddr().Network() == "tcp")
		w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: stream, Handler: handler}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	return addr
}

// rr returns records from their text in zone files.
func rr(t *testing.T, lines ...string) (all []dns.RR) {
	t.Helper()
	for _, line := range lines {
		r, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestAsk(t *testing.T) {
	long := slices.Repeat([]string{"x.example. 60 TXT " + strings.Repeat("y", 200)}, 20)
	for name, tt := range map[string]struct {
		kind   dnsmessage.Type
		answer func(m *dns.Msg, stream bool)
		want   []Record
		err    string
	}{
		"addresses": {dnsmessage.TypeA, func(m *dns.Msg, _ bool) {
			m.Answer = rr(t, "X.example. 60 A 192.0.2.1", "x.example. 30 A 192.0.2.2", "x.example. 60 MX 1 m.example.", "x.example. 60 CH A 192.0.2.3")
		}, []Record{
			{Name: "X.example.", Type: dnsmessage.TypeA, TTL: time.Minute, Addr: netip.MustParseAddr("192.0.2.1")},
			{Name: "x.example.", Type: dnsmessage.TypeA, TTL: 30 * time.Second, Addr: netip.MustParseAddr("192.0.2.2")},
		}, ""},
		"alias": {dnsmessage.TypeAAAA, func(m *dns.Msg, _ bool) {
			m.Answer = rr(t, "x.example. 60 CNAME y.example.", "y.example. 60 AAAA 2001:db8::1", "y.example. 60 AAAA ::ffff:192.0.2.1")
		}, []Record{
			{Name: "x.example.", Type: dnsmessage.TypeCNAME, TTL: time.Minute, Text: "y.example."},
			{Name: "y.example.", Type: dnsmessage.TypeAAAA, TTL: time.Minute, Addr: netip.MustParseAddr("2001:db8::1")},
			{Name: "y.example.", Type: dnsmessage.TypeAAAA, TTL: time.Minute, Addr: netip.MustParseAddr("192.0.2.1")},
		}, ""},
		"text": {dnsmessage.TypeTXT, func(m *dns.Msg, _ bool) { m.Answer = rr(t, `x.example. 60 TXT "one" " two"`) },
			[]Record{{Name: "x.example.", Type: dnsmessage.TypeTXT, TTL: time.Minute, Text: "one two"}}, ""},
		"no records": {dnsmessage.TypeA, func(*dns.Msg, bool) {}, nil, ""},
		"truncated over UDP": {dnsmessage.TypeTXT, func(m *dns.Msg, stream bool) {
			if m.Truncated = !stream; stream {
				m.Answer = rr(t, long...)
			}
		}, slices.Repeat([]Record{{Name: "x.example.", Type: dnsmessage.TypeTXT, TTL: time.Minute, Text: strings.Repeat("y", 200)}}, 20), ""},
		"always truncated":      {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Truncated = true }, nil, "the answer is cut short"},
		"no such name":          {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Rcode = dns.RcodeNameError }, nil, ErrNoName.Error()},
		"server failure":        {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Rcode = dns.RcodeServerFailure }, nil, "the answer is SERVFAIL"},
		"unusual code":          {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Rcode = dns.RcodeNotZone }, nil, "the answer is RCODE 10"},
		"another type":          {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Question[0].Qtype = dns.TypeMX }, nil, "the answer is to another question"},
		"another name":          {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Question[0].Name = "y.example." }, nil, "the answer is to another question"},
		"a question":            {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Response = false }, nil, "the answer is to another question"},
		"letters of the server": {dnsmessage.TypeA, func(m *dns.Msg, _ bool) { m.Question[0].Name = "X.EXAMPLE." }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			got, err := Ask(ctx, server(t, tt.answer), "x.example", tt.kind)
			if text := errorText(err); text != tt.err || !slices.Equal(got, tt.want) {
				t.Errorf("got %v, error %q; want %v, error %q", got, text, tt.want, tt.err)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestForged checks that answers with wrong numbers do not keep the right one from being read.
func TestForged(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buf := make([]byte, 512)
		n, from, err := conn.ReadFrom(buf)
		var q dns.Msg
		if err != nil || q.Unpack(buf[:n]) != nil {
			return
		}
		m := new(dns.Msg).SetReply(&q)
		for _, x := range []struct {
			id   uint16
			addr string
		}{{q.Id + 1, "192.0.2.66"}, {q.Id, "192.0.2.1"}} {
			m.Id, m.Answer = x.id, []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(x.addr)}}
			packed, _ := m.Pack()
			conn.WriteTo([]byte{0}, from)
			conn.WriteTo(packed, from)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := Ask(ctx, conn.LocalAddr().String(), "x.example.", dnsmessage.TypeA)
	if err != nil || len(got) != 1 || got[0].Addr != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("got %v, %v; want 192.0.2.1", got, err)
	}
}

// TestSilent checks the time-out and the end of the context, with a server that reads and never answers.
func TestSilent(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Ask(ctx, conn.LocalAddr().String(), "x.example", dnsmessage.TypeA); !errors.Is(err, ErrTimeout) {
		t.Errorf("a silent server: %v, want %v", err, ErrTimeout)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := Ask(ctx, conn.LocalAddr().String(), "x.example", dnsmessage.TypeA); !errors.Is(err, context.Canceled) {
		t.Errorf("ctx canceled: %v, want %v", err, context.Canceled)
	}
}

func TestBadName(t *testing.T) {
	for _, name := range []string{strings.Repeat("a.", 200), strings.Repeat("a", 64) + ".example", "a..example"} {
		if _, err := Ask(t.Context(), "127.0.0.1:1", name, dnsmessage.TypeA); err == nil || strings.Contains(err.Error(), "refused") {
			t.Errorf("%q: %v, want an error about the name", name, err)
		}
	}
}

func TestServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0 # a comment\nnameserver nonsense\n")
	if got, err := serversOf(path); err != nil || !slices.Equal(got, []string{"192.0.2.1:53", "[fe80::1%eth0]:53"}) {
		t.Errorf("got %q, %v", got, err)
	}
	write("search example\n")
	if got, err := serversOf(path); err == nil {
		t.Errorf("no name server: %q, want an error", got)
	}
	if got, err := serversOf(path + ".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %q, %v", got, err)
	}
}

// FuzzParse checks that no answer makes parse fail in another way than by an error.
func FuzzParse(f *testing.F) {
	m := new(dns.Msg).SetQuestion("x.example.", dns.TypeA)
	m.Response = true
	m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: "x.example.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"a", "b"}}}
	packed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, message []byte) {
		records, err := parse(message, "x.example", dnsmessage.TypeA)
		if err != nil && records != nil {
			t.Errorf("records %v beside error %v", records, err)
		}
		for _, r := range records {
			if r.Addr.Is4In6() {
				t.Errorf("address %v", r.Addr)
			}
		}
	})
}
