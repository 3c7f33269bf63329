package feeds

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/conf"
)

// A publisher is a real HTTPS server whose answer a test chooses.
type publisher struct {
	*httptest.Server
	answer   atomic.Pointer[http.HandlerFunc]
	requests atomic.Int64
	last     atomic.Pointer[http.Header]
}

func publish(t *testing.T, answer http.HandlerFunc) *publisher {
	t.Helper()
	p := &publisher{}
	p.set(answer)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		header := r.Header.Clone()
		p.last.Store(&header)
		(*p.answer.Load())(w, r)
	}))
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) set(answer http.HandlerFunc) { p.answer.Store(&answer) }

func (p *publisher) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.Certificate())
	return pool
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, s)
	}
}

// networks is a feed of n networks of IPv4, one for each address of lines.
func networks(n, bits int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d.%d.0.0/%d\n", 45+i>>8, i&255, bits)
	}
	return b.String()
}

// networks6 is a feed of n networks of IPv6.
func networks6(n, bits int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "2a00:%x::/%d\n", i, bits)
	}
	return b.String()
}

// lines is a feed of n addresses.
func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "45.%d.%d.%d\n", i>>16, i>>8&255, i&255)
	}
	return b.String()
}

// keeping returns a running Keeper of one feed, "drop", in a directory.
func keeping(t *testing.T, dir string, p *publisher, change func(*conf.Feed)) *Keeper {
	t.Helper()
	k := New(Options{Dir: dir, Roots: p.roots(), Version: "1", Log: slog.New(slog.DiscardHandler)})
	k.fetcher.stall, k.fetcher.total = 200*time.Millisecond, 2*time.Second
	f := conf.Feed{Name: "drop", Enabled: true, URL: p.URL + "/list.txt", Refresh: time.Hour, Column: 1, Member: "ip", MaxSize: 1, MaxShare: 20}
	if change != nil {
		change(&f)
	}
	k.Configure([]conf.Feed{f})
	return k
}

// run runs a Keeper until the test ends.
func run(t *testing.T, k *Keeper) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// now fetches the feed once, without Run.
func now(t *testing.T, k *Keeper, force bool) error {
	t.Helper()
	return k.update(t.Context(), "drop", force)
}

func has(k *Keeper, addr string) bool {
	all := k.Enabled()
	return len(all) == 1 && all[0].List.Contains(netip.MustParseAddr(addr))
}

