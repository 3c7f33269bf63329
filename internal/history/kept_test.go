package history_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/control"
	"mef/internal/history"
)

func openIn(t *testing.T, dir string, h *host) *history.Recorder {
	t.Helper()
	r := history.New("test", dir, slog.New(slog.DiscardHandler))
	r.Use(h.Status, h.Counters, h.Dropped)
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	return r
}

// sums returns the sums of the series, as "attempts service sshd", and all values of the first one of each kind.
func sums(t *testing.T, r *history.Recorder, window string) map[string]uint64 {
	t.Helper()
	h, err := r.History(t.Context(), window)
	if err != nil || h.Problem != "" {
		t.Fatal(err, h.Problem)
	}
	all := make(map[string]uint64)
	for _, s := range h.Series {
		for _, n := range s.Values {
			all[s.Kind+" "+s.Of+" "+s.Label] += n
		}
	}
	return all
}

func labels(t *testing.T, r *history.Recorder, window, by string) map[string]uint64 {
	t.Helper()
	s, err := r.Stats(t.Context(), window, by, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]uint64)
	for _, row := range s.Rows {
		all[row.Label] = row.Attempts
	}
	return all
}

func same[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// What happens within a minute before a daemon is killed is lost, and nothing else.
func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h := t.TempDir(), &host{counters: control.Counters{Ports: map[string]string{"sshd": "22"}, Dropped: control.Drops{Known: true}}}
		for range 5 {
			r := openIn(t, dir, h)
			ctx, kill := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			time.Sleep(time.Second)
			h.mu.Lock()
			h.counters.Dropped.Verified += 100
			h.counters.Dropped.Lists += 10
			h.mu.Unlock()
			targeted := failure("192.0.2.7", 1)
			targeted.User, targeted.Targeted = "alice", true
			attempt(r, targeted, failure("2001:db8::7", 1), login("192.0.2.9", "sshd"))
			ban(r, control.Record{Prefix: "192.0.2.7/32", Service: "sshd", Ports: "22", Class: "verified", Rule: "sshd", Time: time.Now()})
			time.Sleep(time.Minute)
			synctest.Wait()
			attempt(r, failure("198.51.100.1", 1)) // lost
			kill()
			<-done
		}
		r := openIn(t, dir, h)
		for _, window := range []string{"hour", "day", "month", "year"} {
			time.Sleep(time.Minute)
			same(t, window, sums(t, r, window), map[string]uint64{"attempts service sshd": 10, "attempts family ipv4": 5, "attempts family ipv6": 5,
				"targeted service sshd": 5, "targeted family ipv4": 5, "logins service sshd": 5, "logins family ipv4": 5, "bans service sshd": 5,
				"bans family ipv4": 5, "drops cause ban": 500, "drops cause list": 50, "drops service other": 550})
			for by, want := range map[string]map[string]uint64{"ports": {"22": 10}, "services": {"sshd": 10, "other": 0}, "sources": {"192.0.2.7": 5, "2001:db8::7": 5},
				"networks": {"192.0.2.0/24": 5, "2001:db8::/48": 5}, "names": {"alice": 5}} {
				same(t, window+" "+by, labels(t, r, window, by), want)
			}
		}
		past, err := r.PastBans(t.Context(), "192.0.2.7", 3)
		if err != nil || len(past) != 3 || past[0].Rule != "sshd" || past[0].Ports != "22" {
			t.Errorf("past bans: %+v, %v", past, err)
		}
		if past, err := r.PastBans(t.Context(), past[0].Reference, 1); err != nil || len(past) != 1 || past[0].Prefix != "192.0.2.7/32" {
			t.Errorf("by its reference: %+v, %v", past, err)
		}
		if past, _ := r.PastBans(t.Context(), "MEF-AAAAAAAA", 0); len(past) != 0 {
			t.Errorf("past bans by another reference: %+v", past)
		}
		if past, _ := r.PastBans(t.Context(), "192.0.2.8", 0); len(past) != 0 {
			t.Errorf("past bans of another address: %+v", past)
		}
	})
}

