package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/server"
	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/prefixset"
	"mef/internal/report"
)

const (
	attacker = "203.0.113.7"
	patience = time.Minute
)

// A cloud is a server at an address that stays the same.
type cloud struct {
	t    *testing.T
	dir  string
	addr string
	now  func() time.Time // of the server; nil: the clock
	s    *server.Server
	stop func()
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{t: t, dir: filepath.Join(t.TempDir(), "cloud"), addr: "127.0.0.1:0"}
	c.start()
	return c
}

func (c *cloud) start() {
	c.t.Helper()
	s, err := server.Open(c.t.Context(), server.Options{Dir: c.dir, Listen: c.addr, Name: c.addr, Now: c.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.s, c.addr = s, s.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		s.Close()
	})
	c.t.Cleanup(c.stop)
}

func (c *cloud) invite(role reputation.Role) string {
	c.t.Helper()
	inv, _, err := c.s.Invite(c.t.Context(), role)
	if err != nil {
		c.t.Fatal(err)
	}
	inv.Server = c.addr
	return inv.String()
}

func config(dir string) *conf.Config {
	cfg := &conf.Config{Community: conf.Community{Report: true, Protection: true}}
	cfg.Paths.StateDir = dir
	cfg.Rules = []conf.Rule{{Name: "sshd", Enabled: true}}
	return cfg
}

// A host is an Agent that runs.
type host struct {
	*Agent
	t    *testing.T
	stop func()
}

func start(t *testing.T, cfg *conf.Config) *host {
	h := &host{Agent: New(cfg, report.Category, slog.New(slog.DiscardHandler)), t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

func (h *host) await(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not %s: %+v", what, h.Status())
		}
	}
}

func banned(addr string) control.Record {
	return control.Record{Time: time.Now(), Event: "ban", Rule: "sshd", Service: "sshd", Prefix: addr + "/32", Class: "verified", Host: "mail.example.org", User: "alice",
		Evidence: []string{"Failed password for alice from 203.0.113.7 port 4711 ssh2"}}
}

func TestLeave(t *testing.T) {
	c := newCloud(t)
	h := start(t, config(t.TempDir()))
	if err := h.Join(t.Context(), c.invite(reputation.Own)); err != nil {
		t.Fatal(err)
	}
	h.await("fetching lists", func() bool { return len(h.Status().Lists) == 1 && h.Status().Lists[0].Of != nil })
	_ = h.Write([]control.Record{banned(attacker)})
	h.await("reported", func() bool { return h.Status().Sent == 1 && h.Status().Waiting == 0 && len(h.Status().Problems) == 0 })
	if err := h.Leave(); err != nil {
		t.Fatal(err)
	}
	if s := h.Status(); s.Server != "" {
		t.Errorf("after leaving: %+v", s)
	}
	if err := h.Leave(); err == nil {
		t.Error("a host leaves twice")
	}
}

// TestServerAway checks that reports wait while the server is away, also over a restart of the host.
func TestServerAway(t *testing.T) {
	c := newCloud(t)
	dir := t.TempDir()
	h := start(t, config(dir))
	if err := h.Join(t.Context(), c.invite("")); err != nil {
		t.Fatal(err)
	}
	_ = h.Write([]control.Record{banned(attacker)})
	h.await("sent", func() bool { return h.Status().Sent == 1 })
	c.stop()
	_ = h.Write([]control.Record{banned("203.0.113.9")})
	h.await("in trouble", func() bool { return len(h.Status().Problems) > 0 && h.Status().Waiting == 1 })
	h.stop()
	h = start(t, config(dir))
	c.start()
	h.await("sent", func() bool { return h.Status().Sent == 1 })
}

