package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mef/internal/atomicfile"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/wire"
)

// BenchmarkIngest measures reports that are acknowledged in a second, 100 to a signed request over TLS, each request on the disk before its answer. The
// hosts run on the same machine. With half of that rate, it measures how long an answer takes.
func BenchmarkIngest(b *testing.B) {
	const hosts = 128
	s := start(b, b.TempDir())
	var all []*host
	for i := range hosts {
		inv, _, err := s.Invite(b.Context(), reputation.Anchor)
		if err != nil {
			b.Fatal(err)
		}
		h := newHost(b, inv)
		from := &net.TCPAddr{IP: net.IPv4(127, byte(1+i%8), byte(i), 1)} // each network has a limit of its own
		h.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: h.inv.ClientTLS(), DialContext: (&net.Dialer{LocalAddr: from}).DialContext}}
		if status, text := h.enrol(); status != http.StatusOK {
			b.Fatalf("%d %s", status, text)
		}
		all = append(all, h)
	}
	send := func(i, k int, h *host) error { // each of 1000 addresses of its own, half of which another host sees as well
		var addrs []netip.Addr
		for j := range wire.MaxReports {
			n := i*500 + (k*wire.MaxReports+j)%1000
			addrs = append(addrs, netip.AddrFrom4([4]byte{45, byte(n >> 16), byte(n >> 8), byte(n)}))
		}
		if status, r := h.report(addrs...); status != http.StatusAccepted || len(r.Dropped) > 0 {
			return fmt.Errorf("%d, %d dropped", status, len(r.Dropped))
		}
		return nil
	}
	measure := func(b *testing.B, perSecond float64, n int) (rate float64, took []time.Duration) {
		var mu sync.Mutex
		var working sync.WaitGroup
		begin, left := time.Now(), int64(n)
		for i, h := range all {
			working.Go(func() {
				for k := 0; atomic.AddInt64(&left, -1) >= 0; k++ {
					if perSecond > 0 { // requests come when they come, whether or not the last one was answered
						time.Sleep(time.Until(begin.Add(time.Duration((float64(k)*hosts + float64(i)) / perSecond * float64(time.Second)))))
					}
					at := time.Now()
					if err := send(i, k, h); err != nil {
						b.Error(err)
						return
					}
					mu.Lock()
					took = append(took, time.Since(at))
					mu.Unlock()
				}
			})
		}
		working.Wait()
		return float64(n*wire.MaxReports) / time.Since(begin).Seconds(), took
	}
	const n = 8000 // requests
	full, _ := measure(b, 0, n)
	_, took := measure(b, full/wire.MaxReports/2, n/2)
	slices.Sort(took)
	b.ReportMetric(full, "reports/s")
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStart measures the start of a server that lists a million addresses: after a stop, and after a kill with 20,000 entries of the log that its copy
// of the state does not have. MEF_BENCH_DIR keeps the directory, for a look at the process.
func BenchmarkStart(b *testing.B) {
	const listed = 1_000_000
	dir := filepath.Join(b.TempDir(), "data")
	if kept := os.Getenv("MEF_BENCH_DIR"); kept != "" {
		dir = kept
	}
	s := start(b, dir)
	s.stop()
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		b.Fatal(err)
	}
	st, _, err := loadState(data)
	if err != nil {
		b.Fatal(err)
	}
	st.book.Advance(reputation.HourOf(time.Now()))
	for i := range 4 * listed / 2000 {
		st.book.Enrol(reputation.Reporter{ID: fmt.Sprint("anchor", i), Role: reputation.Anchor, System: fmt.Sprint("AS", i%40), Net: fmt.Sprint(i), Since: st.book.Now()})
	}
	random := rand.New(rand.NewPCG(1, 1))
	for i := range listed {
		n := random.Uint32()%(200<<24) + 20<<24
		for k := range 4 {
			_ = st.book.Report(fmt.Sprint("anchor", i/2000*4+k), netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 2, st.book.Now())
		}
	}
	st.book.Settle()
	st.book.Changes()
	begin := time.Now()
	if data, err = st.save(nil); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(begin).Seconds(), "save-s")
	b.ReportMetric(float64(len(data))/1e6, "state-MB")
	if err := atomicfile.Write(filepath.Join(dir, stateFile), data, 0o600); err != nil {
		b.Fatal(err)
	}
	begin = time.Now()
	s = start(b, dir)
	b.ReportMetric(time.Since(begin).Seconds(), "clean-s")
	count := 0
	s.state.book.Each(reputation.Public, func(netip.Prefix, uint16) { count++ })
	b.ReportMetric(float64(count), "listed")
	h := join(b, s, "")
	h.mustReport(attacker)
	text, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		b.Fatal(err)
	}
	var working sync.WaitGroup
	for i := range 64 {
		working.Go(func() {
			for k := range 20_000 / 64 {
				rep := batch(netip.AddrFrom4([4]byte{45, 1, byte(i), byte(k)}))
				if _, err := s.do(context.Background(), entry{Reports: &reports{Agent: s.agents()[0].ID, Seq: 1, Batch: rep}}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	working.Wait()
	s.stop()
	if err := atomicfile.Write(filepath.Join(dir, stateFile), text, 0o600); err != nil { // as it was before the stop
		b.Fatal(err)
	}
	begin = time.Now()
	s = start(b, dir)
	b.ReportMetric(time.Since(begin).Seconds(), "killed-s")
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kB float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f", &kB); err == nil {
			b.ReportMetric(kB/1e3, "RSS-MB")
		}
	}
	b.ReportMetric(0, "ns/op")
	s.stop()
}
