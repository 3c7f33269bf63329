package server

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// visit asks for a page from an address.
func visit(s *running, method, path, from string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(from), 4711).String()
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.routes().ServeHTTP(w, r)
	return w
}

// TestPages goes through what a person does whose address is listed.
func TestPages(t *testing.T) {
	s := start(t, t.TempDir())
	six := netip.MustParseAddr("2001:db8:1:2::7")
	listAddrs(t, s, attacker, netip.MustParseAddr("203.0.113.8"), six)
	for name, tt := range map[string]struct {
		method, path, from string
		header             []string
		status             int
		has, lacks         []string
	}{
		"overview": {"GET", "/", "203.0.113.7", nil, 200,
			[]string{"3 addresses are listed", `<a href="/ip/203.0.113.7">203.0.113.7</a>`, "It is listed.", "203.0.0.0/16", "2001:db8::/32", "<td>ssh</td>", "<svg", ": 12 reports</title>"}, []string{"<script", "style="}},
		"of a stranger":        {"GET", "/", "198.51.100.1", nil, 200, []string{"It is not listed."}, []string{"It is listed."}},
		"form":                 {"GET", "/?addr=+203.0.113.7+", "198.51.100.1", nil, 303, nil, nil},
		"form, no address":     {"GET", "/?addr=" + url.QueryEscape("<script>alert(1)</script>"), "198.51.100.1", nil, 400, []string{"&lt;script&gt;"}, []string{"<script"}},
		"listed, of another":   {"GET", "/ip/203.0.113.7", "198.51.100.1", nil, 200, []string{"This address is listed.", "<dd>ssh</dd>", "3 to 5 hosts", "UTC, unless", "open this page from there"}, []string{"/appeal"}},
		"listed, own":          {"GET", "/ip/203.0.113.7", "203.0.113.7", nil, 200, []string{`method="post" action="/appeal"`, "Remove 203.0.113.7"}, nil},
		"listed, same network": {"GET", "/ip/2001:db8:1:2::7", "2001:db8:1:2:ffff::1", nil, 200, []string{"This address is listed.", "Remove 2001:db8:1:2::7"}, nil},
		"mapped":               {"GET", "/ip/::ffff:203.0.113.7", "198.51.100.1", nil, 200, []string{"<h1>203.0.113.7</h1>", "This address is listed."}, nil},
		"not listed":           {"GET", "/ip/203.0.113.9", "198.51.100.1", nil, 200, []string{"This address is not listed."}, []string{"Reported by"}},
		"a zone":               {"GET", "/ip/fe80::1%25%3Cscript%3E", "198.51.100.1", nil, 400, []string{"This is not an address"}, []string{"<script"}},
		"no address":           {"GET", "/ip/%3Cimg%20src=x%3E", "198.51.100.1", nil, 400, []string{"This is not an address"}, []string{"<img"}},
		"escape sequences":     {"GET", "/?addr=%1b%5b31m%00%0d%0aX-A:%20b", "198.51.100.1", nil, 400, []string{`\x1b`}, []string{"\x1b", "\r"}},
		"very long":            {"GET", "/?addr=" + strings.Repeat("1", 4000), "198.51.100.1", nil, 400, nil, []string{strings.Repeat("1", 100)}},
		"no page":              {"GET", "/wp-login.php", "198.51.100.1", nil, 404, []string{"There is no such page"}, nil},
		"no route":             {"GET", "/v1/users", "198.51.100.1", nil, 404, []string{`"status":404`}, []string{"<html"}},
		"upwards":              {"GET", "/files/../../etc/passwd", "198.51.100.1", nil, 307, nil, []string{"root:"}},
		"style":                {"GET", "/style.css", "198.51.100.1", nil, 200, []string{"max-width"}, nil},
		"appeal, not listed":   {"POST", "/appeal", "198.51.100.1", nil, 409, []string{"198.51.100.1 was not removed"}, nil},
		"appeal by a site":     {"POST", "/appeal", "203.0.113.7", []string{"Sec-Fetch-Site", "cross-site"}, 403, []string{"Another site"}, nil},
		"appeal by old site":   {"POST", "/appeal", "203.0.113.7", []string{"Origin", "https://evil.example"}, 403, []string{"Another site"}, nil},
		"program by a site":    {"POST", "/v1/appeals", "203.0.113.7", []string{"Sec-Fetch-Site", "cross-site"}, 403, []string{`"status":403`}, nil},
		"appeal by GET":        {"GET", "/appeal", "203.0.113.7", nil, 404, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := visit(s, tt.method, tt.path, tt.from, tt.header...)
			text := w.Body.String()
			if w.Code != tt.status {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, text)
			}
			for _, part := range tt.has {
				if !strings.Contains(text, part) {
					t.Errorf("it lacks %q:\n%s", part, text)
				}
			}
			for _, part := range tt.lacks {
				if strings.Contains(text, part) {
					t.Errorf("it has %q", part)
				}
			}
			if kind := w.Header().Get("Content-Type"); strings.HasPrefix(kind, "text/html") && tt.status < 300 || tt.status >= 400 && !strings.HasPrefix(tt.path, "/v1/") {
				csp := w.Header().Get("Content-Security-Policy")
				if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("headers %v", w.Header())
				}
			}
		})
	}
	if w := visit(s, "GET", "/?addr=::ffff:203.0.113.7", "198.51.100.1"); w.Header().Get("Location") != "/ip/203.0.113.7" {
		t.Errorf("the form leads to %q", w.Header().Get("Location"))
	}
	if !s.state.book.Verdict(attacker).Listed {
		t.Fatal("another site has had the address removed")
	}
	if w := visit(s, "POST", "/appeal", "203.0.113.7", "Sec-Fetch-Site", "same-origin"); w.Code != 200 || !strings.Contains(w.Body.String(), "203.0.113.7 was removed") {
		t.Errorf("appeal: %d %s", w.Code, w.Body)
	}
	if w := visit(s, "GET", "/ip/203.0.113.7", "203.0.113.7"); !strings.Contains(w.Body.String(), "This address is not listed.") {
		t.Errorf("after the appeal: %s", w.Body)
	}
	if w := visit(s, "GET", "/ip/203.0.113.8", "203.0.113.7"); !strings.Contains(w.Body.String(), "This address is listed.") {
		t.Error("the appeal has removed another address too")
	}
}

// TestPageOfManyRequests checks that people are told by a page, and programs by a problem document, that they ask too often.
func TestPageOfManyRequests(t *testing.T) {
	s := start(t, t.TempDir())
	for range burst {
		visit(s, "GET", "/style.css", "198.51.100.1")
	}
	var w *httptest.ResponseRecorder
	for range 2 * burst {
		if w = visit(s, "GET", "/", "198.51.100.1"); w.Code == http.StatusTooManyRequests {
			break
		}
	}
	if w.Code != http.StatusTooManyRequests || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// TestReportsADayAreKept checks that the counts survive a restart.
func TestReportsADayAreKept(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	listAddrs(t, s, attacker)
	s.stop()
	s = start(t, dir)
	if text := visit(s, "GET", "/", "198.51.100.1").Body.String(); !strings.Contains(text, ": 4 reports</title>") {
		t.Errorf("after a restart:\n%s", text)
	}
}
