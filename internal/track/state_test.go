package track

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/event"
	"mef/internal/track/bans"
	"mef/internal/track/logins"
	"mef/internal/track/record"
)

// apply keeps records as a store does.
func apply(disk map[string][]byte, records []Record) {
	for _, r := range records {
		if r.Value == nil {
			delete(disk, string(r.Key))
		} else {
			disk[string(r.Key)] = r.Value
		}
	}
}

func entries(disk map[string][]byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		for _, k := range slices.Sorted(maps.Keys(disk)) {
			if !yield([]byte(k), disk[k]) {
				return
			}
		}
	}
}

// busy makes a tracker with something of everything in it.
func busy(cfg Config) *Tracker {
	tr := New(cfg)
	tr.Observe(line{0, "ok", "alice", "", 0}.event("sshd", "192.0.2.1"))
	for i := range 40 {
		tr.Observe(line{float64(i), "fail", "root", "s", 0}.event("sshd", fmt.Sprintf("203.0.113.%d", i)))
		tr.Observe(line{float64(i), "fail", fmt.Sprint(i), "", 0}.event("dovecot", fmt.Sprintf("2001:db8::%x:0:0:0:1", i)))
	}
	p := netip.MustParsePrefix("203.0.113.7/32")
	tr.Banned(ban.Ban{Key: ban.Key{Prefix: p}, Rule: "patient", ID: "x", Start: start.Add(time.Minute), Until: start.Add(time.Hour)})
	return tr
}

func TestStateSurvives(t *testing.T) {
	cfg := testConfig()
	cfg.Seed = 4711
	tr, disk := busy(cfg), map[string][]byte{}
	apply(disk, tr.Changes())
	if again := tr.Changes(); len(again) != 0 {
		t.Errorf("%d changes though nothing happened", len(again))
	}
	cfg.Seed = 1 // that of the state holds
	restored := New(cfg)
	if err := restored.Import(entries(disk)); err != nil {
		t.Fatal(err)
	}
	if again := restored.Changes(); len(again) != 0 {
		t.Errorf("%d changes just after the import", len(again))
	}
	at := start.Add(5 * time.Minute)
	for _, addr := range []string{"192.0.2.1", "203.0.113.7", "203.0.113.8", "2001:db8::7:0:0:0:1"} {
		want, got := tr.Explain(netip.MustParseAddr(addr), at), restored.Explain(netip.MustParseAddr(addr), at)
		if len(want.InForce) > 0 {
			want.Evidence = []string{} // is with the ban
		}
		want.InForce, got.InForce = nil, nil // told by their keeper
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s after the import\n\t%+v\nwant\n\t%+v", addr, got, want)
		}
	}
	next := line{60, "fail", "root", "", 0}.event("sshd", "203.0.113.200")
	if want, got := tr.Observe(next), restored.Observe(next); got.Limit != want.Limit || got.Surge != want.Surge || got.Limit != strictLimit {
		t.Errorf("limit %d, %+v, want %d, %+v", got.Limit, got.Surge, want.Limit, want.Surge)
	}
}

// What a store holds never outgrows what the tracker holds.
func TestStateForgets(t *testing.T) {
	cfg := testConfig()
	cfg.MaxSources, cfg.MaxHistory, cfg.Known.Total = 50, 5, 7
	tr, disk := New(cfg), map[string][]byte{}
	for i := range 500 {
		addr := fmt.Sprintf("10.0.%d.%d", i/250, i%250)
		tr.Observe(line{float64(i), "fail", "root", "", 0}.event("sshd", addr))
		tr.Observe(line{float64(i), "ok", fmt.Sprint(i), "", 0}.event("sshd", addr))
		at := start.Add(time.Duration(i) * time.Second)
		tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix(addr + "/32")}, Rule: "sshd", ID: addr, Start: at, Until: at.Add(1)})
		if i%3 == 0 {
			apply(disk, tr.Changes())
		}
	}
	apply(disk, tr.Changes())
	kinds := map[byte]int{}
	for k := range disk {
		kinds[k[0]]++
	}
	if kinds[kindSource] != 50 || kinds[bans.KindHistory] != 5 || kinds[logins.Kind] != 7 {
		t.Errorf("stored %d sources, %d bans, %d logins; want 50, 5, 7", kinds[kindSource], kinds[bans.KindHistory], kinds[logins.Kind])
	}
}

