//go:build integration

package nftset_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

const foreign = `
	table inet filter {
		set mefdaemon { type ipv4_addr; elements = { 198.51.100.7 } }
		chain input { type filter hook input priority filter; policy accept; ip saddr @mefdaemon drop; }
	}
	table ip mefdaemon {
		chain ban4 { ip saddr 198.51.100.8 drop; }
	}
	table ip nat {
		chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 redirect to :80; }
	}
`

// foreignTables returns all tables but ours.
func foreignTables(t *testing.T, ns *netnstest.NS) string {
	t.Helper()
	var out strings.Builder
	for _, table := range []string{"inet filter", "ip mefdaemon", "ip nat"} {
		out.WriteString(ns.Run(t, "", "nft", append([]string{"-a", "list", "table"}, strings.Fields(table)...)...))
	}
	return out.String()
}

var handles = regexp.MustCompile(` expires \S+| timeout \S+|packets \d+ bytes \d+`)

var generations = regexp.MustCompile(`list_drop_\d+_`)

// ours returns our table without timeouts, counters and generations of lists.
func ours(t *testing.T, ns *netnstest.NS) string {
	t.Helper()
	text := handles.ReplaceAllString(ns.Run(t, "", "nft", "list", "table", "inet", "mefdaemon"), "")
	// A repair may keep the sets of lists, which then come first.
	blocks := strings.Split(generations.ReplaceAllString(text, "list_drop_N_"), "\n\n")
	for i := range blocks {
		blocks[i] = strings.Trim(strings.TrimSuffix(strings.TrimPrefix(blocks[i], "table inet mefdaemon {\n"), "}\n"), "\n")
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n")
}

// TestWhateverIsDestroyedIsRestored has nft change the table. list_drop_N_ stands for the generation of the list that there is.
func TestWhateverIsDestroyedIsRestored(t *testing.T) {
	for _, destroy := range []string{
		"delete table inet mefdaemon",
		"flush table inet mefdaemon",
		"flush chain inet mefdaemon ban",
		"flush chain inet mefdaemon reply4",
		"flush set inet mefdaemon ban4_32",
		"flush set inet mefdaemon allow4",
		"flush set inet mefdaemon grace4",
		"flush set inet mefdaemon except4",
		"flush set inet mefdaemon list_drop_N_h4",
		"delete element inet mefdaemon list_drop_N_n6 { 2001:db8:bad::/48 }",
		"add element inet mefdaemon list_drop_N_n4 { 192.0.2.64/26 }; delete element inet mefdaemon list_drop_N_n4 { 203.0.113.0/25 }",
		"flush chain inet mefdaemon list4",
		"add rule inet mefdaemon list4 accept",
		"add element inet mefdaemon except4 { 192.0.2.8 }",
		"delete element inet mefdaemon ban6_64 { 2001:db8:: }",
		"add rule inet mefdaemon ban4 ip saddr 192.0.2.7 accept",
		"insert rule inet mefdaemon ban4 accept",
		"add chain inet mefdaemon mine",
		"add set inet mefdaemon mine { type ipv4_addr; }",
		"flush chain inet mefdaemon ban4; flush chain inet mefdaemon reply4; delete set inet mefdaemon ban4_24",
		"flush chain inet mefdaemon reply4_exact; flush chain inet mefdaemon reply6_exact; flush chain inet mefdaemon reply4; flush chain inet mefdaemon reply6; delete counter inet mefdaemon replies",
		"flush chain inet mefdaemon reply_fwd; delete chain inet mefdaemon reply_fwd",
		"add chain inet mefdaemon ban { policy drop; }",
		"add table inet mefdaemon { flags dormant; }",
	} {
		t.Run(destroy, func(t *testing.T) { restored(t, destroy) })
	}
}

func restored(t *testing.T, destroy string) {
	ns := netnstest.New(t)
	ns.Run(t, foreign, "nft", "-f", "-")
	before := foreignTables(t, ns)
	repaired := make(chan enforce.Repair, 10)
	e := enforcetest.Start(t, open(t, ns), enforce.Options{Allow: prefixset.New(netip.MustParsePrefix("198.51.100.0/24")),
		OnRepair: func(r enforce.Repair) { repaired <- r }})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("2001:db8::/64", 0),
		enforcetest.For("192.0.2.8 ports 22,8000-8010", 0), enforcetest.For("192.0.2.9/30", 0),
		ban.Ban{Key: enforcetest.Key("198.51.100.0/24"), Except: []netip.Addr{netip.MustParseAddr("198.51.100.7")}})
	if err := e.Grace(t.Context(), time.Hour, netip.MustParseAddr("192.0.2.99")); err != nil {
		t.Fatal(err)
	}
	if err := e.SetLists(t.Context(), []enforce.List{{Name: "drop", Addrs: enforcetest.Packed("203.0.113.0/25 203.0.113.200 2001:db8:bad::/48")}}); err != nil {
		t.Fatal(err)
	}
	want := ours(t, ns)
	// Only changes after it has begun to listen are notified at once.
	if err := netnstest.Poll(func() error { return listening(ns, t) }); err != nil {
		t.Fatal(err)
	}
	// The check when it begins to listen may find the first change before the notification names the process.
	for named, tries := false, 0; !named; tries++ {
		generation := generations.FindString(ns.Run(t, "", "nft", "list", "table", "inet", "mefdaemon"))
		ns.Run(t, "", "nft", strings.ReplaceAll(destroy, "list_drop_N_", generation))
		select {
		case r := <-repaired:
			named = strings.HasPrefix(r.By, "nft[")
			if r.Err != nil || r.By != "" && !named || tries == 3 {
				t.Fatalf("repair %+v, want one of what nft did", r)
			}
		case <-time.After(netnstest.Patience):
			t.Fatal("nothing was repaired")
		}
		if err := netnstest.Poll(func() error { // lists are written in steps
			if ours(t, ns) != want {
				return errors.New("is not as before")
			}
			return nil
		}); err != nil {
			t.Fatalf("after the repair:\n%s\nwant:\n%s", ours(t, ns), want)
		}
		if err := e.Repair(t.Context()); err != nil { // as an operator does, so that repairs do not slow down
			t.Fatal(err)
		}
	}
	if after := foreignTables(t, ns); after != before {
		t.Errorf("foreign tables were\n%s\nand are\n%s", before, after)
	}
}

