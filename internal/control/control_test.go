package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
)

// batches is a control.BatchService that remembers what it was asked for.
type batches struct{ asked map[string]control.Batch }

func (b *batches) note(what string, req control.Batch) (control.Done, error) {
	if b.asked == nil {
		b.asked = make(map[string]control.Batch)
	}
	b.asked[what] = req
	return control.Done{Done: len(req.Entries) - 1, Refused: []control.Refusal{{Entry: req.Entries[0], Reason: "loopback"}}}, nil
}
func (b *batches) BanAll(_ context.Context, r control.Batch) (control.Done, error) {
	return b.note("ban", r)
}
func (b *batches) UnbanAll(_ context.Context, r control.Batch) (control.Done, error) {
	return b.note("unban", r)
}
func (b *batches) AllowAll(_ context.Context, r control.Batch) (control.Done, error) {
	return b.note("allow", r)
}
func (b *batches) DisallowAll(_ context.Context, r control.Batch) (control.Done, error) {
	return b.note("disallow", r)
}

// fake answers with what it was given, so that a test sees what crossed the socket.
type fake struct {
	batches
	banned   control.BanRequest
	unbanned control.UnbanRequest
	why      netip.Addr
	stop     func()
}

func (f *fake) Status(context.Context) (control.Status, error) {
	return control.Status{Protected: true, Mode: "enforce"}, nil
}
func (f *fake) Bans(context.Context) ([]control.Ban, error) {
	return []control.Ban{{Prefix: "192.0.2.7"}}, nil
}
func (f *fake) Ban(_ context.Context, req control.BanRequest) (control.Ban, error) {
	f.banned = req
	if req.Prefix == "127.0.0.1" {
		return control.Ban{}, &control.Error{Message: "127.0.0.1 is never banned: loopback"}
	}
	return control.Ban{Prefix: req.Prefix, Author: req.Author}, nil
}
func (f *fake) Unban(_ context.Context, req control.UnbanRequest) ([]control.Ban, error) {
	f.unbanned = req
	return nil, errors.New("kernel gone")
}
func (f *fake) Why(_ context.Context, addr netip.Addr) (control.Why, error) {
	f.why = addr
	return control.Why{Addr: addr.String()}, nil
}
func (f *fake) Names(_ context.Context, prefix string, limit int) ([]control.Name, error) {
	return []control.Name{{Name: prefix, Tries: limit}}, nil
}
func (f *fake) Services(context.Context) ([]control.ListeningService, error) {
	return []control.ListeningService{{Name: "ssh", Ports: []uint16{22, 2222}}}, nil
}
func (f *fake) Alarms(context.Context) ([]control.Alarm, error) {
	return []control.Alarm{{ID: 7}}, nil
}
func (f *fake) Acknowledge(_ context.Context, req control.AckRequest) (control.Acked, error) {
	if req.Author == "" {
		return control.Acked{}, errors.New("nobody asked")
	}
	return control.Acked{Acked: len(req.IDs)}, nil
}
func (f *fake) Follow(ctx context.Context, emit func(control.Record) error) error {
	for _, e := range []string{"failure", control.Caught, "ban"} {
		if err := emit(control.Record{Event: e}); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

func (f *fake) Arm(_ context.Context, req control.ArmRequest) (control.Armed, error) {
	if req.Author == "" || req.For != time.Minute {
		return control.Armed{}, errors.New("nobody asked for a minute")
	}
	return control.Armed{Until: time.Unix(60, 0)}, nil
}

func (f *fake) Confirm(_ context.Context, author string) error {
	if author == "" {
		return errors.New("nobody asked")
	}
	return &control.Error{Message: "not armed"}
}

func (f *fake) Reload(_ context.Context, author string) (control.Reloaded, error) {
	if author == "" {
		return control.Reloaded{}, errors.New("nobody asked")
	}
	return control.Reloaded{Mode: "enforce", Rules: 7}, nil
}

func (f *fake) ClearBans(context.Context, string) (control.Cleared, error) {
	return control.Cleared{Lifted: 7}, nil
}
func (f *fake) Lists(_ context.Context, only string) (control.Lists, error) {
	return control.Lists{Files: []control.ListFile{{List: only}}}, nil
}
func (f *fake) Allow(_ context.Context, req control.AllowRequest) (control.Entry, error) {
	return control.Entry{Entry: req.Entry, Author: req.Author, Note: req.Note}, nil
}
func (f *fake) Disallow(_ context.Context, req control.AllowRequest) (control.Entry, error) {
	return control.Entry{}, &control.Error{Message: req.Entry + " is not an entry"}
}

func (f *fake) Feeds(context.Context) ([]control.Feed, error) {
	return []control.Feed{{Name: "drop", URL: "https://example.org/"}}, nil
}
func (f *fake) ChangeFeed(_ context.Context, req control.FeedRequest) ([]control.Feed, error) {
	return []control.Feed{{Name: req.Name, By: req.Author, Action: req.Do}}, nil
}
func (f *fake) CheckDNSBL(_ context.Context, addr netip.Addr) ([]control.DNSBLAnswer, error) {
	return []control.DNSBLAnswer{{List: "x", Zone: "bl.example", Listed: addr == netip.MustParseAddr("192.0.2.7")}}, nil
}

func (f *fake) TestReports(context.Context) ([]control.SendTest, error) {
	return []control.SendTest{{To: "abuseipdb", OK: true}}, nil
}

func (f *fake) TestNotify(_ context.Context, name string) ([]control.SendTest, error) {
	return []control.SendTest{{To: name, OK: true}}, nil
}

func (f *fake) JoinCloud(_ context.Context, req control.CloudRequest) (control.Cloud, error) {
	if req.Invitation != "mef1.good" {
		return control.Cloud{}, control.Refuse("no invitation")
	}
	return control.Cloud{Server: "cloud.example:8443"}, nil
}

func (f *fake) LeaveCloud(context.Context) error {
	return control.Refuse("this host has joined no server")
}

func (f *fake) PreviewCloud(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"rules":"","reports":null}`), nil
}

func (f *fake) Picture(context.Context) (control.Picture, error) {
	return control.Picture{Level: control.Red, Attackers: []control.Attacker{{Addr: "192.0.2.7"}}}, nil
}

func (f *fake) History(_ context.Context, window string) (control.History, error) {
	return control.History{Series: []control.Series{{Label: window}}}, nil
}

func (f *fake) Stats(_ context.Context, window, by string, n int) (control.Stats, error) {
	return control.Stats{By: by, Rows: []control.StatRow{{Label: window, Attempts: uint64(n)}}}, nil
}

func (f *fake) PastBans(_ context.Context, query string, n int) ([]control.PastBan, error) {
	return []control.PastBan{{Reason: query, Rule: strconv.Itoa(n)}}, nil
}

func (f *fake) LookupCloud(_ context.Context, addr netip.Addr) (control.CloudVerdict, error) {
	return control.CloudVerdict{Listed: true, Until: addr.String()}, nil
}

func TestCloud(t *testing.T) {
	c, _ := serve(t, new(fake))
	if s, err := c.JoinCloud(t.Context(), "mef1.good"); err != nil || s.Server != "cloud.example:8443" {
		t.Errorf("join: %+v, %v", s, err)
	}
	if _, err := c.JoinCloud(t.Context(), "bad"); err == nil || err.Error() != "no invitation" {
		t.Errorf("join: %v", err)
	}
	if err := c.LeaveCloud(t.Context()); err == nil || err.Error() != "this host has joined no server" {
		t.Errorf("leave: %v", err)
	}
	if text, err := c.PreviewCloud(t.Context()); err != nil || string(text) != `{"rules":"","reports":null}` {
		t.Errorf("preview: %s, %v", text, err)
	}
	if v, err := c.LookupCloud(t.Context(), netip.MustParseAddr("::ffff:203.0.113.7")); err != nil || !v.Listed || v.Until != "203.0.113.7" {
		t.Errorf("lookup: %+v, %v", v, err)
	}
}

func (f *fake) Blocked(_ context.Context, addr netip.Addr) (control.Blocked, error) {
	b := control.Ban{Prefix: addr.String(), Ports: "80", Class: "verified", Start: time.Unix(1, 0)}
	return control.Blocked{Addr: addr.String(), Reference: b.Reference()}, nil
}

func (f *fake) SupportCode(_ context.Context, req control.CodeRequest) (control.Code, error) {
	return control.Code{Code: "CODE of " + req.Author + " for " + req.Addr.String()}, nil
}

func (f *fake) Free(_ context.Context, req control.FreeRequest) error {
	if req.Code != "CODE" {
		return control.Refuse("the code is wrong")
	}
	return nil
}

func TestBlocked(t *testing.T) {
	c, _ := serve(t, new(fake))
	addr := netip.MustParseAddr("192.0.2.7")
	b, err := c.Blocked(t.Context(), netip.MustParseAddr("::ffff:192.0.2.7"))
	if err != nil || b.Addr != "192.0.2.7" {
		t.Errorf("blocked: %+v, %v", b, err)
	}
	if reference, ok := control.ReadReference(" " + strings.ToLower(b.Reference)); !ok || reference != b.Reference {
		t.Errorf("reference %q is read as %q, %v", b.Reference, reference, ok)
	}
	for _, text := range []string{"", "MEF-", "MEF-ABCDEFG", "MEF-ABCDEFG1", "192.0.2.7", b.Reference + "A"} {
		if _, ok := control.ReadReference(text); ok {
			t.Errorf("%q is taken for a reference", text)
		}
	}
	if code, err := c.SupportCode(t.Context(), control.CodeRequest{Addr: addr}); err != nil || code.Code != "CODE of root for 192.0.2.7" && os.Getuid() == 0 {
		t.Errorf("code: %+v, %v", code, err)
	}
	if err := c.Free(t.Context(), control.FreeRequest{Addr: addr, Code: "CODE"}); err != nil {
		t.Errorf("free: %v", err)
	}
	if err := c.Free(t.Context(), control.FreeRequest{Addr: addr, Code: "x"}); err == nil || err.Error() != "the code is wrong" {
		t.Errorf("free: %v", err)
	}
}

func (f *fake) Stop(string) {
	if f.stop != nil {
		f.stop()
	}
}

// serve starts a server on a socket of its own and returns a client of it.
func serve(t *testing.T, s control.Service) (*control.Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mef.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, s) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return control.NewClient(path), path
}

func TestRequestsCrossTheSocket(t *testing.T) {
	f := new(fake)
	c, path := serve(t, f)
	ctx := t.Context()

	if s, err := c.Status(ctx); err != nil || !s.Protected {
		t.Errorf("Status = %+v, %v", s, err)
	}
	if bans, err := c.Bans(ctx); err != nil || len(bans) != 1 || bans[0].Prefix != "192.0.2.7" {
		t.Errorf("Bans = %+v, %v", bans, err)
	}
	if names, err := c.Names(ctx, "a&b", 3); err != nil || len(names) != 1 || names[0].Name != "a&b" || names[0].Tries != 3 {
		t.Errorf("Names = %+v, %v", names, err)
	}
	if answers, err := c.CheckDNSBL(ctx, netip.MustParseAddr("::ffff:192.0.2.7")); err != nil || len(answers) != 1 || !answers[0].Listed {
		t.Errorf("CheckDNSBL = %+v, %v", answers, err)
	}
	if tests, err := c.TestReports(ctx); err != nil || len(tests) != 1 || !tests[0].OK {
		t.Errorf("TestReports = %+v, %v", tests, err)
	}
	if tests, err := c.TestNotify(ctx, "a&b"); err != nil || len(tests) != 1 || tests[0].To != "a&b" {
		t.Errorf("TestNotify = %+v, %v", tests, err)
	}
	if p, err := c.Picture(ctx); err != nil || p.Level != control.Red || len(p.Attackers) != 1 {
		t.Errorf("Picture = %+v, %v", p, err)
	}
	if h, err := c.History(ctx, "a&b"); err != nil || len(h.Series) != 1 || h.Series[0].Label != "a&b" {
		t.Errorf("History = %+v, %v", h, err)
	}
	if s, err := c.Stats(ctx, "a&b", "c&d", 5); err != nil || s.By != "c&d" || len(s.Rows) != 1 || s.Rows[0].Label != "a&b" || s.Rows[0].Attempts != 5 {
		t.Errorf("Stats = %+v, %v", s, err)
	}
	if b, err := c.PastBans(ctx, "a&b", 5); err != nil || len(b) != 1 || b[0].Reason != "a&b" || b[0].Rule != "5" {
		t.Errorf("PastBans = %+v, %v", b, err)
	}
	if services, err := c.Services(ctx); err != nil || len(services) != 1 || len(services[0].Ports) != 2 {
		t.Errorf("Services = %+v, %v", services, err)
	}
	if alarms, err := c.Alarms(ctx); err != nil || len(alarms) != 1 || alarms[0].ID != 7 {
		t.Errorf("Alarms = %+v, %v", alarms, err)
	}
	if done, err := c.Acknowledge(ctx, control.AckRequest{IDs: []uint64{7, 8}}); err != nil || done.Acked != 2 {
		t.Errorf("Acknowledge = %+v, %v", done, err)
	}
	b, err := c.Ban(ctx, control.BanRequest{Prefix: "192.0.2.0/24", For: time.Hour, Note: "\x1b[31m"})
	if err != nil || b.Author == "" || b.Author == "unknown" {
		t.Errorf("Ban = %+v, %v: want the author from the socket", b, err)
	}
	if f.banned.For != time.Hour || f.banned.Note != "\x1b[31m" {
		t.Errorf("the service saw %+v", f.banned)
	}
	if _, err := c.Why(ctx, netip.MustParseAddr("::ffff:192.0.2.7")); err != nil || f.why.String() != "192.0.2.7" {
		t.Errorf("Why asked about %v, %v; want the IPv4 address", f.why, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket mode %v, %v; want 0660", info.Mode(), err)
	}
}

func TestBatchesCrossTheSocket(t *testing.T) {
	f := new(fake)
	c, _ := serve(t, f)
	var many []string
	for i := range 100_000 {
		many = append(many, fmt.Sprintf("2001:db8:%x:%x::/64", i/65536, i%65536))
	}
	for what, send := range map[string]func(context.Context, control.Batch) (control.Done, error){
		"ban": c.BanAll, "unban": c.UnbanAll, "allow": c.AllowAll, "disallow": c.DisallowAll,
	} {
		done, err := send(t.Context(), control.Batch{Entries: many, Note: "audit", Author: "mallory"})
		if err != nil || done.Done != len(many)-1 || len(done.Refused) != 1 || done.Refused[0].Entry != many[0] {
			t.Errorf("%s: %+v, %v", what, done, err)
		}
		if got := f.asked[what]; len(got.Entries) != len(many) || got.Note != "audit" || got.Author == "" || got.Author == "mallory" {
			t.Errorf("%s: the service saw %d entries of %q", what, len(got.Entries), got.Author)
		}
	}
}

func TestErrorsKeepTheirText(t *testing.T) {
	c, _ := serve(t, new(fake))
	_, err := c.Ban(t.Context(), control.BanRequest{Prefix: "127.0.0.1"})
	if err == nil || err.Error() != "127.0.0.1 is never banned: loopback" {
		t.Errorf("refused ban: %v", err)
	}
	if _, err := c.Unban(t.Context(), control.UnbanRequest{}); err == nil || err.Error() != "kernel gone" {
		t.Errorf("failed unban: %v", err)
	}
}

func TestFollowEndsWithItsReader(t *testing.T) {
	c, _ := serve(t, new(fake))
	enough := errors.New("enough")
	var seen []string
	err := c.Follow(t.Context(), func(r control.Record) error {
		seen = append(seen, r.Event)
		if len(seen) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(seen, " ") != "failure caught-up ban" {
		t.Errorf("Follow saw %v, %v", seen, err)
	}
}

func TestNobodyListens(t *testing.T) {
	dir := t.TempDir()
	if _, err := control.NewClient(filepath.Join(dir, "none.sock")).Status(t.Context()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("without a socket: %v", err)
	}
	_, path := serve(t, new(fake))
	if l, err := control.Listen(path); err == nil {
		l.Close()
		t.Error("a second daemon took over the socket of a running one")
	} else if !strings.Contains(err.Error(), "another mefdaemon is running") {
		t.Errorf("second daemon: %v", err)
	}
}

func TestStopWaitsForTheEnd(t *testing.T) {
	f := new(fake)
	path := filepath.Join(t.TempDir(), "mef.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, f) }()
	c := control.NewClient(path)
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("after Stop: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListenReplacesSocketOfDeadDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	// A killed daemon leaves its socket behind.
	l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
	l.Close()
	if l, err = control.Listen(path); err != nil {
		t.Fatalf("Listen over a dead socket: %v", err)
	}
	l.Close()
}

// A mistyped path must not cost the file that it names.
func TestListenLeavesOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mef.conf")
	if err := os.WriteFile(path, []byte("[global]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "control socket: " + path + " exists and is not a socket; set control_socket to another path"
	if _, err := control.Listen(path); err == nil || err.Error() != want {
		t.Errorf("Listen: %v, want %s", err, want)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// FuzzRequest sends arbitrary requests: the handler must answer each, with JSON, and never with a 5xx of its own making.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/v1/bans", []byte(`{"prefix":"192.0.2.7","for_ns":1000}`))
	f.Add("DELETE", "/v1/bans", []byte(`{"prefix":"192.0.2.7"} {}`))
	f.Add("GET", "/v1/why?addr=fe80::1%25eth0", []byte(nil))
	f.Add("POST", "/v1/bans", bytes.Repeat([]byte("["), 1<<17))
	h := control.Handler(&quick{})
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		if !strings.HasPrefix(target, "/v1/") {
			return
		}
		req, err := http.NewRequest(method, target, io.NopCloser(bytes.NewReader(body)))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%s %q %q: status %d: %s", method, target, body, w.Code, w.Body)
		}
	})
}

// quick is a fake that never waits or fails.
type quick struct{ fake }

func (*quick) Unban(context.Context, control.UnbanRequest) ([]control.Ban, error) { return nil, nil }
func (*quick) Follow(context.Context, func(control.Record) error) error           { return nil }

func TestArmAndConfirm(t *testing.T) {
	client, _ := serve(t, &fake{})
	armed, err := client.Arm(t.Context(), control.ArmRequest{For: time.Minute})
	if err != nil || !armed.Until.Equal(time.Unix(60, 0)) {
		t.Errorf("Arm = %+v, %v", armed, err)
	}
	refused := new(control.Error)
	if err := client.Confirm(t.Context()); !errors.As(err, &refused) || refused.Message != "not armed" {
		t.Errorf("Confirm = %v, want the daemon's refusal", err)
	}
}

func TestListsCrossTheSocket(t *testing.T) {
	c, _ := serve(t, &fake{})
	if l, err := c.Lists(t.Context(), "blacklist"); err != nil || len(l.Files) != 1 || l.Files[0].List != "blacklist" {
		t.Errorf("Lists: %+v, %v", l, err)
	}
	e, err := c.Allow(t.Context(), control.AllowRequest{Entry: "192.0.2.7", Note: "the office", Author: "mallory"})
	if err != nil || e.Entry != "192.0.2.7" || e.Note != "the office" || e.Author == "" || e.Author == "mallory" {
		t.Errorf("Allow: %+v, %v; want the author from the socket", e, err)
	}
	if _, err := c.Disallow(t.Context(), control.AllowRequest{Entry: "192.0.2.7"}); err == nil || err.Error() != "192.0.2.7 is not an entry" {
		t.Errorf("Disallow: %v", err)
	}
	if n, err := c.ClearBans(t.Context()); err != nil || n.Lifted != 7 {
		t.Errorf("ClearBans: %+v, %v", n, err)
	}
	if r, err := c.Reload(t.Context()); err != nil || r.Rules != 7 {
		t.Errorf("Reload: %+v, %v", r, err)
	}
}
