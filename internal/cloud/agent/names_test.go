package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mef/internal/cloud/wire"
	"mef/internal/conf"
	"mef/internal/report"
)

// A nameServer answers as a server that lists what a test wants, and keeps what it was sent.
type nameServer struct {
	*httptest.Server
	key ed25519.PrivateKey

	mu      sync.Mutex
	list    func() []byte // nil: it is ill
	sent    []byte        // all bytes of requests: headers, bodies, and bodies after decompression
	batches []wire.NameBatch
}

var saltOfNames = wire.Salt{7}

func newNameServer(t *testing.T, lists ...string) *nameServer {
	s := &nameServer{key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize))}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		s.sent = append(append(fmt.Appendf(s.sent, "%s %v", r.URL, r.Header), '\n'), body...)
		if z, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
			plain, _ := io.ReadAll(z)
			s.sent = append(s.sent, plain...)
		}
		switch {
		case r.URL.Path == "/v1/enroll":
			_ = json.NewEncoder(w).Encode(wire.Enrolled{ID: "x", Lists: lists})
		case s.list == nil || r.URL.Path != "/v1/names":
			wire.WriteProblem(w, http.StatusServiceUnavailable, "")
		case r.Method == http.MethodPost:
			b, err := wire.DecodeNames(body)
			if err != nil {
				t.Errorf("a host sends %q: %v", body, err)
			}
			s.batches = append(s.batches, b)
			_ = json.NewEncoder(w).Encode(wire.Receipt{Accepted: len(b.Names)})
		default:
			_, _ = w.Write(s.list())
		}
	}))
	t.Cleanup(s.Close)
	s.lists(time.Now)
	return s
}

// lists has the server list names.
func (s *nameServer) lists(now func() time.Time, names ...string) {
	var all []wire.NameHash
	for _, n := range names {
		all = append(all, wire.NewNameHasher(saltOfNames).Sum(n))
	}
	slices.Sort(all)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = func() []byte {
		return wire.NameList{At: now(), Weeks: []wire.NameWeek{{Week: wire.WeekOf(now()), Salt: saltOfNames, Names: all}}}.Encode(s.key)
	}
}

func (s *nameServer) invitation() string {
	inv := wire.Invitation{Server: s.Listener.Addr().String(), Feed: s.key.Public().(ed25519.PublicKey), Token: make([]byte, 16), Pin: wire.PinOf(s.Certificate())}
	return inv.String()
}

// A nameHost is a host with names, that does not run.
type nameHost struct {
	*Agent
	mu  sync.Mutex
	use func(string) bool
}

func newNameHost(t *testing.T, dir string, attacked, users []string) *nameHost {
	cfg := config(dir)
	cfg.Community.Names = true
	h := &nameHost{Agent: New(cfg, report.Category, slog.New(slog.DiscardHandler))}
	h.Names = Names{
		Attacked: func(_ context.Context, most int) ([]string, error) {
			return slices.Clone(attacked[:min(most, len(attacked))]), nil
		},
		Users: func(context.Context) ([]string, error) { return users, nil },
		Use: func(_ context.Context, f func(string) bool) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.use = f
		},
	}
	return h
}

func (h *nameHost) uses(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.use != nil && h.use(name)
}

func (h *nameHost) exchange(t *testing.T) error {
	t.Helper()
	h.Agent.mu.Lock()
	m, cfg := h.member, h.cfg
	h.Agent.mu.Unlock()
	return h.exchangeNames(t.Context(), m, &cfg)
}

func attackedNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("guess-%03d", i))
	}
	return names
}

