//go:build integration

package nftset_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/internal/enforce"
	"mef/internal/netnstest"
	"mef/internal/prefixset"
)

// setList does all steps of a SetList.
func setList(t testing.TB, b enforce.Backend, l enforce.List) {
	t.Helper()
	step := b.SetList(l)
	for {
		done, err := step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
	}
}

// BenchmarkList is a list of a million addresses, IPv4: loaded, and changed by one percent. It measures the CPU time of the process and of
// the kernel on its behalf.
func BenchmarkList(b *testing.B) {
	const n = 1_000_000
	backend := open(b, netnstest.New(b))
	backend.Rebuild(b.Context(), enforce.Changes{})
	go backend.Watch(b.Context(), func(enforce.Notice) {})
	hosts := func(from int) *prefixset.Packed {
		var p prefixset.Packer
		for i := range n {
			x := uint32(from+i) * 2654435761
			p.Add(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}), 32))
		}
		return p.Pack()
	}
	nets := func() *prefixset.Packed {
		var p prefixset.Packer
		for i := range n / 10 {
			x := uint32(i) * 2654435761
			p.Add(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), 0}), 24))
		}
		return p.Pack()
	}()
	first, second := hosts(0), hosts(n/100)
	load := func(b *testing.B, l enforce.List) {
		began := cpu()
		setList(b, backend, l)
		b.ReportMetric((cpu() - began).Seconds(), "CPU-s")
	}
	b.Run("1,000,000 addresses", func(b *testing.B) {
		for b.Loop() {
			load(b, enforce.List{Name: "long", Addrs: first})
			b.StopTimer()
			setList(b, backend, enforce.List{Name: "long"})
			b.StartTimer()
		}
	})
	b.Run("1 % changed", func(b *testing.B) {
		setList(b, backend, enforce.List{Name: "long", Addrs: first})
		now, next := first, second
		for b.Loop() {
			load(b, enforce.List{Name: "long", Addrs: next})
			now, next = next, now
		}
	})
	b.Run("100,000 networks", func(b *testing.B) {
		for b.Loop() {
			load(b, enforce.List{Name: "nets", Addrs: nets})
			b.StopTimer()
			setList(b, backend, enforce.List{Name: "nets"})
			b.StartTimer()
		}
	})
}

// cpu returns the CPU time of this process so far.
func cpu() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
