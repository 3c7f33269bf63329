package engine_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"mef/internal/conf"
	"mef/internal/decide"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/prefixset"
	"mef/internal/track"
)

const findTime = 10 * time.Minute

// newEngine returns an engine with one rule, "scan", that no file has: its events are no lines.
func newEngine(facts exempt.Facts) *engine.Engine {
	return engine.New(engine.Config{
		Track: track.Config{
			Rules:   []event.Rule{{Name: "scan", Service: "scan", MaxRetry: 3, FindTime: findTime}},
			Score:   conf.Score{Failure: 10, Probe: 3, Unverified: 2, HalfLife: time.Hour, Ban: 100, Days: 3, AfterBan: 75, Sprays: true},
			Known:   conf.Known{TTL: 30 * 24 * time.Hour, PerUser: 8, Total: 20000, SharedMin: 3},
			History: 30 * 24 * time.Hour,
		},
		Decide: decide.Config{Times: conf.BanTimes{First: 10 * time.Minute, Growth: 4, Cap: time.Hour, History: 30 * 24 * time.Hour}},
	}, facts)
}

// feed gives the engine an event of the rule and returns what follows in words.
func feed(e *engine.Engine, kind event.Kind, addr string, at, now time.Time) (got []string) {
	ev := event.Event{Time: at, Rule: "scan", Service: "scan", Addr: netip.MustParseAddr(addr), User: fmt.Sprint(at.UnixNano()), Kind: kind,
		Count: 1, Verified: true}
	for o := range e.Event(&ev, now) {
		switch o.Kind {
		case engine.Counted:
			got = append(got, "counted")
		case engine.Banned:
			got = append(got, "ban "+o.Ban.Key.String())
		case engine.WouldBan:
			got = append(got, "would ban "+o.Ban.Key.String())
		case engine.Refused:
			got = append(got, "refused")
		case engine.ClockSetBack:
			got = append(got, "clock")
		}
	}
	return got
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// A rule needs no file, and an event needs no line.
func TestEventsThatAreNoLines(t *testing.T) {
	e := newEngine(exempt.Facts{})
	const addr = "192.0.2.7"
	for i := range 2 {
		at := noon.Add(time.Duration(i) * time.Second)
		want(t, "below the limit", feed(e, event.Failure, addr, at, at), "counted")
	}
	at := noon.Add(3 * time.Second)
	want(t, "at the limit", feed(e, event.Failure, addr, at, at), "counted", "ban "+addr)
	if c := e.Rule("scan"); c.Failures != 3 || c.Bans != 1 {
		t.Errorf("counts are %+v", c)
	}
	if x := e.Explain(netip.MustParseAddr(addr), at, 0); len(x.InForce) != 1 {
		t.Errorf("bans in force by the explanation: %v", x.InForce)
	}
	e.Lifted(at, e.Explain(netip.MustParseAddr(addr), at, 0).InForce[0].Key)
	if x := e.Explain(netip.MustParseAddr(addr), at, 0); len(x.InForce) != 0 || x.Score != 0 {
		t.Errorf("after it was lifted: %v in force, score %v", x.InForce, x.Score)
	}
	ev := event.Event{Time: at, Rule: "unknown", Addr: netip.MustParseAddr(addr), Kind: event.Failure, Count: 1}
	for o := range e.Event(&ev, at) {
		t.Errorf("an event of no rule: %+v", o)
	}
}

func TestObserveAndRefuse(t *testing.T) {
	e := newEngine(exempt.Facts{Allowed: prefixset.New(netip.MustParsePrefix("192.0.2.8/32"))})
	e.SetObserve(true)
	for i := range 3 {
		at := noon.Add(time.Duration(i) * time.Second)
		last := i == 2
		watched, allowed := feed(e, event.Failure, "192.0.2.7", at, at), feed(e, event.Failure, "192.0.2.8", at, at)
		if !last {
			continue
		}
		want(t, "observe mode", watched, "counted", "would ban 192.0.2.7")
		want(t, "an allowed address", allowed, "counted", "refused")
	}
	if n := e.Spared()["an entry of the allow list"]; n != 1 {
		t.Errorf("%d bans were spared for the allow list, want 1", n)
	}
}

// Many clients may be behind an address of Docker's networks: it is only reported, unless another host is the network's gateway.
func TestDockerNetworks(t *testing.T) {
	e := newEngine(exempt.Facts{Own: prefixset.New(netip.MustParsePrefix("172.18.0.1/32")),
		Docker: []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16"), netip.MustParsePrefix("192.0.2.1/24")}})
	for i := range 3 {
		at := noon.Add(time.Duration(i) * time.Second)
		proxy, neighbor := feed(e, event.Failure, "172.18.0.7", at, at), feed(e, event.Failure, "192.0.2.7", at, at)
		if i < 2 {
			continue
		}
		want(t, "a container", proxy, "counted", "refused")
		want(t, "behind a gateway elsewhere", neighbor, "counted", "ban 192.0.2.7")
	}
}

// A ban of old lines that are read late counts and is over: there is nothing to put in force.
func TestBansThatAreOver(t *testing.T) {
	e := newEngine(exempt.Facts{})
	var got []string
	for i := range 3 {
		got = feed(e, event.Failure, "192.0.2.7", noon.Add(time.Duration(i)*time.Second), noon.Add(time.Hour))
	}
	want(t, "an hour late", got, "counted")
	if c := e.Rule("scan"); c.Bans != 1 {
		t.Errorf("counts are %+v, want one ban", c)
	}
}

func TestOldLinesOfANewFileDoNotCountAsOfNow(t *testing.T) {
	for name, tt := range map[string]struct {
		age   time.Duration
		kind  event.Kind
		stale bool
	}{
		"an hour old":         {time.Hour, event.Failure, true},
		"within findtime":     {findTime / 2, event.Failure, false},
		"a login an hour ago": {time.Hour, event.Success, false},
		"the newest":          {-time.Second, event.Failure, false},
	} {
		e := newEngine(exempt.Facts{})
		feed(e, event.Failure, "192.0.2.1", noon, noon)
		if got := feed(e, tt.kind, "192.0.2.7", noon.Add(-tt.age), noon); (len(got) == 0) != tt.stale {
			t.Errorf("%s: %q, want stale = %v", name, got, tt.stale)
		}
	}
}

// The clock was an hour fast until it was set right: live lines count all the same.
func TestClockSetBack(t *testing.T) {
	e := newEngine(exempt.Facts{})
	feed(e, event.Failure, "192.0.2.1", noon.Add(time.Hour), noon.Add(time.Hour))
	want(t, "the first line after it", feed(e, event.Failure, "192.0.2.7", noon, noon), "clock", "counted")
	want(t, "the second", feed(e, event.Failure, "192.0.2.7", noon, noon), "counted")
}
