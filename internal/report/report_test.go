package report

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/owner"
	"mef/internal/webclient"
)

// patience is how long a test waits for what should happen.
const patience = 30 * time.Second

// A server is one who collects reports.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	got    []url.Values
	answer func(w http.ResponseWriter, form url.Values)
}

func serve(t *testing.T, answer func(http.ResponseWriter, url.Values)) *server {
	t.Helper()
	s := &server{answer: answer}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		r.Form.Set("Key", r.Header.Get("Key"))
		r.Form.Set("Path", r.URL.Path)
		s.mu.Lock()
		s.got = append(s.got, r.Form)
		answer := s.answer
		s.mu.Unlock()
		answer(w, r.Form)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) requests() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

func (s *server) set(answer func(http.ResponseWriter, url.Values)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// accept answers as AbuseIPDB does.
func accept(w http.ResponseWriter, form url.Values) {
	w.Header().Set("X-RateLimit-Remaining", "999")
	fmt.Fprintf(w, `{"data":{"ipAddress":%q,"abuseConfidenceScore":52}}`, form.Get("ip")+form.Get("ipAddress"))
}

func status(code int, header ...string) func(http.ResponseWriter, url.Values) {
	return func(w http.ResponseWriter, _ url.Values) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprint(w, `{"errors":[{"detail":"that is \u001b wrong"}]}`)
	}
}

// A desk is a Reporter that reports to a server, and what it has saved.
type desk struct {
	*Reporter
	mu    sync.Mutex
	saved string
	stop  func()
}

// collectorOf returns a collector in the place of one of the real ones.
func collectorOf(t *testing.T, s *server, name string) *collector {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("secret123\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	c := &collector{name: name, url: s.URL, keyFile: key, send: (*collector).toAbuseIPDB, test: (*collector).testAbuseIPDB}
	if name == "blocklist.de" {
		c.server, c.send, c.test = "mef@example.org", (*collector).toBlocklistDE, (*collector).testBlocklistDE
	}
	return c
}

func open(t *testing.T, saved string, s *server, c *collector) *desk {
	t.Helper()
	d := &desk{Reporter: New(conf.Report{}, slog.New(slog.DiscardHandler)), saved: saved}
	d.Restore(saved)
	d.configure([]*collector{c})
	c.client = s.Client()
	c.client.CheckRedirect, c.client.Timeout = webclient.New().CheckRedirect, patience
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- d.Run(ctx, func(_ context.Context, text string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.saved = text
		})
	}()
	d.stop = sync.OnceFunc(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(d.stop)
	return d
}

func (d *desk) state() control.Reports { return d.Status(time.Now())[0] }

func (d *desk) wait(t *testing.T, what string, is func(control.Reports) bool) control.Reports {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s := d.state()
		if is(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("not %s: %+v", what, s)
		}
	}
}

// now has the collector send without waiting.
func (d *desk) now() {
	c := d.all()[0]
	c.mu.Lock()
	c.until = time.Time{}
	c.mu.Unlock()
	owner.Wake(c.wake)
}

func banned(addr string) control.Record {
	return control.Record{Time: time.Now(), Event: "ban", Rule: "sshd", Service: "sshd", Prefix: addr, Class: "verified",
		Evidence: []string{"Jan  2 10:00:00 mail1 sshd[77]: Failed password for invalid user alice from 203.0.113.7 port 50000 ssh2"}}
}

func (d *desk) add(recs ...control.Record) { _ = d.Write(recs) }