// Whatever a server does, the last good copy stays in force and the reason is shown.
func TestWhatIsRefused(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(bytes.Repeat([]byte("# nothing\n"), 1<<20))
	z.Close()
	packed := func(whole bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			io.WriteString(z, lines(500))
			z.Close()
			w.Header().Set("Content-Encoding", "gzip")
			if whole {
				w.Write(b.Bytes())
			} else {
				w.Write(b.Bytes()[:b.Len()-20])
			}
		}
	}
	plain := httptest.NewServer(text(lines(500)))
	t.Cleanup(plain.Close)
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string // of the error; empty: it is taken over
	}{
		"a list":        {text(lines(500)), ""},
		"a packed list": {packed(true), ""},
		"nothing":       {text(""), "it has no entry"},
		"only comments": {text("# down for maintenance\n"), "it has no entry"},
		"a web page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, lines(500))
		}, "a web page instead of a list"},
		"a web page as text": {text("\n<!DOCTYPE html><html>"), `line 2: "<!DOCTYPE html><html>" is the beginning of a web page`},
		"words":              {text("service temporarily\nunavailable\n"), `line 1: "service temporarily" is no address or network`},
		"half words":         {text(lines(500) + strings.Repeat("x\n", 50)), `line 501: "x" is no address or network`},
		"few wrong lines":    {text(lines(500) + "x\ny\n"), ""},
		"a long line":        {text(strings.Repeat("1", 1<<17)), "line 1 is longer than 65536 bytes"},
		"binary":             {text("1.2.3.4\n\x00\x01"), "line 2: byte 0 is not text"},
		"not found":          {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 404) }, "the server answers Not Found (404)"},
		"unavailable":        {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, lines(500), http.StatusServiceUnavailable) }, "the server answers Service Unavailable (503)"},
		"too large":          {text(strings.Repeat("#", 2<<20)), "it is larger than 1 MB (max_size)"},
		"gzip bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
		}, "it is larger than 1 MB (max_size)"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10000")
			io.WriteString(w, lines(100))
		}, "unexpected EOF"},
		"cut off in a chunk": {func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, lines(100))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "after "},
		"cut off in gzip": {packed(false), "unexpected EOF"},
		"stalls": {func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, lines(100))
			w.(http.Flusher).Flush()
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}, "the server sent nothing for 200ms"},
		"never ends": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, "#\n")
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}, "it is not complete after 2s"},
		"redirect":                {func(w http.ResponseWriter, r *http.Request) { redirectOnce(w, r) }, ""},
		"redirect to http":        {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL, http.StatusFound) }, "which is not https"},
		"redirects for ever":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, "more than 5 redirects"},
		"grown tenfold":           {text(lines(5001)), "it has grown from 500 entries to 5001, more than tenfold; mefctl feeds update drop --force accepts that"},
		"shrunk to a tenth":       {text(lines(49)), "it has shrunk from 500 entries to 49, less than a tenth"},
		"networks for hosts":      {text(networks(500, 16)), "it has grown from 500 IPv4 addresses to 32768000, more than tenfold; mefctl feeds update drop --force accepts that"},
		"a few large networks":    {text(lines(500) + "46.0.0.0/10\n"), "it has grown from 500 IPv4 addresses to 4194804, more than tenfold"},
		"a small network more":    {text(lines(500) + "46.0.0.0/24\n"), ""},
		"a large network of IPv6": {text(lines(500) + "2a00::/32\n"), "it has grown from 0 IPv6 networks (/64) to 4294967296, more than tenfold"},
		"half the Internet":       {text(lines(500) + "128.0.0.0/2\n"), "percent of all public IPv4 addresses, more than 20 (max_share)"},
		"much of IPv6":            {text(lines(500) + "2000::/4\n"), "percent of all public IPv6 addresses, more than 20 (max_share)"},
		"private only":            {text(strings.Repeat("10.0.0.0/8\n", 200)), "it has no public address"},
		"304 unasked":             {nil, "the server answers 304 Not Modified, although there is no copy here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := publish(t, text(lines(500)))
			k := keeping(t, t.TempDir(), p, nil)
			if name == "304 unasked" {
				p.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) })
				if err := now(t, k, false); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one with %q", err, tt.want)
				}
				return
			}
			if err := now(t, k, false); err != nil {
				t.Fatal(err)
			}
			p.set(tt.answer)
			err := now(t, k, false)
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), p.URL)) {
				t.Errorf("error %v, want one that begins with the URL and has %q", err, tt.want)
			}
			if !has(k, "45.0.1.1") {
				t.Error("an address of the good copy is not listed")
			}
			if problems := strings.Join(k.Problems(), "\n"); (problems == "") != (tt.want == "") || !strings.Contains(problems, tt.want) ||
				tt.want != "" && !strings.Contains(problems, "stays in force") {
				t.Errorf("problems %q", problems)
			}
			again := keeping(t, k.dir, p, nil) // without a network
			if !has(again, "45.0.1.1") {
				t.Error("after a restart an address of the good copy is not listed")
			}
			if names, _ := filepath.Glob(filepath.Join(k.dir, leftover+"*")); len(names) > 0 {
				t.Errorf("files are left: %q", names)
			}
		})
	}
}

func redirectOnce(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/list.txt" {
		http.Redirect(w, r, "/other.txt", http.StatusFound)
		return
	}
	io.WriteString(w, lines(501))
}

// A feed with as many lines as before may cover ten times as many addresses, or a tenth.
func TestCoverageIsCompared(t *testing.T) {
	for _, tt := range []struct{ before, now, want string }{
		{networks(200, 16), networks(200, 24), "it has shrunk from 13107200 IPv4 addresses to 51200, less than a tenth"},
		{networks(200, 16), networks(200, 19), ""},
		{networks(20, 32), networks(20, 16), "it has grown from 20 IPv4 addresses to 1310720, more than tenfold"},
		{networks(20, 32), networks(20, 24), ""}, // of which there are few
		{networks6(200, 128), networks6(200, 48), "it has grown from 200 IPv6 networks (/64) to 13107200, more than tenfold"},
		{networks6(200, 48), networks6(200, 128), "it has shrunk from 13107200 IPv6 networks (/64) to 200, less than a tenth"},
		{networks6(200, 128), networks6(200, 64), ""},
	} {
		p := publish(t, text(tt.before))
		k := keeping(t, t.TempDir(), p, nil)
		if err := now(t, k, false); err != nil {
			t.Fatal(err)
		}
		p.set(text(tt.now))
		if err := now(t, k, false); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want one with %q", err, tt.want)
		}
		if err := now(t, k, true); err != nil {
			t.Errorf("with force: %v", err)
		}
	}
}

