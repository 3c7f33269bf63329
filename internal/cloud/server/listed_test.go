package server

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// listAddrs has addresses listed for all: anchors in four systems report them.
func listAddrs(t *testing.T, s *running, addrs ...netip.Addr) {
	t.Helper()
	must := func(e entry) {
		t.Helper()
		if out, err := s.do(t.Context(), e); err != nil || out.err != nil {
			t.Fatal(err, out.err)
		}
	}
	for i := range 4 {
		key := ed25519.NewKeyFromSeed(append(make([]byte, 31), byte(i))).Public().(ed25519.PublicKey)
		id := wire.KeyID(key)
		s.mu.Lock()
		_, known := s.state.agents[id]
		s.mu.Unlock()
		if !known {
			hash := sha256.Sum256(key)
			must(entry{Invite: &invite{Hash: hash, Role: reputation.Anchor, Ends: time.Now().Add(time.Hour)}})
			must(entry{Enrol: &enrol{Hash: hash, Key: key, System: fmt.Sprint("system", i), Net: fmt.Sprint("net", i)}})
		}
		must(entry{Reports: &reports{Agent: id, Seq: uint64(time.Now().UnixNano()), Batch: batch(addrs...)}})
	}
}

// startDNS starts a server that serves its list by DNS.
func startDNS(t *testing.T, dir string) *running {
	t.Helper()
	var s *Server
	var err error
	for range 20 { // the port may be taken over TCP
		if s, err = Open(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Name: "cloud.example.org:8443", DNS: "127.0.0.1:0", Zone: "bl.example.org", Log: slog.New(slog.DiscardHandler)}); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return run(t, s)
}

// TestListedByDNS checks that an address can be looked up as soon as it is listed, and no longer once it is not, also after a restart.
func TestListedByDNS(t *testing.T) {
	dir := t.TempDir()
	s := startDNS(t, dir)
	asked := func(name string, kind uint16) string {
		t.Helper()
		c := &dns.Client{Timeout: time.Minute}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name+".bl.example.org.", kind), s.DNS())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, rr := range m.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				all = append(all, rr.A.String())
			case *dns.TXT:
				all = append(all, rr.Txt...)
			case *dns.SOA:
				all = append(all, fmt.Sprint(rr.Serial))
			}
		}
		return strings.Join(all, " ")
	}
	six := netip.MustParseAddr("2001:db8:1:2::7")
	if got := asked("7.113.0.203", dns.TypeA); got != "" {
		t.Errorf("before: %q", got)
	}
	listAddrs(t, s, attacker, six)
	const nibbles = "8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2" // another host of the network
	for range 2 {
		if got := asked("7.113.0.203", dns.TypeA); got != "127.0.0.2 127.0.0.4" {
			t.Errorf("listed: %q", got)
		}
		if got := asked(nibbles, dns.TypeA); got != "127.0.0.2 127.0.0.4" {
			t.Errorf("listed: %q", got)
		}
		until := time.Now().Add(7 * 24 * time.Hour).UTC().Format("2006-01-02T")
		if got := asked("7.113.0.203", dns.TypeTXT); !strings.HasPrefix(got, "v=mef1 score=86 cat=ssh n=3-5 until="+until) || !strings.HasSuffix(got, "Z https://cloud.example.org:8443/ip/203.0.113.7") {
			t.Errorf("text: %q", got)
		}
		s.stop()
		s = startDNS(t, dir)
	}
	if out, err := s.do(t.Context(), entry{Appeal: &attacker}); err != nil || out.err != nil {
		t.Fatal(err, out.err)
	}
	if got := asked("7.113.0.203", dns.TypeA); got != "" {
		t.Errorf("after the appeal: %q", got)
	}
	s.refreshIndex()
	if got := asked(nibbles, dns.TypeA); got != "127.0.0.2 127.0.0.4" {
		t.Errorf("after a refresh: %q", got)
	}
}

// TestPrefixes checks that a prefix has all of its listed addresses and no others.
func TestPrefixes(t *testing.T) {
	s := start(t, t.TempDir())
	listAddrs(t, s, attacker, netip.MustParseAddr("203.0.0.1"), netip.MustParseAddr("203.1.0.1"), netip.MustParseAddr("2001:db8:1:2::7"), netip.MustParseAddr("2001:db9:1:2::7"))
	h := join(t, s, "")
	for of, want := range map[string]string{
		"203.0": "203.0.0.0/16: 203.0.0.1 203.0.113.7", "203.1": "203.1.0.0/16: 203.1.0.1", "203.2": "203.2.0.0/16:",
		"2001:db8": "2001:db8::/32: 2001:db8:1:2::", "2001:db7": "2001:db7::/32:", "2001:0": "2001::/32:",
	} {
		status, text := h.send("GET", "/v1/prefix/"+of, nil)
		var got wire.PrefixList
		if err := json.Unmarshal(text, &got); status != 200 || err != nil {
			t.Errorf("%s: %d %s", of, status, text)
			continue
		}
		line := got.Prefix.String() + ":"
		for _, a := range got.Addresses {
			line += " " + a.String()
		}
		if line != want || wire.PrefixPath(got.Prefix) != of {
			t.Errorf("%s: %q, want %q", of, line, want)
		}
	}
	for _, bad := range []string{"203", "203.0.113", "203.0.0.0", "203.00", "203.256", "::", "2001", "2001:db8:1", "2001:DB8", "2001:db8::", "x.y", "203.0%25lo", "%2e%2e", "203.%00"} {
		if status, text := h.send("GET", "/v1/prefix/"+bad, nil); status != 400 && status != 404 {
			t.Errorf("%q: %d %s", bad, status, text)
		}
	}
}

// TestZoneIsNamed checks that a wrong zone or port stops the start.
func TestZoneIsNamed(t *testing.T) {
	for zone, says := range map[string]string{"nothing": "is not the name of a zone", "bl.example.org": "dns:"} {
		_, err := Open(context.Background(), Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Name: "cloud.example.org:8443", DNS: "192.0.2.1:53", Zone: zone, Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", zone, err)
		}
	}
}