func TestReport(t *testing.T) {
	s := serve(t, accept)
	d := open(t, "", s, collectorOf(t, s, "abuseipdb"))
	d.add(banned("203.0.113.7/32"))
	got := d.wait(t, "sent", func(s control.Reports) bool { return s.Sent == 1 })
	if got.Problem != "" || got.Last == nil || got.Quota == nil || *got.Quota != 999 {
		t.Errorf("status %+v", got)
	}
	form := s.requests()[0]
	if at, err := time.Parse(time.RFC3339, form.Get("timestamp")); err != nil || time.Since(at) > time.Minute {
		t.Errorf("timestamp %q", form.Get("timestamp"))
	}
	for field, want := range map[string]string{"ip": "203.0.113.7", "categories": "18,22", "Key": "secret123", "Path": "/report",
		"comment": "Attack on SSH, banned by mef\n* 10:00:00 * sshd[*]: Failed password for invalid user * from 203.0.113.7 port * ssh2"} {
		if form.Get(field) != want {
			t.Errorf("%s is %q, want %q", field, form.Get(field), want)
		}
	}
	d.mu.Lock()
	if strings.Contains(d.saved, "secret") || !strings.Contains(d.saved, "203.0.113.7") {
		t.Errorf("saved %s", d.saved)
	}
	d.mu.Unlock()

	s.set(func(w http.ResponseWriter, _ url.Values) { fmt.Fprint(w, "ok") })
	d = open(t, "", s, collectorOf(t, s, "blocklist.de"))
	d.add(banned("203.0.113.8/32"))
	d.wait(t, "sent to blocklist.de", func(s control.Reports) bool { return s.Sent == 1 })
	form = s.requests()[1]
	for field, want := range map[string]string{"ip": "203.0.113.8", "service": "ssh", "apikey": "secret123", "server": "mef@example.org", "format": "text", "Key": ""} {
		if form.Get(field) != want {
			t.Errorf("blocklist.de: %s is %q, want %q", field, form.Get(field), want)
		}
	}
	if !strings.Contains(form.Get("logs"), "Failed password") || strings.Contains(form.Get("logs"), "203.0.113.7") {
		t.Errorf("logs %q", form.Get("logs"))
	}
}

// Only what this host has seen itself, of somebody who cannot be another, is reported.
func TestWhatIsReported(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*control.Record)
		want   bool
	}{
		"rule":           {func(*control.Record) {}, true},
		"score":          {func(r *control.Record) { r.Rule = "score" }, true},
		"IPv6":           {func(r *control.Record) { r.Prefix = "2a00:1450::7/128" }, true},
		"unverified":     {func(r *control.Record) { r.Class = "unverified" }, false},
		"observe mode":   {func(r *control.Record) { r.Event = "would-ban" }, false},
		"unban":          {func(r *control.Record) { r.Event = "unban" }, false},
		"by hand":        {func(r *control.Record) { r.Rule = "manual" }, false},
		"by other hosts": {func(r *control.Record) { r.Rule = "fleet" }, false},
		"by a file":      {func(r *control.Record) { r.Rule = "blacklist" }, false},
		"crowd":          {func(r *control.Record) { r.Rule = "crowd" }, false},
		"block list":     {func(r *control.Record) { r.Rule, r.Service, r.Listed = "dnsbl/own", "dnsbl", true }, false},
		"points of list": {func(r *control.Record) { r.Rule, r.Listed = "score", true }, false},
		"network":        {func(r *control.Record) { r.Prefix = "2a00:1450::/64" }, false},
		"private":        {func(r *control.Record) { r.Prefix = "10.0.0.7/32" }, false},
		"link-local":     {func(r *control.Record) { r.Prefix = "fe80::7/128" }, false},
	} {
		rec := banned("203.0.113.7/32")
		tt.change(&rec)
		if got := attackOf(&rec) != nil; got != tt.want {
			t.Errorf("%s: reported %v", name, got)
		}
	}
}

