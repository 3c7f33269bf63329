//go:build integration

package nftset_test

import (
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
func BenchmarkStorm(b *testing.B) { filter().Storm(b) }

// BenchmarkRestore is a start with bans from the last run, into an empty kernel and into one that still holds them.
func BenchmarkRestore(b *testing.B) { filter().Restore(b) }

func BenchmarkPackets(b *testing.B) { filter().Packets(b) }