// A host reports once a day, by hashes only and without some names, what the preview shows; and uses the list.
func TestNamesOnTheWire(t *testing.T) {
	s := newNameServer(t, "public")
	s.lists(time.Now, "hadoopadm")
	h := newNameHost(t, t.TempDir(), attackedNames(500), []string{"alice", "root"})
	if err := h.Join(t.Context(), s.invitation()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.exchange(t); err != nil {
			t.Fatal(err)
		}
	}
	if !h.uses("hadoopadm") || h.uses("alice") {
		t.Error("the list is not used, or has other names")
	}
	text, err := h.Preview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var shown struct{ Names json.RawMessage }
	if err := json.Unmarshal(text, &shown); err != nil {
		t.Fatal(err)
	}
	if len(s.batches) != 1 || len(s.batches[0].Names) != wire.MaxNames || len(s.batches[0].Own) != 0 {
		t.Fatalf("%d batches are sent in a day", len(s.batches))
	}
	if !bytes.Contains(s.sent, shown.Names) {
		t.Errorf("the preview is not what was sent:\n%s", text)
	}
	for _, secret := range []string{"guess-", "alice", "root", "hadoopadm"} {
		if bytes.Contains(s.sent, []byte(secret)) || bytes.Contains(text, []byte(secret)) {
			t.Errorf("%q is sent", secret)
		}
	}
	left := 0
	for _, name := range attackedNames(200) { // of the first 229 or so, 200 are sent
		if _, sent := slices.BinarySearch(s.batches[0].Names, wire.NewNameHasher(saltOfNames).Sum(name)); !sent {
			left++
		}
	}
	if left == 0 || left > 60 {
		t.Errorf("%d of 200 names are left out, want about 25", left)
	}
	if n := h.Status().Names; n == nil || n.Reported != wire.MaxNames || n.At == nil || n.Listed != 1 || n.Of == nil {
		t.Errorf("the status has %+v", n)
	}
	next := New(h.config(), report.Category, slog.New(slog.DiscardHandler)) // restarted: the day is not over
	if next.member.NamedCount != wire.MaxNames || time.Since(next.member.Named) > time.Minute {
		t.Errorf("after a restart, %d names were reported at %v", next.member.NamedCount, next.member.Named)
	}
}

func (h *nameHost) config() *conf.Config {
	cfg := config(h.dir)
	cfg.Community.Names = true
	return cfg
}

// What the configuration switches off is neither sent nor used.
func TestNamesAreSwitchedOff(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg       conf.Community
		send, use bool
	}{
		"all":     {conf.Community{Report: true, Protection: true, Names: true}, true, true},
		"reports": {conf.Community{Report: true, Names: true}, true, false},
		"lists":   {conf.Community{Protection: true, Names: true}, false, true},
	} {
		s := newNameServer(t, "public")
		s.lists(time.Now, "hadoopadm")
		h := newNameHost(t, t.TempDir(), attackedNames(20), nil)
		h.cfg = tt.cfg
		if err := h.Join(t.Context(), s.invitation()); err != nil {
			t.Fatal(err)
		}
		if err := h.exchange(t); err != nil {
			t.Fatal(err)
		}
		if send := len(s.batches) > 0; send != tt.send || h.uses("hadoopadm") != tt.use {
			t.Errorf("%s: names are sent: %v, used: %v", name, send, h.uses("hadoopadm"))
		}
	}
	for _, cfg := range []conf.Community{{Report: true, Protection: true}, {Names: true}} {
		if sharesNames(new(membership), &cfg) || sharesNames(nil, &conf.Community{Names: true, Report: true}) {
			t.Errorf("names are shared with %+v", cfg)
		}
	}
}

// An own host vetoes names of the list that exist there, at once, and no others.
func TestOwnHostVetoesNames(t *testing.T) {
	s := newNameServer(t, "public", "own")
	h := newNameHost(t, t.TempDir(), nil, []string{"alice", "bob", "root"})
	if err := h.Join(t.Context(), s.invitation()); err != nil {
		t.Fatal(err)
	}
	if err := h.exchange(t); err != nil || len(s.batches) != 0 {
		t.Fatalf("%v; without a listed name %d vetoes are sent", err, len(s.batches))
	}
	s.lists(time.Now, "alice", "hadoopadm", "bob")
	if err := h.exchange(t); err != nil {
		t.Fatal(err)
	}
	want := []wire.NameHash{wire.NewNameHasher(saltOfNames).Sum("alice"), wire.NewNameHasher(saltOfNames).Sum("bob")}
	slices.Sort(want)
	if len(s.batches) != 1 || !slices.Equal(s.batches[0].Own, want) {
		t.Errorf("vetoes %v, want %v", s.batches, want)
	}
	if !strings.Contains(string(s.sent), "waiting=1") || bytes.Contains(s.sent, []byte("alice")) {
		t.Error("an own host does not ask for names that wait, or sends a name")
	}
}

