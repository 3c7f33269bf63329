package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

var attacker = netip.MustParseAddr("203.0.113.7")

// A running is a server of a test.
type running struct {
	*Server
	stop func() // returns once the state is saved
}

func start(t testing.TB, dir string) *running {
	t.Helper()
	s, err := Open(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.opt.Name = s.Addr().String()
	return run(t, s)
}

// run runs a server until the test ends.
func run(t testing.TB, s *Server) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &running{Server: s}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	t.Cleanup(r.stop)
	return r
}

// A host is one that reports to a server.
type host struct {
	t      testing.TB
	key    ed25519.PrivateKey
	inv    wire.Invitation
	client *http.Client
	seq    uint64
}

func join(t testing.TB, s *running, role reputation.Role) *host {
	t.Helper()
	inv, _, err := s.Invite(t.Context(), role)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, inv)
	if status, text := h.enrol(); status != http.StatusOK {
		t.Fatalf("enrolment: %d %s", status, text)
	}
	return h
}

func newHost(t testing.TB, inv wire.Invitation) *host {
	parsed, err := wire.ParseInvitation(inv.String())
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	return &host{t: t, key: key, inv: parsed, client: &http.Client{Timeout: time.Minute, Transport: documented{t, &http.Transport{TLSClientConfig: parsed.ClientTLS(), DisableKeepAlives: true}, nil}}}
}