func TestForceAcceptsGrowth(t *testing.T) {
	p := publish(t, text(lines(500)))
	k := keeping(t, t.TempDir(), p, nil)
	if err := now(t, k, false); err != nil {
		t.Fatal(err)
	}
	p.set(text(lines(6000)))
	if now(t, k, false) == nil || now(t, k, true) != nil {
		t.Error("growth is not refused, or not accepted by force")
	}
	if s := k.States()[0]; s.Entries != 6000 || s.Err != "" {
		t.Errorf("state %+v", s)
	}
	p.set(text("<html>"))
	if now(t, k, true) == nil {
		t.Error("a web page is accepted by force")
	}
}

func TestWrongCertificate(t *testing.T) {
	p := publish(t, text(lines(500)))
	k := keeping(t, t.TempDir(), p, func(f *conf.Feed) { f.URL = strings.Replace(f.URL, "127.0.0.1", "localhost", 1) })
	if err := now(t, k, false); err == nil || !strings.Contains(err.Error(), "certificate is valid for") {
		t.Errorf("error %v, want one about the name in the certificate", err)
	}
	other := New(Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	other.Configure([]conf.Feed{{Name: "drop", Enabled: true, URL: p.URL, MaxSize: 1, MaxShare: 20}})
	if err := other.update(t.Context(), "drop", false); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("error %v, want one about the authority", err)
	}
}

// Whoever is on the way can present a certificate with names that a terminal would obey.
func TestNamesOfCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"\x1b[2Jx"}}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	p := publish(t, text(lines(500)))
	p.TLS.Certificates = []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}
	k := keeping(t, t.TempDir(), p, func(f *conf.Feed) { f.URL = strings.Replace(f.URL, "127.0.0.1", "localhost", 1) })
	err = now(t, k, false)
	if shown := k.States()[0].Err; err == nil || !strings.Contains(shown, "valid for ?[2Jx") || strings.Contains(shown+err.Error(), "\x1b") {
		t.Errorf("error %v, shown as %q", err, shown)
	}
}

// An unchanged feed is not sent again. A server that claims so about another length is not believed.
func TestUnchanged(t *testing.T) {
	const first, second = `"v1"`, `"v2"`
	etag, length := first, ""
	body := lines(500)
	p := publish(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		if r.Header.Get("If-None-Match") == etag {
			if length != "" { // which the server of net/http would leave out
				conn, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					fmt.Fprintf(conn, "HTTP/1.1 304 Not Modified\r\nContent-Length: %s\r\nConnection: close\r\n\r\n", length)
					conn.Close()
				}
				return
			}
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, body)
	})
	dir := t.TempDir()
	k := keeping(t, dir, p, nil)
	for i := range 3 {
		if err := now(t, k, false); err != nil {
			t.Fatal(err)
		}
		if i > 0 && (p.last.Load().Get("If-None-Match") != first || p.last.Load().Get("If-Modified-Since") == "") {
			t.Errorf("request headers %v", *p.last.Load())
		}
	}
	if got := k.States()[0]; got.Size != int64(len(body)) || got.Entries != 500 {
		t.Errorf("state %+v", got)
	}
	k = keeping(t, dir, p, nil) // the validators are on disk
	if err := now(t, k, false); err != nil || p.last.Load().Get("If-None-Match") != first {
		t.Errorf("after a restart: %v, headers %v", err, *p.last.Load())
	}
	length = "12345"
	requests := p.requests.Load()
	if err := now(t, k, false); err != nil || p.requests.Load() != requests+2 || p.last.Load().Get("If-None-Match") != "" {
		t.Errorf("304 with another length: %v, %d requests", err, p.requests.Load()-requests)
	}
	etag, body = second, lines(600)
	if err := now(t, k, false); err != nil || k.States()[0].Entries != 600 {
		t.Errorf("a new version: %v, %+v", err, k.States()[0])
	}
}