// listening returns nil once a process in the namespace listens to nf_tables notifications.
func listening(ns *netnstest.NS, t testing.TB) error {
	for line := range strings.Lines(ns.Run(t, "", "cat", "/proc/net/netlink")) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == "12" && f[3] == "00000040" {
			return nil
		}
	}
	return fmt.Errorf("nobody listens to group 7")
}

// TestNothingIsMissedBeforeTheWatch changes the table, or not, after a start has repaired it and before it is watched.
func TestNothingIsMissedBeforeTheWatch(t *testing.T) {
	for name, tt := range map[string]struct {
		rebuild bool
		change  string
		want    bool
	}{
		"nobody, over a table that fits":   {want: true},
		"nobody, over a new table":         {rebuild: true, want: true},
		"somebody, over a table that fits": {change: "flush set inet mefdaemon ban4_32"},
		"somebody, over a new table":       {rebuild: true, change: "flush set inet mefdaemon ban4_32"},
		"somebody in another table":        {change: "add table ip other"}, // to be on the safe side
	} {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.New(t)
			if _, err := open(t, ns).Rebuild(t.Context(), changes(0, 10)); err != nil {
				t.Fatal(err)
			}
			b := open(t, ns)
			if _, err := b.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tt.rebuild {
				if _, err := b.Rebuild(t.Context(), changes(0, 20)); err != nil {
					t.Fatal(err)
				}
			}
			if tt.change != "" {
				ns.Run(t, "", "nft", tt.change)
			}
			if got := b.Undisturbed(); got != tt.want {
				t.Errorf("undisturbed: %v, want %v", got, tt.want)
			}
			if b.Undisturbed() {
				t.Error("it was reported twice: after listening again the table must be read again")
			}
		})
	}
}

// TestManyElementsAreComparedOnlyIfOthersWrote changes tables while the listener is away for a large transaction.
func TestManyElementsAreComparedOnlyIfOthersWrote(t *testing.T) {
	for name, tt := range map[string]struct {
		change string
		want   bool
	}{
		"nobody":                    {},
		"somebody in our table":     {change: "flush set inet mefdaemon ban4_32", want: true},
		"somebody in another table": {change: "add table ip other", want: true}, // to be on the safe side
	} {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.New(t)
			b := open(t, ns)
			if _, err := b.Rebuild(t.Context(), changes(0, 10)); err != nil {
				t.Fatal(err)
			}
			var noticed atomic.Bool
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- b.Watch(ctx, func(enforce.Notice) { noticed.Store(true) }) }()
			if err := netnstest.Poll(func() error { // the start of a watch requests a comparison
				if !noticed.Swap(false) {
					return errors.New("the watch has not begun")
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			resume := b.PauseListener(5000)
			if tt.change != "" {
				ns.Run(t, "", "nft", tt.change)
			}
			if _, err := b.Apply(t.Context(), changes(10, 20)); err != nil {
				t.Fatal(err)
			}
			resume()
			stop()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if noticed.Load() != tt.want {
				t.Errorf("noticed: %v, want %v", noticed.Load(), tt.want)
			}
		})
	}
}

