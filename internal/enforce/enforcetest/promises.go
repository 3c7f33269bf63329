package enforcetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/prefixset"
)

// patience is how long to wait for what should happen.
const patience = 10 * time.Second

// Key reads a key: "192.0.2.7", "2001:db8::/64", with ports "192.0.2.7 ports 25,465", and at the end " unverified".
func Key(s string) ban.Key {
	var k ban.Key
	if rest, ok := strings.CutSuffix(s, " unverified"); ok {
		s, k.Class = rest, ban.Unverified
	}
	s, ports, _ := strings.Cut(s, " ports ")
	var err error
	if k.Ports, err = ban.ParsePorts(ports); err != nil {
		panic(err)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		k.Prefix = netip.PrefixFrom(a, a.BitLen())
	} else {
		k.Prefix = netip.MustParsePrefix(s)
	}
	return k
}

// For returns a ban that ends after d; 0 means never.
func For(key string, d time.Duration) ban.Ban {
	b := ban.Ban{Key: Key(key), Start: time.Now(), Rule: "test"}
	if d != 0 {
		b.Until = b.Start.Add(d)
	}
	return b
}

// Start runs an Enforcer over b until the test ends.
func Start(t testing.TB, b enforce.Backend, opt enforce.Options, restored ...ban.Ban) *enforce.Enforcer {
	t.Helper()
	e := enforce.New(b, opt)
	e.Restore(restored)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	return e
}

// Bans puts bans in force and fails the test if one does not hold.
func Bans(t testing.TB, e *enforce.Enforcer, bans ...ban.Ban) {
	t.Helper()
	results, err := e.BanNow(t.Context(), true, bans...)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
}

// Lists returns the bans that the kernel holds, one a line, in order, with the time left to the next ten seconds: "for 10m0s",
// or nothing if permanent.
func Lists(t testing.TB, e *enforce.Enforcer) string {
	t.Helper()
	s, err := e.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, h := range s.Bans {
		lines.WriteString(h.Key.String())
		if h.Class == ban.Unverified {
			lines.WriteString(" unverified")
		}
		if !h.Until.IsZero() {
			fmt.Fprintf(&lines, " for %v", lasting(time.Until(h.Until)))
		}
		if h.Unknown {
			lines.WriteString(", unknown origin")
		}
		lines.WriteByte('\n')
	}
	return lines.String()
}