// Attempts that a ban answers are not worth saving their source again, and what follows the ban is counted the same after a restart.
func TestAnsweredAttemptsAreNotSaved(t *testing.T) {
	const addr = "203.0.113.7"
	tr, disk := New(testConfig()), map[string][]byte{}
	try := func(tr *Tracker, at float64) *event.Tally {
		return tr.Observe(line{at, "fail", "root", "", 0}.event("sshd", addr))
	}
	for i := range 3 {
		try(tr, float64(i))
	}
	tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix(addr + "/32")}, Rule: "sshd", ID: "x", Start: start.Add(3 * time.Second), Until: start.Add(time.Minute)})
	apply(disk, tr.Changes())
	for i := range 30 {
		if tally := try(tr, 10+float64(i)); tally.New != 1 || tally.Added != 0 {
			t.Fatalf("attempt %d in the ban: %d new, %d count", i, tally.New, tally.Added)
		}
	}
	for _, r := range tr.Changes() {
		if r.Key[0] == kindSource {
			t.Error("the source is saved again")
		}
	}
	restored := New(testConfig())
	if err := restored.Import(entries(disk)); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		want, got := *try(tr, 400+float64(i)), *try(restored, 400+float64(i))
		if got.Attempts != want.Attempts || got.Attempts != i+1 || event.Points(got.Score) != event.Points(want.Score) {
			t.Errorf("after the ban %d attempts, %v points; without a restart %d, %v", got.Attempts, got.Score, want.Attempts, want.Score)
		}
	}
}

// A damaged store costs what is damaged, and nothing else.
func TestDamagedState(t *testing.T) {
	disk := map[string][]byte{}
	apply(disk, busy(testConfig()).Changes())
	tried := map[byte]bool{}
	for k, v := range disk {
		if tried[k[0]] {
			continue
		}
		tried[k[0]] = true
		for cut := range v {
			tr := New(testConfig())
			damaged := maps.Clone(disk)
			damaged[k] = v[:cut]
			err := tr.Import(entries(damaged))
			if err != nil && !errors.Is(err, record.ErrState) || err == nil && cut == 0 {
				t.Errorf("%q cut to %d bytes: error %v", k, cut, err)
			}
			if n := tr.Stats().Sources; n < 79 {
				t.Errorf("%q cut to %d bytes: %d sources left of 80", k, cut, n)
			}
		}
	}
	if len(tried) != 6 {
		t.Errorf("tried %d kinds of record, want 6", len(tried))
	}
}

func FuzzImport(f *testing.F) {
	for _, r := range busy(testConfig()).Changes() {
		f.Add(r.Key, r.Value)
	}
	f.Fuzz(func(t *testing.T, k, v []byte) {
		tr := New(testConfig())
		_ = tr.Import(func(yield func(k, v []byte) bool) { yield(k, v) })
		for i := range 5 {
			tr.Observe(line{float64(i), "fail", "root", "", 0}.event("sshd", "203.0.113.7"))
		}
		tr.Explain(netip.MustParseAddr("203.0.113.7"), start.Add(time.Hour))
		tr.Changes()
	})
}

