package blocked_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/page/blocked"
)

// A daemon has one ban and one code.
type daemon struct {
	ban  control.Blocked
	err  error
	code string
}

func (d *daemon) Blocked(_ context.Context, a netip.Addr) (control.Blocked, error) {
	if d.err != nil {
		return control.Blocked{}, d.err
	}
	b := d.ban
	b.Addr = a.String()
	return b, nil
}

func (d *daemon) Free(_ context.Context, r control.FreeRequest) error {
	if (r.Code != d.code || r.Code == "") && (r.Answer != "19" || r.Token != "TOKEN") || r.Addr != netip.MustParseAddr("2001:db8::7") {
		return control.Refuse("wrong")
	}
	return nil
}

func TestPage(t *testing.T) {
	until := time.Date(2026, 1, 2, 13, 0, 0, 0, time.UTC)
	ban := control.Blocked{Since: until.Add(-time.Hour), Until: &until, Service: "nginx<script>alert(1)</script>", Ports: "80,443", Reference: "MEF-ABCDEFGH"}
	summed := ban
	summed.Sum, summed.Token = "7 + 12", "TOKEN"
	const evil = `"><img src=x onerror=alert(1)>`
	for name, tt := range map[string]struct {
		daemon daemon
		code   string
		status int
		has    []string
		not    []string
	}{
		"blocked": {daemon{ban: ban}, "", 403, []string{"2001:db8::7", "2026-01-02 12:00 UTC", "2026-01-02 13:00 UTC", "MEF-ABCDEFGH", "nginx&lt;script&gt;", "&lt;img src=x"},
			[]string{"<script", "<img"}},
		"until lifted": {daemon{ban: control.Blocked{Since: until}}, "", 403, []string{"lifted by the operator"}, []string{"Service"}},
		"right code":   {daemon{ban: ban, code: "GOOD"}, "GOOD", 200, []string{"no longer blocked"}, []string{"MEF-"}},
		"wrong code":   {daemon{ban: ban, code: "GOOD"}, "BAD", 403, []string{"The code is wrong", "MEF-ABCDEFGH"}, []string{"no longer"}},
		"long code":    {daemon{ban: ban, code: "GOOD"}, strings.Repeat("A", 10_000), 403, []string{"The code is wrong"}, []string{"AAAA"}},
		"sum":          {daemon{ban: summed}, "", 403, []string{"How much is 7 &#43; 12?", `value="TOKEN"`}, []string{"<script"}},
		"right answer": {daemon{ban: summed}, "answer=19&token=TOKEN", 200, []string{"no longer blocked"}, []string{"MEF-"}},
		"wrong answer": {daemon{ban: summed}, "answer=20&token=TOKEN", 403, []string{"The answer is wrong", "How much is"}, []string{"no longer"}},
		"no such ban":  {daemon{err: control.Refuse("the evidence is secret")}, "", 503, []string{"not blocked"}, []string{"secret"}},
		"no daemon":    {daemon{err: errors.New("dial secret")}, "", 503, []string{"not available now"}, []string{"secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://"+"shop.example/any/path?q=1", nil)
			if tt.code != "" {
				form := url.Values{"code": {tt.code}}.Encode()
				if strings.Contains(tt.code, "=") {
					form = tt.code
				}
				r = httptest.NewRequest(http.MethodPost, "http://shop.example/", strings.NewReader(form))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			r.RemoteAddr = "[2001:db8::7]:4711"
			w := httptest.NewRecorder()
			blocked.Handler(&tt.daemon, evil).ServeHTTP(w, r)
			body := w.Body.String()
			if w.Code != tt.status || w.Header().Get("Cache-Control") != "no-store" || !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("status %d, want %d; headers %v", w.Code, tt.status, w.Header())
			}
			for _, text := range tt.has {
				if !strings.Contains(body, text) {
					t.Errorf("the page does not have %q:\n%s", text, body)
				}
			}
			for _, text := range tt.not {
				if strings.Contains(body, text) {
					t.Errorf("the page has %q:\n%s", text, body)
				}
			}
		})
	}
}