// Exceptions returns the addresses that the kernel excepts from bans of networks, in order: "192.0.2.7 for 10m0s, 192.0.2.8".
func Exceptions(t testing.TB, e *enforce.Enforcer) string {
	t.Helper()
	s, err := e.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, x := range s.Except {
		text := x.Prefix.Addr().String()
		if x.Timeout != enforce.Permanent {
			text += fmt.Sprintf(" for %v", lasting(time.Duration(x.Timeout)))
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// lasting returns what is left of a ban, rounded up to ten seconds, or to a minute where it is ten minutes and more: what was asked for, on a
// slow machine too. The kernel may round up by itself.
func lasting(left time.Duration) time.Duration {
	unit := 10 * time.Second
	if left > 9*time.Minute {
		unit = time.Minute
	}
	return (left - time.Second).Truncate(unit) + unit
}

// Promises runs what every Backend must do. Each test gets a new one, with nothing in it.
func Promises(t *testing.T, open func(testing.TB) enforce.Backend) {
	for name, tt := range promises {
		t.Run(name, func(t *testing.T) {
			backend := open(t)
			var before []enforce.Change
			for _, key := range tt.before {
				before = append(before, enforce.Change{Key: Key(key), Timeout: enforce.Timeout(time.Hour)})
			}
			if before != nil {
				if _, err := backend.Rebuild(t.Context(), enforce.Changes{Bans: before}); err != nil {
					t.Fatal(err)
				}
			}
			var restored []ban.Ban
			if tt.restored != nil {
				restored = tt.restored()
			}
			e := Start(t, backend, enforce.Options{}, restored...)
			if tt.do != nil {
				tt.do(t, e)
			}
			want := strings.ReplaceAll(strings.TrimLeft(tt.want, "\n"), "\t", "")
			if diff := cmp.Diff(want, Lists(t, e)); diff != "" {
				t.Errorf("bans in force (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("random changes agree with a plain model", func(t *testing.T) { random(t, open(t)) })
	t.Run("the same again begins anew", func(t *testing.T) { again(t, open(t)) })
	t.Run("lists hold as they were last set", func(t *testing.T) { lists(t, open(t)) })
	t.Run("lists outlive the daemon", func(t *testing.T) { listsOutlive(t, open(t)) })
	t.Run("the kernel ends bans", func(t *testing.T) { expiry(t, open(t)) })
}

type promise struct {
	before   []string         // held for an hour when the daemon comes
	restored func() []ban.Ban // known from the last run
	do       func(*testing.T, *enforce.Enforcer)
	want     string
}

var promises = map[string]promise{
	"bans of all widths, families, ports and classes stand side by side": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", time.Hour), For("192.0.2.0/24", 2*time.Hour), For("192.0.2.0/25", 0), For("192.0.0.0/16", time.Minute),
				For("192.0.2.7 ports 25,465", time.Hour), For("192.0.2.7 ports 25", time.Minute), For("192.0.2.7 unverified", time.Minute),
				For("2001:db8::1", time.Hour), For("2001:db8::/64", time.Hour), For("2001:db8::/56", time.Hour), For("2001:db8::/48", time.Hour),
				For("2001:db8::/32", time.Hour), For("2001:db8::/64 ports 22,8000-8010", 0), For("2001:db8::/64 unverified", time.Minute))
		},
		want: `
			192.0.0.0/16 for 1m0s
			192.0.2.0/24 for 2h0m0s
			192.0.2.0/25
			192.0.2.7 for 1h0m0s
			192.0.2.7 unverified for 1m0s
			192.0.2.7 ports 25 for 1m0s
			192.0.2.7 ports 25,465 for 1h0m0s
			2001:db8::/32 for 1h0m0s
			2001:db8::/48 for 1h0m0s
			2001:db8::/56 for 1h0m0s
			2001:db8::/64 for 1h0m0s
			2001:db8::/64 unverified for 1m0s
			2001:db8::/64 ports 22,8000-8010
			2001:db8::1 for 1h0m0s
			`,
	},
	"a longer ban extends, a shorter one changes nothing": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", time.Minute), For("192.0.2.8", time.Hour))
			Bans(t, e, For("192.0.2.7", time.Hour), For("192.0.2.8", time.Minute))
		},
		want: "192.0.2.7 for 1h0m0s\n192.0.2.8 for 1h0m0s\n",
	},
	"permanent is longest": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", time.Minute), For("192.0.2.8", 0))
			Bans(t, e, For("192.0.2.7", 0), For("192.0.2.8", time.Minute))
		},
		want: "192.0.2.7\n192.0.2.8\n",
	},
	"an end further off than can be told is none": {
		do:   func(t *testing.T, e *enforce.Enforcer) { Bans(t, e, For("192.0.2.7", 290*365*24*time.Hour)) },
		want: "192.0.2.7\n",
	},
	"the longest of one batch counts": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", time.Minute), For("192.0.2.7", time.Hour), For("192.0.2.7", 2*time.Minute))
		},
		want: "192.0.2.7 for 1h0m0s\n",
	},
	"a ban that is over holds a second, not forever": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", -time.Hour), For("192.0.2.8", time.Nanosecond))
			s, _ := e.Held(t.Context())
			for _, h := range s.Bans {
				if left := time.Until(h.Until); h.Until.IsZero() || left > time.Second {
					t.Errorf("%v is held until %v, want at most a second", h.Key, h.Until)
				}
			}
			if err := e.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		},
	},
	"an unverified ban ends within ten minutes": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7 unverified", 0), For("192.0.2.8 unverified", time.Hour))
		},
		want: "192.0.2.7 unverified for 10m0s\n192.0.2.8 unverified for 10m0s\n",
	},
	"lifting a ban leaves wider, narrower and adjacent ones": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.0/24", 0), For("192.0.2.0/32", 0), For("192.0.2.0/25", 0), For("192.0.2.128/25", 0),
				For("192.0.2.0/24 ports 22", 0), For("192.0.2.0/24 unverified", time.Minute), For("2001:db8::/64", 0), For("2001:db8::", 0))
			if err := e.Unban(t.Context(), 0, Key("192.0.2.0/24"), Key("192.0.2.128/25"), Key("2001:db8::/64")); err != nil {
				t.Error(err)
			}
		},
		want: `
			192.0.2.0/24 unverified for 1m0s
			192.0.2.0/24 ports 22
			192.0.2.0/25
			192.0.2.0
			2001:db8::
			`,
	},
	"lifting what is not banned is no error": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", 0))
			if err := e.Unban(t.Context(), 0, Key("192.0.2.8"), Key("192.0.2.0/29"), Key("192.0.2.7 ports 99"), Key("2001:db8::/77")); err != nil {
				t.Error(err)
			}
		},
		want: "192.0.2.7\n",
	},
	"flush lifts all": {
		before: []string{"198.51.100.1"},
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", 0), For("2001:db8::/61 ports 22", time.Hour))
			if err := e.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		},
	},
	"what the kernel holds without a record is kept": {
		before: []string{"192.0.2.7", "192.0.2.8", "2001:db8::/77 ports 22,80"},
		do:     func(t *testing.T, e *enforce.Enforcer) { Bans(t, e, For("192.0.2.8", time.Minute)) },
		want: `
			192.0.2.7 for 1h0m0s, unknown origin
			192.0.2.8 for 1h0m0s
			2001:db8::/77 ports 22,80 for 1h0m0s, unknown origin
			`,
	},
	"what must never be banned is taken out": {
		before: []string{"127.0.0.1", "fe80::/64", "224.0.0.0/24", "192.0.2.7"},
		want:   "192.0.2.7 for 1h0m0s, unknown origin\n",
	},
	"records and kernel are merged by the later end": {
		before: []string{"192.0.2.7", "192.0.2.8", "192.0.2.11"},
		restored: func() []ban.Ban {
			return []ban.Ban{For("192.0.2.7", time.Minute), For("192.0.2.8", 2*time.Hour), For("192.0.2.9", 0), For("192.0.2.10", -time.Minute),
				For("192.0.2.11", 0), For("127.0.0.1", 0)}
		},
		want: "192.0.2.7 for 1h0m0s\n192.0.2.8 for 2h0m0s\n192.0.2.9\n192.0.2.11\n",
	},
	"grace, and a ban by hand that ends it": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			Bans(t, e, For("192.0.2.7", 0), For("192.0.2.8", 0), For("2001:db8::1", 0), For("192.0.2.0/25", 0))
			if err := e.Unban(t.Context(), time.Hour, Key("192.0.2.7"), Key("192.0.2.8"), Key("2001:db8::1"), Key("192.0.2.0/25")); err != nil {
				t.Error(err)
			}
			byHand := For("192.0.2.8", 0)
			byHand.Rule = "manual"
			Bans(t, e, For("192.0.2.7", 0), byHand)
			if err := e.Grace(t.Context(), time.Minute, netip.MustParseAddr("198.51.100.1")); err != nil {
				t.Error(err)
			}
			graced(t, e, "192.0.2.7/32", "198.51.100.1/32", "2001:db8::/64")
		},
		want: "192.0.2.7\n192.0.2.8\n",
	},
	"the allow set is what was last said": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			for _, prefixes := range [][]string{
				{"0.0.0.0/0", "::/0"},
				{"192.0.2.0/24", "192.0.3.0/24", "255.255.255.0/24", "2001:db8::/32", "ff00::/8"},
				{"0.0.0.0/32", "10.0.0.0/9", "2001:db8::1/128"},
				{},
			} {
				var set []netip.Prefix
				for _, p := range prefixes {
					set = append(set, netip.MustParsePrefix(p))
				}
				want := prefixset.New(set...)
				if err := e.Allow(t.Context(), want); err != nil {
					t.Error(err)
				}
				if s, err := e.Held(t.Context()); err != nil || !s.Allow.Equal(want) {
					t.Errorf("allow set = %v, %v; want %v", s.Allow.Ranges(), err, want.Ranges())
				}
			}
		},
	},
	"5,000 bans in one call all arrive": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			var bans []ban.Ban
			for i := range 5000 {
				bans = append(bans, For(fmt.Sprintf("203.0.%d.%d", i/250, i%250), time.Hour), For(fmt.Sprintf("2001:db8:%x::/64", i), time.Hour))
			}
			Bans(t, e, bans...)
			if s, err := e.Held(t.Context()); err != nil || len(s.Bans) != len(bans) {
				t.Errorf("%d bans are held (%v), want %d", len(s.Bans), err, len(bans))
			}
			if err := e.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		},
	},
	"what must not be banned is refused, and the rest is banned": {
		do: func(t *testing.T, e *enforce.Enforcer) {
			bans := []ban.Ban{For("127.0.0.1", 0), For("192.0.2.7", 0), For("10.0.0.0/15", 0), For("10.0.0.0/16", 0)}
			results, err := e.BanNow(t.Context(), false, bans...)
			if err != nil {
				t.Fatal(err)
			}
			for i, refused := range []bool{true, false, true, false} {
				var r *enforce.RefusedError
				if errors.As(results[i].Err, &r) != refused {
					t.Errorf("ban %v: error %v, want refused: %v", bans[i].Key, results[i].Err, refused)
				}
			}
		},
		want: "10.0.0.0/16\n192.0.2.7\n",
	},
}