// An address is reported once in fifteen minutes, also after a restart or a crash between saving and sending.
func TestOnceInFifteenMinutes(t *testing.T) {
	s := serve(t, accept)
	d := open(t, "", s, collectorOf(t, s, "abuseipdb"))
	d.add(banned("203.0.113.7/32"), banned("203.0.113.7/32"))
	d.wait(t, "sent", func(s control.Reports) bool { return s.Sent == 1 })
	d.now()
	d.wait(t, "left out", func(s control.Reports) bool { return s.Repeated == 1 })
	d.stop()
	d = open(t, d.saved, s, collectorOf(t, s, "abuseipdb"))
	d.add(banned("203.0.113.7/32"))
	d.wait(t, "left out after a restart", func(s control.Reports) bool { return s.Repeated == 1 })
	if n := len(s.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	d.stop()
	old, _ := json.Marshal(map[string]map[netip.Addr]int64{"abuseipdb": {netip.MustParseAddr("203.0.113.7"): time.Now().Add(-window).Unix(),
		netip.MustParseAddr("203.0.113.9"): time.Now().Add(time.Hour).Unix()}})
	d = open(t, string(old), s, collectorOf(t, s, "abuseipdb"))
	d.add(banned("203.0.113.7/32"))
	d.wait(t, "sent again", func(s control.Reports) bool { return s.Sent == 1 })
	if d.mu.Lock(); strings.Contains(d.saved, "203.0.113.9") {
		t.Errorf("an address from the future is kept: %s", d.saved)
	}
	d.mu.Unlock()
	open(t, "no JSON", s, collectorOf(t, s, "abuseipdb"))
}

// What goes wrong costs reports and nothing else, and is shown.
func TestFailures(t *testing.T) {
	long := func(w http.ResponseWriter, _ url.Values) {
		for range 100 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	elsewhere := serve(t, accept)
	for name, tt := range map[string]struct {
		answer  func(http.ResponseWriter, url.Values)
		problem string
		waiting int           // reports that are sent again
		refused uint64        // those that are not
		pause   time.Duration // at least
	}{
		"quota":           {status(429, "Retry-After", "7200"), "the quota is used up (429)", 1, 0, 7190 * time.Second},
		"quota by date":   {status(429, "Retry-After", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat)), "the quota is used up (429)", 1, 0, 7190 * time.Second},
		"quota by reset":  {status(429, "X-RateLimit-Reset", fmt.Sprint(time.Now().Add(2*time.Hour).Unix())), "the quota is used up (429)", 1, 0, 7190 * time.Second},
		"quota, no more":  {status(429), "the quota is used up (429)", 1, 0, 14 * time.Minute},
		"quota, endless":  {status(429, "Retry-After", "99999999999"), "the quota is used up (429)", 1, 0, 14 * time.Minute},
		"wrong key":       {status(401), `the key is refused (401: "that is \x1b wrong"); check "`, 1, 0, 9 * time.Minute},
		"server error":    {status(503), "it answers 503", 1, 0, 50 * time.Second},
		"busy":            {status(503, "Retry-After", "3600"), "it answers 503", 1, 0, 59 * time.Minute},
		"wrong report":    {status(422), `the report is refused (422: "that is \x1b wrong")`, 0, 1, 0},
		"redirect":        {status(302, "Location", elsewhere.URL), "it redirects to another address (302), which is refused", 1, 0, 9 * time.Minute},
		"no JSON":         {func(w http.ResponseWriter, _ url.Values) { fmt.Fprint(w, "<html>log in</html>") }, "its answer is not one of AbuseIPDB", 0, 1, 50 * time.Second},
		"other JSON":      {func(w http.ResponseWriter, _ url.Values) { fmt.Fprint(w, `{"data":[]}`) }, "its answer is not one of AbuseIPDB", 0, 1, 50 * time.Second},
		"endless":         {long, "its answer is not one of AbuseIPDB", 0, 1, 50 * time.Second},
		"ends in between": {func(http.ResponseWriter, url.Values) { panic(http.ErrAbortHandler) }, "EOF", 0, 1, 50 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tt.answer)
			d := open(t, "", s, collectorOf(t, s, "abuseipdb"))
			d.add(banned("203.0.113.7/32"))
			got := d.wait(t, "answered", func(s control.Reports) bool { return s.Problem != "" })
			if !strings.HasPrefix(got.Problem, tt.problem) || got.Waiting != tt.waiting || got.Refused != tt.refused || got.Sent != 0 {
				t.Errorf("status %+v, want %q", got, tt.problem)
			}
			if tt.pause > 0 && (got.Until == nil || time.Until(*got.Until) < tt.pause || time.Until(*got.Until) > 26*time.Hour) {
				t.Errorf("nothing is sent until %v", got.Until)
			}
			if results := d.Test(t.Context()); results[0].OK || results[0].Detail == "" {
				t.Errorf("test %+v", results)
			}
			s.set(accept)
			d.now()
			d.add(banned("203.0.113.8/32"))
			d.wait(t, "sent later", func(s control.Reports) bool {
				d.now()
				return s.Sent == uint64(1+tt.waiting) && s.Problem == ""
			})
		})
	}
	if n := len(elsewhere.requests()); n != 0 {
		t.Errorf("%d requests were sent where a redirect leads to", n)
	}
}

