//go:build !cgo

// With cgo, a Go program cannot make a system call on all of its threads, so mefpage ends.

package page_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/page"
	"mef/internal/page/sandbox"
	"mef/internal/pagechild"
	"mef/internal/pagechild/password"
)

// TestMain makes the test binary mefpage if it is called so.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "mefpage" {
		if err := sandbox.Renounce(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if filepath.Base(os.Args[0]) == "mefpage" && len(os.Args) == 4 {
		if err := page.MakeCertificate(os.Args[2], os.Args[3], os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	if filepath.Base(os.Args[0]) == "mefpage" {
		if err := page.Run(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A daemon is what mefpage asks in tests. What a test does not expect panics.
type daemon struct {
	control.Service

	mu      sync.Mutex
	actions []string // what was done, with its author and note
	why     control.Why
	status  control.Status
	picture control.Picture
	listens []control.ListeningService
	history control.History
	stats   control.Stats
	past    []control.PastBan
	alarms  []control.Alarm
}

func (d *daemon) did(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.actions = append(d.actions, fmt.Sprintf(format, args...))
}

func (d *daemon) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.actions) == 0 {
		return ""
	}
	return d.actions[len(d.actions)-1]
}

func (d *daemon) Status(context.Context) (control.Status, error)   { return d.status, nil }
func (d *daemon) Picture(context.Context) (control.Picture, error) { return d.picture, nil }
func (d *daemon) History(_ context.Context, window string) (control.History, error) {
	d.did("history of a %s", window)
	return d.history, nil
}
func (d *daemon) Stats(_ context.Context, window, by string, n int) (control.Stats, error) {
	d.did("stats of a %s by %s", window, by)
	return d.stats, nil
}
func (d *daemon) PastBans(_ context.Context, query string, n int) ([]control.PastBan, error) {
	d.did("past bans with %q", query)
	return d.past, nil
}
func (d *daemon) Services(context.Context) ([]control.ListeningService, error) {
	return d.listens, nil
}
func (d *daemon) Why(_ context.Context, addr netip.Addr) (control.Why, error) {
	w := d.why
	w.Addr = addr.String()
	return w, nil
}
func (d *daemon) Unban(_ context.Context, req control.UnbanRequest) ([]control.Ban, error) {
	d.did("unban %s covering=%v by %s: %s", req.Prefix, req.Covering, req.Author, req.Note)
	return []control.Ban{{Prefix: req.Prefix}}, nil
}
func (d *daemon) Ban(_ context.Context, req control.BanRequest) (control.Ban, error) {
	d.did("ban %s for %s by %s: %s", req.Prefix, req.For, req.Author, req.Note)
	return control.Ban{Prefix: req.Prefix}, nil
}
func (d *daemon) Allow(_ context.Context, req control.AllowRequest) (control.Entry, error) {
	d.did("allow %s for %s by %s: %s", req.Entry, req.For, req.Author, req.Note)
	return control.Entry{Entry: req.Entry}, nil
}
func (d *daemon) Disallow(_ context.Context, req control.AllowRequest) (control.Entry, error) {
	d.did("disallow %s by %s", req.Entry, req.Author)
	return control.Entry{Entry: req.Entry}, nil
}
func (d *daemon) Alarms(context.Context) ([]control.Alarm, error) { return d.alarms, nil }
func (d *daemon) Acknowledge(_ context.Context, req control.AckRequest) (control.Acked, error) {
	d.did("acknowledge %v by %s", req.IDs, req.Author)
	return control.Acked{Acked: len(req.IDs)}, nil
}
func (d *daemon) Stop(author string) { d.did("STOPPED by %s", author) }

// secret is the password of all users in tests.
const secret = "correct horse battery"

// hash is made once: it is meant to be slow.
var hash = sync.OnceValues(func() (string, error) { return password.Hash(secret) })

// settings returns a configuration whose password file has a user of each role, named as the role.
func settings(t *testing.T, address string) conf.Page {
	t.Helper()
	h, err := hash()
	if err != nil {
		t.Fatal(err)
	}
	text := "# users\n"
	for _, role := range conf.PageRoles {
		text += role + ":" + role + ":" + h + "\n"
	}
	path := filepath.Join(t.TempDir(), "page.passwd")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return conf.Page{Address: address, PasswordFile: path}
}

// freeAddress returns an address at which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newChild returns what runs mefpage, not started.
func newChild(t *testing.T, cfg conf.Page, state string, log io.Writer) *pagechild.Child {
	t.Helper()
	link := filepath.Join(t.TempDir(), "mefpage")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	child := pagechild.New(slog.New(slog.NewTextHandler(log, nil)), cfg, state, "test")
	child.Program = link
	return child
}

// start runs mefpage until the test ends, and returns once it listens.
func start(t *testing.T, cfg conf.Page, s control.Service) *pagechild.Child {
	t.Helper()
	var log lines
	child := newChild(t, cfg, t.TempDir(), &log)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = child.Run(ctx, s)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		if t.Failed() {
			t.Logf("log:\n%s", log.text())
		}
	})
	wait(t, "mefpage serves", func() bool { return strings.Contains(log.text(), "mefpage serves") })
	return child
}

type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// A browser is a client with cookies that follows no redirection.
type browser struct {
	t    *testing.T
	base string
	http http.Client
}

func newBrowser(t *testing.T, address string) *browser {
	jar, _ := cookiejar.New(nil) // never fails
	b := &browser{t: t, base: "http://" + address}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	if filepath.IsAbs(address) {
		b.base = "http://localhost:8080"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", address)
		}
	}
	b.http = http.Client{Jar: jar, Transport: transport, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return b
}

// ask sends a request, with a form if there is one, and returns the status and the body.
func (b *browser) ask(path string, form url.Values, change func(*http.Request)) (status int, body string) {
	b.t.Helper()
	method, content := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, content = http.MethodPost, strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, content)
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", b.base)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if change != nil {
		change(r)
	}
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (b *browser) login(user string) {
	b.t.Helper()
	if status, body := b.ask("/login", url.Values{"name": {user}, "password": {secret}}, nil); status != http.StatusSeeOther {
		b.t.Fatalf("login of %s: status %d\n%s", user, status, body)
	}
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

// token returns the token in the forms of a page.
func (b *browser) token(path string) string {
	b.t.Helper()
	status, body := b.ask(path, nil, nil)
	m := tokenField.FindStringSubmatch(body)
	if status != http.StatusOK || m == nil {
		b.t.Fatalf("%s: status %d, no form\n%s", path, status, body)
	}
	return m[1]
}

// TestRoles checks that each role may do what is for it and nothing else, and that the author and the note reach the daemon.
func TestRoles(t *testing.T) {
	d := &daemon{why: control.Why{Banned: true, Verdict: "it is banned", Bans: []control.Ban{{Prefix: "192.0.2.7"}}},
		alarms: []control.Alarm{{ID: 7, User: "seen", Acked: true}, {ID: 8, User: "carol", Addr: "192.0.2.8", Reason: "guessed"}}}
	address := freeAddress(t)
	start(t, settings(t, address), d)
	for _, role := range conf.PageRoles {
		b := newBrowser(t, address)
		b.login(role)
		if status, body := b.ask("/", nil, nil); status != http.StatusOK || !strings.Contains(body, role+" ("+role+")") {
			t.Errorf("%s: overview: status %d\n%s", role, status, body)
		}
		token := b.token("/why?addr=192.0.2.7")
		for path, want := range map[string]struct{ needs, did string }{
			"/unban":    {"support", "unban 192.0.2.7 covering=true by page:" + role + ": a note"},
			"/ban":      {"operator", "ban 192.0.2.7 for 1h0m0s by page:" + role + ": a note"},
			"/allow":    {"operator", "allow 192.0.2.7 for 1h0m0s by page:" + role + ": a note"},
			"/disallow": {"operator", "disallow 192.0.2.7 by page:" + role},
			"/ack":      {"operator", "acknowledge [8] by page:" + role},
		} {
			before := d.last()
			status, body := b.ask(path, url.Values{"id": {"8"}, "addr": {"192.0.2.7"}, "note": {"a note"}, "for": {"1h"}, "token": {token}}, nil)
			if may := pagechild.Greater(role, want.needs) == role; may {
				if got := d.last(); status != http.StatusOK || got != want.did {
					t.Errorf("%s: %s: status %d, done %q, want %q\n%s", role, path, status, got, want.did, body)
				}
			} else if status != http.StatusBadRequest || d.last() != before || !strings.Contains(body, "your role on the page") {
				t.Errorf("%s: %s: status %d, done %q\n%s", role, path, status, d.last(), body)
			}
		}
		_, alarms := b.ask("/alarms", nil, nil)
		if may := strings.Contains(alarms, `name="id" value="8"`); !strings.Contains(alarms, "carol") || strings.Contains(alarms, "seen from") || may != (role == "operator") {
			t.Errorf("%s: alarms\n%s", role, alarms)
		}
		if status, _ := b.ask("/logout", url.Values{"token": {token}}, nil); status != http.StatusSeeOther {
			t.Errorf("%s: logout: status %d", role, status)
		}
		if status, _ := b.ask("/", nil, nil); status != http.StatusSeeOther {
			t.Errorf("%s: after logout: status %d, want to be sent to the login", role, status)
		}
	}
}

// TestPast checks that the views of the past ask for what was chosen, and show what the daemon answers.
func TestPast(t *testing.T) {
	at := time.Now().Add(-time.Hour)
	d := &daemon{
		history: control.History{Start: at, Step: time.Hour, Series: []control.Series{
			{Kind: control.KindAttempts, Of: control.OfService, Label: "sshd", Values: []uint64{1, 40}}, {Kind: control.KindAttempts, Of: control.OfFamily, Label: "ipv4", Values: []uint64{1, 40}},
			{Kind: control.KindTargeted, Of: control.OfFamily, Label: "ipv4", Values: []uint64{0, 5}}, {Kind: control.KindDrops, Of: control.OfCause, Label: "ban", Values: []uint64{700, 7}}}},
		stats: control.Stats{By: "networks", Since: at, Rows: []control.StatRow{{Label: "192.0.2.0/24", Attempts: 4321, First: at, Last: at}, {Label: "fe80::1%\u202eevil", First: at, Last: at}}},
		past:  []control.PastBan{{Time: at, Event: "ban", Prefix: "192.0.2.7/32", Rule: "sshd", Reason: "5 failures"}, {Time: at, Event: "ban", Prefix: "2001:db8::/64", Rule: "sshd"}},
	}
	address := freeAddress(t)
	start(t, settings(t, address), d)
	b := newBrowser(t, address)
	b.login("read")
	for path, want := range map[string]struct {
		asked string
		shown []string
	}{
		"/history":                       {"history of a hour", []string{">707<", ">41<", ">36<", ">5<", `class="s0" points=`}},
		"/history?window=year":           {"history of a year", []string{"<b>year</b>", "sshd 41"}},
		"/history?window=nonsense":       {"history of a hour", []string{"<b>hour</b>"}},
		"/stats?by=networks&window=day":  {"stats of a day by networks", []string{"192.0.2.0/24", "4\u202f321", `fe80::1%\u202eevil</td>`, `href="/stats?by=names&amp;window=day"`}},
		"/stats?by=<script>&window=&n=9": {"stats of a hour by services", []string{"<b>services</b>"}},
		"/past?q=+192.0.2.7":             {`past bans with "192.0.2.7"`, []string{`href="/why?addr=192.0.2.7"`, "2001:db8::/64", "5 failures", `value="192.0.2.7"`}},
	} {
		status, body := b.ask(path, nil, nil)
		if got := d.last(); status != http.StatusOK || got != want.asked {
			t.Errorf("%s: status %d, asked for the %s", path, status, got)
		}
		for _, text := range want.shown {
			if !strings.Contains(body, text) {
				t.Errorf("%s does not show %q:\n%s", path, text, body)
			}
		}
	}
}

// TestNothingTypedIsLost checks that a page that is loaded again by itself has no field to type into, and that the paused one has.
func TestNothingTypedIsLost(t *testing.T) {
	address := freeAddress(t)
	start(t, settings(t, address), &daemon{})
	b := newBrowser(t, address)
	b.login("read")
	for path, typed := range map[string]bool{"/": false, "/?filter=ssh": false, "/?filter=ssh&pause=1": true} {
		_, body := b.ask(path, nil, nil)
		again, filter, why := strings.Contains(body, `http-equiv="refresh"`), strings.Contains(body, `<input name="filter"`), strings.Contains(body, `<input name="addr"`)
		if again == typed || filter != typed || why != typed {
			t.Errorf("%s: loaded again %v, filter %v, address %v:\n%s", path, again, filter, why, body)
		}
	}
}

// TestStrangers checks that nothing is shown or done without a login, by another site, or under another name.
func TestStrangers(t *testing.T) {
	d := &daemon{why: control.Why{Verdict: "the verdict"}}
	address := freeAddress(t)
	start(t, settings(t, address), d)
	operator := newBrowser(t, address)
	operator.login("operator")
	token := operator.token("/why?addr=192.0.2.7")
	form := url.Values{"addr": {"192.0.2.7"}, "token": {token}}
	for name, tt := range map[string]struct {
		who    *browser
		path   string
		form   url.Values
		change func(*http.Request)
		want   int
	}{
		"look without a login":       {newBrowser(t, address), "/", nil, nil, http.StatusSeeOther},
		"act without a login":        {newBrowser(t, address), "/unban", form, nil, http.StatusForbidden},
		"no token":                   {operator, "/unban", url.Values{"addr": {"192.0.2.7"}}, nil, http.StatusForbidden},
		"wrong token":                {operator, "/unban", url.Values{"addr": {"192.0.2.7"}, "token": {"x"}}, nil, http.StatusForbidden},
		"from another site":          {operator, "/unban", form, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden},
		"from another port":          {operator, "/unban", form, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, http.StatusForbidden},
		"origin of another site":     {operator, "/unban", form, func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "http://evil.example") }, http.StatusForbidden},
		"rebound name":               {operator, "/", nil, func(r *http.Request) { r.Host = "evil.example" }, http.StatusMisdirectedRequest},
		"rebound name with the port": {operator, "/", nil, func(r *http.Request) { r.Host = "evil.example:80" }, http.StatusMisdirectedRequest},
		"another address":            {operator, "/", nil, func(r *http.Request) { r.Host = "192.0.2.1" }, http.StatusMisdirectedRequest},
		"hostile name":               {operator, "/", nil, func(r *http.Request) { r.Host = "localhost.evil.example" }, http.StatusMisdirectedRequest},
		"a tunnel":                   {operator, "/login", nil, func(r *http.Request) { r.Host = "localhost:7777" }, http.StatusOK},
		"a change by GET":            {operator, "/unban?addr=192.0.2.7&token=" + token, nil, nil, http.StatusMethodNotAllowed},
		"a form that is too large":   {operator, "/unban", url.Values{"addr": {"192.0.2.7"}, "note": {strings.Repeat("x", 1<<20)}, "token": {token}}, nil, http.StatusForbidden},
		"no address":                 {operator, "/why?addr=%3Cscript%3E", nil, nil, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			tt.who.t = t
			if status, body := tt.who.ask(tt.path, tt.form, tt.change); status != tt.want || strings.Contains(body, "<script") {
				t.Errorf("status %d, want %d\n%s", status, tt.want, body)
			}
		})
	}
	if done := d.last(); done != "" {
		t.Errorf("it was done: %s", done)
	}
}

