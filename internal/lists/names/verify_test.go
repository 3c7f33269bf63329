package names

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestVerify(t *testing.T) {
	s := serve(t, map[string][]string{
		"7.2.0.192.in-addr.arpa. PTR":     {"7.2.0.192.in-addr.arpa. 60 IN PTR crawl-7.Bot.example."},
		"crawl-7.bot.example. A":          {"crawl-7.bot.example. 60 IN A 192.0.2.7"},
		"crawl-7.Bot.example. A":          {"crawl-7.Bot.example. 60 IN A 192.0.2.7"},
		"8.2.0.192.in-addr.arpa. PTR":     {"8.2.0.192.in-addr.arpa. 60 IN PTR crawl-7.bot.example."}, // a name that is another's
		"9.2.0.192.in-addr.arpa. PTR":     {"9.2.0.192.in-addr.arpa. 60 IN PTR notbot.example."},
		"notbot.example. A":               {"notbot.example. 60 IN A 192.0.2.9"},
		"10.2.0.192.in-addr.arpa. PTR":    {"10.2.0.192.in-addr.arpa. 60 IN PTR bot.example.attacker.example."},
		"bot.example.attacker.example. A": {"bot.example.attacker.example. 60 IN A 192.0.2.10"},
		"11.2.0.192.in-addr.arpa. PTR": {"11.2.0.192.in-addr.arpa. 60 IN PTR x.attacker.example.",
			"11.2.0.192.in-addr.arpa. 60 IN PTR gone.bot.example."},
		"7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR": {
			"7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR six.bot.example."},
		"six.bot.example. AAAA": {"six.bot.example. 60 IN AAAA 2001:db8::7"},
	})
	k := New(Options{Servers: []string{s.addr}, Timeout: patience})
	if got, err := k.Verify(t.Context(), netip.MustParseAddr("192.0.2.12"), []string{"bot.example"}); got || err == nil {
		t.Errorf("an address without name, where none has been named: %v", got)
	}
	if got, err := k.Verify(t.Context(), netip.MustParseAddr("192.0.2.9"), []string{"bot.example"}); got || err != nil {
		t.Errorf("an address with another name: %v %v", got, err)
	}
	for addr, want := range map[string]bool{"192.0.2.7": true, "192.0.2.8": false, "192.0.2.9": false, "192.0.2.10": false, "192.0.2.11": false, "192.0.2.12": false, "2001:db8::7": true} {
		if got, err := k.Verify(t.Context(), netip.MustParseAddr(addr), []string{"search.example", "bot.example"}); got != want || err != nil {
			t.Errorf("%s: %v %v, want %v", addr, got, err, want)
		}
	}
	s.mu.Lock()
	s.rcode, s.zone = dns.RcodeNameError, nil
	s.mu.Unlock()
	if got, err := k.Verify(t.Context(), netip.MustParseAddr("192.0.2.7"), []string{"bot.example"}); got || err != nil {
		t.Errorf("no such name: %v %v", got, err)
	}
	s.mu.Lock()
	s.rcode = dns.RcodeServerFailure
	s.mu.Unlock()
	if got, err := k.Verify(t.Context(), netip.MustParseAddr("192.0.2.7"), []string{"bot.example"}); got || err == nil {
		t.Errorf("a failure counts as an answer: %v", got)
	}
	silent := New(Options{Servers: []string{s.addr}, Timeout: 50 * time.Millisecond})
	s.mu.Lock()
	s.silent = true
	s.mu.Unlock()
	if got, err := silent.Verify(t.Context(), netip.MustParseAddr("192.0.2.7"), []string{"bot.example"}); got || err == nil {
		t.Errorf("silence counts as an answer: %v", got)
	}
}