// The last report of a quota is answered with success, and nothing is sent until there is another one.
func TestQuotaIsUsedUp(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, form url.Values) {
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("Retry-After", "3600")
		fmt.Fprintf(w, `{"data":{"ipAddress":%q}}`, form.Get("ip"))
	})
	d := open(t, "", s, collectorOf(t, s, "abuseipdb"))
	d.add(banned("203.0.113.7/32"), banned("203.0.113.8/32"))
	got := d.wait(t, "sent", func(s control.Reports) bool { return s.Sent == 1 })
	if got.Until == nil || time.Until(*got.Until) < 59*time.Minute || got.Waiting != 1 || got.Problem != "" || *got.Quota != 0 {
		t.Errorf("status %+v", got)
	}
}

// A collector that is not there, or never answers, is waited for by nobody: the queue is bounded, and the end does not wait.
func TestDeadCollector(t *testing.T) {
	hang := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, url.Values) { <-hang })
	t.Cleanup(func() { close(hang) })
	d := open(t, "", s, collectorOf(t, s, "abuseipdb"))
	began := time.Now()
	for i := range 5000 {
		d.add(banned(fmt.Sprintf("203.0.%d.%d/32", i>>8, i&255)))
	}
	if took := time.Since(began); took > patience/3 {
		t.Errorf("5000 bans took %v", took)
	}
	if got := d.state(); got.Waiting > maxQueue || got.LeftOut < 3900 {
		t.Errorf("status %+v", got)
	}
	began = time.Now()
	d.stop()
	if took := time.Since(began); took > patience/3 {
		t.Errorf("the end took %v", took)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nothing answers there
	c := collectorOf(t, s, "abuseipdb")
	c.url = "https://" + l.Addr().String()
	d = open(t, "", s, c)
	d.add(banned("203.0.113.7/32"))
	got := d.wait(t, "tried", func(s control.Reports) bool { return s.Problem != "" })
	if got.Waiting != 1 || !strings.Contains(got.Problem, "refused") {
		t.Errorf("status %+v", got)
	}
}

func TestSlowAnswer(t *testing.T) {
	ended := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, url.Values) { <-ended })
	t.Cleanup(func() { close(ended) })
	c := collectorOf(t, s, "abuseipdb")
	d := open(t, "", s, c)
	c.client.Timeout = time.Second // long enough to send the request on a busy machine
	d.add(banned("203.0.113.7/32"))
	got := d.wait(t, "given up", func(s control.Reports) bool { return s.Problem != "" })
	if !strings.HasPrefix(got.Problem, "no answer within") || got.Waiting != 0 || got.Refused != 1 {
		t.Errorf("a report that may have been accepted: %+v", got)
	}
}

// A failure's text may have names that whoever is on the way has chosen, such as those of a certificate.
func TestFailuresArePrintable(t *testing.T) {
	s := serve(t, accept)
	c := collectorOf(t, s, "abuseipdb")
	c.client = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"\x1b[2Jx"}, Extensions: []pkix.Extension{{Id: []int{2, 5, 29, 17}}}}, Host: "y"}
	}}}
	if out := c.test(c, t.Context()); out.err == nil || !strings.Contains(out.err.Error(), "valid for ?[2Jx, not y") {
		t.Errorf("error %v", out.err)
	}
}