// Addresses that no host elsewhere has are left out and counted.
func TestSpecialAddressesAreSubtracted(t *testing.T) {
	p := publish(t, text("0.0.0.0/8\n10.0.0.0/8\n192.168.0.0/16\n45.0.0.0/24\nfe80::/10\n2a00:1::/32\n100.64.0.1\n"))
	k := keeping(t, t.TempDir(), p, nil)
	if err := now(t, k, false); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"10.1.2.3": false, "0.1.1.1": false, "192.168.1.1": false, "45.0.0.9": true, "fe80::1": false, "2a00:1::9": true, "100.64.0.1": false} {
		if has(k, addr) != want {
			t.Errorf("%s is listed: %v", addr, !want)
		}
	}
	if s := k.States()[0]; s.Subtracted < 2<<24+1<<16+1 {
		t.Errorf("%v addresses subtracted", s.Subtracted)
	}
}

func TestFormats(t *testing.T) {
	for name, tt := range map[string]struct {
		feed conf.Feed
		text string
		want string // addresses that are listed, and those that are not
		line int    // of the first address
	}{
		"plain":               {conf.Feed{}, "\ufeff# comment\n\n; too\n45.0.0.1 # scanner\n45.0.1.0/24\t; net\n45.0.2.5-45.0.2.9\n45.0.3.0/255.255.255.0\n2a00:1::1\r\n", "45.0.0.1 45.0.1.77 45.0.2.6 45.0.3.3 2a00:1::1 !45.0.2.4 !45.0.4.1", 4},
		"spaced range":        {conf.Feed{}, "45.0.0.0 - 45.0.0.255 ; SBL1\n", "45.0.0.7", 1},
		"csv":                 {conf.Feed{Format: conf.FeedCSV, Column: 2}, "# first,ip\n\"2026-01-01\",\"45.0.0.1\",\"x\"\n2026,45.0.1.0/24\n", "45.0.0.1 45.0.1.1", 2},
		"csv with semicolons": {conf.Feed{Format: conf.FeedCSV, Column: 1}, "45.0.0.1;7\n", "45.0.0.1", 1},
		"json":                {conf.Feed{Format: conf.FeedJSON, Member: "ip"}, `{"ip":"45.0.0.1","n":3}` + "\n" + `{"ip":"2a00:1::/32"}`, "45.0.0.1 2a00:1::5", 1},
		"spamhaus": {conf.Feed{Format: conf.FeedJSON, Member: "cidr"}, `{"cidr":"45.0.0.0/22","sblid":"SBL1","rir":"ripe"}` + "\n" +
			`{"type":"metadata","timestamp":1,"size":2,"records":1,"copyright":"x","terms":"y"}` + "\n", "45.0.3.3 !45.0.4.4", 1},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := Parse(strings.NewReader(tt.text), tt.feed)
			if err != nil || parsed.Wrong > 0 {
				t.Fatalf("%v, %+v", err, parsed)
			}
			for i, word := range strings.Fields(tt.want) {
				addr, not := strings.CutPrefix(word, "!")
				a := netip.MustParseAddr(addr)
				if parsed.List.Contains(a) == not {
					t.Errorf("%s is listed: %v", addr, not)
				}
				line, text, err := Line(strings.NewReader(tt.text), tt.feed, a)
				if err != nil || (line == 0) != not || (text == "") != not || i == 0 && line != tt.line {
					t.Errorf("%s is in line %d, %q (%v)", addr, line, text, err)
				}
			}
		})
	}
}

// A feed is fetched at once, again when it is due, and sooner after a failure.
func TestWhenFeedsAreDue(t *testing.T) {
	p := publish(t, text(lines(500)))
	k := keeping(t, t.TempDir(), p, nil)
	run(t, k)
	wait(t, k, "the first copy", func() bool { return has(k, "45.0.1.1") })
	s := k.States()[0]
	if in := time.Until(s.Next); in < 50*time.Minute || in > 67*time.Minute {
		t.Errorf("fetched again in %v, want about an hour", in)
	}
	p.set(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) })
	if err := k.Update(t.Context(), "drop", false); err == nil {
		t.Error("an update that failed reports no error")
	}
	if in := time.Until(k.States()[0].Next); in < 50*time.Second || in > 70*time.Second {
		t.Errorf("tried again in %v after a failure, want about a minute", in)
	}
	if err := k.Update(t.Context(), "other", false); err == nil {
		t.Error("a feed that there is not was updated")
	}
	k.Configure(nil)
	if len(k.Enabled()) > 0 {
		t.Error("a feed that is not configured any more counts")
	}
}

