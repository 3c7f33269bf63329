package enforce_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/prefixset"
)

// excepting returns a ban that excepts addresses.
func excepting(key string, d time.Duration, addrs ...string) ban.Ban {
	b := enforcetest.For(key, d)
	for _, a := range addrs {
		b.Except = append(b.Except, netip.MustParseAddr(a))
	}
	return b
}

// by returns the ban as a rule or an operator makes it.
func by(rule string, b ban.Ban) ban.Ban { b.Rule = rule; return b }

func TestExceptions(t *testing.T) {
	const net, known = "192.0.2.0/24", "192.0.2.7"
	for name, tt := range map[string]struct {
		restored []ban.Ban
		do       func(*testing.T, *enforce.Enforcer)
		want     string
	}{
		"hold as long as the ban": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, excepting(net, time.Hour, known, "::ffff:192.0.2.8"), excepting("2001:db8::/64", 2*time.Hour, "2001:db8::7"))
			},
			want: "192.0.2.7 for 1h0m0s, 192.0.2.8 for 1h0m0s, 2001:db8::7 for 2h0m0s",
		},
		"follow a ban that is extended": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, excepting(net, time.Hour, known))
				enforcetest.Bans(t, e, enforcetest.For(net, 3*time.Hour))
			},
			want: "192.0.2.7 for 3h0m0s",
		},
		"come with a shorter ban that changes nothing else": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, enforcetest.For(net, 3*time.Hour))
				enforcetest.Bans(t, e, excepting(net, time.Hour, known))
			},
			want: "192.0.2.7 for 3h0m0s",
		},
		"end with the ban": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, excepting(net, time.Hour, known, "192.0.2.8"))
				unban(t, e, net)
			},
		},
		"end with the last ban that has them": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, excepting(net, time.Hour, known, "192.0.2.8"), excepting("192.0.0.0/16", 2*time.Hour, known))
				unban(t, e, net)
			},
			want: "192.0.2.7 for 2h0m0s",
		},
		"are none outside the network, nor of a single address": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, excepting(net, time.Hour, "192.0.3.7"), excepting(known, time.Hour, known))
			},
		},
		"give way to a ban by hand of the network, and come back behind it": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, excepting(net, time.Hour, known))
				enforcetest.Bans(t, e, by(ban.ByHand, enforcetest.For("192.0.0.0/16", time.Minute)), excepting("192.0.2.0/25", time.Hour, "192.0.2.8"))
				if got := enforcetest.Exceptions(t, e); got != "" {
					t.Errorf("beside a ban by hand: %s", got)
				}
				unban(t, e, "192.0.0.0/16")
			},
			want: "192.0.2.7 for 1h0m0s, 192.0.2.8 for 1h0m0s",
		},
		"give way to a list": {
			do: func(t *testing.T, e *enforce.Enforcer) {
				enforcetest.Bans(t, e, excepting(net, time.Hour, known), by(ban.ByHand, enforcetest.For("192.0.2.0/28", 0)))
			},
		},
		"come back with the daemon": {
			restored: []ban.Ban{excepting(net, time.Hour, known)},
			want:     "192.0.2.7 for 1h0m0s",
		},
		"come back with the daemon, but not against a ban by hand": {
			restored: []ban.Ban{excepting(net, time.Hour, known), by(ban.ByHand, enforcetest.For("192.0.0.0/16", time.Hour))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{}, tt.restored...)
			if tt.do != nil {
				tt.do(t, e)
			}
			if got := enforcetest.Exceptions(t, e); got != tt.want {
				t.Errorf("exceptions %q, want %q", got, tt.want)
			}
			if _, wrong, err := e.Compare(t.Context()); err != nil || len(wrong) > 0 {
				t.Errorf("Compare = %q, %v; want nothing wrong", wrong, err)
			}
		})
	}
}

func TestTooManyExceptionsAreRefused(t *testing.T) {
	b := enforcetest.For("192.0.2.0/24", time.Hour)
	for a := netip.MustParseAddr("192.0.2.1"); len(b.Except) <= ban.MaxExcept; a = a.Next() {
		b.Except = append(b.Except, a)
	}
	e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{})
	results, err := e.BanNow(t.Context(), false, b)
	if err != nil || results[0].Err == nil {
		t.Errorf("a ban with %d exceptions: %v, %v; want an error", len(b.Except), results[0].Err, err)
	}
}

// TestExceptionsAreReconciled loses an exception, adds a foreign one, and loses everything.
func TestExceptionsAreReconciled(t *testing.T) {
	var f enforcetest.Fake
	e := enforcetest.Start(t, &f, enforce.Options{})
	enforcetest.Bans(t, e, excepting("192.0.2.0/24", time.Hour, "192.0.2.7"))
	for name, damage := range map[string]func(){
		"an exception is lost": func() { f.LoseException(netip.MustParseAddr("192.0.2.7")) },
		"a foreign one is added": func() {
			f.Apply(t.Context(), enforce.Changes{Except: []enforce.Element{{Prefix: netip.MustParsePrefix("192.0.2.9/32"), Timeout: enforce.Permanent}}})
		},
		"everything is lost": func() { f.Lose("") },
	} {
		damage()
		if _, wrong, err := e.Compare(t.Context()); err != nil || len(wrong) == 0 {
			t.Errorf("%s: Compare = %q, %v; want something wrong", name, wrong, err)
		}
		if err := e.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := enforcetest.Exceptions(t, e), "192.0.2.7 for 1h0m0s"; got != want {
			t.Errorf("%s: exceptions %q after the repair, want %q", name, got, want)
		}
	}
}

// TestExceptionsOfUnknownBansAreKept has a daemon without records take over what the kernel holds.
func TestExceptionsOfUnknownBansAreKept(t *testing.T) {
	var f enforcetest.Fake
	hour := enforce.Timeout(time.Hour)
	f.Rebuild(t.Context(), enforce.Changes{
		Except: []enforce.Element{{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Timeout: hour}, {Prefix: netip.MustParsePrefix("203.0.113.7/32"), Timeout: hour}},
		Bans:   []enforce.Change{{Key: enforcetest.Key("192.0.2.0/24"), Timeout: hour}},
	})
	e := enforcetest.Start(t, &f, enforce.Options{})
	if got, want := enforcetest.Exceptions(t, e), "192.0.2.7 for 1h0m0s"; got != want {
		t.Errorf("exceptions %q, want %q", got, want)
	}
}

// TestExceptedAddressesKeepTheirSessions hears which addresses' sessions are not to be ended.
func TestExceptedAddressesKeepTheirSessions(t *testing.T) {
	spared := make(chan string, 10)
	e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{OnVerified: func(keys []ban.Key, set prefixset.Set) {
		var s []string
		for _, p := range set.Prefixes() {
			s = append(s, p.String())
		}
		spared <- strings.Join(s, " ")
	}})
	enforcetest.Bans(t, e, enforcetest.For("192.0.2.8", time.Hour))
	<-spared
	enforcetest.Bans(t, e, excepting("192.0.2.0/24", time.Hour, "192.0.2.7", "192.0.2.8"))
	if got, want := <-spared, "192.0.2.7/32"; got != want {
		t.Errorf("spared %q, want %q: the other is banned itself", got, want)
	}
}

func unban(t *testing.T, e *enforce.Enforcer, key string) {
	t.Helper()
	if err := e.Unban(t.Context(), 0, enforcetest.Key(key)); err != nil {
		t.Fatal(err)
	}
}
