package enforce_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/prefixset"
)

func TestFakeKeepsThePromises(t *testing.T) {
	enforcetest.Promises(t, func(testing.TB) enforce.Backend { return &enforcetest.Fake{} })
}

func TestTimeout(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		until time.Time
		want  enforce.Timeout
		ms    uint64
	}{
		"no end":              {time.Time{}, enforce.Permanent, 0},
		"one hour left":       {now.Add(time.Hour), enforce.Timeout(time.Hour), 3_600_000},
		"half a second left":  {now.Add(time.Second / 2), enforce.MinTimeout, 1000},
		"a nanosecond left":   {now.Add(1), enforce.MinTimeout, 1000},
		"already past":        {now.Add(-time.Hour), enforce.MinTimeout, 1000}, // not 0, which is forever
		"a second and a half": {now.Add(1500 * time.Millisecond), enforce.Timeout(1500 * time.Millisecond), 1500},
	} {
		t.Run(name, func(t *testing.T) {
			got := enforce.TimeoutUntil(tt.until, now)
			ms, err := got.Milliseconds()
			if got != tt.want || ms != tt.ms || err != nil {
				t.Errorf("TimeoutUntil = %v, %d ms, %v; want %v, %d ms", got, ms, err, tt.want, tt.ms)
			}
		})
	}
	for _, bad := range []enforce.Timeout{0, 1, enforce.Timeout(999 * time.Millisecond), -2} {
		if ms, err := bad.Milliseconds(); err == nil {
			t.Errorf("timeout %d became %d ms; want an error", bad, ms)
		}
	}
}

func TestRefuse(t *testing.T) {
	for name, tt := range map[string]struct {
		key          string
		plain, force string // the errors; "" for none
	}{
		"a host":              {"192.0.2.7", "", ""},
		"widest without":      {"10.0.0.0/16", "", ""},
		"too wide":            {"10.0.0.0/15", "ban 10.0.0.0/15 refused: it is wider than /16; use --force to ban it nevertheless", ""},
		"IPv6 too wide":       {"2001:db0::/31", "ban 2001:db0::/31 refused: it is wider than /32; use --force to ban it nevertheless", ""},
		"loopback":            {"127.0.0.1", "ban 127.0.0.1 refused: 127.0.0.1 is loopback, which is never banned", "same"},
		"IPv6 loopback":       {"::1", "ban ::1 refused: ::1 is loopback, which is never banned", "same"},
		"contains loopback":   {"126.0.0.0/7", "ban 126.0.0.0/7 refused: 127.0.0.0/8 is loopback, which is never banned", "same"},
		"everything":          {"0.0.0.0/0", "ban 0.0.0.0/0 refused: 127.0.0.0/8 is loopback, which is never banned", "same"},
		"link-local":          {"fe80::7", "ban fe80::7 refused: fe80::7 is link-local, which is never banned", "same"},
		"within link-local":   {"169.254.3.0/24", "ban 169.254.3.0/24 refused: 169.254.3.0/24 is link-local, which is never banned", "same"},
		"multicast":           {"ff02::1", "ban ff02::1 refused: ff02::1 is multicast, which is never banned", "same"},
		"unspecified":         {"::", "ban :: refused: :: is unspecified, which is never banned", "same"},
		"broadcast":           {"255.255.255.255", "ban 255.255.255.255 refused: 255.255.255.255 is broadcast, which is never banned", "same"},
		"mapped loopback":     {"::ffff:127.0.0.1", "ban 127.0.0.1 refused: 127.0.0.1 is loopback, which is never banned", "same"},
		"mapped prefix":       {"::ffff:10.0.0.0/111", "ban 10.0.0.0/15 refused: it is wider than /16; use --force to ban it nevertheless", ""},
		"more than all ports": {"192.0.2.7 ports 1-65535", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.force == "same" {
				tt.force = tt.plain
			}
			key := enforce.Normalize(enforcetest.Key(tt.key))
			for force, want := range map[bool]string{false: tt.plain, true: tt.force} {
				got := ""
				if err := enforce.Refuse(key, force); err != nil {
					got = err.Error()
				}
				if got != want {
					t.Errorf("force %v: error %q, want %q", force, got, want)
				}
			}
		})
	}
	for name, k := range map[string]ban.Key{
		"no prefix":            {},
		"ports not canonical":  {Prefix: netip.MustParsePrefix("192.0.2.7/32"), Ports: "465,25"},
		"ports that are none":  {Prefix: netip.MustParsePrefix("192.0.2.7/32"), Ports: "22 drop"},
		"too many port ranges": {Prefix: netip.MustParsePrefix("192.0.2.7/32"), Ports: manyPorts()},
	} {
		if enforce.Refuse(k, true) == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

func manyPorts() ban.Ports {
	s := "1"
	for i := 3; i < 200; i += 2 {
		s += fmt.Sprintf(",%d", i)
	}
	p, _ := ban.ParsePorts(s)
	return p
}

// A log collects what an Enforcer tells.
type log struct {
	mu       sync.Mutex
	results  []enforce.Result
	verified []ban.Key
	lifted   []ban.Key
	ended    []ban.Key
	full     bool
	repairs  []enforce.Repair
}

func (l *log) options() enforce.Options {
	return enforce.Options{
		OnResult: func(r []enforce.Result) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.results = append(l.results, r...)
		},
		OnVerified: func(k []ban.Key, _ prefixset.Set) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.verified = append(l.verified, k...)
		},
		OnLifted: func(k []ban.Key) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.lifted = append(l.lifted, k...)
		},
		OnEnded: func(k []ban.Key, full bool) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ended, l.full = append(l.ended, k...), full
		},
		OnRepair: func(r enforce.Repair) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.repairs = append(l.repairs, r)
		},
	}
}