// send sends a signed request.
func (h *host) send(method, path string, body []byte) (status int, text []byte) {
	h.t.Helper()
	req, err := http.NewRequest(method, "https://"+h.inv.Server+path, bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	wire.Sign(req, h.key, time.Now(), h.seq, body)
	return h.do(req)
}

func (h *host) do(req *http.Request) (status int, text []byte) {
	h.t.Helper()
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	if resp.StatusCode >= 400 && (resp.Header.Get("Content-Type") != "application/problem+json" || !json.Valid(text)) {
		h.t.Errorf("%d is answered by %q", resp.StatusCode, text)
	}
	return resp.StatusCode, text
}

func (h *host) enrol() (int, []byte) {
	h.t.Helper()
	text, err := json.Marshal(wire.Enrolment{Token: base64.RawURLEncoding.EncodeToString(h.inv.Token), Key: h.key.Public().(ed25519.PublicKey)})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.send("POST", "/v1/enroll", text)
}

func batch(addrs ...netip.Addr) (b wire.Batch) {
	for _, a := range addrs {
		b.Reports = append(b.Reports, wire.Report{Addr: a, Category: "ssh", Count: "2-9", Hour: time.Now().Unix() / 3600})
	}
	return b
}

func (h *host) report(addrs ...netip.Addr) (status int, r wire.Receipt) {
	h.t.Helper()
	body, err := batch(addrs...).Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	h.seq++
	status, text := h.send("POST", "/v1/reports", body)
	_ = json.Unmarshal(text, &r)
	return status, r
}

func (h *host) mustReport(addrs ...netip.Addr) {
	h.t.Helper()
	if status, r := h.report(addrs...); status != http.StatusAccepted || r.Accepted != len(addrs) {
		h.t.Fatalf("report: %d %+v", status, r)
	}
}

func (h *host) feed(list, query string) wire.Feed {
	h.t.Helper()
	status, data := h.send("GET", "/v1/feed/"+list+query, nil)
	if status != http.StatusOK {
		h.t.Fatalf("feed: %d %s", status, data)
	}
	f, err := wire.DecodeFeed(data, h.inv.Feed, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

func has(f wire.Feed, addr netip.Addr) bool { return slices.Contains(f.Add, reputation.Key(addr)) }

func TestOwnHostsShareABanAtOnce(t *testing.T) {
	s := start(t, t.TempDir())
	one, two, stranger := join(t, s, ""), join(t, s, reputation.Own), join(t, s, "")
	before := two.feed("own", "")
	got := make(chan wire.Feed, 1)
	go func() { got <- two.feed("own", fmt.Sprintf("?since=%d&wait=30", before.Seq)) }()
	began := time.Now()
	one.mustReport(attacker)
	f := <-got
	if !has(f, attacker) || f.Since != before.Seq {
		t.Fatalf("the other host gets %+v", f)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if status, text := stranger.send("GET", "/v1/feed/own", nil); status != http.StatusForbidden {
		t.Errorf("a host of others gets the list of own hosts: %d %s", status, text)
	}
	if f := stranger.feed("public", ""); len(f.Add) != 0 {
		t.Errorf("one host lists %v for all", f.Add)
	}
}

func TestAnchorsListForAll(t *testing.T) {
	s := start(t, t.TempDir())
	var all []*host
	for range 4 {
		all = append(all, join(t, s, reputation.Anchor))
	}
	for _, h := range all {
		h.mustReport(attacker)
	}
	if f := all[0].feed("public", ""); has(f, attacker) {
		t.Error("hosts of one network list an address")
	}
}

// TestAcceptedReportsSurvive checks that what was acknowledged is there after a stop, a crash and a restore, and that a list never gets older.
func TestAcceptedReportsSurvive(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	h := join(t, s, "")
	h.mustReport(attacker)
	seq := h.feed("own", "").Seq
	s.stop()

	s = start(t, dir)
	h.inv.Server = s.Addr().String()
	f := h.feed("own", "")
	if !has(f, attacker) || f.Seq < seq {
		t.Fatalf("after a restart: %+v", f)
	}
	second := netip.MustParseAddr("2001:db8::7")
	h.mustReport(second)

	// A crash: the files as they are now.
	crashed := filepath.Join(t.TempDir(), "crashed")
	if err := os.CopyFS(crashed, withoutSockets{os.DirFS(dir)}); err != nil {
		t.Fatal(err)
	}
	backup, err := s.Backup()
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	restored := filepath.Join(t.TempDir(), "restored")
	if err := Restore(restored, backup, false); err != nil {
		t.Fatal(err)
	}
	if err := Restore(restored, backup, false); err == nil {
		t.Error("a backup is restored over a data directory")
	}
	for _, dir := range []string{crashed, restored} {
		s = start(t, dir)
		h.inv.Server = s.Addr().String()
		f := h.feed("own", "")
		if !has(f, attacker) || !has(f, second) || f.Seq < seq {
			t.Errorf("%s: %+v", filepath.Base(dir), f)
		}
		h.mustReport(attacker)
		s.stop()
		s = start(t, dir)
		h.inv.Server = s.Addr().String()
		if f := h.feed("own", ""); !has(f, attacker) || !has(f, second) {
			t.Errorf("%s, started again: %+v", filepath.Base(dir), f)
		}
		s.stop()
	}
}

// TestNothingStartsSilentlyEmpty checks that a server does not start when one of its files is missing, cut or changed in a way that loses something.
func TestNothingStartsSilentlyEmpty(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	h := join(t, s, "")
	h.mustReport(attacker)
	s.stop()
	s = start(t, dir) // the copy of the state has everything so far
	h.inv.Server = s.Addr().String()
	h.mustReport(netip.MustParseAddr("203.0.113.9")) // and the log has this
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(copied, withoutSockets{os.DirFS(dir)}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	flip := func(path string) error {
		data, err := os.ReadFile(path)
		if err == nil {
			data[len(data)/2] ^= 4
			err = os.WriteFile(path, data, 0o600)
		}
		return err
	}
	for name, damage := range map[string]func(dir string) error{
		"state missing": func(dir string) error { return os.Remove(filepath.Join(dir, stateFile)) },
		"state flipped": func(dir string) error { return flip(filepath.Join(dir, stateFile)) },
		"state cut":     func(dir string) error { return os.Truncate(filepath.Join(dir, stateFile), 100) },
		"state empty":   func(dir string) error { return os.Truncate(filepath.Join(dir, stateFile), 0) },
		"keys missing":  func(dir string) error { return os.Remove(filepath.Join(dir, keysFile)) },
		"keys flipped":  func(dir string) error { return flip(filepath.Join(dir, keysFile)) },
		"log missing":   func(dir string) error { return os.RemoveAll(filepath.Join(dir, "nats")) },
		"log block missing": func(dir string) error {
			return eachBlock(dir, os.Remove)
		},
		"log block flipped": func(dir string) error {
			return eachBlock(dir, flip)
		},
		"log block cut": func(dir string) error {
			return eachBlock(dir, func(path string) error { return os.Truncate(path, 40) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "damaged")
			if err := os.CopyFS(dir, os.DirFS(copied)); err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			s, err := Open(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Name: "x:1", Log: slog.New(slog.DiscardHandler)})
			if err == nil {
				defer s.Close()
				found := 0
				s.state.book.Each(reputation.OwnHosts, func(netip.Prefix, uint16) { found++ })
				if found != 2 {
					t.Errorf("it starts with %d of 2 addresses", found)
				}
			} else if !strings.Contains(err.Error(), "mefcloud restore") {
				t.Errorf("the error names no way back: %v", err)
			}
		})
	}
}

// eachBlock calls f with each file of the log's messages.
func eachBlock(dir string, f func(path string) error) error {
	all, err := filepath.Glob(filepath.Join(dir, "nats/jetstream/*/streams/*/msgs/*.blk"))
	if err == nil && len(all) == 0 {
		err = errors.New("the log has no files")
	}
	for _, path := range all {
		err = errors.Join(err, f(path))
	}
	return err
}

// TestStopAtOnce checks that a server that is stopped before it follows its log ends without an error.
func TestStopAtOnce(t *testing.T) {
	dir := t.TempDir()
	for range 20 {
		start(t, dir).stop()
	}
}