// A bulk of bans takes its time from a clock read before the minute was over, in which attempts have begun the next one: the minute that is
// saved stays as it is.
func TestNoMinuteBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openIn(t, t.TempDir(), new(host))
		attempt(r, failure("192.0.2.7", 1), failure("192.0.2.8", 1))
		time.Sleep(time.Minute - time.Millisecond)
		early := failure("192.0.2.9", 1)
		r.Attempt(&early, time.Now().Add(2*time.Millisecond))
		ban(r, control.Record{Prefix: "192.0.2.7/32", Service: "sshd", Ports: "22", Class: "verified", Rule: "sshd", Time: time.Now()})
		time.Sleep(time.Minute)
		for range 3 {
			time.Sleep(time.Minute) // the window of an hour ends with the last whole minute
			for _, window := range []string{"hour", "month", "year"} {
				got := sums(t, r, window)
				same(t, window, []uint64{got["attempts family ipv4"], got["bans family ipv4"]}, []uint64{3, 1})
			}
		}
	})
}

// TestDownsampling compares what is kept of a year with all that happened, and measures the file.
func TestDownsampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h := t.TempDir(), new(host)
		rnd := rand.New(rand.NewPCG(1, 2))
		var when []int64 // of each attempt
		write := func(r *history.Recorder) {
			for range rnd.IntN(3) {
				attempt(r, failure(fmt.Sprintf("192.0.%d.%d", rnd.IntN(4), rnd.IntN(250)), 1))
				when = append(when, time.Now().Unix())
			}
			_ = labels(t, r, "hour", "names") // as Run does every minute, it begins a new minute
		}
		end := time.Now().Add(370 * 24 * time.Hour)
		r := openIn(t, dir, h)
		for time.Now().Before(end) {
			write(r)
			step := 7 * time.Hour
			switch left := time.Until(end); {
			case left < 25*time.Hour:
				step = time.Duration(rnd.IntN(400)) * time.Second
			case left < 32*24*time.Hour:
				step = time.Duration(rnd.IntN(7200)) * time.Second
			}
			time.Sleep(step)
			if rnd.IntN(50) == 0 {
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				r = openIn(t, dir, h)
			}
		}
		time.Sleep(time.Minute)
		for _, window := range []string{"hour", "day", "month", "year"} {
			got, err := r.History(t.Context(), window)
			if err != nil {
				t.Fatal(err)
			}
			n := map[string]int{"hour": 60, "day": 144, "month": 744, "year": 366}[window]
			want := make([]uint64, n)
			total := uint64(0)
			for _, at := range when {
				if i := time.Unix(at, 0).Sub(got.Start) / got.Step; at >= got.Start.Unix() && int(i) < n {
					want[i]++
					total++
				}
			}
			if total == 0 && window != "hour" {
				t.Fatalf("nothing happened within a %s", window)
			}
			for _, s := range got.Series {
				same(t, window+" "+s.Label, s.Values, want)
			}
			if len(got.Series) != 2 && total > 0 {
				t.Errorf("%s: %d series", window, len(got.Series))
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "history"))
		if err != nil || info.Size() > 16<<20 {
			t.Errorf("the file of a year: %v, %v", info.Size(), err)
		}
		t.Logf("%d attempts in a year; the file has %d bytes, of which %d are used", len(when), info.Size(), info.Sys().(*syscall.Stat_t).Blocks*512)
	})
}

// Damage costs what is damaged, and nothing else.
func TestDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h := t.TempDir(), new(host)
		path := filepath.Join(dir, "history")
		r := openIn(t, dir, h)
		attempt(r, failure("192.0.2.7", 1))
		ban(r, control.Record{Prefix: "192.0.2.7/32"})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(3, 4))
		for i := range 15 {
			damaged := append([]byte(nil), whole...)
			switch i {
			case 0:
				damaged = nil
			case 1:
				damaged = damaged[:len(damaged)/3]
			case 2:
				damaged = append(damaged, damaged...)
			case 3:
				for j := range damaged {
					damaged[j] = byte(rnd.Uint32())
				}
			default:
				for range 100_000 {
					damaged[rnd.IntN(len(damaged))] ^= 1 << rnd.IntN(8)
				}
			}
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			r := openIn(t, dir, h)
			attempt(r, failure("192.0.2.8", 1))
			for _, window := range []string{"hour", "day", "month", "year"} {
				if n := sums(t, r, window)["attempts service sshd"]; n > 2 {
					t.Errorf("damage %d: %d attempts within a %s", i, n, window)
				}
			}
			if n := labels(t, r, "hour", "sources")["192.0.2.8"]; n != 1 {
				t.Errorf("damage %d: %d attempts of a new source, want 1", i, n)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		// What is no file of ours is left alone, and said.
		os.Remove(path)
		os.Mkdir(path, 0o700)
		r = openIn(t, dir, h)
		attempt(r, failure("192.0.2.8", 1))
		if s, err := r.Stats(t.Context(), "day", "sources", 0); err != nil || len(s.Rows) != 1 || !strings.Contains(s.Problem, "history") {
			t.Errorf("without a file: %+v, %v", s, err)
		}
	})
}

