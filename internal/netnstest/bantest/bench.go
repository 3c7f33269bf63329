//go:build linux

package bantest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/netnstest"
)

func addr(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>24), byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

// Storm is 10,000 bans queued one by one, until all are in the kernel.
func (f Filter) Storm(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		b.StopTimer()
		var e *enforce.Enforcer
		held, done := 0, make(chan struct{})
		e = enforce.New(f.open(b, netnstest.New(b)), enforce.Options{OnResult: func(r []enforce.Result) {
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

// Restore is a start with bans from the last run, into an empty kernel and into one that still holds them.
func (f Filter) Restore(b *testing.B) {
	const n = 100_000
	until := time.Now().Add(time.Hour)
	bans := make([]ban.Ban, n)
	for i := range bans {
		bans[i] = ban.Ban{Key: ban.Key{Prefix: addr(i)}, Until: until}
	}
	start := func(b *testing.B, ns *netnstest.NS) {
		backend, err := f.Open(ns, slog.New(slog.DiscardHandler), enforce.Settings{Log: drops})
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
