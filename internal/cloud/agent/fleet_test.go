package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/owner"
	"mef/internal/report"
)

// A member is an own host that keeps what others did.
type member struct {
	*host
	mu  sync.Mutex
	got []wire.FleetEvent
}

func sharingConfig(dir string) *conf.Config {
	cfg := config(dir)
	cfg.Community.Report, cfg.Community.Fleet = false, true
	return cfg
}

// startMember starts an own host in a directory.
func startMember(t *testing.T, dir string) *member {
	m := &member{host: &host{Agent: New(sharingConfig(dir), report.Category, slog.New(slog.DiscardHandler)), t: t}}
	m.Fleet = func(_ context.Context, e wire.FleetEvent) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.got = append(m.got, e)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(m.stop)
	return m
}

func joinMember(t *testing.T, c *cloud, dir string) *member {
	t.Helper()
	m := startMember(t, dir)
	if err := m.Join(t.Context(), c.invite(reputation.Own)); err != nil {
		t.Fatal(err)
	}
	m.await("connected", func() bool { s := m.Status().Fleet; return s != nil && s.Connected })
	return m
}

// events returns the events of a kind that a host got, as "prefix host rule".
func (m *member) events(kind wire.FleetKind) (all []wire.FleetEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.got {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
}

// gets waits until a host got exactly those events of a kind, by prefix.
func (m *member) gets(kind wire.FleetKind, prefixes ...string) {
	m.t.Helper()
	m.await(fmt.Sprintf("%s of %v", kind, prefixes), func() bool {
		var got []string
		for _, e := range m.events(kind) {
			got = append(got, e.Prefix.String())
		}
		slices.Sort(got)
		return slices.Equal(got, prefixes)
	})
}

// includes waits until a host got an event of a kind.
func (m *member) includes(kind wire.FleetKind, prefix string) {
	m.t.Helper()
	m.await(fmt.Sprintf("%s of %s", kind, prefix), func() bool {
		return slices.ContainsFunc(m.events(kind), func(e wire.FleetEvent) bool { return e.Prefix.String() == prefix })
	})
}

func bannedFor(addr string, d time.Duration) control.Record {
	r := banned(addr)
	r.Until = control.Moment(time.Now().Add(d))
	return r
}

// What one own host bans, the others ban; an unban too. A host that was away, and the server, catch up; nobody gets anything twice.
func TestFleetSharesBans(t *testing.T) {
	c := newCloud(t)
	dir := t.TempDir()
	one, two, three := joinMember(t, c, t.TempDir()), joinMember(t, c, t.TempDir()), joinMember(t, c, dir)
	manual := bannedFor("203.0.113.8", time.Hour)
	manual.Rule = "manual"
	scan := bannedFor("203.0.113.10", time.Minute)
	scan.Class = "unverified"
	theirs := bannedFor("203.0.113.11", time.Hour)
	theirs.Rule = "fleet"
	_ = one.Write([]control.Record{bannedFor(attacker, time.Hour), manual, scan, theirs, bannedFor("192.168.1.7", time.Hour)})
	for _, h := range []*member{two, three} {
		h.gets(wire.FleetBan, attacker+"/32", "203.0.113.8/32")
		e := h.events(wire.FleetBan)[0]
		name, _ := os.Hostname()
		if e.Host != wire.FleetName(name) || e.Origin != one.Status().Host || e.Rule != "sshd" || e.Category != "ssh" || e.Left < 3500 || e.Left > 3600 {
			t.Errorf("the ban comes as %+v", e)
		}
	}
	three.stop()
	_ = one.Write([]control.Record{bannedFor("203.0.113.20", time.Hour), bannedFor("203.0.113.21", time.Hour)})
	two.gets(wire.FleetBan, "203.0.113.20/32", "203.0.113.21/32", attacker+"/32", "203.0.113.8/32")
	two.Unbanned(netip.MustParsePrefix("203.0.113.20/32"))
	one.includes(wire.FleetUnban, "203.0.113.20/32")
	three = startMember(t, dir)
	three.includes(wire.FleetBan, "203.0.113.21/32")
	lifted := netip.MustParsePrefix("203.0.113.20/32")
	three.await("an unban, and no ban after it", func() bool {
		three.mu.Lock()
		defer three.mu.Unlock()
		last := wire.FleetKind("")
		for _, e := range three.got {
			if e.Prefix == lifted {
				last = e.Kind
			}
		}
		return last == wire.FleetUnban
	})

	c.stop()
	_ = two.Write([]control.Record{bannedFor("203.0.113.30", time.Hour)})
	two.await("waiting", func() bool { return two.Status().Fleet.Waiting == 1 && len(two.Status().Problems) > 0 })
	c.start()
	three.includes(wire.FleetBan, "203.0.113.30/32")
	one.gets(wire.FleetBan, "203.0.113.30/32")
	if s := one.Status(); s.Sent != 0 || s.Fleet.Used > 4 || s.Fleet.Quota != 200 || s.Fleet.Sent != 4 {
		t.Errorf("status %+v, %+v", s, s.Fleet)
	}
	if err := one.Leave(); err != nil {
		t.Fatal(err)
	}
	one.await("undoing", func() bool { e := one.events(wire.FleetRevoke); return len(e) == 1 && e[0].Origin == "" })
}

// A proxy that delivers answers only once they end is no obstacle.
func TestFleetPolls(t *testing.T) {
	c := newCloud(t)
	one, two := joinMember(t, c, t.TempDir()), joinMember(t, c, t.TempDir())
	two.stop()
	l := &listener{a: two.Agent, m: two.member, seen: make(map[string]bool), tokens: fleetPace}
	_ = one.Write([]control.Record{bannedFor(attacker, time.Hour)})
	for len(two.events(wire.FleetBan)) == 0 {
		if err := l.connect(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	one.await("sent", func() bool { return one.Status().Fleet.Sent == 1 })
}

// Members and anchors share nothing, and get nothing.
func TestFleetIsForOwnHosts(t *testing.T) {
	c := newCloud(t)
	own := joinMember(t, c, t.TempDir())
	other := startMember(t, t.TempDir())
	if err := other.Join(t.Context(), c.invite(reputation.Anchor)); err != nil {
		t.Fatal(err)
	}
	_ = other.Write([]control.Record{bannedFor(attacker, time.Hour)})
	if s := other.Status(); s.Fleet != nil {
		t.Errorf("an anchor shares: %+v", s.Fleet)
	}
	_, err := other.member.ask(t.Context(), "GET", "/v1/fleet/stream", 0, nil, 1000)
	if err == nil || !strings.Contains(err.Error(), "own hosts") {
		t.Errorf("an anchor gets the stream: %v", err)
	}
	batch := wire.FleetBatch{Host: "web1", Events: []wire.FleetEvent{{ID: "12345678", Kind: wire.FleetBan, Prefix: netip.MustParsePrefix(attacker + "/32"), Left: 60, Category: "ssh"}}}
	if err := other.sendFleet(t.Context(), other.member, batch); err == nil || !strings.Contains(err.Error(), "own hosts") {
		t.Errorf("an anchor shares: %v", err)
	}
	if got := own.events(wire.FleetBan); len(got) != 0 {
		t.Errorf("an own host gets %v", got)
	}
}

// An attacker that tries twice on each of fifty hosts is banned by all of them.
func TestFleetHasOneScore(t *testing.T) {
	c := newCloud(t)
	var hosts []*member
	for range 50 {
		hosts = append(hosts, joinMember(t, c, t.TempDir()))
	}
	for _, h := range hosts {
		h.Suspect(netip.MustParseAddr(attacker), "sshd", 1)
		h.Suspect(netip.MustParseAddr(attacker), "sshd", 1)
		h.Suspect(netip.MustParseAddr("192.168.1.7"), "sshd", 100)
		h.Suspect(netip.MustParseAddr("203.0.113.50"), "sshd", 0)
	}
	for _, h := range hosts {
		h.includes(wire.FleetBan, attacker+"/32")
		if e := h.events(wire.FleetBan)[0]; e.Origin != "" || e.Hosts < 2 || e.Count < 10 {
			t.Errorf("the ban comes as %+v", e)
		}
	}
	hosts[7].User(netip.MustParseAddr(attacker))
	for _, h := range hosts {
		h.includes(wire.FleetWithdraw, attacker+"/32")
	}
}

// A recorder keeps what a host sends, before encryption and without compression.
type recorder struct {
	http.RoundTripper
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	head, _ := httputil.DumpRequestOut(req, false)
	r.mu.Lock()
	r.text.Write(head)
	r.text.Write(body)
	if z, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
		_, _ = io.Copy(&r.text, z)
	}
	r.mu.Unlock()
	return r.RoundTripper.RoundTrip(req)
}

// What is sent to the server has no user names, no log text and no addresses of this host.
func TestFleetSendsNoSecrets(t *testing.T) {
	c := newCloud(t)
	two := joinMember(t, c, t.TempDir())
	one := joinMember(t, c, t.TempDir())
	one.stop()
	one.host = &host{Agent: one.Agent, t: t}
	rec := &recorder{RoundTripper: one.member.client.Transport}
	one.member.client.Transport = rec
	cfg := sharingConfig(one.dir)
	cfg.Community.Report = true
	one.Configure(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- one.Run(ctx) }()
	_ = one.Write([]control.Record{bannedFor(attacker, time.Hour), {Event: "failure", User: "alice", Addr: attacker}})
	one.await("sharing", func() bool { return one.Status().Fleet.Connected })
	one.Suspect(netip.MustParseAddr("203.0.113.9"), "sshd", 1)
	one.User(netip.MustParseAddr("203.0.113.10"))
	one.Unbanned(netip.MustParsePrefix("203.0.113.11/32"))
	one.Allowed(netip.MustParsePrefix("203.0.113.12/32"), time.Now().Add(time.Hour))
	one.Disallowed(netip.MustParsePrefix("203.0.113.13/32"))
	two.includes(wire.FleetBan, attacker+"/32")
	sent := func() string { rec.mu.Lock(); defer rec.mu.Unlock(); return rec.text.String() }
	for _, want := range []string{`"addr":"203.0.113.9"`, `"users":[{"addr":"203.0.113.10"}]`, "203.0.113.11/32", "203.0.113.12/32", "203.0.113.13/32", `"reports":[{"addr":"203.0.113.7"`, "/v1/fleet/stream"} {
		one.await(want, func() bool { return strings.Contains(sent(), want) })
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	secrets := []string{"alice", "Failed", "password", "4711", "mail.example"}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
				secrets = append(secrets, p.Addr().String())
			}
		}
	}
	for _, secret := range secrets {
		if strings.Contains(sent(), secret) {
			t.Errorf("%q is sent", secret)
		}
	}
}