// Those that come again are found among very many that come once.
func TestManyLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openIn(t, t.TempDir(), new(host))
		hostile := strings.Repeat("\x1b[31m\xff", 2000)
		for i := range 50_000 {
			one := failure(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), 1)
			one.User = fmt.Sprint("user", i)
			attempt(r, one)
			if i%100 == 0 {
				again := failure("192.0.2.7", 5)
				again.User = hostile
				attempt(r, again)
			}
		}
		for _, by := range []string{"sources", "networks", "names"} {
			s, err := r.Stats(t.Context(), "day", by, 5)
			if err != nil || len(s.Rows) != 5 {
				t.Fatal(s, err)
			}
			first := s.Rows[0]
			if by == "networks" {
				continue // each has 256
			}
			if first.Attempts < 490 || first.Attempts > 500 || len(first.Label) > 64 {
				t.Errorf("%s: the first is %q with %d, want 500", by, first.Label, first.Attempts)
			}
		}
		if sum := sums(t, r, "month")["attempts service sshd"]; sum != 50_500 {
			t.Errorf("%d attempts, want 50500", sum)
		}
	})
}

func TestWrongWords(t *testing.T) {
	r := openIn(t, t.TempDir(), new(host))
	if _, err := r.History(t.Context(), "week"); err == nil || !strings.Contains(err.Error(), `"week"`) {
		t.Error(err)
	}
	if _, err := r.Stats(t.Context(), "day", "colour", 0); err == nil || !strings.Contains(err.Error(), `"colour"`) {
		t.Error(err)
	}
}

// A storm costs the one that reports attempts little, and the series stay exact, whatever a query does meanwhile.
func TestStorm(t *testing.T) {
	r := openIn(t, t.TempDir(), new(host))
	const n = 100_000
	services := []string{"sshd", "dovecot", "postfix"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			one := failure(fmt.Sprintf("198.51.%d.%d", i>>8&255, i&255), 1)
			one.Service = services[i%len(services)]
			if i%10 == 0 {
				one = login("2001:db8::7", one.Service)
			}
			attempt(r, one)
		}
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		_ = labels(t, r, "day", "sources")
	}
	got := sums(t, r, "month")
	same(t, "by family", []uint64{got["attempts family ipv4"], got["logins family ipv6"], got["logins family ipv4"]}, []uint64{n * 9 / 10, n / 10, 0})
	sum := uint64(0)
	for _, service := range services {
		sum += got["attempts service "+service] + got["logins service "+service]
	}
	same(t, "all services", sum, n)
}

// More services than have a sum of their own lose only their names.
func TestManyServices(t *testing.T) {
	r := openIn(t, t.TempDir(), new(host))
	for i := range 1000 {
		one := failure("192.0.2.7", 1)
		one.Service = fmt.Sprint("service", i)
		attempt(r, one)
	}
	if n := sums(t, r, "month")["attempts family ipv4"]; n != 1000 {
		t.Errorf("%d attempts, want 1000", n)
	}
}

func BenchmarkAttempt(b *testing.B) {
	r := history.New("test", b.TempDir(), slog.New(slog.DiscardHandler))
	_ = r.Open()
	var all [4096]control.Attempt
	for i := range all {
		all[i] = failure(fmt.Sprintf("10.0.%d.%d", i>>8, i&255), 1)
	}
	now := time.Now()
	for i := 0; b.Loop(); i++ {
		r.Attempt(&all[i%len(all)], now)
	}
}