// A counter is a packet filter that counts how often each ban is written.
type counter struct {
	enforcetest.Fake
	mu     sync.Mutex
	writes map[ban.Key]int
}

func (c *counter) Apply(ctx context.Context, changes enforce.Changes) ([]enforce.Failure, error) {
	c.mu.Lock()
	for _, b := range changes.Bans {
		c.writes[b.Key]++
	}
	c.mu.Unlock()
	return c.Fake.Apply(ctx, changes)
}

// However often a ban comes while a transaction waits, it is written once, with its latest end, and each request gets its result.
func TestABanThatComesTwiceIsWrittenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		filter := &counter{writes: map[ban.Key]int{}}
		e := enforce.New(filter, l.options())
		const n = 100
		for i := range n {
			for _, d := range []time.Duration{time.Hour, 3 * time.Hour, 2 * time.Hour} {
				if err := e.Ban(t.Context(), enforcetest.For(fmt.Sprintf("192.0.2.%d", i), d)); err != nil {
					t.Fatal(err)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		go e.Run(ctx)
		synctest.Wait()
		if len(filter.writes) != n || len(l.results) != 3*n {
			t.Errorf("%d bans were written, %d results; want %d, %d", len(filter.writes), len(l.results), n, 3*n)
		}
		for k, times := range filter.writes {
			if times != 1 {
				t.Errorf("ban %s was written %d times", k, times)
			}
		}
		for i, r := range l.results {
			if want := i%3 < 2; r.Err != nil || r.Changed != want || !r.Until.Equal(began.Add(3*time.Hour)) {
				t.Errorf("result %d: %+v, want a ban until the latest end; changed %v", i, r, want)
			}
		}
	})
}

func TestBansThatWaitAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		fake := &enforcetest.Fake{}
		e := enforce.New(fake, l.options())
		for i := range 500 {
			if err := e.Ban(t.Context(), enforcetest.For(fmt.Sprintf("192.0.%d.%d", i/250, i%250), time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go e.Run(ctx)
		synctest.Wait()
		if len(l.results) != 500 || len(l.verified) != 500 {
			t.Errorf("told of %d results and %d verified bans, want 500", len(l.results), len(l.verified))
		}
		for _, r := range l.results {
			if r.Err != nil || r.At.IsZero() || !r.Changed {
				t.Errorf("result %+v, want a ban that began", r)
			}
		}
		if n := fake.Writes(); n != 2 { // the table and one batch
			t.Errorf("%d transactions, want 2", n)
		}
		cancel()
	})
}

func TestBanWaitsWhileTheQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := enforce.New(&enforcetest.Fake{}, enforce.Options{}) // nobody runs it
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		n := 0
		for ; err == nil; n++ {
			err = e.Ban(ctx, enforcetest.For("192.0.2.7", time.Hour))
		}
		if !errors.Is(err, context.DeadlineExceeded) || n < 100 {
			t.Errorf("after %d bans: %v; want the deadline after many", n, err)
		}
	})
}

func TestCallsEndWhenRunDoes(t *testing.T) {
	e := enforce.New(&enforcetest.Fake{}, enforce.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Unban(t.Context(), 0, enforcetest.Key("192.0.2.7")); !errors.Is(err, enforce.ErrStopped) {
		t.Errorf("Unban = %v, want ErrStopped", err)
	}
	if _, err := e.BanNow(t.Context(), false, enforcetest.For("192.0.2.7", 0)); !errors.Is(err, enforce.ErrStopped) {
		t.Errorf("BanNow = %v, want ErrStopped", err)
	}
}

// Without a packet filter bans wait. They are in force as soon as there is one, and each request has an answer meanwhile.
func TestBansWaitForAPacketFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		fake := &enforcetest.Fake{}
		fake.Fail(syscall.EPERM)
		e := enforcetest.Start(t, fake, l.options())
		if results, err := e.BanNow(t.Context(), false, enforcetest.For("192.0.2.7", time.Hour)); err != nil || !errors.Is(results[0].Err, syscall.EPERM) {
			t.Errorf("BanNow = %v, %v; want EPERM", results, err)
		}
		if _, err := e.Held(t.Context()); !errors.Is(err, syscall.EPERM) {
			t.Errorf("Held: %v, want EPERM", err)
		}
		time.Sleep(10 * time.Minute)
		if s := e.Status(); s.Ready || !strings.Contains(s.Problem, syscall.EPERM.Error()) || s.Bans != 1 {
			t.Errorf("status %+v, want one ban that waits, and the reason", s)
		}
		if r, err := e.Report(t.Context()); err != nil || r.Present || len(r.Problems) != 1 {
			t.Errorf("report %+v, %v; want the problem once", r, err)
		}
		fake.Fail(nil)
		time.Sleep(time.Minute)
		if s := e.Status(); !s.Ready || s.Problem != "" || s.Repairs != 0 {
			t.Errorf("status %+v, want all well, without a repair", s)
		}
		if state, err := e.Held(t.Context()); err != nil || len(state.Bans) != 1 {
			t.Errorf("the kernel holds %v (%v), want the ban", state.Bans, err)
		}
	})
}

func TestWhatOthersUndoIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		fake := &enforcetest.Fake{}
		opt := l.options()
		opt.Allow = prefixset.New(netip.MustParsePrefix("198.51.100.1/32"))
		e := enforcetest.Start(t, fake, opt)
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0), enforcetest.For("2001:db8::/64", time.Hour))
		time.Sleep(time.Second) // it has begun to listen, and looked once
		for name, undo := range map[string]func(){
			"all":     func() { fake.Lose("nft[4711]") },
			"one ban": func() { fake.LoseBan(enforcetest.Key("192.0.2.7"), "nft[4711]") },
			"all, while it is looked at": func() {
				fake.LoseAfterCheck()
				fake.LoseBan(enforcetest.Key("192.0.2.7"), "nft[4711]")
			},
		} {
			before := e.Status().Repairs
			undo()
			time.Sleep(time.Second)
			synctest.Wait()
			if got := enforcetest.Lists(t, e); got != "192.0.2.7\n2001:db8::/64 for 1h0m0s\n" {
				t.Errorf("a second after losing %s the bans are:\n%s", name, got)
			}
			if s, _ := e.Held(t.Context()); !s.Allow.Equal(opt.Allow) {
				t.Errorf("after losing %s the allow set is %v", name, s.Allow.Ranges())
			}
			if s := e.Status(); s.Repairs != before+1 || s.LastRepair.By != "nft[4711]" || s.Problem != "" {
				t.Errorf("after losing %s: status %+v", name, s)
			}
		}
		if len(l.repairs) != 3 {
			t.Errorf("told of %d repairs, want 3", len(l.repairs))
		}
	})
}

func TestWhatNobodyTellsIsFoundHoweverBusyWeAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &enforcetest.Fake{}
		e := enforcetest.Start(t, fake, enforce.Options{})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0))
		time.Sleep(time.Second)
		fake.LoseBan(enforcetest.Key("192.0.2.7"), "")
		for range 10 {
			time.Sleep(10 * time.Second)
			enforcetest.Bans(t, e, enforcetest.For("192.0.2.8", time.Hour))
		}
		if s, err := e.Held(t.Context(), enforcetest.Key("192.0.2.7")); err != nil || len(s.Bans) != 1 {
			t.Errorf("the lost ban is held: %v, %v; want it back", s.Bans, err)
		}
	})
}

// A long list of bans is read in pieces, and where some of them end meanwhile, the kernel passes over others. These hold all the
// same: nobody has undone them.
func TestOverlookedBansHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &enforcetest.Fake{}
		e := enforcetest.Start(t, fake, enforce.Options{})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("192.0.2.8", time.Hour))
		time.Sleep(time.Second)
		fake.Overlook(enforcetest.Key("192.0.2.7"))
		if err := e.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := e.Status(); s.Repairs != 0 || s.Problem != "" {
			t.Errorf("status %+v, want no repair", s)
		}
		fake.Overlook(enforcetest.Key("192.0.2.8"))
		if s, err := e.Held(t.Context()); err != nil || len(s.Bans) != 2 || s.Bans[1].Unknown {
			t.Errorf("Held = %+v, %v; want both bans", s.Bans, err)
		}
	})
}

// What a change takes back must not come back where the change fails at first, because our objects are damaged.
func TestATakingBackOutlivesDamage(t *testing.T) {
	for name, tt := range map[string]struct {
		max   int
		grace bool
		ban   string
		want  string
	}{
		"the grace of who is banned by hand": {grace: true, ban: "192.0.2.9", want: "192.0.2.7 for 1m0s\n192.0.2.9 for 1h0m0s\n"},
		"the ban that gives way":             {max: 1, ban: "192.0.2.8", want: "192.0.2.8 for 1h0m0s\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &enforcetest.Fake{}
				e := enforcetest.Start(t, fake, enforce.Options{MaxBans: tt.max})
				enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Minute))
				if tt.grace {
					if err := e.Grace(t.Context(), time.Hour, netip.MustParseAddr("192.0.2.9")); err != nil {
						t.Fatal(err)
					}
				}
				fake.Break()
				b := enforcetest.For(tt.ban, time.Hour)
				b.Rule = ban.ByHand
				if results, err := e.BanNow(t.Context(), false, b); err != nil || results[0].Err != nil {
					t.Fatalf("BanNow = %+v, %v", results, err)
				}
				if got := enforcetest.Lists(t, e); got != tt.want {
					t.Errorf("bans:\n%swant:\n%s", got, tt.want)
				}
				if s, err := e.Held(t.Context()); err != nil || len(s.Grace) > 0 {
					t.Errorf("grace %v (%v), want none", s.Grace, err)
				}
			})
		})
	}
}