// TestGuessing checks that passwords cannot be tried quickly, and that the refusal does not show whether a user exists.
func TestGuessing(t *testing.T) {
	address := freeAddress(t)
	start(t, settings(t, address), &daemon{})
	b := newBrowser(t, address)
	var bodies []string
	for i, name := range []string{"operator", "nobody", "\x1b[31m<script>", "operator", ""} {
		status, body := b.ask("/login", url.Values{"name": {name}, "password": {"wrong password"}}, nil)
		if status != http.StatusForbidden {
			t.Errorf("attempt %d: status %d", i+1, status)
		}
		bodies = append(bodies, body)
	}
	for _, body := range bodies {
		if body != bodies[0] {
			t.Errorf("the answers differ:\n%s\n%s", bodies[0], body)
		}
	}
	if status, body := b.ask("/login", url.Values{"name": {"operator"}, "password": {secret}}, nil); status != http.StatusTooManyRequests || !strings.Contains(body, "Too many attempts") {
		t.Errorf("the sixth attempt: status %d\n%s", status, body)
	}
}

// TestSocket checks that at a unix socket the groups of a process decide.
func TestSocket(t *testing.T) {
	d := &daemon{}
	path := filepath.Join(t.TempDir(), "page.sock")
	cfg := conf.Page{Address: path, Groups: []conf.PageGroup{{Name: "root", Role: "read"}, {Name: "nonexistent", Role: "operator"}}}
	start(t, cfg, d)
	b := newBrowser(t, path)
	want := "uid"
	if os.Getuid() == 0 {
		want = "root (operator)"
	}
	status, body := b.ask("/", nil, nil)
	if os.Getuid() == 0 && (status != http.StatusOK || !strings.Contains(body, want)) || os.Getuid() != 0 && os.Getgid() != 0 && status != http.StatusForbidden {
		t.Errorf("status %d\n%s", status, body)
	}
	if status, _ := b.ask("/", nil, func(r *http.Request) { r.Host = "evil.example" }); status != http.StatusMisdirectedRequest {
		t.Errorf("another name at the socket: status %d", status)
	}
}

