//go:build integration

package nftset_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
)

func addr(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>24), byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

func changes(from, n int) (c enforce.Changes) {
	for i := range n {
		c.Bans = append(c.Bans, enforce.Change{Key: ban.Key{Prefix: addr(from + i)}, Timeout: enforce.Timeout(time.Hour)})
	}
	return c
}

// BenchmarkBan is one ban in one transaction, with a listener as in the daemon.
func BenchmarkBan(b *testing.B) {
	backend := open(b, netnstest.New(b))
	backend.Rebuild(b.Context(), enforce.Changes{})
	go backend.Watch(b.Context(), func(enforce.Notice) {})
	i := 0
	for b.Loop() {
		if _, err := backend.Apply(b.Context(), changes(i, 1)); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkUnban is one ban lifted and looked up.
func BenchmarkUnban(b *testing.B) {
	backend := open(b, netnstest.New(b))
	backend.Rebuild(b.Context(), changes(0, 10_000))
	i := 0
	for b.Loop() {
		key := ban.Key{Prefix: addr(i)}
		if _, err := backend.Apply(b.Context(), enforce.Changes{Bans: []enforce.Change{{Key: key, Remove: true}}}); err != nil {
			b.Fatal(err)
		}
		if _, err := backend.Held(b.Context(), key); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkStorm is 10,000 bans queued one by one, until all are in the kernel.
func BenchmarkStorm(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		b.StopTimer()
		var e *enforce.Enforcer
		held, done := 0, make(chan struct{})
		e = enforce.New(open(b, netnstest.New(b)), enforce.Options{OnResult: func(r []enforce.Result) {
			if held += len(r); held == n {
				close(done)
			}
		}})
		ctx, cancel := context.WithCancel(b.Context())
		go e.Run(ctx)
		e.Held(ctx)
		until := time.Now().Add(time.Hour)
		b.StartTimer()
		for i := range n {
			e.Ban(ctx, ban.Ban{Key: ban.Key{Prefix: addr(i)}, Until: until})
		}
		<-done
		b.StopTimer()
		cancel()
		b.StartTimer()
	}
}

// BenchmarkRestore is a start with bans from the last run, into an empty kernel and into one that still holds them.
func BenchmarkRestore(b *testing.B) {
	const n = 100_000
	until := time.Now().Add(time.Hour)
	bans := make([]ban.Ban, n)
	for i := range bans {
		bans[i] = ban.Ban{Key: ban.Key{Prefix: addr(i)}, Until: until}
	}
	start := func(b *testing.B, ns *netnstest.NS) {
		backend, err := nftset.NewIn(ns.Fd(), slog.New(slog.DiscardHandler), enforce.Settings{Log: drops})
		if err != nil {
			b.Fatal(err)
		}
		defer backend.Close()
		e := enforce.New(backend, enforce.Options{})
		e.Restore(bans)
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		if _, err := e.Held(ctx, bans[n-1].Key); err != nil {
			b.Fatal(err)
		}
		cancel()
		<-done
	}
	for _, state := range []string{"empty", "held"} {
		b.Run(fmt.Sprintf("%d/%s", n, state), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				ns := netnstest.New(b)
				if state == "held" {
					start(b, ns)
				}
				b.StartTimer()
				start(b, ns)
			}
		})
	}
}