// The kernel ends bans by a clock that nobody sets. A ban of ten minutes lasts ten minutes, whatever happens to the time of day, and
// nobody has changed it then.
func TestAClockThatIsSetMovesTheEndsOfBans(t *testing.T) {
	for name, by := range map[string]time.Duration{"back": time.Hour, "forward": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &enforcetest.Fake{}
				e := enforcetest.Start(t, fake, enforce.Options{})
				// Two hours by the clock as it was, which was ahead of the one as it is.
				enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 2*time.Hour+by), enforcetest.For("192.0.2.8", 0))
				time.Sleep(time.Second)
				fake.Apply(t.Context(), enforce.Changes{Bans: []enforce.Change{{Key: enforcetest.Key("192.0.2.7"), Timeout: enforce.Timeout(2 * time.Hour)}}})
				if err := e.SetBack(t.Context(), by); err != nil {
					t.Fatal(err)
				}
				if _, wrong, err := e.Compare(t.Context()); err != nil || len(wrong) > 0 {
					t.Errorf("Compare finds %q wrong (%v)", wrong, err)
				}
				if err := e.Repair(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := enforcetest.Lists(t, e); got != "192.0.2.7 for 2h0m0s\n192.0.2.8\n" {
					t.Errorf("the bans are:\n%s", got)
				}
				if s := e.Status(); s.Repairs != 0 || s.Unknown != 0 || s.Bans != 2 {
					t.Errorf("status %+v, want no repair", s)
				}
			})
		})
	}
}

// TestRepairsBackOffAndNeverEnd has another program flush everything whenever it is restored.
func TestRepairsBackOffAndNeverEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		fake := &enforcetest.Fake{}
		e := enforcetest.Start(t, fake, l.options())
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0))
		// restored returns how long after a loss the ban holds again.
		restored := func() time.Duration {
			began, before := time.Now(), e.Status().Repairs
			fake.Lose("cron[7]")
			for e.Status().Repairs == before {
				if time.Since(began) > time.Hour {
					t.Fatal("never restored")
				}
				if time.Since(began) > time.Second {
					if p := e.Status().Problem; !strings.Contains(p, "cron[7] keeps changing our table: the next repair is at ") {
						t.Errorf("problem %q, want who does it and when the next repair is", p)
					}
				}
				time.Sleep(50 * time.Millisecond)
				synctest.Wait()
			}
			if got := enforcetest.Lists(t, e); got != "192.0.2.7\n" {
				t.Errorf("after the repair the bans are:\n%s", got)
			}
			return time.Since(began).Truncate(time.Second)
		}
		for i, want := range []time.Duration{0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30, 30} {
			if got := restored(); got != want*time.Second {
				t.Errorf("loss %d was restored after %v, want %v", i+1, got, want*time.Second)
			}
			if p := e.Status().Problem; p != "" {
				t.Errorf("problem %q after a repair", p)
			}
		}

		// A new ban does not wait, whether the loss was noticed before or not.
		for _, notice := range []time.Duration{0, time.Second} {
			fake.Lose("cron[7]")
			time.Sleep(notice)
			synctest.Wait()
			enforcetest.Bans(t, e, enforcetest.For("192.0.2.8", 0))
			if got := enforcetest.Lists(t, e); got != "192.0.2.7\n192.0.2.8\n" {
				t.Errorf("with a new ban the bans are:\n%s", got)
			}
		}
		if err := e.Unban(t.Context(), 0, enforcetest.Key("192.0.2.8")); err != nil {
			t.Error(err)
		}

		fake.Lose("cron[7]")
		time.Sleep(time.Second)
		if err := e.Repair(t.Context()); err != nil {
			t.Errorf("Repair by the operator: %v", err)
		}
		if got := enforcetest.Lists(t, e); got != "192.0.2.7\n" {
			t.Errorf("after Repair the bans are:\n%s", got)
		}
		time.Sleep(2 * time.Minute) // of peace
		if got := restored(); got != 0 {
			t.Errorf("restored after %v, want at once: this is no streak any more", got)
		}
	})
}

