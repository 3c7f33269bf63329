package engine_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// suspects counts what of an event goes into the score of all own hosts.
func suspects(e *engine.Engine, ev event.Event) (n int) {
	for o := range e.Event(&ev, ev.Time) {
		if o.Kind == engine.Counted {
			n += o.Suspect
		}
	}
	return n
}

// What counts towards the score of all hosts: failures that cannot be forged, are not forgiven, and come from where no user logs in.
func TestSuspects(t *testing.T) {
	e, now := newEngine(exempt.Facts{}), time.Now()
	at := func(addr, user string, kind event.Kind) event.Event {
		now = now.Add(time.Minute)
		return event.Event{Time: now, Rule: "scan", Service: "scan", Addr: netip.MustParseAddr(addr), User: user, Kind: kind, Count: 1, Verified: true}
	}
	if n := suspects(e, at("192.0.2.1", "alice", event.Failure)); n != 1 {
		t.Errorf("a failure counts %d times", n)
	}
	if n := suspects(e, at("192.0.2.1", "", event.Probe)); n != 0 {
		t.Errorf("a probe counts %d times", n)
	}
	forged := at("192.0.2.2", "alice", event.Failure)
	forged.Verified = false
	if n := suspects(e, forged); n != 0 {
		t.Errorf("a failure that can be forged counts %d times", n)
	}
	if n := suspects(e, at("192.0.2.3", "alice", event.Success)); n != 0 {
		t.Errorf("a login counts %d times", n)
	}
	for _, user := range []string{"alice", "bob"} {
		if n := suspects(e, at("192.0.2.3", user, event.Failure)); n != 0 {
			t.Errorf("a failure of %s counts %d times where a user logs in", user, n)
		}
	}
}

// A ban of another host holds here unless the address must stay reachable here.
func TestTakeOver(t *testing.T) {
	allowed := netip.MustParseAddr("192.0.2.1")
	e, now := newEngine(exempt.Facts{Allowed: prefixset.New(netip.PrefixFrom(allowed, 32)), Own: prefixset.New(netip.MustParsePrefix("192.0.2.9/32"))}), time.Now()
	feed(e, event.Success, "192.0.2.3", now, now)
	for name, tt := range map[string]struct {
		prefix string
		says   string // empty: banned
	}{
		"attacker":              {"192.0.2.7/32", ""},
		"network of attackers":  {"198.51.100.0/24", ""},
		"allowed":               {"192.0.2.1/32", "allow"},
		"own":                   {"192.0.2.9/32", "own"},
		"network with own":      {"192.0.2.8/30", "own"},
		"user":                  {"192.0.2.3/32", "users log in here"},
		"wide":                  {"198.0.0.0/8", "wider"},
		"everything":            {"0.0.0.0/0", "users log in here"},
		"network with an admin": {"192.0.2.2/31", "users log in here"},
	} {
		o := e.TakeOver(ban.Shared{Key: ban.Key{Prefix: netip.MustParsePrefix(tt.prefix), Ports: "22"}, For: time.Hour, Host: "web1", ID: "fleet x 1", Reason: "host web1 banned it"}, now)
		if tt.says != "" {
			if o.Kind != engine.Refused || !strings.Contains(o.Reason, tt.says) {
				t.Errorf("%s: %+v, want %q", name, o, tt.says)
			}
			continue
		}
		if b := o.Ban; o.Kind != engine.Banned || b.Rule != ban.ByFleet || b.Author != "web1" || b.Ports != "22" || !b.Until.Equal(now.Add(time.Hour)) || b.ID != "fleet x 1" {
			t.Errorf("%s: %+v", name, o)
		}
	}
	forged := ban.Shared{Key: ban.Key{Prefix: netip.MustParsePrefix("192.0.2.8/32"), Class: ban.Unverified}, For: time.Hour}
	if o := e.TakeOver(forged, now); !o.Ban.Until.Equal(now.Add(10*time.Minute)) || o.Ban.Class != ban.Unverified {
		t.Errorf("a ban whose evidence can be forged: %+v", o.Ban)
	}
	e.SetObserve(true)
	if o := e.TakeOver(forged, now); o.Kind != engine.WouldBan {
		t.Errorf("in observe mode: %+v", o)
	}
}