// restoredWithin is the time within which damage by others must be repaired. A busy machine may take longer once, but not
// repeatedly: there are several attempts.
const (
	restoredWithin = time.Second
	chances        = 4
)

// TestEachObjectIsRestoredWithinASecond destroys every rule, chain, set and counter of the table, one after the other.
func TestEachObjectIsRestoredWithinASecond(t *testing.T) {
	ns := netnstest.New(t)
	repaired := make(chan enforce.Repair, 10)
	allow := prefixset.New(netip.MustParsePrefix("198.51.100.0/24"))
	e := enforcetest.Start(t, open(t, ns), enforce.Options{Allow: allow, OnRepair: func(r enforce.Repair) { repaired <- r }})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0), enforcetest.For("2001:db8::/64", 0), enforcetest.For("192.0.2.8 ports 22,8000-8010", 0),
		enforcetest.For("192.0.2.9 unverified", time.Hour))
	if err := netnstest.Poll(func() error { return listening(ns, t) }); err != nil {
		t.Fatal(err)
	}
	want := ours(t, ns)
	restore := func(destroy string) time.Duration {
		began := time.Now()
		ns.Run(t, "", "nft", destroy)
		select {
		case r := <-repaired:
			if r.Err != nil || r.Delayed > 0 {
				t.Fatalf("%s: repair %+v", destroy, r)
			}
		case <-time.After(netnstest.Patience):
			t.Fatalf("%s: nothing was repaired", destroy)
		}
		took := time.Since(began)
		if got := ours(t, ns); got != want {
			t.Fatalf("%s: after the repair:\n%s\nwant:\n%s", destroy, got, want)
		}
		if err := e.Repair(t.Context()); err != nil { // as an operator does, so that repairs do not slow down
			t.Fatal(err)
		}
		return took
	}
	objects := objectsOf(t, ns)
	slowest := time.Duration(0)
	for i := range objects {
		took := restore(objectsOf(t, ns)[i]) // a repair changes the handles
		for again := 1; again < chances && took > restoredWithin; again++ {
			took = restore(objectsOf(t, ns)[i])
		}
		if took > restoredWithin {
			t.Errorf("%s: restored after %v", objects[i], took)
		}
		slowest = max(slowest, took)
	}
	t.Logf("%d objects, restored %v after they were destroyed at the latest", len(objects), slowest)
	if len(objects) < 60 {
		t.Errorf("the table has %d objects only", len(objects))
	}
}

// objectsOf returns for each object of our table the commands that delete it, with what refers to it.
func objectsOf(t *testing.T, ns *netnstest.NS) (deletions []string) {
	t.Helper()
	var listed struct {
		Objects []struct {
			Rule struct {
				Chain  string
				Handle int
			}
			Chain, Set, Counter struct{ Name string }
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(ns.Run(t, "", "nft", "-j", "-a", "list", "table", "inet", "mefdaemon")), &listed); err != nil {
		t.Fatal(err)
	}
	const table = "inet mefdaemon"
	var unhook, unlink string
	for _, chain := range []string{"ban", "reply_out", "reply_fwd"} {
		unhook += fmt.Sprintf("flush chain %s %s; ", table, chain)
	}
	for _, chain := range []string{"ban4", "ban6", "reply4", "reply6", "ban4_exact", "ban6_exact", "reply4_exact", "reply6_exact"} {
		unlink += fmt.Sprintf("flush chain %s %s; ", table, chain)
	}
	for _, o := range listed.Objects {
		switch {
		case o.Rule.Handle != 0:
			deletions = append(deletions, fmt.Sprintf("delete rule %s %s handle %d", table, o.Rule.Chain, o.Rule.Handle))
		case o.Chain.Name != "":
			deletions = append(deletions, fmt.Sprintf("%s%sflush chain %s %s; delete chain %[3]s %[4]s", unhook, unlink, table, o.Chain.Name))
		case o.Set.Name != "":
			deletions = append(deletions, fmt.Sprintf("%sdelete set %s %s", unlink, table, o.Set.Name))
		case o.Counter.Name != "":
			deletions = append(deletions, fmt.Sprintf("%sdelete counter %s %s", unlink, table, o.Counter.Name))
		}
	}
	return deletions
}
