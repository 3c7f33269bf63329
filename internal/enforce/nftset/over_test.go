//go:build integration

package nftset_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/enforce/nftset"
	"mef/internal/netnstest"
)

// BenchmarkHeldOver asks the kernel why one address is banned, while 100,000 are.
func BenchmarkHeldOver(b *testing.B) {
	const n = 100_000
	backend, err := nftset.NewIn(netnstest.New(b).Fd(), slog.New(slog.DiscardHandler), enforce.Settings{Log: drops})
	if err != nil {
		b.Fatal(err)
	}
	defer backend.Close()
	bans := make([]ban.Ban, n)
	for i := range bans {
		bans[i] = ban.Ban{Key: ban.Key{Prefix: addr(i)}, Until: time.Now().Add(time.Hour)}
	}
	e := enforce.New(backend, enforce.Options{})
	e.Restore(bans)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	for b.Loop() {
		if s, err := e.HeldOver(ctx, addr(7).Addr()); err != nil || len(s.Bans) != 1 {
			b.Fatalf("%d bans, %v", len(s.Bans), err)
		}
	}
	cancel()
	<-done
}