// A server whose clock is wrong costs nothing but its help: what was banned meanwhile is shared once it is right.
func TestFleetServerWithAWrongClock(t *testing.T) {
	var wrong atomic.Bool
	c := &cloud{t: t, dir: filepath.Join(t.TempDir(), "cloud"), addr: "127.0.0.1:0", now: func() time.Time {
		if wrong.Load() {
			return time.Now().Add(-3 * time.Hour)
		}
		return time.Now()
	}}
	c.start()
	one, two := joinMember(t, c, t.TempDir()), joinMember(t, c, t.TempDir())
	wrong.Store(true)
	_ = one.Write([]control.Record{bannedFor(attacker, time.Hour)})
	one.await("told about the clock", func() bool { return strings.Contains(strings.Join(one.Status().Problems, " "), "clock") })
	one.await("waiting", func() bool { return one.Status().Fleet.Waiting == 1 })
	wrong.Store(false)
	owner.Wake(one.retry)
	two.includes(wire.FleetBan, attacker+"/32")
	if e := two.events(wire.FleetBan)[0]; e.Left > 3600 || e.Left < 3000 {
		t.Errorf("%d seconds are left", e.Left)
	}
}

// A slowServer does not answer requests that are to be kept until it may.
type slowServer struct {
	http.RoundTripper
	begun, may chan struct{}
}