// TestRefusedExtensionIsTriedAgain has no memory for the longer ban: the shorter one holds, and is extended once there is memory.
func TestRefusedExtensionIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &enforcetest.Fake{}
		var ended []ban.Key
		e := enforcetest.Start(t, fake, enforce.Options{OnEnded: func(keys []ban.Key, _ bool) { ended = append(ended, keys...) }})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour))
		fake.Refuse(func(ban.Key, int) error { return syscall.EINVAL })
		results, err := e.BanNow(t.Context(), false, enforcetest.For("192.0.2.7", 2*time.Hour), enforcetest.For("192.0.2.8", time.Hour))
		if err != nil || !errors.Is(results[0].Err, syscall.EINVAL) || !errors.Is(results[1].Err, syscall.EINVAL) {
			t.Errorf("BanNow = %+v, %v; want both refused", results, err)
		}
		synctest.Wait()
		if s := e.Status(); s.Bans != 1 || !strings.Contains(s.Problem, "extend ban 192.0.2.7") {
			t.Errorf("status %+v, want one ban, and that it is to be extended", s)
		}
		if len(ended) != 1 || ended[0] != enforcetest.Key("192.0.2.8") {
			t.Errorf("ended: %v, want the new ban alone", ended)
		}
		time.Sleep(10 * time.Second)
		if got := enforcetest.Lists(t, e); got != "192.0.2.7 for 1h0m0s\n" {
			t.Errorf("while there is no memory the bans are:\n%s", got)
		}
		fake.Refuse(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := enforcetest.Lists(t, e); got != "192.0.2.7 for 1h59m0s\n" {
			t.Errorf("once there is memory the bans are:\n%s", got)
		}
		if s := e.Status(); s.Problem != "" || s.Unknown != 0 {
			t.Errorf("status %+v, want no problem", s)
		}
	})
}

func TestTroubleIsShownAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &enforcetest.Fake{}
		e := enforcetest.Start(t, fake, enforce.Options{})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0))
		fake.Fail(syscall.ENOBUFS)
		results, err := e.BanNow(t.Context(), false, enforcetest.For("192.0.2.8", 0))
		if err != nil || !errors.Is(results[0].Err, syscall.ENOBUFS) {
			t.Errorf("BanNow = %+v, %v; want ENOBUFS", results, err)
		}
		synctest.Wait()
		if e.Status().Problem == "" {
			t.Error("status shows no problem")
		}
		fake.Fail(nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := enforcetest.Lists(t, e); got != "192.0.2.7\n192.0.2.8\n" {
			t.Errorf("two seconds after the trouble the bans are:\n%s", got)
		}
		if p := e.Status().Problem; p != "" {
			t.Errorf("the problem is still %q", p)
		}
	})
}

func TestARefusedBanDelaysNoOther(t *testing.T) {
	fake := &enforcetest.Fake{}
	bad := enforcetest.Key("192.0.2.8")
	fake.Refuse(func(k ban.Key, _ int) error {
		if k == bad {
			return syscall.EINVAL
		}
		return nil
	})
	e := enforcetest.Start(t, fake, enforce.Options{})
	results, err := e.BanNow(t.Context(), false, enforcetest.For("192.0.2.7", 0), enforcetest.For("192.0.2.8", 0), enforcetest.For("192.0.2.9", 0))
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Err != nil || !errors.Is(results[1].Err, syscall.EINVAL) || results[2].Err != nil {
		t.Errorf("results %+v, want only the second refused", results)
	}
	if got := enforcetest.Lists(t, e); got != "192.0.2.7\n192.0.2.9\n" {
		t.Errorf("bans:\n%s", got)
	}
}

func TestWhenFullTheShortestGoFirst(t *testing.T) {
	t.Run("by our own bound", func(t *testing.T) {
		e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{MaxBans: 3})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.1", 0), enforcetest.For("192.0.2.2", time.Minute), enforcetest.For("192.0.2.3", time.Hour))
		results, err := e.BanNow(t.Context(), false, enforcetest.For("192.0.2.4", 2*time.Minute), enforcetest.For("192.0.2.5", time.Second))
		if err != nil || results[0].Err != nil || !errors.Is(results[1].Err, enforce.ErrFull) {
			t.Errorf("results %+v, %v; want the second to give way", results, err)
		}
		if got := enforcetest.Lists(t, e); got != "192.0.2.1\n192.0.2.3 for 1h0m0s\n192.0.2.4 for 2m0s\n" {
			t.Errorf("bans:\n%s", got)
		}
		if n := e.Status().Evicted; n != 2 {
			t.Errorf("%d evicted, want 2", n)
		}
	})
	t.Run("by the kernel's", func(t *testing.T) {
		fake := &enforcetest.Fake{}
		e := enforcetest.Start(t, fake, enforce.Options{})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.1", time.Minute), enforcetest.For("192.0.2.2", time.Hour))
		fake.Refuse(func(_ ban.Key, held int) error {
			if held >= 2 {
				return syscall.ENFILE
			}
			return nil
		})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.3", 2*time.Hour))
		if got := enforcetest.Lists(t, e); got != "192.0.2.2 for 1h0m0s\n192.0.2.3 for 2h0m0s\n" {
			t.Errorf("bans:\n%s", got)
		}
	})
}