// TestCertificate checks that an address of the network has TLS, and that its certificate stays.
func TestCertificate(t *testing.T) {
	state := t.TempDir()
	cfg := settings(t, "0.0.0.0:8443")
	first, err := newChild(t, cfg, state, io.Discard).Read(t.Context())
	if err != nil || len(first.Services) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := tls.X509KeyPair(first.Services[0].Certificate, first.Services[0].Key); err != nil {
		t.Error(err)
	}
	again, err := newChild(t, cfg, state, io.Discard).Read(t.Context())
	if err != nil || !bytes.Equal(first.Services[0].Certificate, again.Services[0].Certificate) {
		t.Errorf("the certificate is another one: %v", err)
	}
	if info, err := os.Stat(filepath.Join(state, "page.key")); err != nil || info.Mode() != 0o600 {
		t.Errorf("page.key: %v, %v", info, err)
	}
	cfg.Certificate = filepath.Join(state, "page.crt")
	if _, err := newChild(t, cfg, state, io.Discard).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "page_key is not") {
		t.Errorf("a certificate without a key: %v", err)
	}
}

// TestTLS checks the page over TLS.
func TestTLS(t *testing.T) {
	cfg := settings(t, freeAddress(t))
	state := t.TempDir()
	made := cfg
	made.Address = "127.0.0.2:1" // which makes a certificate only if it is not a loopback address
	if s, err := newChild(t, made, state, io.Discard).Read(t.Context()); err != nil || s.Services[0].Certificate != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	made.Address = "192.0.2.1:1"
	if _, err := newChild(t, made, state, io.Discard).Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.Certificate, cfg.Key = filepath.Join(state, "page.crt"), filepath.Join(state, "page.key")
	start(t, cfg, &daemon{})
	b := newBrowser(t, cfg.Address)
	b.base = "https://" + cfg.Address
	b.login("operator")
	if status, body := b.ask("/", nil, nil); status != http.StatusOK {
		t.Errorf("status %d\n%s", status, body)
	}
	host, _ := os.Hostname()
	if status, _ := b.ask("/login", nil, func(r *http.Request) { r.Host = host + ":1" }); status != http.StatusOK {
		t.Errorf("by the name in the certificate: status %d", status)
	}
}