func graced(t *testing.T, e *enforce.Enforcer, want ...string) {
	t.Helper()
	s, err := e.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, g := range s.Grace {
		got[g.Prefix.String()] = true
	}
	wanted := map[string]bool{}
	for _, w := range want {
		wanted[w] = true
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("grace periods (-want +got):\n%s", diff)
	}
}

// expiry bans for a second and waits for the end, which nobody tells.
func expiry(t *testing.T, b enforce.Backend) {
	e := Start(t, b, enforce.Options{})
	Bans(t, e, For("192.0.2.7", time.Second), For("2001:db8::/64", time.Second), For("192.0.2.8", time.Hour))
	began := time.Now()
	for Lists(t, e) != "192.0.2.8 for 1h0m0s\n" {
		if time.Since(began) > patience {
			t.Fatalf("long after a second the bans are\n%s", Lists(t, e))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// again makes a ban, waits some seconds, and makes the very same, which ends later by as much.
func again(t *testing.T, b enforce.Backend) {
	c := enforce.Changes{Bans: []enforce.Change{{Key: Key("192.0.2.7"), Timeout: enforce.Timeout(time.Minute)}}}
	if _, err := b.Rebuild(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	until := func() time.Time {
		s, err := b.Held(t.Context())
		if err != nil || len(s.Bans) != 1 {
			t.Fatalf("bans held: %v, %v; want one", s.Bans, err)
		}
		return s.Bans[0].Until
	}
	first := until()
	for time.Until(first) > 57*time.Second { // the kernel may report whole seconds
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := b.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if longer := until().Sub(first); longer < 500*time.Millisecond {
		t.Errorf("a ban of a minute, made again after three seconds, holds %v longer", longer)
	}
}

// random makes random changes and compares the kernel with a map after each, by full read-back and by looking up single keys
// as a packet would.
func random(t *testing.T, b enforce.Backend) {
	e := Start(t, b, enforce.Options{})
	r := rand.New(rand.NewPCG(1, 2))
	model := map[ban.Key]time.Time{}
	for step := range 300 {
		var did string
		switch k := randomKey(r); r.IntN(10) {
		case 0, 1, 2, 3, 4, 5:
			var bans []ban.Ban
			for range 1 + r.IntN(5) {
				x := ban.Ban{Key: k, Rule: "test"}
				if r.IntN(8) > 0 {
					x.Until = time.Now().Add(time.Duration(1+r.IntN(9)) * time.Minute)
				}
				bans = append(bans, x)
				extend(model, x)
				k = randomKey(r)
			}
			did = fmt.Sprint("ban ", bans)
			Bans(t, e, bans...)
		case 6, 7, 8:
			keys := []ban.Key{k}
			for held := range model {
				if keys = append(keys, held); len(keys) > 2 {
					break
				}
			}
			for _, k := range keys {
				delete(model, k)
			}
			did = fmt.Sprint("unban ", keys)
			if err := e.Unban(t.Context(), 0, keys...); err != nil {
				t.Fatalf("step %d, %s: %v", step, did, err)
			}
		case 9:
			did = "repair"
			if err := e.Repair(t.Context()); err != nil {
				t.Fatalf("step %d, %s: %v", step, did, err)
			}
		}
		compare(t, b, e, model, r, fmt.Sprintf("step %d, %s", step, did))
		if t.Failed() {
			return
		}
	}
}

// randomKey returns one of a few hundred keys whose prefixes lie within each other.
func randomKey(r *rand.Rand) ban.Key {
	a := netip.AddrFrom4([4]byte{203, 0, byte(r.IntN(2)), byte(r.IntN(4) * 64)})
	bits := []int{32, 32, 24, 25, 16, 31}[r.IntN(6)]
	if r.IntN(2) == 0 {
		a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, byte(r.IntN(2)), 15: byte(r.IntN(3))})
		bits = []int{128, 64, 64, 56, 48, 60, 127, 32}[r.IntN(8)]
	}
	return ban.Key{
		Prefix: netip.PrefixFrom(a, bits).Masked(),
		Ports:  []ban.Ports{"", "", "", "22", "25,465,587", "22,8000-8010"}[r.IntN(6)],
		Class:  []ban.Class{ban.Verified, ban.Verified, ban.Unverified}[r.IntN(3)],
	}
}

func extend(model map[ban.Key]time.Time, b ban.Ban) {
	if b.Class == ban.Unverified && b.Until.IsZero() {
		b.Until = time.Now().Add(10 * time.Minute)
	}
	old, held := model[b.Key]
	if !held || b.Until.IsZero() || !old.IsZero() && b.Until.After(old) {
		model[b.Key] = b.Until
	}
}

func compare(t *testing.T, b enforce.Backend, e *enforce.Enforcer, model map[ban.Key]time.Time, r *rand.Rand, when string) {
	t.Helper()
	s, err := e.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[ban.Key]time.Time{}
	for _, h := range s.Bans {
		got[h.Key] = h.Until
	}
	near := cmp.Comparer(func(a, b time.Time) bool { return a.IsZero() == b.IsZero() && a.Sub(b).Abs() < 3*time.Second })
	prefixes := cmp.Comparer(func(a, b ban.Key) bool { return a == b })
	if diff := cmp.Diff(model, got, near, prefixes); diff != "" {
		t.Errorf("%s: bans (-model +kernel):\n%s", when, diff)
	}
	for range 5 {
		k := randomKey(r)
		var found enforce.State
		if found, err = e.Held(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if _, want := model[k]; want != (len(found.Bans) == 1) {
			t.Errorf("%s: looking up %v finds %v, want banned: %v", when, k, found.Bans, want)
		}
	}
}