// The key is read when it is needed, from a file that others cannot read.
func TestKeyFile(t *testing.T) {
	s := serve(t, accept)
	c := collectorOf(t, s, "abuseipdb")
	d := open(t, "", s, c)
	for name, tt := range map[string]struct {
		do   func() error
		want string
	}{
		"readable by others": {func() error { return os.Chmod(c.keyFile, 0o644) }, "every user can read key file "},
		"two lines": {func() error {
			return errors.Join(os.Chmod(c.keyFile, 0o640), os.WriteFile(c.keyFile, []byte("a\nb\n"), 0o640))
		}, "must have the key in one line"},
		"missing":   {func() error { return os.Remove(c.keyFile) }, "no such file"},
		"directory": {func() error { return errors.Join(os.Remove(c.keyFile), os.Mkdir(c.keyFile, 0o700)) }, "is not a regular file"},
	} {
		_ = os.RemoveAll(c.keyFile)
		if err := os.WriteFile(c.keyFile, []byte("secret\n"), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := tt.do(); err != nil {
			t.Fatal(err)
		}
		if got := d.state(); !strings.Contains(got.Problem, tt.want) || !strings.Contains(got.Problem, c.keyFile) {
			t.Errorf("%s: %q, want %q", name, got.Problem, tt.want)
		}
	}
	_ = os.RemoveAll(c.keyFile)
	d.add(banned("203.0.113.7/32"))
	d.wait(t, "tried", func(s control.Reports) bool { return s.Until != nil })
	if len(s.requests()) != 0 {
		t.Error("a request without a key was sent")
	}
	if err := os.WriteFile(c.keyFile, []byte("secret\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	d.now()
	d.wait(t, "sent", func(s control.Reports) bool { return s.Sent == 1 })
}

// No word of a line leaves this host but those of a list, and the address that attacked.
func TestScrub(t *testing.T) {
	attacker := netip.MustParseAddr("203.0.113.7")
	for line, want := range map[string]string{
		"Failed password for alice from 203.0.113.7 port 50000 ssh2":                                          "Failed password for * from 203.0.113.7 port * ssh2",
		"2026-01-02T10:00:00.123456+01:00 mail1.corp.example sshd[77]: Invalid user al ice from 203.0.113.7":  "2026-01-02T10:00:00.123456+01:00 * sshd[*]: Invalid user * from 203.0.113.7",
		"imap-login: Aborted login (auth failed): user=<bob@corp.example>, rip=203.0.113.7, lip=198.51.100.5": "imap-login: * login (auth failed): user=<*>, *=203.0.113.7, *=*",
		"lip=198.51.100.5 [198.51.100.5]:25 ::ffff:203.0.113.7 2001:db8::5 203.0.113.7:4711":                  "*=* [*]* ::ffff:203.0.113.7 * 203.0.113.7:4711",
		"no such user \x1b[31m4711\u202e":                           "no * user [*",
		`GET /private/secret.php?token=abc HTTP/1.1" 404 "Mozilla"`: `GET /*/*?*=* HTTP/*" * "*"`,
	} {
		if got := scrub(line, attacker); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", line, got, want)
		}
	}
	long := &attack{addr: attacker, kind: ssh, lines: slices.Repeat([]string{strings.Repeat("failed ", 100)}, 5)}
	if got := comment(long); len(got) > 1024 {
		t.Errorf("%d bytes of comment", len(got))
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("Failed password for alice from 203.0.113.7 port 50000 ssh2", "alice")
	f.Add("user=<bob@corp.example>, rip=203.0.113.7", "bob@corp.example")
	f.Fuzz(func(t *testing.T, line, secret string) {
		if len(secret) < 4 || isKnown(strings.ToLower(secret)) || strings.IndexFunc(secret, func(r rune) bool { return !inToken(r) }) >= 0 || strings.Trim(secret, "0123456789.:TZ+-,") == "" {
			t.Skip()
		}
		got := scrub("user "+secret+" "+line, netip.MustParseAddr("203.0.113.7"))
		if got != strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, got) {
			t.Errorf("%q is not printable", got)
		}
		if words := strings.Fields(got); len(words) > 1 && strings.HasPrefix(words[1], secret) && !strings.HasPrefix(secret, hidden) && !isKnown(strings.ToLower(strings.TrimRight(secret, ".:-"))) {
			t.Errorf("%q of %q is in %q", secret, line, got)
		}
	})
}
