package track

import (
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"mef/internal/track/dictionary"
)

func address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 7})
}

func BenchmarkObserve(b *testing.B) {
	for name, sources := range map[string]int{"1source": 1, "10000sources": 10_000, "endless": 1 << 24} {
		b.Run(name, func(b *testing.B) {
			tr := New(testConfig())
			ev := line{0, "fail", "root", "1234", 0}.event("sshd", "192.0.2.7")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				ev.Time = ev.Time.Add(time.Millisecond)
				ev.Addr = address(i % sources)
				if tally := tr.Observe(ev); tally.Attempts > 5 {
					b.Fatal("more attempts than the limit needs")
				}
			}
		})
	}
}

// BenchmarkChanges tells how long the engine stands still while what has changed is gathered for the store.
func BenchmarkChanges(b *testing.B) {
	for name, size := range map[string]struct{ sources, dirty, each int }{
		"20000 of 100000, 1 attempt":   {100_000, 20_000, 1},
		"20000 of 100000, 5 attempts":  {100_000, 20_000, 5},
		"100000 of 100000, 1 attempt":  {100_000, 100_000, 1},
		"10 of 100000 after 1 attempt": {100_000, 10, 1},
	} {
		b.Run(name, func(b *testing.B) {
			tr := New(testConfig())
			n := 0
			observe := func(sources int) {
				for i := range sources * size.each {
					ev := line{float64(n) / 1e5, "fail", "user" + strconv.Itoa(n%1000), strconv.Itoa(n), 0}.event("sshd", "192.0.2.7")
					ev.Addr = address(i % sources)
					ev.Line = strings.Repeat("x", 120)
					tr.Observe(ev)
					n++
				}
			}
			observe(size.sources)
			tr.Changes()
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				observe(size.dirty)
				b.StartTimer()
				if len(tr.Changes()) < size.dirty {
					b.Fatal("too few changes")
				}
			}
		})
	}
}

// BenchmarkMemory tells what 100,000 tracked sources cost: bytes on the heap each, and the resident memory of this process.
func BenchmarkMemory(b *testing.B) {
	for name, each := range map[string]int{"1attempt": 1, "4attempts": 4} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				tr := New(testConfig())
				for i := range defaultSources * each {
					ev := line{float64(i) / 1e4, "fail", "user" + strconv.Itoa(i%1000), "1234", 0}.event("sshd", "192.0.2.7")
					ev.Addr = address(i % defaultSources)
					ev.Line = strings.Repeat("x", 120)
					tr.Observe(ev)
				}
				b.ReportMetric(float64(heap()-before)/defaultSources, "B/source")
				b.ReportMetric(resident(b), "MB-RSS")
				runtime.KeepAlive(tr)
			}
		})
	}
}

// BenchmarkNames reports what a million invented names cost that 100,000 sources try: a try, the dictionary in MB, and how many of 50
// names that attackers really share it still has as hot at the end.
func BenchmarkNames(b *testing.B) {
	const names, sources, shared = 1_000_000, 100_000, 50
	for b.Loop() {
		tr := New(namesConfig())
		at := 0.0
		try := func(user string, source int) {
			ev := line{at, "fail", user, "", 0}.event("sshd", "192.0.2.7")
			ev.Addr, ev.UnknownUser = address(source*167), true
			tr.Observe(ev)
			at += 0.01
		}
		for i := range 3 * shared {
			try("shared-"+strconv.Itoa(i/3), i%3*1000)
		}
		begun := time.Now()
		for i := range names {
			try("invented-"+strconv.Itoa(i), i%sources)
			if i%1000 == 0 {
				try("shared-"+strconv.Itoa(i/1000%shared), i/1000)
			}
		}
		b.ReportMetric(float64(time.Since(begun).Nanoseconds())/names, "ns/try")
		hot := 0
		for _, n := range tr.Names("shared-", 0, start.Add(time.Duration(at*float64(time.Second)))) {
			if n.Hot {
				hot++
			}
		}
		before := heap()
		tr.names = dictionary.New()
		b.ReportMetric(float64(before-heap())/(1<<20), "MB-names")
		b.ReportMetric(float64(hot), "hot-of-50")
		runtime.KeepAlive(tr)
	}
}

func heap() uint64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func resident(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(status))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / 1e6
}

// BenchmarkSuspects measures a failure of a source in a network of which all 256 sources are suspects, beside one whose sources are in as
// many networks. Networks of more sources than that count as one source each.
func BenchmarkSuspects(b *testing.B) {
	for name, addr := range map[string]func(i int) netip.Addr{
		"one network":   func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}) },
		"many networks": func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(i), 113}) },
	} {
		b.Run(name, func(b *testing.B) {
			tr := New(testConfig())
			for i := range defaultSources - 256 { // a table that is full
				ev := line{0, "fail", "", "", 0}.event("sshd", "192.0.2.7")
				ev.Addr = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				tr.Observe(ev)
			}
			ev := line{0, "fail", "", "", 0}.event("sshd", "192.0.2.7")
			for i := 0; b.Loop(); i++ {
				ev.Addr, ev.Time = addr(i%256), ev.Time.Add(time.Millisecond)
				tr.Observe(ev)
			}
		})
	}
}