// Lists that cannot be meant change nothing, a server that is away costs nothing, and a list that is older than 48 hours is dropped.
func TestBadNameListsAreNotUsed(t *testing.T) {
	s := newNameServer(t, "public")
	s.lists(time.Now, "hadoopadm")
	h := newNameHost(t, t.TempDir(), nil, nil)
	if err := h.Join(t.Context(), s.invitation()); err != nil {
		t.Fatal(err)
	}
	if err := h.exchange(t); err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
	for what, list := range map[string]func(){
		"an older one":      func() { s.lists(at(-time.Hour), "other") },
		"of the future":     func() { s.lists(at(time.Hour), "other") },
		"of three days ago": func() { s.lists(at(-72*time.Hour), "other") },
		"another key": func() {
			s.lists(time.Now, "other")
			data := s.list()
			data[len(data)-1] ^= 1
			s.list = func() []byte { return data }
		},
		"nothing":  func() { s.list = func() []byte { return nil } },
		"too long": func() { s.list = func() []byte { return make([]byte, wire.MaxNameList+1) } },
		"none":     func() { s.list = nil },
	} {
		list()
		if err := h.exchange(t); err == nil {
			t.Errorf("%s is accepted", what)
		}
		if !h.uses("hadoopadm") || h.uses("other") {
			t.Errorf("%s changes what is used", what)
		}
	}
	h.dropOldNames(t.Context(), time.Now().Add(47*time.Hour))
	if !h.uses("hadoopadm") {
		t.Error("a list of 47 hours ago is dropped")
	}
	h.dropOldNames(t.Context(), time.Now().Add(49*time.Hour))
	if h.uses("hadoopadm") {
		t.Error("a list of 49 hours ago is used")
	}
}

// The list is on the disk, is used after a restart while the server is away, and is gone when the host leaves or the configuration no longer asks for it.
func TestNamesSurviveARestart(t *testing.T) {
	s := newNameServer(t, "public")
	s.lists(time.Now, "hadoopadm")
	dir := t.TempDir()
	h := newNameHost(t, dir, nil, nil)
	if err := h.Join(t.Context(), s.invitation()); err != nil {
		t.Fatal(err)
	}
	if err := h.exchange(t); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.list = nil
	s.mu.Unlock()
	run := func(h *nameHost) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
	}
	await := func(h *nameHost, want bool) {
		t.Helper()
		for end := time.Now().Add(patience); h.uses("hadoopadm") != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the list is used: %v", !want)
			}
		}
	}
	again := newNameHost(t, dir, nil, nil)
	run(again)
	await(again, true)
	cfg := again.config()
	cfg.Community.Protection = false
	again.Configure(cfg)
	await(again, false)

	left := newNameHost(t, dir, nil, nil)
	run(left)
	await(left, true)
	if err := left.Leave(); err != nil {
		t.Fatal(err)
	}
	await(left, false)
	if _, err := os.Stat(left.listPath(namesFile)); !os.IsNotExist(err) {
		t.Error("the list is still on the disk")
	}
	damaged := newNameHost(t, dir, nil, nil)
	if err := damaged.Join(t.Context(), s.invitation()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged.listPath(namesFile), []byte("mef names 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if next := newNameHost(t, dir, nil, nil); len(next.names.Weeks) > 0 {
		t.Error("a damaged list is used")
	}
}

// A list whose use a reload has cut off is used the next time, and one that was to be forgotten is forgotten.
func TestNamesUnheard(t *testing.T) {
	h := newNameHost(t, t.TempDir(), nil, nil)
	use := h.Names.Use
	h.Names.Use = func(ctx context.Context, f func(string) bool) {
		if ctx.Err() == nil {
			use(ctx, f)
		}
	}
	week := wire.NameWeek{Week: 1, Salt: wire.Salt{1}}
	week.Names = []wire.NameHash{wire.NewNameHasher(week.Salt).Sum("guess")}
	l := wire.NameList{At: time.Now(), Weeks: []wire.NameWeek{week}}
	over, end := context.WithCancel(t.Context())
	end()
	for _, ctx := range []context.Context{over, t.Context(), t.Context()} {
		h.useNames(ctx, nil, l, true)
		if got, want := h.uses("guess"), ctx != over; got != want {
			t.Errorf("the list is used: %v, want %v", got, want)
		}
	}
	for _, ctx := range []context.Context{over, t.Context()} {
		h.forgetNames(ctx)
		if got, want := h.uses("guess"), ctx == over; got != want {
			t.Errorf("the list is forgotten: %v, want %v", !got, !want)
		}
	}
}