// Everything that is learned survives a restart: what comes next is judged as if there had been none, and otherwise than by a tracker
// that knows nothing.
func TestEveryPieceSurvives(t *testing.T) {
	const home, stranger = "198.51.100.7", "192.0.2.7"
	seconds := func(days float64) float64 { return days * 86400 }
	observe := func(tr *Tracker, kind string, at float64, addr, user string) event.Tally {
		return *tr.Observe(line{at, kind, user, "", 0}.event("sshd", addr))
	}
	many := func(tr *Tracker, n int, addr, user string) {
		for i := range n {
			of := func(s string) string { return strings.ReplaceAll(s, "#", fmt.Sprint(i)) }
			observe(tr, "fail", float64(i), of(addr), of(user))
		}
	}
	for name, tt := range map[string]struct {
		before func(tr *Tracker)
		next   func(tr *Tracker) any
	}{
		"the dictionary": {func(tr *Tracker) {
			for _, addr := range []string{"203.0.113.1", "100.64.0.1"} {
				missing(tr, 1, addr, "zork")
			}
		}, func(tr *Tracker) any { return missing(tr, 9, stranger, "zork") }},
		"names that logged in": {func(tr *Tracker) { observe(tr, "ok", 0, home, "bobby") },
			func(tr *Tracker) any { return missing(tr, 9, stranger, "bboby") }},
		"known logins": {func(tr *Tracker) { observe(tr, "ok", 0, home, "bob") },
			func(tr *Tracker) any { return observe(tr, "fail", 9, home, "bob").Added }},
		"what is forgiven to a known login": {func(tr *Tracker) {
			observe(tr, "ok", 0, home, "bob")
			for i := range 15 {
				observe(tr, "fail", float64(1+i), home, "bob")
			}
		}, func(tr *Tracker) any { return observe(tr, "fail", 20, home, "bob").Added }},
		"what is forgiven to a guest": {func(tr *Tracker) {
			observe(tr, "ok", 0, home, "bob")
			for i := range 5 {
				observe(tr, "fail", float64(1+i), stranger, "bob")
			}
		}, func(tr *Tracker) any { return observe(tr, "fail", 20, stranger, "bob").Added }},
		"days with failures": {func(tr *Tracker) {
			observe(tr, "fail", 0, stranger, "bob")
			observe(tr, "fail", seconds(1), stranger, "bob")
		}, func(tr *Tracker) any { return observe(tr, "fail", seconds(2), stranger, "bob").Days }},
		"a name under attack": {func(tr *Tracker) { many(tr, 25, "203.#.113.1", "bob") },
			func(tr *Tracker) any { return observe(tr, "fail", 60, stranger, "bob").Limit }},
		"a service under attack": {func(tr *Tracker) { many(tr, 95, "203.#.113.1", "user#") },
			func(tr *Tracker) any { return observe(tr, "fail", 100, stranger, "bob").Limit }},
		"a network that attacks": {func(tr *Tracker) { many(tr, 9, "192.0.2.1#", "user#") },
			func(tr *Tracker) any { return observe(tr, "fail", 60, stranger, "bob").Limit }},
		"a source that tries many users": {func(tr *Tracker) {
			tr.SetAccounts(accountsOf(30))
			many(tr, 21, stranger, "person#")
		}, func(tr *Tracker) any { return observe(tr, "fail", 60, stranger, "bob").Spread }},
		"login alarms": {func(tr *Tracker) {
			many(tr, 9, "203.#.113.1", "bob")
			observe(tr, "ok", 20, stranger, "bob")
		}, func(tr *Tracker) any { return tr.Acknowledge() }},
		"lifted bans": {func(tr *Tracker) {
			observe(tr, "fail", 1, stranger, "bob")
			tr.Unbanned(ban.Key{Prefix: netip.MustParsePrefix(stranger + "/32")}, start.Add(20*time.Second))
		}, func(tr *Tracker) any { return observe(tr, "fail", 10, stranger, "bob").Attempts }},
		"that a service does not know its users": {func(tr *Tracker) {
			ev := line{1, "each", "zork", "s1", 0}.event("dovecot", home)
			ev.UnknownUser = true
			tr.Observe(ev)
			tr.Observe(line{1, "ok", "zork", "s1", 0}.event("dovecot", home))
		}, func(tr *Tracker) any {
			ev := line{9, "each", "plugh", "s2", 0}.event("dovecot", stranger)
			ev.UnknownUser = true
			return tr.Observe(ev).Score
		}},
		"earlier bans": {func(tr *Tracker) {
			tr.Banned(ban.Ban{Key: ban.Key{Prefix: netip.MustParsePrefix(stranger + "/32")}, Rule: "sshd", ID: "x", Start: start, Until: start.Add(time.Minute)})
		}, func(tr *Tracker) any {
			return len(tr.Explain(netip.MustParseAddr(stranger), start.Add(time.Hour)).History)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := namesConfig()
			cfg.LoginAlarms = true
			original, disk := New(cfg), map[string][]byte{}
			tt.before(original)
			apply(disk, original.Changes())
			restored := New(cfg)
			if err := restored.Import(entries(disk)); err != nil {
				t.Fatal(err)
			}
			want, got, without := fmt.Sprint(tt.next(original)), fmt.Sprint(tt.next(restored)), fmt.Sprint(tt.next(New(cfg)))
			if got != want {
				t.Errorf("after a restart %s, without one %s", got, want)
			}
			if want == without {
				t.Errorf("%s, and so it is where nothing is known: the case shows nothing", want)
			}
		})
	}
}

func accountsOf(n int) map[string]bool {
	accounts := map[string]bool{}
	for i := range n {
		accounts[fmt.Sprintf("person%d", i)] = true
	}
	return accounts
}