// TestBadInput checks that what is wrong is reported with what to do, and that it is served once it is right.
func TestBadInput(t *testing.T) {
	good := settings(t, freeAddress(t))
	good.Metrics = freeAddress(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("alice:king:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.pem")
	if err := os.WriteFile(wrong, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	child := start(t, good, &daemon{})
	metrics := newBrowser(t, good.Metrics)
	for name, tt := range map[string]struct {
		cfg  conf.Page
		want string
	}{
		"address in use":      {conf.Page{Address: taken.Addr().String(), PasswordFile: good.PasswordFile}, "another program listens there; set another port"},
		"no password file":    {conf.Page{Address: good.Address, PasswordFile: "/nonexistent"}, "mefctl page password NAME ROLE makes it"},
		"wrong password file": {conf.Page{Address: good.Address, PasswordFile: bad}, ":1: not NAME:ROLE:HASH"},
		"not our address":     {conf.Page{Address: "192.0.2.99:8443", PasswordFile: good.PasswordFile}, "this host does not have that address"},
		"wrong certificate":   {conf.Page{Address: good.Address, PasswordFile: good.PasswordFile, Certificate: wrong, Key: wrong}, "page_certificate=" + wrong},
		"no group":            {conf.Page{Address: "/tmp/x.sock", Groups: []conf.PageGroup{{Name: "nonexistent", Role: "read"}}}, "no group of page_groups exists"},
	} {
		cfg := tt.cfg
		cfg.Metrics = good.Metrics
		child.Configure(cfg)
		wait(t, name, func() bool { return strings.Contains(strings.Join(child.Warnings(), "\n"), tt.want) })
		wait(t, "metrics with "+name, func() bool {
			resp, err := metrics.http.Get(metrics.base + "/metrics")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil && resp.StatusCode == http.StatusOK
		})
		if found := strings.Join(pagechild.Check(tt.cfg, true), "\n"); !strings.Contains(found, tt.want) {
			t.Errorf("%s: config check finds %q", name, found)
		}
	}
	child.Configure(conf.Page{})
	wait(t, "no warning without a page", func() bool { return len(child.Warnings()) == 0 })
	child.Configure(good)
	b := newBrowser(t, good.Address)
	wait(t, "the page is back", func() bool {
		resp, err := b.http.Get(b.base + "/login")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
}

// TestSlowClients checks that clients that send nothing keep nobody out, and lose their connections.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	start(t, settings(t, address), &daemon{})
	var idle []net.Conn
	for range 300 {
		c, err := net.DialTimeout("tcp", address, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n")
		idle = append(idle, c)
	}
	closed := 0
	for _, c := range idle {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection without a request stays open")
		}
		closed++
	}
	newBrowser(t, address).login("read")
}

// TestRights checks that mefpage has given up what it could do, and that it ends with the daemon.
func TestRights(t *testing.T) {
	address := freeAddress(t)
	var log lines
	child := newChild(t, settings(t, address), t.TempDir(), &log)
	link := child.Program
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- child.Run(ctx, &daemon{}) }()
	wait(t, "mefpage serves", func() bool { return strings.Contains(log.text(), "mefpage serves") })
	pid := find(t, link)
	threads, err := filepath.Glob(filepath.Join("/proc", pid, "task/*/status"))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	for _, file := range threads {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(string(status), "\n"+want+"\n") {
				t.Errorf("%s has no %q:\n%s", file, want, status)
			}
		}
	}
	p, err := os.FindProcess(atoi(pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	wait(t, "another is started after a kill", func() bool { return strings.Count(log.text(), "mefpage serves") == 2 })
	if again := lookup(link); again == "" || again == pid {
		t.Errorf("process %q after %q", again, pid)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	wait(t, "mefpage ends", func() bool { return lookup(link) == "" })
}

func atoi(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

// find returns the process ID of a program.
func find(t *testing.T, program string) (pid string) {
	t.Helper()
	wait(t, "a process of "+program, func() bool { pid = lookup(program); return pid != "" })
	return pid
}

func lookup(program string) string {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	for _, file := range all {
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), program+"\x00") {
			return filepath.Base(filepath.Dir(file))
		}
	}
	return ""
}

// TestMetrics checks that metrics are served, and the page beside them.
func TestMetrics(t *testing.T) {
	cfg := settings(t, freeAddress(t))
	cfg.Metrics = freeAddress(t)
	d := &daemon{picture: control.Picture{Level: "green", Counters: control.Counters{Attempts: 4711}}}
	start(t, cfg, d)
	b := newBrowser(t, cfg.Metrics)
	if status, body := b.ask("/metrics", nil, nil); status != http.StatusOK || !strings.Contains(body, " 4711\n") {
		t.Errorf("status %d\n%s", status, body)
	}
	if status, _ := b.ask("/metrics", nil, func(r *http.Request) { r.Host = "evil.example" }); status != http.StatusMisdirectedRequest {
		t.Errorf("another name: status %d", status)
	}
	if status, _ := b.ask("/", nil, nil); status != http.StatusNotFound {
		t.Errorf("the page at the address of metrics: status %d", status)
	}
	newBrowser(t, cfg.Address).login("read")
}