func (s *slowServer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path == "/v1/fleet" && req.URL.RawQuery == "" {
		select {
		case s.begun <- struct{}{}:
		default:
		}
		select {
		case <-s.may:
		case <-req.Context().Done():
		}
	}
	return s.RoundTripper.RoundTrip(req)
}

// While the server cannot keep what a host has sent, what happens next reaches the others all the same, and once.
func TestFleetAnnounces(t *testing.T) {
	c := newCloud(t)
	two, one := joinMember(t, c, t.TempDir()), joinMember(t, c, t.TempDir())
	one.stop()
	slow := &slowServer{one.member.client.Transport, make(chan struct{}, 1), make(chan struct{})}
	one.member.client.Transport = slow
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- one.Run(ctx) }()
	_ = one.Write([]control.Record{bannedFor("203.0.113.1", time.Hour)})
	<-slow.begun
	for i := 2; i < 5; i++ {
		_ = one.Write([]control.Record{bannedFor(fmt.Sprintf("203.0.113.%d", i), time.Hour)})
		two.includes(wire.FleetBan, fmt.Sprintf("203.0.113.%d/32", i))
	}
	close(slow.may)
	two.gets(wire.FleetBan, "203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32", "203.0.113.4/32")
	one.await("kept", func() bool { s := one.Status().Fleet; return s.Waiting == 0 && s.Used == 4 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	two.gets(wire.FleetBan, "203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32", "203.0.113.4/32")
}
