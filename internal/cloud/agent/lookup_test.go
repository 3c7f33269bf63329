package agent

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/report"
)

// memberOf returns an Agent that has joined a server of a test, in place of a real one.
func memberOf(t *testing.T, cfg *conf.Config, answer http.HandlerFunc) *Agent {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	a := New(cfg, report.Category, slog.New(slog.DiscardHandler))
	m := &membership{Key: make([]byte, 64), client: s.Client()}
	m.server.Server = strings.TrimPrefix(s.URL, "https://")
	a.member = m
	return a
}

func prefixConfig(t *testing.T) *conf.Config {
	cfg := config(t.TempDir())
	cfg.Community.Report, cfg.Community.Lookup, cfg.Community.Listing.Error = false, conf.LookupPrefix, time.Hour
	return cfg
}

// TestPrefixShowsNoAddress checks that only prefixes leave the host, each once.
func TestPrefixShowsNoAddress(t *testing.T) {
	var asked atomic.Int64
	a := memberOf(t, prefixConfig(t), func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		of, ok := wire.ParsePrefix(strings.TrimPrefix(r.URL.Path, "/v1/prefix/"))
		if !ok || r.URL.RawQuery != "" || r.ContentLength > 0 {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		list := wire.PrefixList{Prefix: of}
		for _, addr := range []string{"203.0.113.7", "203.0.200.1", "2001:db8:1:2::"} {
			if of.Contains(netip.MustParseAddr(addr)) {
				list.Addresses = append(list.Addresses, netip.MustParseAddr(addr))
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	for addr, want := range map[string]bool{"203.0.113.7": true, "203.0.113.8": false, "203.0.200.1": true, "203.1.113.7": false,
		"2001:db8:1:2::7": true, "2001:db8:1:2:3::7": true, "2001:db8:1:3::7": false, "::ffff:203.0.113.7": true} {
		if got, err := a.Listed(t.Context(), netip.MustParseAddr(addr)); got != want || err != nil {
			t.Errorf("%s: %t, %v", addr, got, err)
		}
	}
	if asked.Load() != 3 {
		t.Errorf("the server was asked %d times for 3 prefixes", asked.Load())
	}
	v, err := a.Lookup(t.Context(), netip.MustParseAddr("203.0.113.7"))
	if err != nil || !v.Listed || !strings.HasSuffix(v.Shown, " was shown 203.0.0.0/16, and no more of the address") {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestPrefixOfABadServer checks that no answer that cannot be meant lists anybody, and that a server that fails is left alone for a time.
func TestPrefixOfABadServer(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":        ``,
		"another prefix": `{"prefix":"203.1.0.0/16","addresses":["203.0.113.7"]}`,
		"everything":     `{"prefix":"0.0.0.0/0","addresses":["203.0.113.7"]}`,
		"foreign":        `{"prefix":"203.0.0.0/16","addresses":["203.0.113.7","203.1.0.1"]}`,
		"no order":       `{"prefix":"203.0.0.0/16","addresses":["203.0.113.7","203.0.113.6"]}`,
		"no address":     `{"prefix":"203.0.0.0/16","addresses":["203.0.113.7",""]}`,
		"too long":       `{"prefix":"203.0.0.0/16","addresses":["203.0.113.7"` + strings.Repeat(`,"203.0.113.7"`, wire.MaxPrefix) + `]}`,
		"endless":        strings.Repeat(" ", maxAnswer+10),
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			a := memberOf(t, prefixConfig(t), func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				_, _ = w.Write([]byte(text))
			})
			for range 5 {
				if listed, err := a.Listed(t.Context(), netip.MustParseAddr("203.0.113.7")); listed || err == nil {
					t.Errorf("%t, %v", listed, err)
				}
			}
			if asked.Load() != 1 {
				t.Errorf("the server is asked %d times", asked.Load())
			}
			if len(a.Status().Problems) != 1 {
				t.Errorf("the status does not show it: %v", a.Status().Problems)
			}
		})
	}
}

// TestPrefixesAreBounded checks that a server cannot fill the memory of the host.
func TestPrefixesAreBounded(t *testing.T) {
	a := memberOf(t, prefixConfig(t), func(w http.ResponseWriter, r *http.Request) {
		of, _ := wire.ParsePrefix(strings.TrimPrefix(r.URL.Path, "/v1/prefix/"))
		list := wire.PrefixList{Prefix: of}
		for addr := of.Addr(); len(list.Addresses) < 20_000; addr = addr.Next() {
			list.Addresses = append(list.Addresses, addr)
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	for i := range 40 {
		if _, err := a.Listed(t.Context(), netip.AddrFrom4([4]byte{203, byte(i), 0, 1})); err != nil {
			t.Fatal(err)
		}
		if a.prefixes.kept > maxKept {
			t.Fatalf("%d addresses are kept", a.prefixes.kept)
		}
	}
}
