package server

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/cloud/limit"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// withoutSockets leaves out what cannot be copied.
type withoutSockets struct{ fs.FS }

func (f withoutSockets) ReadDir(name string) (all []fs.DirEntry, err error) {
	entries, err := fs.ReadDir(f.FS, name)
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			all = append(all, e)
		}
	}
	return all, err
}

// TestBadRequests checks that each is answered by what to do, and that nothing of it is stored.
func TestBadRequests(t *testing.T) {
	s := start(t, t.TempDir())
	h := join(t, s, "")
	revoked := join(t, s, "")
	id := wire.KeyID(revoked.key.Public().(ed25519.PublicKey))
	if out, err := s.do(t.Context(), entry{Revoke: &id}); err != nil || out.err != nil {
		t.Fatal(err, out.err)
	}
	good, _ := batch(attacker).Encode()
	sign := func(h *host, at time.Time, seq uint64, body []byte) *http.Request {
		req, _ := http.NewRequest("POST", "https://"+h.inv.Server+"/v1/reports", bytes.NewReader(body))
		wire.Sign(req, h.key, at, seq, body)
		return req
	}
	altered := sign(h, time.Now(), 1, good)
	other, _ := batch(netip.MustParseAddr("203.0.113.8")).Encode()
	altered.Body, altered.ContentLength = io.NopCloser(bytes.NewReader(other)), int64(len(other))
	unsigned, _ := http.NewRequest("POST", "https://"+h.inv.Server+"/v1/reports", bytes.NewReader(good))
	private, _ := batch(netip.MustParseAddr("192.168.1.1")).Encode()
	packed := func(text string) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = io.WriteString(z, text) // a buffer takes everything
		_ = z.Close()
		return out.Bytes()
	}
	report := fmt.Sprintf(`{"addr":"203.0.113.7","category":"ssh","count":"1","hour":%d}`, time.Now().Unix()/3600)
	moved := sign(h, time.Now(), 1, good) // to another path
	moved.URL.Path = "/v1/fleet"
	enrolment := func(text string) *http.Request {
		req, _ := http.NewRequest("POST", "https://"+h.inv.Server+"/v1/enroll", strings.NewReader(text))
		wire.Sign(req, h.key, time.Now(), 0, []byte(text))
		return req
	}
	unknown, _ := http.NewRequest("DELETE", "https://"+h.inv.Server+"/v1/reports", nil)
	for name, tt := range map[string]struct {
		req    *http.Request
		status int
		says   string
	}{
		"nested":             {sign(h, time.Now(), 1, packed(`{"rules":"","reports":`+strings.Repeat("[", 50_000))), 400, "nested deeper"},
		"repeated key":       {sign(h, time.Now(), 1, packed(`{"rules":"","rules":"","reports":[`+report+`]}`)), 400, "repeated"},
		"unknown key":        {sign(h, time.Now(), 1, packed(`{"rules":"","user":"alice","reports":[`+report+`]}`)), 400, "unknown"},
		"bomb":               {sign(h, time.Now(), 1, packed(strings.Repeat(" ", 10<<20))), 400, "after decompression"},
		"cut":                {sign(h, time.Now(), 1, good[:len(good)/2]), 400, "damaged"},
		"of last month":      {sign(h, time.Now(), 1, packed(`{"rules":"","reports":[{"addr":"203.0.113.7","category":"ssh","count":"1","hour":1}]}`)), 400, "older than a week"},
		"replayed elsewhere": {moved, 401, "signature"},
		"malformed token":    {enrolment(`{"token":"?","key":"aaaa"}`), 400, "malformed"},
		"repeated token":     {enrolment(`{"token":"aaaa","token":"bbbb","key":""}`), 400, "repeated"},
		"no such request":    {unknown, 404, "openapi.json"},
		"unsigned":           {unsigned, 401, "not signed"},
		"altered":            {altered, 401, "signature"},
		"of a stranger":      {sign(newHost(t, h.inv), time.Now(), 1, good), 401, "mefctl cloud join"},
		"of one revoked":     {sign(revoked, time.Now(), 1, good), 403, "revoked"},
		"too late":           {sign(h, time.Now().Add(-time.Hour), 1, good), 401, "clock"},
		"too early":          {sign(h, time.Now().Add(time.Hour), 1, good), 401, "clock"},
		"private address":    {sign(h, time.Now(), 1, private), 400, "not a public address"},
		"not compressed":     {sign(h, time.Now(), 1, []byte("{}")), 400, "gzip"},
		"too long":           {sign(h, time.Now(), 1, make([]byte, wire.MaxBody+1)), 413, "at most"},
	} {
		if status, text := h.do(tt.req); status != tt.status || !strings.Contains(string(text), tt.says) {
			t.Errorf("%s: %d %s, want %d and %q", name, status, text, tt.status, tt.says)
		}
	}
	if n := s.state.book.Len(); n != 0 {
		t.Errorf("%d addresses are stored", n)
	}
}

// TestExpiredInvitation checks that the end of an invitation counts, by the time of the log, and that its answer says what to do.
func TestExpiredInvitation(t *testing.T) {
	s := start(t, t.TempDir())
	inv, _, err := s.Invite(t.Context(), reputation.Member)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	for hash, in := range s.state.tokens {
		in.Ends = time.Now().Add(-time.Minute)
		s.state.tokens[hash] = in
	}
	s.mu.Unlock()
	inv.Server = s.Addr().String()
	if status, text := newHost(t, inv).enrol(); status != http.StatusForbidden || !strings.Contains(string(text), "mefcloud invite") {
		t.Errorf("%d %s", status, text)
	}
	if all := s.agents(); len(all) != 0 {
		t.Errorf("a host joined: %+v", all)
	}
}