// TestNothingElseIsSent searches what a host sends for everything that it must not send.
func TestNothingElseIsSent(t *testing.T) {
	h := New(config(t.TempDir()), report.Category, slog.New(slog.DiscardHandler))
	h.member = new(membership)
	own := banned("203.0.113.20")
	own.Rule = "manual"
	theirs := banned("203.0.113.23")
	theirs.Rule = "fleet"
	listed := banned("203.0.113.21")
	listed.Listed = true
	forged := banned("203.0.113.22")
	forged.Class = "unverified"
	_ = h.Write([]control.Record{banned(attacker), banned("192.168.1.7"), own, theirs, listed, forged, {Event: "unban", Prefix: "198.51.100.7/32", Author: "alice"}})
	text, err := h.Preview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"rules":%q,"reports":[{"addr":"203.0.113.7","category":"ssh","count":"1","hour":%d}]}`, hash(config("").Rules), h.queue[0].Hour)
	if string(text) != want {
		t.Errorf("sent\n%s\nwant\n%s", text, want)
	}
	for _, secret := range []string{"alice", "mail.example", "4711", "Failed", "192.168", "198.51"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%q is sent", secret)
		}
	}
}

// The preview of an own host has what waits for the others.
func TestPreviewOfAnOwnHost(t *testing.T) {
	h := New(sharingConfig(t.TempDir()), report.Category, slog.New(slog.DiscardHandler))
	h.member = &membership{Lists: []string{"public", "own"}}
	_ = h.Write([]control.Record{bannedFor(attacker, time.Hour)})
	text, err := h.Preview(t.Context())
	var got struct {
		Reports wire.Batch
		Fleet   wire.FleetBatch
	}
	if err != nil || json.Unmarshal(text, &got) != nil || len(got.Reports.Reports) != 0 || len(got.Fleet.Events) != 1 || got.Fleet.Events[0].Rule != "sshd" || got.Fleet.Host == "" {
		t.Errorf("%s, %v", text, err)
	}
	for _, secret := range []string{"alice", "mail.example", "4711", "Failed"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%q is sent", secret)
		}
	}
}

func TestNothingBeforeAnOperatorAsks(t *testing.T) {
	cfg := config(t.TempDir())
	h := start(t, cfg)
	_ = h.Write([]control.Record{banned(attacker)})
	if s := h.Status(); s.Waiting != 0 || s.Server != "" {
		t.Errorf("before joining: %+v", s)
	}
	c := newCloud(t)
	off := *cfg
	off.Community = conf.Community{}
	h.Configure(&off)
	if err := h.Join(t.Context(), c.invite("")); err != nil {
		t.Fatal(err)
	}
	_ = h.Write([]control.Record{banned(attacker)})
	if s := h.Status(); s.Waiting != 0 || s.Sent != 0 {
		t.Errorf("with both keys off: %+v", s)
	}
	if info, err := os.Stat(h.path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key of the host has the mode %v, %v", info.Mode(), err)
	}
}

func TestWrongInvitations(t *testing.T) {
	c := newCloud(t)
	h := start(t, config(t.TempDir()))
	good := c.invite("")
	other, _ := wire.ParseInvitation(good)
	other.Pin[0] ^= 1
	used := start(t, config(t.TempDir()))
	if err := used.Join(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away, _ := wire.ParseInvitation(good)
	away.Server = nobody.Addr().String()
	nobody.Close()
	for name, tt := range map[string]struct{ text, says string }{
		"no invitation": {"hello", "mefcloud invite"},
		"other server":  {other.String(), "another key"},
		"used":          {good, "mefcloud invite"},
		"server away":   {away.String(), "refused"},
	} {
		if err := h.Join(t.Context(), tt.text); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
	if s := h.Status(); s.Server != "" {
		t.Errorf("joined: %+v", s)
	}
}

// TestLists checks which versions of a list are accepted.
func TestLists(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	some := func(n int) (all []netip.Prefix) {
		for i := range n {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32))
		}
		return all
	}
	after := func(l list, f wire.Feed) (list, error) {
		var added prefixset.Packer
		for _, p := range f.Add {
			added.Add(p)
		}
		return l.next(f, added.Pack(), "own", now)
	}
	have, err := after(list{}, wire.Feed{List: "own", Seq: 10, At: now, Add: some(2000)})
	if err != nil || have.addrs.Len() != 2000 {
		t.Fatal(have, err)
	}
	for name, tt := range map[string]struct {
		feed wire.Feed
		want int // entries; 0: refused
	}{
		"changes":            {wire.Feed{List: "own", Seq: 12, Since: 10, At: now, Add: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}, Remove: some(5)}, 1996},
		"nothing new":        {wire.Feed{List: "own", Seq: 12, Since: 10, At: now}, 2000},
		"the whole":          {wire.Feed{List: "own", Seq: 12, At: now, Add: some(2100)}, 2100},
		"changes to another": {wire.Feed{List: "own", Seq: 12, Since: 11, At: now}, 0},
		"another list":       {wire.Feed{List: "public", Seq: 12, At: now, Add: some(2000)}, 0},
		"an older one":       {wire.Feed{List: "own", Seq: 9, At: now, Add: some(2000)}, 0},
		"one signed earlier": {wire.Feed{List: "own", Seq: 12, At: now.Add(-time.Hour), Add: some(2000)}, 0},
		"one of the future":  {wire.Feed{List: "own", Seq: 12, At: now.Add(time.Hour), Add: some(2000)}, 0},
		"suddenly large":     {wire.Feed{List: "own", Seq: 12, At: now, Add: some(5000)}, 0},
		"suddenly small":     {wire.Feed{List: "own", Seq: 12, At: now, Add: some(10)}, 0},
	} {
		next, err := after(have, tt.feed)
		if got := next.addrs.Len(); tt.want != 0 && (err != nil || got != tt.want) || tt.want == 0 && (err == nil || got != 2000) {
			t.Errorf("%s: %d entries, %v; want %d", name, got, err, tt.want)
		}
	}
	a := New(config(t.TempDir()), report.Category, slog.New(slog.NewTextHandler(io.Discard, nil)))
	a.lists["own"] = have
	a.dropOld(t.Context(), "own", now.Add(47*time.Hour))
	if got, _ := a.List(); got.Len() != 2000 {
		t.Error("a list of 47 hours is dropped")
	}
	a.dropOld(t.Context(), "own", now.Add(49*time.Hour))
	if got, _ := a.List(); got.Len() != 0 {
		t.Error("a list of 49 hours is used")
	}
}

func TestQueueIsBounded(t *testing.T) {
	h := New(config(t.TempDir()), report.Category, slog.New(slog.DiscardHandler))
	h.member = new(membership)
	for i := range maxQueue + 10 {
		h.queue = append(h.queue[:min(len(h.queue), maxQueue-1)], wire.Report{Addr: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), Category: "ssh"})
	}
	for i := range 20 {
		_ = h.Write([]control.Record{banned(fmt.Sprintf("203.0.113.%d", i)), banned(fmt.Sprintf("203.0.113.%d", i))})
	}
	if s := h.Status(); s.Waiting != maxQueue || s.LeftOut != 20 {
		t.Errorf("%d wait, %d left out", s.Waiting, s.LeftOut)
	}
}
