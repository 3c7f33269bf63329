package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/cloud/natslog"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// A fleetTest is the state of a server with own hosts, without a server.
type fleetTest struct {
	*testing.T
	s    *state
	now  time.Time
	sent map[string]uint64
}

func newFleetTest(t *testing.T, hosts ...string) *fleetTest {
	f := &fleetTest{t, newState(), time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), make(map[string]uint64)}
	f.s.book.Advance(reputation.HourOf(f.now))
	for _, id := range hosts {
		f.s.book.Enrol(reputation.Reporter{ID: id, Role: reputation.Own})
	}
	return f
}

// do applies an entry.
func (f *fleetTest) do(e entry) outcome {
	f.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		f.Fatal(err)
	}
	return f.s.apply(natslog.Entry{Seq: f.s.seq + 1, Time: f.now, Data: data})
}

func (f *fleetTest) share(host string, events ...wire.FleetEvent) outcome {
	f.Helper()
	f.sent[host]++
	for i := range events {
		events[i].ID = fmt.Sprintf("%s-%08d-%d", host, f.sent[host], i)
	}
	return f.do(entry{Fleet: &fleetEntry{Agent: host, Seq: f.sent[host], At: f.now, Batch: wire.FleetBatch{Host: host, Events: events}}})
}

func fleetBan(addr string, left time.Duration) wire.FleetEvent {
	return wire.FleetEvent{Kind: wire.FleetBan, Prefix: netip.MustParsePrefix(addr + "/32"), Left: int64(left / time.Second), Rule: "sshd", Category: "ssh"}
}

func fleetUnban(addr string) wire.FleetEvent {
	return wire.FleetEvent{Kind: wire.FleetUnban, Prefix: netip.MustParsePrefix(addr + "/32")}
}

// since returns what a host gets that has everything up to a number, as "kind address origin", and the next number.
func (f *fleetTest) since(seq uint64) (all []string, next uint64) {
	for _, e := range f.s.fleet.since(seq, 1000, f.now) {
		what := string(e.Kind)
		if e.Prefix.IsValid() {
			what += " " + e.Prefix.Addr().String()
		}
		all, next = append(all, what+" "+e.Origin), e.seq
	}
	return all, max(next, seq)
}

func (f *fleetTest) gets(seq uint64, want ...string) uint64 {
	f.Helper()
	got, next := f.since(seq)
	if !slices.Equal(got, want) {
		f.Errorf("a host gets %q, want %q", got, want)
	}
	return next
}

func TestFleetQuota(t *testing.T) {
	f := newFleetTest(t, "a", "b")
	ban := func(n int) (refused int) {
		for i := range n {
			refused += len(f.share("a", fleetBan(fmt.Sprintf("198.51.%d.%d", f.sent["a"]>>8, f.sent["a"]&255), time.Duration(i+1)*time.Minute)).dropped)
		}
		return refused
	}
	if n := ban(210); n != 10 {
		t.Errorf("%d of 210 bans are refused", n)
	}
	if st := f.s.fleet.state("a", f.now); st.Used != 200 || st.Quota != 200 {
		t.Errorf("state %+v", st)
	}
	if out := f.share("b", fleetBan("203.0.113.1", time.Hour)); len(out.dropped) != 0 {
		t.Errorf("the quota of one host binds another: %v", out)
	}
	f.now = f.now.Add(time.Hour)
	if out := f.do(entry{Quota: &quota{Agent: "a", Bans: 5}}); out.err != nil {
		t.Fatal(out.err)
	}
	if n := ban(7); n != 2 {
		t.Errorf("%d of 7 bans are refused", n)
	}
	if out := f.do(entry{Quota: &quota{Agent: "x", Bans: 5}}); out.err == nil {
		t.Error("a host that is unknown gets a quota")
	}
	unbans := 0
	for range 300 { // of what lifts a ban there is no quota
		unbans += len(f.share("a", fleetUnban("203.0.113.1")).dropped)
	}
	if unbans != 0 {
		t.Errorf("%d unbans are refused", unbans)
	}
}

// What a revoked host did is undone for all, and nothing that others did.
func TestFleetRevoke(t *testing.T) {
	f := newFleetTest(t, "a", "b")
	f.share("a", fleetBan("203.0.113.1", time.Hour), fleetBan("203.0.113.2", time.Hour),
		wire.FleetEvent{Kind: wire.FleetAllow, Prefix: netip.MustParsePrefix("203.0.113.9/32"), Left: 3600})
	f.share("b", fleetBan("203.0.113.2", time.Minute), fleetBan("203.0.113.3", time.Hour), fleetBan("203.0.113.4", time.Hour))
	f.share("a", fleetUnban("203.0.113.4"))
	at := f.gets(0, "ban 203.0.113.1 a", "ban 203.0.113.2 a", "allow 203.0.113.9 a", "ban 203.0.113.2 b", "ban 203.0.113.3 b", "unban 203.0.113.4 a")
	if out := f.do(entry{Revoke: new("a")}); out.err != nil {
		t.Fatal(out.err)
	}
	f.gets(at, "revoke a", "ban 203.0.113.2 b", "ban 203.0.113.4 b")
	f.gets(0, "ban 203.0.113.3 b", "revoke a", "ban 203.0.113.2 b", "ban 203.0.113.4 b")
	if out := f.share("a", fleetBan("203.0.113.5", time.Hour)); out.err == nil {
		t.Error("a revoked host shares")
	}
	ids := make(map[string]bool)
	for _, it := range f.s.fleet.Items {
		if ids[it.Event.ID] {
			t.Errorf("the ID %q is there twice", it.Event.ID)
		}
		ids[it.Event.ID] = true
	}
}