// Whoever counts on a ban is told when it does not hold any more, and the kernel has nothing of it.
func TestBansThatDoNotHoldAreTold(t *testing.T) {
	refuse := func(err error, when func(k ban.Key, held int) bool) func(*enforcetest.Fake) {
		return func(fake *enforcetest.Fake) {
			fake.Refuse(func(k ban.Key, held int) error {
				if when(k, held) {
					return err
				}
				return nil
			})
		}
	}
	for name, tt := range map[string]struct {
		max    int
		before []string                // banned for a minute
		then   func(*enforcetest.Fake) // what happens to the kernel
		bans   map[string]time.Duration
		lift   string
		ended  string
		held   string
	}{
		"refused": {
			then: refuse(syscall.EINVAL, func(k ban.Key, _ int) bool { return k == enforcetest.Key("192.0.2.8") }),
			bans: map[string]time.Duration{"192.0.2.7": time.Hour, "192.0.2.8": time.Hour}, ended: "192.0.2.8",
			held: "192.0.2.7 for 1h0m0s\n",
		},
		"one too many": {
			max: 1, before: []string{"192.0.2.7"}, bans: map[string]time.Duration{"192.0.2.8": time.Hour}, ended: "192.0.2.7",
			held: "192.0.2.8 for 1h0m0s\n",
		},
		"one too many, just extended": {
			max: 1, before: []string{"192.0.2.7"}, ended: "192.0.2.7",
			bans: map[string]time.Duration{"192.0.2.7": 2 * time.Minute, "192.0.2.8": time.Hour},
			held: "192.0.2.8 for 1h0m0s\n",
		},
		"no room in the kernel": {
			before: []string{"192.0.2.7"}, then: refuse(syscall.ENOMEM, func(_ ban.Key, held int) bool { return held > 0 }),
			bans: map[string]time.Duration{"192.0.2.8": time.Hour}, ended: "192.0.2.7", held: "192.0.2.8 for 1h0m0s\n",
		},
		"lifted": {before: []string{"192.0.2.7", "192.0.2.8"}, lift: "192.0.2.8", held: "192.0.2.7 for 1m0s\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var l log
			fake := &enforcetest.Fake{}
			opt := l.options()
			opt.MaxBans = tt.max
			e := enforcetest.Start(t, fake, opt)
			for _, key := range tt.before {
				enforcetest.Bans(t, e, enforcetest.For(key, time.Minute))
			}
			if tt.then != nil {
				tt.then(fake)
			}
			var bans []ban.Ban
			for key, d := range tt.bans {
				bans = append(bans, enforcetest.For(key, d))
			}
			if _, err := e.BanNow(t.Context(), false, bans...); err != nil {
				t.Fatal(err)
			}
			if tt.lift != "" {
				if err := e.Unban(t.Context(), 0, enforcetest.Key(tt.lift)); err != nil {
					t.Fatal(err)
				}
			}
			if got := enforcetest.Lists(t, e); got != tt.held {
				t.Errorf("bans:\n%swant:\n%s", got, tt.held)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if tt.lift != "" && (len(l.lifted) != 1 || l.lifted[0] != enforcetest.Key(tt.lift)) {
				t.Errorf("told of %v lifted, want %s", l.lifted, tt.lift)
			}
			var ended []string
			for _, k := range l.ended {
				ended = append(ended, k.String())
			}
			if got, full := strings.Join(ended, " "), name != "refused" && tt.ended != ""; got != tt.ended || l.full != full {
				t.Errorf("told of the end of %q (full: %v), want %q, %v", got, l.full, tt.ended, full)
			}
		})
	}
}

// The sessions of banned peers are ended when a ban begins, and again when it had been undone: they may have come back. Nobody ends
// those of a peer whose packets may be forged.
func TestVerifiedBansAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		fake := &enforcetest.Fake{}
		e := enforcetest.Start(t, fake, l.options(), enforcetest.For("192.0.2.5", 0), enforcetest.For("192.0.2.6 unverified", time.Minute))
		time.Sleep(time.Second)
		told := func(when, want string) {
			t.Helper()
			synctest.Wait() // what took effect is reported after whoever asked for it has the answer
			l.mu.Lock()
			defer l.mu.Unlock()
			var got []string
			for _, k := range l.verified {
				got = append(got, k.String())
			}
			slices.Sort(got)
			if strings.Join(got, " ") != want {
				t.Errorf("%s: told of %q, want %q", when, got, want)
			}
			l.verified = nil
		}
		told("restored into an empty kernel", "192.0.2.5")
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("192.0.2.8 unverified", time.Minute), enforcetest.For("192.0.2.9 ports 22", 0))
		told("begun", "192.0.2.7 192.0.2.9 ports 22")
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Minute))
		told("held longer already", "")
		fake.LoseBan(enforcetest.Key("192.0.2.7"), "nft[1]")
		time.Sleep(time.Second)
		told("one put back", "192.0.2.7")
		fake.Lose("nft[1]")
		time.Sleep(time.Second)
		told("all put back", "192.0.2.5 192.0.2.7 192.0.2.9 ports 22")
	})
}