// wait waits until a Keeper has changed into what it should be.
func wait(t *testing.T, k *Keeper, what string, is func() bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for !is() {
		select {
		case <-k.Changed():
		case <-limit:
			t.Fatal("waited in vain for ", what)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "own.txt")
	if err := os.WriteFile(path, []byte("45.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := publish(t, text(""))
	k := keeping(t, filepath.Join(dir, "copies"), p, func(f *conf.Feed) { f.URL = "file://" + path })
	if err := now(t, k, false); err != nil || !has(k, "45.0.0.1") {
		t.Error(err)
	}
	if err := now(t, k, false); err != nil || !has(k, "45.0.0.1") {
		t.Error("unchanged: ", err)
	}
	if m := k.Find(netip.MustParseAddr("45.0.0.1")); len(m) != 1 || m[0].Line != 1 || m[0].Text != "45.0.0.1" {
		t.Errorf("found %+v", m)
	}
	if m := k.Find(netip.MustParseAddr("45.0.0.2")); len(m) != 0 {
		t.Errorf("found %+v", m)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := now(t, k, false); !errors.Is(err, os.ErrNotExist) || !has(k, "45.0.0.1") {
		t.Error("a file that is gone: ", err)
	}
}

// A copy that was damaged on disk, or is of another address, does not count.
func TestDamagedCopies(t *testing.T) {
	p := publish(t, text(lines(500)))
	dir := t.TempDir()
	k := keeping(t, dir, p, nil)
	if err := now(t, k, false); err != nil {
		t.Fatal(err)
	}
	if moved := keeping(t, dir, p, func(f *conf.Feed) { f.URL += "?x" }); len(moved.Enabled()) > 0 {
		t.Error("a copy of another address counts")
	}
	for _, damage := range []string{"", "<html>", "\x00"} {
		if err := os.WriteFile(filepath.Join(dir, "drop"), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if k := keeping(t, dir, p, nil); len(k.Enabled()) > 0 || len(k.Problems()) != 1 {
			t.Errorf("a copy with %q counts, or nothing is said: %q", damage, k.Problems())
		}
	}
	for _, damage := range []string{"", "{", `{"url":7}`} {
		if err := os.WriteFile(filepath.Join(dir, "drop.json"), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if k := keeping(t, dir, p, nil); len(k.Enabled()) > 0 {
			t.Errorf("a copy described by %q counts", damage)
		}
	}
}

// A copy from a time when the clock was years ahead is no reason not to ask for years.
func TestCopiesOfTheFuture(t *testing.T) {
	p := publish(t, text(lines(500)))
	dir := t.TempDir()
	k := keeping(t, dir, p, nil)
	if err := now(t, k, false); err != nil {
		t.Fatal(err)
	}
	f := *k.feeds["drop"]
	f.copy.At = time.Now().AddDate(10, 0, 0)
	if err := k.describe(&f); err != nil {
		t.Fatal(err)
	}
	if k := keeping(t, dir, p, nil); !has(k, "45.0.1.1") || k.due(time.Now()) != "drop" {
		t.Errorf("in force: %v, fetched again at %v", has(k, "45.0.1.1"), k.States()[0].Next)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"1.2.3.4\n", "1.2.3.0/24 # x", "1.2.3.4-1.2.3.9", `{"ip":"::1"}`, "a,b,c", "\ufeff<html>", "::ffff:1.2.3.4/97"} {
		f.Add(s, uint8(0))
		f.Add(s, uint8(1))
		f.Add(s, uint8(2))
	}
	f.Fuzz(func(t *testing.T, s string, format uint8) {
		feed := conf.Feed{Format: conf.FeedFormat(format % 3), Column: 1, Member: "ip"}
		parsed, err := Parse(strings.NewReader(s), feed)
		if (err == nil) != (parsed.List.Len() > 0) {
			t.Errorf("%q: %v, %d entries", s, err, parsed.List.Len())
		}
		if err != nil {
			return
		}
		for a := range parsed.List.Hosts(false) {
			if line, _, err := Line(strings.NewReader(s), feed, a); err != nil || line == 0 {
				t.Errorf("%s of %q is in line %d, %v", a, s, line, err)
			}
		}
	})
}