func TestInvitationsAreForOneHost(t *testing.T) {
	s := start(t, t.TempDir())
	first := join(t, s, "")
	if status, text := first.enrol(); status != http.StatusOK {
		t.Errorf("a host whose answer was lost cannot join: %d %s", status, text)
	}
	if status, text := newHost(t, first.inv).enrol(); status != http.StatusForbidden || !strings.Contains(string(text), "mefcloud invite") {
		t.Errorf("a second host joins by the same invitation: %d %s", status, text)
	}
	want := []reputation.Role{reputation.Own, reputation.Member}
	join(t, s, "")
	for i, a := range s.agents() {
		if a.Role != want[i] {
			t.Errorf("host %d is %s, want %s", i, a.Role, want[i])
		}
	}
}

func TestClonedHostIsNoticed(t *testing.T) {
	s := start(t, t.TempDir())
	h := join(t, s, "")
	h.mustReport(attacker)
	h.mustReport(attacker)
	h.seq-- // the same request again, whose answer was lost
	h.mustReport(attacker)
	clone := *h
	clone.seq = 0
	if status, _ := clone.report(attacker); status != http.StatusConflict {
		t.Errorf("a clone gets %d", status)
	}
}

func TestRevokeEndsWhatAHostDid(t *testing.T) {
	s := start(t, t.TempDir())
	one, two := join(t, s, reputation.Own), join(t, s, reputation.Own)
	two.mustReport(attacker)
	before := one.feed("own", "")
	id := s.agents()[1].ID
	if out, err := s.do(t.Context(), entry{Revoke: &id}); err != nil || out.err != nil {
		t.Fatal(err, out.err)
	}
	if f := one.feed("own", fmt.Sprintf("?since=%d", before.Seq)); len(f.Remove) != 1 || f.Remove[0] != reputation.Key(attacker) {
		t.Errorf("after the revocation: %+v", f)
	}
}

func TestAppealNeedsTheAddressItself(t *testing.T) {
	s := start(t, t.TempDir())
	h := join(t, s, "")
	h.mustReport(attacker)
	if status, text := h.send("POST", "/v1/appeals", nil); status != http.StatusConflict || !strings.Contains(string(text), "127.0.0.1: the address is not listed") {
		t.Errorf("%d %s", status, text)
	}
}

// TestLimits checks that a network that asks too often is told to wait, and others are not.
func TestLimits(t *testing.T) {
	now := time.Now()
	s := &Server{opt: Options{Now: func() time.Time { return now }}, limits: limit.NewRate(perSecond, burst, now), state: newState()}
	ask := func(from string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/v1/ip/203.0.113.7", nil)
		r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(from), 1).String()
		w := httptest.NewRecorder()
		s.routes().ServeHTTP(w, r)
		return w
	}
	answered := 0
	for range 2 * burst {
		if ask("198.51.100.7").Code == http.StatusOK {
			answered++
		}
	}
	if answered != burst {
		t.Errorf("%d requests at once are answered, want %d", answered, burst)
	}
	if w := ask("198.51.100.9"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask("192.0.2.1"); w.Code != http.StatusOK {
		t.Errorf("another network: %d", w.Code)
	}
	if now = now.Add(time.Second); ask("198.51.100.9").Code != http.StatusOK {
		t.Error("a network is refused for ever")
	}
}

// Own hosts of one network have limits of their own. Whoever knows the name of one has not: neither to escape the limit of its network, nor to use up that
// of the host.
func TestLimitsOfOwnHosts(t *testing.T) {
	s := start(t, t.TempDir())
	h := join(t, s, reputation.Own)
	at := func(from, method, path string, key ed25519.PrivateKey, forge bool) netip.Addr {
		r := httptest.NewRequest(method, path, nil)
		r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(from), 1).String()
		wire.Sign(r, key, time.Now(), 1, nil)
		if forge {
			parts := strings.Split(r.Header.Get(wire.AuthHeader), ",")
			parts[4] = strings.Repeat("A", len(parts[4]))
			r.Header.Set(wire.AuthHeader, strings.Join(parts, ","))
		}
		return s.counted(r)
	}
	const net, other = "198.51.100.7", "192.0.2.1"
	own := at(net, "GET", "/v1/fleet/stream", h.key, false)
	if own == netip.MustParseAddr(net) || own != at(net, "POST", "/v1/reports", h.key, false) {
		t.Errorf("an own host counts for %s", own)
	}
	for _, path := range []string{"/v1/fleet/stream", "/v1/ip/203.0.113.7", "/"} {
		if got := at(other, "GET", path, h.key, true); got != netip.MustParseAddr(other) {
			t.Errorf("a forged request for %s counts for %s", path, got)
		}
	}
	if got := at(other, "POST", "/v1/appeals", h.key, true); got != netip.MustParseAddr(other) {
		t.Errorf("a forged appeal counts for %s", got)
	}
	if got := at(other, "POST", "/v1/reports", h.key, true); got == own {
		t.Error("forged reports from another network count for the host")
	}
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	if got := at(net, "GET", "/v1/ip/203.0.113.7", stranger, false); got != netip.MustParseAddr(net) {
		t.Errorf("a host that is unknown counts for %s", got)
	}
}