func TestCompareSaysWhatIsWrong(t *testing.T) {
	allow := prefixset.New(netip.MustParsePrefix("198.51.100.0/24"))
	for name, tt := range map[string]struct {
		damage func(*enforcetest.Fake)
		want   string
	}{
		"nothing": {func(*enforcetest.Fake) {}, ""},
		"a ban":   {func(f *enforcetest.Fake) { f.LoseBan(enforcetest.Key("192.0.2.7"), "") }, "ban 192.0.2.7"},
		"the end of a ban": {func(f *enforcetest.Fake) {
			f.Apply(t.Context(), enforce.Changes{Bans: []enforce.Change{{Key: enforcetest.Key("192.0.2.7"), Timeout: enforce.Timeout(time.Minute)}}})
		}, "ban 192.0.2.7"},
		"the allow set": {func(f *enforcetest.Fake) { f.Apply(t.Context(), enforce.Changes{Allow: &prefixset.Set{}}) }, "allow"},
		"a grace period": {func(f *enforcetest.Fake) {
			f.Apply(t.Context(), enforce.Changes{Grace: []enforce.Element{{Prefix: netip.MustParsePrefix("203.0.113.9/32"), Remove: true}}})
		}, "grace"},
		"everything": {func(f *enforcetest.Fake) { f.Lose("") }, "table, allow, grace, ban 192.0.2.7, ban 192.0.2.8"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &enforcetest.Fake{}
				e := enforcetest.Start(t, fake, enforce.Options{Allow: allow})
				enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("192.0.2.8", 0))
				if err := e.Grace(t.Context(), time.Hour, netip.MustParseAddr("203.0.113.9")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second) // its look at the start is over
				tt.damage(fake)
				state, wrong, err := e.Compare(t.Context())
				slices.Sort(wrong[len(wrong)-min(2, len(wrong)):]) // bans come in any order
				if got := strings.Join(wrong, ", "); err != nil || got != tt.want {
					t.Errorf("Compare finds %q wrong (%v), want %q", got, err, tt.want)
				}
				if tt.want == "" && len(state.Bans) != 2 {
					t.Errorf("it read %d bans, want 2", len(state.Bans))
				}
				if err := e.Repair(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, wrong, err := e.Compare(t.Context()); err != nil || len(wrong) > 0 {
					t.Errorf("after the repair Compare finds %q wrong (%v)", wrong, err)
				}
			})
		})
	}
}

// What comes and goes while the kernel is read is not wrong.
func TestCompareInAStorm(t *testing.T) {
	e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{})
	ctx, looked := context.WithCancel(t.Context())
	defer looked()
	storm := make(chan error)
	go func() {
		var err error
		for i := 0; err == nil && (i < 2000 || ctx.Err() == nil); i++ {
			key := fmt.Sprintf("192.0.%d.%d", i/250%8, i%250)
			err = e.Ban(t.Context(), enforcetest.For(key, time.Hour))
			if err == nil && i%7 == 0 {
				err = e.Unban(t.Context(), 0, enforcetest.Key(key))
			}
		}
		storm <- err
	}()
	for looks := 0; ; looks++ {
		if looks == 100 {
			looked()
		}
		select {
		case err := <-storm:
			if err != nil {
				t.Error(err)
			}
			return
		default:
			if _, wrong, err := e.Compare(t.Context()); err != nil || len(wrong) > 0 {
				t.Fatalf("look %d finds %q wrong (%v)", looks, wrong, err)
			}
		}
	}
}

// A ban inside another that does as much is the first to give way.
func TestWhenFullNeedlessBansGoFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		bans map[string]time.Duration // one too many
		gone string
	}{
		"inside a wider ban":     {map[string]time.Duration{"192.0.2.7": time.Hour, "192.0.2.0/24": 2 * time.Hour, "198.51.100.1": time.Minute}, "192.0.2.7"},
		"inside one of IPv6":     {map[string]time.Duration{"2001:db8:7::1": time.Hour, "2001:db8:7::/48": 0, "198.51.100.1": time.Minute}, "2001:db8:7::1"},
		"of ports inside of all": {map[string]time.Duration{"192.0.2.7 ports 22": time.Hour, "192.0.2.0/24": 2 * time.Hour, "198.51.100.1": time.Minute}, "192.0.2.7 ports 22"},
		"inside a shorter one":   {map[string]time.Duration{"192.0.2.7": time.Hour, "192.0.2.0/24": 30 * time.Minute, "198.51.100.1": time.Minute}, "198.51.100.1"},
		"inside one of ports":    {map[string]time.Duration{"192.0.2.7": time.Hour, "192.0.2.0/24 ports 22": 2 * time.Hour, "198.51.100.1": time.Minute}, "198.51.100.1"},
		"beside a wider one":     {map[string]time.Duration{"192.0.3.7": time.Hour, "192.0.2.0/24": 2 * time.Hour, "198.51.100.1": time.Minute}, "198.51.100.1"},
		"without end":            {map[string]time.Duration{"192.0.2.7": 0, "192.0.2.0/24": 0, "198.51.100.1": time.Minute}, "198.51.100.1"},
	} {
		t.Run(name, func(t *testing.T) {
			var l log
			opt := l.options()
			opt.MaxBans = 2
			e := enforcetest.Start(t, &enforcetest.Fake{}, opt)
			var bans []ban.Ban
			for key, d := range tt.bans {
				bans = append(bans, enforcetest.For(key, d))
			}
			if _, err := e.BanNow(t.Context(), false, bans...); err != nil {
				t.Fatal(err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(l.ended) != 1 || l.ended[0].String() != tt.gone || !l.full {
				t.Errorf("gone are %v (full: %v), want %s", l.ended, l.full, tt.gone)
			}
		})
	}
}

func TestAllowIsThereFromTheStart(t *testing.T) {
	allow := prefixset.New(netip.MustParsePrefix("192.0.2.0/24"))
	e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{Allow: allow})
	if s, err := e.Held(t.Context()); err != nil || !s.Allow.Equal(allow) {
		t.Errorf("allow set %v, %v; want %v", s.Allow.Ranges(), err, allow.Ranges())
	}
}

