//go:build linux

package bantest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mef/bench/pktgen"
	"mef/internal/ban"
	"mef/internal/enforce"
	"mef/internal/netnstest"
)

func addr(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>24), byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

// cpu returns the CPU time of this process and of the programs that it has run.
func cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// Storm is 10,000 bans queued one by one, until all are in the kernel.
func (f Filter) Storm(b *testing.B) {
	const n = 10_000
	used := time.Duration(0)
	defer func() { b.ReportMetric(float64(used.Microseconds())/float64(n*b.N), "CPU-µs/ban") }()
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
		before := cpu(b)
		for i := range n {
			e.Ban(ctx, ban.Ban{Key: ban.Key{Prefix: addr(i)}, Until: until})
		}
		<-done
		b.StopTimer()
		used += cpu(b) - before
		cancel()
		b.StartTimer()
	}
}

// Packets sends SYN segments of 100,000 sources to a closed port: without rules, and with a ban of each.
func (f Filter) Packets(b *testing.B) {
	const sources, n = 100_000, 1_000_000
	for _, banned := range []bool{false, true} {
		name := "no rules"
		if banned {
			name = fmt.Sprintf("%d bans", sources)
		}
		b.Run(name, func(b *testing.B) {
			server, peer := netnstest.New(b), netnstest.New(b)
			netnstest.Join(b, server, peer, "192.0.2.1/24", "192.0.2.7/24")
			server.Route(b, "0.0.0.0/0", "192.0.2.7")
			server.Sysctl(b, "net.ipv4.conf.all.rp_filter", "0")
			if banned {
				changes := make([]enforce.Change, sources)
				for i := range changes {
					changes[i] = enforce.Change{Key: ban.Key{Prefix: addr(i)}, Timeout: enforce.Permanent}
				}
				if failed, err := f.open(b, server).Rebuild(b.Context(), enforce.Changes{Bans: changes}); err != nil || len(failed) > 0 {
					b.Fatal(len(failed), err)
				}
			}
			door := netnstest.In(b, server, func() (net.HardwareAddr, error) { return netnstest.HardwareAddr("veth0") })
			sender := netnstest.In(b, peer, func() (*pktgen.Generator, error) { return pktgen.Open("veth0", door, netip.MustParseAddr("192.0.2.1")) })
			defer sender.Close()
			began, used, sent := time.Now(), cpu(b), 0
			for b.Loop() {
				if err := sender.Send(n, 0, func(i int) pktgen.Packet { return pktgen.Packet{From: addr(i % sources).Addr().As4(), Port: 22} }); err != nil {
					b.Fatal(err)
				}
				sent += n
			}
			b.ReportMetric(float64(sent)/time.Since(began).Seconds(), "packets/s")
			b.ReportMetric(float64(cpu(b)-used)/float64(sent), "CPU-ns/packet") // of sending and receiving, which is less noisy
		})
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