// A host that was away gets what is in force, once, and a restart of the server changes nothing.
func TestFleetCatchUp(t *testing.T) {
	f := newFleetTest(t, "a", "b")
	f.share("a", fleetBan("203.0.113.1", time.Hour), fleetBan("203.0.113.2", time.Minute), fleetBan("203.0.113.3", time.Hour))
	at, _ := func() (uint64, error) { _, n := f.since(0); return n, nil }()
	f.share("b", fleetUnban("203.0.113.1"))
	f.now = f.now.Add(2 * time.Minute)
	f.gets(at, "unban 203.0.113.1 b")
	f.share("a", fleetBan("203.0.113.1", time.Hour))
	f.gets(at, "ban 203.0.113.1 a") // not the unban of before, which would lift it
	f.gets(0, "ban 203.0.113.3 a", "ban 203.0.113.1 a")
	data, err := f.s.save(nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.s, _, err = loadState(data); err != nil {
		t.Fatal(err)
	}
	f.gets(at, "ban 203.0.113.1 a")
	f.share("a", wire.FleetEvent{Kind: wire.FleetAllow, Prefix: netip.MustParsePrefix("203.0.113.9/32"), Left: 3600})
	f.share("b", wire.FleetEvent{Kind: wire.FleetDisallow, Prefix: netip.MustParsePrefix("203.0.113.9/32")})
	f.gets(at, "ban 203.0.113.1 a", "disallow 203.0.113.9 b")
	f.now = f.now.Add(2 * time.Hour)
	f.do(entry{Tick: new(struct{})})
	if f.gets(0); len(f.s.fleet.Items) != 0 {
		t.Errorf("%d things are kept that are over", len(f.s.fleet.Items))
	}
}

// A ban from before an operator lifted it somewhere has no effect, however late it comes to the log.
func TestFleetLiftedMeanwhile(t *testing.T) {
	f := newFleetTest(t, "a", "b")
	f.share("b", fleetUnban("203.0.113.1"))
	late := fleetBan("203.0.113.1", time.Hour)
	f.share("a", late) // it was announced just before
	f.now = f.now.Add(time.Minute)
	late.Age = 61_000
	f.share("a", late)
	at := f.gets(0, "unban 203.0.113.1 b")
	late.Age = 50_000
	f.share("a", late)
	f.gets(at, "ban 203.0.113.1 a")
}

// An unban that comes late, from a host that was away, does not lift what was banned since.
func TestFleetLateUnban(t *testing.T) {
	f := newFleetTest(t, "a", "b")
	f.share("a", fleetBan("203.0.113.1", time.Hour))
	late := fleetUnban("203.0.113.1")
	late.Age = time.Minute.Milliseconds()
	at := f.gets(0, "ban 203.0.113.1 a")
	f.share("b", late)
	at = f.gets(at, "unban 203.0.113.1 b", "ban 203.0.113.1 a")
	if out := new(streams).allow("b", 10, f.now, []wire.FleetEvent{late}); len(out) > 0 {
		t.Errorf("%v is announced ahead of the log", out)
	}
	f.now = f.now.Add(2 * time.Minute)
	f.share("b", late)
	f.gets(at, "unban 203.0.113.1 b")
}

// A ban of more than a day is sent again before the hosts would end it.
func TestFleetRenewsLongBans(t *testing.T) {
	f := newFleetTest(t, "a")
	f.share("a", fleetBan("203.0.113.1", 3*24*time.Hour), fleetBan("203.0.113.2", 20*time.Hour))
	_, at := f.since(0)
	renewed := 0
	for range 4 * 24 {
		f.now = f.now.Add(time.Hour)
		f.do(entry{Tick: new(struct{})})
		got, next := f.since(at)
		renewed, at = renewed+len(got), next
	}
	if renewed < 3 || renewed > 6 {
		t.Errorf("a ban of three days is sent again %d times", renewed)
	}
	f.gets(0)
}

func TestFleetIsBounded(t *testing.T) {
	f := newFleetTest(t, "a")
	f.s.fleet.Items = slices.Repeat([]*fleetItem{{Until: f.now.Add(time.Hour)}}, fleetItems)
	if out := f.share("a", fleetBan("203.0.113.1", time.Hour)); len(out.dropped) != 1 || !strings.Contains(out.dropped[0].Reason, "as many") {
		t.Errorf("%+v", out)
	}
}

func TestBadFleetRequests(t *testing.T) {
	s := start(t, t.TempDir())
	own := join(t, s, reputation.Own)
	good := `{"host":"web1","events":[{"id":"12345678","kind":"ban","prefix":"203.0.113.7/32","left":600,"rule":"sshd","category":"ssh"}]}`
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, body := range map[string]string{
		"private":      with("203.0.113.7/32", "192.168.1.7/32"),
		"wide":         with("203.0.113.7/32", "203.0.0.0/8"),
		"still wide":   with("203.0.113.7/32", "203.0.112.0/23"),
		"wide IPv6":    with("203.0.113.7/32", "2001:db8::/47"),
		"not masked":   with("203.0.113.7/32", "203.0.113.7/24"),
		"everything":   with("203.0.113.7/32", "0.0.0.0/0"),
		"no prefix":    with("203.0.113.7/32", ""),
		"mapped":       with("203.0.113.7/32", "::ffff:203.0.113.7/128"),
		"long":         with("600", "99999999"),
		"negative":     with("600", "-1"),
		"no end":       with(`"left":600,`, ""),
		"kind":         with(`"ban"`, `"revoke"`),
		"ask":          with(`"ban"`, `"ask"`),
		"origin":       with(`"left"`, `"origin":"x","left"`),
		"host":         with("web1", "web1\\u001b[2J"),
		"rule":         with("sshd", "sshd\\n\\ndata: x"),
		"id":           with("12345678", "1"),
		"category":     with(`"category":"ssh"`, `"category":"evil"`),
		"ports":        with(`"left"`, `"ports":"22; drop","left"`),
		"unknown key":  with(`"left"`, `"user":"alice","left"`),
		"nothing":      `{"host":"web1"}`,
		"repeated key": with(`"left"`, `"id":"12345679","left"`),
		"suspects":     `{"host":"web1","suspects":[{"addr":"203.0.113.7","category":"ssh","count":0}]}`,
		"many":         `{"host":"web1","suspects":[{"addr":"203.0.113.7","category":"ssh","count":100000}]}`,
	} {
		own.seq++
		if status, text := own.send("POST", "/v1/fleet", packed([]byte(body))); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	own.seq++
	if status, text := own.send("POST", "/v1/fleet", packed([]byte(good))); status != http.StatusAccepted {
		t.Errorf("a good one: %d %s", status, text)
	}
	own.seq--
	if status, _ := own.send("POST", "/v1/fleet", packed([]byte(good))); status != http.StatusConflict {
		t.Errorf("one that is replayed later: %d", status)
	}
	for _, role := range []reputation.Role{reputation.Member, reputation.Anchor} {
		if status, _ := join(t, s, role).send("POST", "/v1/fleet", packed([]byte(good))); status != http.StatusForbidden {
			t.Errorf("from a host with the role %s: %d", role, status)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.state.fleet.since(0, 10, time.Now()); len(got) != 1 {
		t.Errorf("the server has %v", got)
	}
}

// While entries cannot be written to the log, the connected hosts get bans all the same, no more than the quota allows.
func TestFleetAheadOfTheLog(t *testing.T) {
	s := start(t, t.TempDir())
	from, to := join(t, s, reputation.Own), join(t, s, reputation.Own)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+to.inv.Server+"/v1/fleet/stream", nil)
	wire.Sign(req, to.key, time.Now(), 0, nil)
	to.client.Timeout = 0
	resp, err := to.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Scan() // the state: it is connected
	three := []wire.FleetEvent{fleetBan("203.0.113.1", time.Hour), fleetBan("203.0.113.2", time.Hour), fleetBan("203.0.113.3", time.Hour)}
	for i := range three {
		three[i].ID = fmt.Sprintf("1234567-%d", i)
	}
	s.streams.send("x", s.streams.allow("x", 2, time.Now(), three))
	from.seq++
	body, err := wire.FleetBatch{Host: "web1", Events: []wire.FleetEvent{{ID: "12345678", Kind: wire.FleetUnban, Prefix: netip.MustParsePrefix("203.0.113.8/32")}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if status, text := from.send("POST", "/v1/fleet?now=1", body); status != http.StatusAccepted {
		t.Fatalf("%d %s", status, text)
	}
	var text bytes.Buffer
	for !strings.Contains(text.String(), "203.0.113.8") && lines.Scan() {
		fmt.Fprintln(&text, lines.Text())
	}
	if got := strings.Count(text.String(), "203.0.113.1/32") + 10*strings.Count(text.String(), "203.0.113.2/32") + 100*strings.Count(text.String(), "203.0.113.3/32"); got != 11 {
		t.Errorf("the stream has\n%s", text.String())
	}
	if !strings.Contains(text.String(), `"host":"web1"`) || strings.Contains(text.String(), "id: ") {
		t.Errorf("the unban, which is not in the log, did not come with its host and without a number:\n%s", text.String())
	}
}

// packed compresses a body.
func packed(text []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(text) // a buffer takes everything
	_ = z.Close()
	return out.Bytes()
}