// TestUnverifiedBansSpareConnections has forged packets of a peer with an open connection, of others in its network, and of strangers.
func TestUnverifiedBansSpareConnections(t *testing.T) {
	peers, failure := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}, error(nil)
	e := enforcetest.Start(t, &enforcetest.Fake{}, enforce.Options{Connected: func([]netip.Prefix) ([]netip.Addr, error) { return peers, failure }})
	var refused *enforce.RefusedError
	for key, want := range map[string]bool{
		"192.0.2.7 unverified":          false,
		"192.0.2.7 ports 25 unverified": false,
		"192.0.2.8 unverified":          true,
		"2001:db8::/64 unverified":      true,
		"198.51.100.7":                  true,
	} {
		results, err := e.BanNow(t.Context(), false, enforcetest.For(key, time.Minute))
		if err != nil || (results[0].Err == nil) != want || !want && !errors.As(results[0].Err, &refused) {
			t.Errorf("%s: %v, %v; want a ban: %v", key, results[0].Err, err, want)
		}
	}
	if got, want := enforcetest.Exceptions(t, e), "2001:db8::7 for 1m0s"; got != want {
		t.Errorf("exceptions %q, want %q", got, want)
	}
	failure = syscall.EPERM
	results, err := e.BanNow(t.Context(), false, enforcetest.For("203.0.113.7 unverified", time.Minute), enforcetest.For("203.0.113.7", time.Minute))
	if err != nil || !errors.Is(results[0].Err, syscall.EPERM) || results[1].Err != nil {
		t.Errorf("with unknown connections: %v, %v, %v; want EPERM for the unverified one alone", results[0].Err, results[1].Err, err)
	}
}

// TestOverviewReadsNoSet counts bans of all kinds as they come, change and go, and finds what is missing.
func TestOverviewReadsNoSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &enforcetest.Fake{}
		e := enforcetest.Start(t, fake, enforce.Options{})
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", time.Hour), enforcetest.For("192.0.2.8", 0), enforcetest.For("192.0.2.9", 0),
			enforcetest.For("192.0.2.0/24 ports 25", time.Minute), enforcetest.For("2001:db8::/64", time.Hour), enforcetest.For("192.0.2.7 unverified", time.Hour))
		enforcetest.Bans(t, e, enforcetest.For("192.0.2.7", 0), enforcetest.For("192.0.2.8", time.Hour))
		overview := func() enforce.Tally {
			t.Helper()
			before := fake.Dumps()
			tally, wrong, err := e.Overview(t.Context())
			if err != nil || len(wrong) > 0 || fake.Dumps() != before {
				t.Errorf("overview: wrong %q, %v, all bans were read %d times; want none of it", wrong, err, fake.Dumps()-before)
			}
			return tally
		}
		if got, want := overview(), (enforce.Tally{Total: 6, IPv4: 5, IPv6: 1, Unverified: 1, Permanent: 3}); got != want {
			t.Errorf("overview %+v, want %+v", got, want)
		}
		if err := e.Unban(t.Context(), 0, enforcetest.Key("192.0.2.9"), enforcetest.Key("2001:db8::/64")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Minute) // the unverified one and the minute are over
		if got, want := overview(), (enforce.Tally{Total: 2, IPv4: 2, Permanent: 2}); got != want {
			t.Errorf("later the overview is %+v, want %+v", got, want)
		}
		fake.LoseBan(enforcetest.Key("192.0.2.8"), "")
		if got, wrong, err := e.Overview(t.Context()); err != nil || got.Total != 1 || !slices.Equal(wrong, []string{"ban 192.0.2.8"}) {
			t.Errorf("with a lost ban: %+v, %q, %v; want one ban, and the lost one named", got, wrong, err)
		}
	})
}
