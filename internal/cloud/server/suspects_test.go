package server

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"mef/internal/cloud/wire"
)

// suspect has a host report failures.
func (f *fleetTest) suspect(host, addr string, failures int) {
	f.Helper()
	f.sent[host]++
	f.do(entry{Fleet: &fleetEntry{Agent: host, Seq: f.sent[host], Batch: wire.FleetBatch{Host: host,
		Suspects: []wire.Suspect{{Addr: netip.MustParseAddr(addr), Category: "ssh", Count: failures}}}}})
}

// user has a host report that users log in.
func (f *fleetTest) user(host, addr string) {
	f.Helper()
	f.sent[host]++
	f.do(entry{Fleet: &fleetEntry{Agent: host, Seq: f.sent[host], Batch: wire.FleetBatch{Host: host, Users: []wire.Addr{{Addr: netip.MustParseAddr(addr)}}}}})
}

func hostNames(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("h%d", i))
	}
	return all
}

// Two attempts on each of some hosts add up: after the fifth, all hosts ban.
func TestScoreOfAllHosts(t *testing.T) {
	f := newFleetTest(t, hostNames(50)...)
	for i := range 4 {
		f.suspect(fmt.Sprintf("h%d", i), "203.0.113.7", 2)
	}
	at := f.gets(0, "ask 203.0.113.7 ")
	f.suspect("h4", "203.0.113.7", 2)
	at = f.gets(at, "ban 203.0.113.7 ")
	e := f.s.fleet.Items[len(f.s.fleet.Items)-1].Event
	if e.Hosts != 5 || e.Count != 10 || e.Category != "ssh" || e.Rule != "score" {
		t.Errorf("the ban is %+v", e)
	}
	f.suspect("h5", "203.0.113.7", 2)
	f.gets(at) // three quarters are left
	f.suspect("h6", "203.0.113.7", 1)
	f.gets(at, "ban 203.0.113.7 ")
	f.suspect("h1", "2001:db8::1", 4)
	f.suspect("h2", "2001:db8::2", 4)
	f.suspect("h3", "2001:db8::3", 4)
	f.gets(at, "ban 203.0.113.7 ", "ask 2001:db8:: ", "ban 2001:db8:: ")
}

// One host alone has nobody banned, and neither have failures that are long ago.
func TestScoreNeedsSeveralHostsAndDecays(t *testing.T) {
	f := newFleetTest(t, hostNames(50)...)
	for range 100 {
		f.suspect("h0", "203.0.113.7", 1000)
	}
	f.gets(0)
	f.suspect("h1", "203.0.113.7", 4)
	at := f.gets(0, "ask 203.0.113.7 ")
	f.now = f.now.Add(14 * 24 * time.Hour)
	f.suspect("h2", "203.0.113.7", 5) // 45 of 90 are left
	f.gets(at, "ask 203.0.113.7 ")
	for i := range 60 { // somebody mistypes once in four days, each time elsewhere
		f.now = f.now.Add(4 * 24 * time.Hour)
		f.do(entry{Tick: new(struct{})})
		f.suspect(fmt.Sprintf("h%d", i%50), "203.0.113.8", 1)
	}
	for _, it := range f.s.fleet.Items {
		if it.Event.Kind == wire.FleetBan {
			t.Errorf("%+v", it.Event)
		}
	}
	f.now = f.now.Add(200 * 24 * time.Hour)
	if f.do(entry{Tick: new(struct{})}); len(f.s.fleet.Suspects) != 0 {
		t.Errorf("%d suspects are kept for ever", len(f.s.fleet.Suspects))
	}
}

// A host at which users log in from the address keeps it from being banned by all, before or after.
func TestUsersVetoTheScore(t *testing.T) {
	for name, late := range map[string]bool{"before": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			f := newFleetTest(t, hostNames(50)...)
			f.suspect("h0", "203.0.113.7", 2)
			f.suspect("h1", "203.0.113.7", 2)
			at := f.gets(0, "ask 203.0.113.7 ")
			if !late {
				f.user("h9", "203.0.113.7")
			}
			for i := range 50 {
				f.suspect(fmt.Sprintf("h%d", i), "203.0.113.7", 1)
				if i == 10 && late {
					at = f.gets(at, "ban 203.0.113.7 ")
					f.user("h9", "203.0.113.7")
					at = f.gets(at, "withdraw 203.0.113.7 ")
				}
			}
			f.gets(at)
			f.do(entry{Revoke: new("h9")}) // whose word no longer counts
			for i := range 5 {
				f.suspect(fmt.Sprintf("h%d", i), "203.0.113.7", 2)
			}
			if got, _ := f.since(at); len(got) < 2 || got[len(got)-1] != "ban 203.0.113.7 " {
				t.Errorf("after the host was revoked: %q", got)
			}
		})
	}
}

// An operator who lifts the ban forgives the failures, a revoked host has added nothing, and what is never listed is not suspected.
func TestScoreIsForgiven(t *testing.T) {
	f := newFleetTest(t, hostNames(9)...)
	for i := range 5 {
		f.suspect(fmt.Sprintf("h%d", i), "203.0.113.7", 2)
	}
	at := f.gets(0, "ask 203.0.113.7 ", "ban 203.0.113.7 ")
	f.share("h5", fleetUnban("203.0.113.7"))
	at = f.gets(at, "unban 203.0.113.7 h5")
	for i := range 4 {
		f.suspect(fmt.Sprintf("h%d", i), "203.0.113.7", 2)
	}
	f.gets(at)
	f.suspect("h0", "203.0.113.8", 5)
	f.suspect("h1", "203.0.113.8", 4)
	at = f.gets(at, "ask 203.0.113.8 ")
	f.do(entry{Revoke: new("h0")})
	at = f.gets(at, "revoke h0")
	f.suspect("h2", "203.0.113.8", 4)
	f.suspect("h1", "1.1.1.1", 5)
	f.suspect("h2", "1.1.1.1", 5)
	f.gets(at)
}

func TestSuspectsAreBounded(t *testing.T) {
	f := newFleetTest(t, hostNames(60)...)
	addr := func(i int) string { return fmt.Sprintf("100.%d.%d.%d", i>>16, i>>8&255, i&255) }
	for i := range 60 {
		batch := wire.FleetBatch{Host: "h"}
		for j := range 2500 {
			batch.Suspects = append(batch.Suspects, wire.Suspect{Addr: netip.MustParseAddr(addr(i*2500 + j)), Category: "ssh", Count: 1})
		}
		f.do(entry{Fleet: &fleetEntry{Agent: fmt.Sprintf("h%d", i), Seq: 1, Batch: batch}})
		if n := len(f.s.fleet.Suspects); n > maxSuspects || n > (i+1)*newSuspects {
			t.Fatalf("%d suspects of %d hosts", n, i+1)
		}
	}
	if n := len(f.s.fleet.Suspects); n < maxSuspects/2 {
		t.Errorf("%d suspects are left", n)
	}
	f.sent["h0"] = 1
	for i := range 5 {
		f.sent[fmt.Sprintf("h%d", i)] = 1
		f.suspect(fmt.Sprintf("h%d", i), addr(59*2500), 2)
	}
	if got, _ := f.since(0); len(got) == 0 || got[len(got)-1] != "ban "+addr(59*2500)+" " {
		t.Errorf("a full table keeps attackers from being found: %q", got)
	}
}
