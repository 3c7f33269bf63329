//go:build integration

package nftset_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/nftset"
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

func TestWhateverIsDestroyedIsMended(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run(t, foreign, "nft", "-f", "-")
	before := foreignTables(t, ns)
	allow := prefixset.New(netip.MustParsePrefix("198.51.100.0/24"))
	named := 0
	for _, destroy := range []string{
		"delete table inet mefdaemon",
		"flush table inet mefdaemon",
		"flush chain inet mefdaemon ban",
		"flush chain inet mefdaemon reply4",
		"flush set inet mefdaemon ban4_32",
		"flush set inet mefdaemon allow4",
		"flush set inet mefdaemon grace4",
		"flush set inet mefdaemon except4",
		"flush set inet mefdaemon list_drop_1_h4",
		"delete element inet mefdaemon list_drop_1_n6 { 2001:db8:bad::/48 }",
		"add element inet mefdaemon list_drop_1_n4 { 192.0.2.64/26 }; delete element inet mefdaemon list_drop_1_n4 { 203.0.113.0/25 }",
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
		t.Run(destroy, func(t *testing.T) {
			repaired := make(chan enforce.Repair, 10)
			e := enforcetest.Start(t, open(t, ns), enforce.Options{Allow: allow, OnRepair: func(r enforce.Repair) { repaired <- r }})
			defer e.Flush(context.Background())
			enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("2001:db8::/64", 0),
				enforcetest.For("192.0.2.8 ports 22,8000-8010", 0), enforcetest.For("192.0.2.9/30", 0),
				ban.Ban{Key: enforcetest.Key("198.51.100.0/24"), Except: []netip.Addr{netip.MustParseAddr("198.51.100.7")}})
			if err := e.Grace(t.Context(), time.Hour, netip.MustParseAddr("192.0.2.99")); err != nil {
				t.Fatal(err)
			}
			if err := e.SetLists(t.Context(), []enforce.List{{Name: "drop", Addrs: enforcetest.Packed("203.0.113.0/25 203.0.113.200 2001:db8:bad::/48")}}); err != nil {
				t.Fatal(err)
			}
			defer e.SetLists(context.Background(), nil)
			want := ours(t, ns)
			// Only changes after it has begun to listen are notified at once.
			if err := netnstest.Poll(func() error { return listening(ns, t) }); err != nil {
				t.Fatal(err)
			}
			ns.Run(t, "", "nft", destroy)
			select {
			case r := <-repaired:
				// The check at the start may find it before the notification names the process.
				if r.Err != nil || r.By != "" && !strings.HasPrefix(r.By, "nft[") {
					t.Errorf("repair %+v, want one of what nft did", r)
				}
				if r.By != "" {
					named++
				}
			case <-time.After(netnstest.Patience):
				t.Error("nothing was repaired")
			}
			if err := netnstest.Poll(func() error { // lists are written in steps
				if ours(t, ns) != want {
					return errors.New("is not as before")
				}
				return nil
			}); err != nil {
				t.Errorf("after the repair:\n%s\nwant:\n%s", ours(t, ns), want)
			}
		})
	}
	if named == 0 {
		t.Error("no repair named who made it necessary")
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
				t.Error("it was said twice: somebody who listens again must look again")
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

// mendedWithin is the time within which damage by others must be repaired. A busy machine may take longer once, but not
// repeatedly: there are several attempts.
const (
	mendedWithin = time.Second
	chances      = 4
)

// TestEachObjectIsMendedWithinASecond destroys every rule, chain, set and counter of the table, one after the other.
func TestEachObjectIsMendedWithinASecond(t *testing.T) {
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
	mend := func(destroy string) time.Duration {
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
		took := mend(objectsOf(t, ns)[i]) // a repair changes the handles
		for again := 1; again < chances && took > mendedWithin; again++ {
			took = mend(objectsOf(t, ns)[i])
		}
		if took > mendedWithin {
			t.Errorf("%s: mended after %v", objects[i], took)
		}
		slowest = max(slowest, took)
	}
	t.Logf("%d objects, mended %v after they were destroyed at the latest", len(objects), slowest)
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

// TestBannedPeersAreBackOutWithinASecond has banned addresses send all the time while others remove the table, as firewalls do
// that replace the whole ruleset.
func TestBannedPeersAreBackOutWithinASecond(t *testing.T) {
	const restart = "flush ruleset\ntable inet filter {\n\tchain input { type filter hook input priority filter; }\n}\n"
	for name, others := range map[string]struct {
		args  []string
		stdin string
	}{
		"nft flush ruleset":                       {[]string{"flush", "ruleset"}, ""},
		"systemctl restart nftables":              {[]string{"-f", "-"}, restart},
		"nft delete table":                        {[]string{"delete", "table", "inet", "mefdaemon"}, ""},
		"nft flush table":                         {[]string{"flush", "table", "inet", "mefdaemon"}, ""},
		"nft flush set":                           {[]string{"flush set inet mefdaemon ban4_32; flush set inet mefdaemon ban6_64"}, ""},
		"nft insert rule that accepts everything": {[]string{"insert rule inet mefdaemon ban accept; insert rule inet mefdaemon reply_out accept"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			knocks := []*knocker{w.knock(t, "192.0.2.7", "192.0.2.1:53"), w.knock(t, "2001:db8:a::7", "[2001:db8:1::1]:53")}
			enforcetest.Bans(t, w.e, enforcetest.For("192.0.2.7", 0), enforcetest.For("2001:db8:a::/64", 0))
			if err := netnstest.Poll(func() error { return listening(w.server, t) }); err != nil {
				t.Fatal(err)
			}
			undo := func() { w.server.Run(t, others.stdin, "nft", others.args...) }
			err := w.backOut(t, knocks, undo)
			for again := 1; again < chances && err != nil; again++ {
				t.Log(err)
				if err := w.e.Repair(t.Context()); err != nil { // so that repairs do not slow down
					t.Fatal(err)
				}
				err = w.backOut(t, knocks, undo)
			}
			if err != nil {
				t.Error(err)
			}
			if name == "systemctl restart nftables" && !strings.Contains(w.server.Run(t, "", "nft", "list", "tables"), "table inet filter\n") {
				t.Error("the others' table is gone")
			}
			w.attacker.Reaches(t, "udp", "192.0.2.8", "192.0.2.1:53")
		})
	}
}

// backOut removes the rules that keep knockers out. It returns nil if they were answered after that, but not for long.
func (w world) backOut(t *testing.T, knocks []*knocker, undo func()) error {
	t.Helper()
	repairs, began := w.e.Status().Repairs, time.Now()
	undo()
	if err := netnstest.Poll(func() error {
		if s := w.e.Status(); s.Repairs == repairs {
			return fmt.Errorf("status: %+v", s)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var errs []error
	for _, k := range knocks {
		gap := k.silent(t).Sub(began)
		t.Logf("%s was answered until %v after nft began", k.from, gap)
		if gap < 0 || gap > mendedWithin {
			errs = append(errs, fmt.Errorf("%s was answered until %v after nft began, want for a while, but not for more than %v", k.from, gap, mendedWithin))
		}
	}
	return errors.Join(errs...)
}

// Lost connections are opened again: bans hold, new bans are applied, and changes by others are notified.
func TestVanishedConnectionsAreOpenedAgain(t *testing.T) {
	ns := netnstest.New(t)
	b := open(t, ns)
	e := enforcetest.Start(t, b, enforce.Options{})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0))
	if err := netnstest.Poll(func() error { return listening(ns, t) }); err != nil {
		t.Fatal(err)
	}
	holds := func(what, want string) {
		t.Helper()
		if err := netnstest.Poll(func() error {
			s, err := e.Held(t.Context())
			if got := fmt.Sprint(s.Bans); err == nil && (len(s.Bans) != strings.Count(want, " ")+1 || e.Status().Problem != "") {
				err = fmt.Errorf("bans %s, status %+v; want %s", got, e.Status(), want)
			}
			return err
		}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	b.Sever()
	holds("after a look", "192.0.2.7")
	b.Sever()
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.8", 0))
	holds("after a ban", "192.0.2.7 192.0.2.8")
	b.Sever()
	if err := e.Unban(t.Context(), 0, enforcetest.Key("192.0.2.8")); err != nil {
		t.Error(err)
	}
	holds("after an unban", "192.0.2.7")
	if err := netnstest.Poll(func() error { return listening(ns, t) }); err != nil {
		t.Fatal(err)
	}
	ns.Run(t, "", "nft", "flush", "ruleset")
	holds("after a flush", "192.0.2.7")
}

// A knocker sends a datagram every millisecond and notes when the last answer came.
type knocker struct {
	from string
	last atomic.Int64 // Unix time in ns; 0: none
}

// knock begins to knock, and returns once there was an answer.
func (w world) knock(t *testing.T, from, to string) *knocker {
	t.Helper()
	conn, err := w.attacker.Dial("udp", from, to, netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	k := &knocker{from: from}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); conn.Close(); wg.Wait() })
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			conn.Write([]byte("knock"))
		}
	})
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			k.last.Store(time.Now().UnixNano())
		}
	})
	if err := netnstest.Poll(func() error {
		if k.last.Load() == 0 {
			return fmt.Errorf("no answer to %s", from)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return k
}

// silent waits until no answer has come for a while, and returns the time of the last one.
func (k *knocker) silent(t *testing.T) time.Time {
	t.Helper()
	if err := netnstest.Poll(func() error {
		if quiet := time.Since(time.Unix(0, k.last.Load())); quiet < netnstest.Silence {
			return fmt.Errorf("%s was answered %v ago", k.from, quiet)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	return time.Unix(0, k.last.Load())
}

// TestARestartLeavesNoGap sends a packet every millisecond from a banned address while daemons come and go, over a table that
// fits and over one of another shape.
func TestARestartLeavesNoGap(t *testing.T) {
	server, attacker := netnstest.New(t), netnstest.New(t)
	netnstest.Join(t, server, attacker, "192.0.2.1/24", "192.0.2.7/24 192.0.2.8/24")
	server.Echo(t, "udp4", "192.0.2.1:53")
	log := drops
	generation := func(change string) {
		b, err := nftset.NewIn(server.Fd(), slog.New(slog.DiscardHandler), enforce.Settings{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		e := enforce.New(b, enforce.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.8 ports 99", 0)) // something to do
		if got := enforcetest.Lists(t, e); !strings.Contains(got, "192.0.2.7 for 1h0m0s") && change != "" {
			t.Errorf("the new daemon does not hold the old ban:\n%s", got)
		}
		if change == "" {
			enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour))
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if change != "" {
			server.Run(t, "", "nft", change)
		}
	}
	generation("")
	conn, err := attacker.Dial("udp", "192.0.2.7", "192.0.2.1:53", netnstest.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var sent, answered atomic.Int64
	go func() {
		for {
			if _, err := conn.Write([]byte("hello")); err != nil {
				return
			}
			sent.Add(1)
			time.Sleep(time.Millisecond)
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			answered.Add(1)
		}
	}()
	for range 5 {
		generation("list tables") // the table fits
		generation("add chain inet mefdaemon other")
		generation("add rule inet mefdaemon ban4 counter")
		generation("add set inet mefdaemon strange { type ipv4_addr; }")
		log.Enabled = !log.Enabled // the configuration was changed
	}
	attacker.Reaches(t, "udp", "192.0.2.8", "192.0.2.1:53") // the service answers others
	t.Logf("%d packets sent", sent.Load())
	if n := answered.Load(); n > 0 {
		t.Errorf("%d of %d packets of a banned address were answered", n, sent.Load())
	}
}

func TestDeleteNeedsNoDaemon(t *testing.T) {
	ns := netnstest.New(t)
	ns.Run(t, foreign, "nft", "-f", "-")
	before := foreignTables(t, ns)
	bans := enforce.Changes{Bans: []enforce.Change{{Key: enforcetest.Key("192.0.2.7"), Timeout: enforce.Permanent}}}
	if _, err := open(t, ns).Rebuild(t.Context(), bans); err != nil {
		t.Fatal(err)
	}
	var deleted []bool
	ns.Do(func() {
		for range 2 {
			d, err := nftset.Delete()
			if err != nil {
				t.Error(err)
			}
			deleted = append(deleted, d)
		}
	})
	if len(deleted) != 2 || !deleted[0] || deleted[1] {
		t.Errorf("Delete twice = %v, want true, then false", deleted)
	}
	if after := foreignTables(t, ns); after != before {
		t.Errorf("foreign tables were\n%s\nand are\n%s", before, after)
	}
}

// TestBulkLoadIsComplete restores many bans while another program changes its own tables.
func TestBulkLoadIsComplete(t *testing.T) {
	ns := netnstest.New(t)
	e := enforcetest.Start(t, open(t, ns), enforce.Options{})
	var bans []ban.Ban
	for i := range 20_000 {
		bans = append(bans, enforcetest.For(fmt.Sprintf("10.%d.%d.%d", i/40_000, i/200%200, i%200), time.Hour))
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				ns.Run(t, "", "nft", fmt.Sprintf("add table ip t%d; delete table ip t%d", i, i))
			}
		}
	}()
	for chunk := bans; len(chunk) > 0; chunk = chunk[4000:] {
		enforcetest.Bans(t, e, chunk[:4000]...)
	}
	close(stop)
	<-done
	s, err := e.Held(t.Context())
	if err != nil || len(s.Bans) != len(bans) {
		t.Errorf("%d bans are held (%v), want %d", len(s.Bans), err, len(bans))
	}
	if s := e.Status(); s.Repairs != 0 || s.Problem != "" {
		t.Errorf("status %+v, want no repair", s)
	}
}
