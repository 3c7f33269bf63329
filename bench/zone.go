package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	cloudwire "mef/internal/cloud/wire"
	"mef/internal/cloud/zone"
)

const (
	zoneName    = "bl.example"
	zoneEntries = 1_000_000
	zoneRounds  = 3
	zoneSeconds = "8"
)

// zoneAddrs returns the addresses that are listed, in no order.
func zoneAddrs(n int) iter.Seq2[netip.Addr, zone.Info] {
	return func(yield func(netip.Addr, zone.Info) bool) {
		rng := rand.New(rand.NewPCG(7, 8))
		seen := make(map[uint32]bool, n)
		for len(seen) < n {
			a := 1<<24 + rng.Uint32N(222<<24)
			if seen[a] {
				continue
			}
			seen[a] = true
			if !yield(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), zone.NewInfo(1<<1, 87, 1, 1<<19)) {
				return
			}
		}
	}
}

// serveZone is the command bench zone ADDRESS N: a DNS block list with N entries, until SIGTERM.
func serveZone(args []string) error {
	if len(args) != 2 {
		return errors.New("zone needs an address and a number of entries")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	x := zone.NewIndex()
	x.Load(zoneAddrs(n))
	debug.FreeOSMemory() // what making the addresses took is not the server's
	z, err := zone.Open(zone.Options{Zone: zoneName, Listen: args[0], Server: "cloud.example.org:8443", Index: x})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return z.Run(ctx)
}

// zone measures the DNS server of mefcloud beside rbldnsd, on the same core, with the same entries and queries.
func (b *bench) zone(ctx context.Context, p *product, s *section) error {
	if p.name != "mef" {
		return nil
	}
	var all []netip.Addr
	for addr := range zoneAddrs(zoneEntries) {
		all = append(all, addr)
	}
	list, queries := filepath.Join(b.dir, "zone"), filepath.Join(b.dir, "queries")
	var text strings.Builder
	text.WriteString(":127.0.0.4:listed, see https://cloud.example.org:8443/ip/$\n127.0.0.2\n")
	for _, a := range all {
		text.WriteString(a.String() + "\n")
	}
	if err := os.WriteFile(list, []byte(text.String()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(queries, zoneQueries(all), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil { // for the user to which rbldnsd changes
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	rates, memory := make(map[string][]float64), make(map[string]int64)
	for range zoneRounds {
		for name, command := range map[string]func(addr string) []string{
			"mefcloud": func(addr string) []string { return []string{self, "zone", addr, strconv.Itoa(zoneEntries)} },
			"rbldnsd": func(addr string) []string {
				return []string{"rbldnsd", "-n", "-u", "nobody", "-b", strings.Replace(addr, ":", "/", 1), "-w", b.dir, zoneName + ":ip4trie:zone"}
			},
		} {
			r, rss, err := b.ask(ctx, command, queries)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			rates[name], memory[name] = append(rates[name], r), max(memory[name], rss)
		}
	}
	s.set(p, "queries per CPU-second of the server", "", "%s", spread(rates["mefcloud"], count))
	s.set(p, "for comparison: rbldnsd (ip4trie)", "", "%s", spread(rates["rbldnsd"], count))
	s.set(p, "ratio of the medians", "≥ 0.9, aim 1.0", "%.2f", median(rates["mefcloud"])/median(rates["rbldnsd"]))
	s.set(p, "resident", "≤ 64 MB", "%s", megabytes(memory["mefcloud"]))
	s.set(p, "for comparison: rbldnsd", "", "%s", megabytes(memory["rbldnsd"]))
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	f := cloudwire.Feed{List: "public", Seq: 2, At: time.Now()}
	for _, a := range all {
		f.Add = append(f.Add, netip.PrefixFrom(a, 32))
	}
	s.set(p, "the same list as hosts fetch it", "≤ 2.5 MB", "%s", megabytes(int64(len(f.Encode(key)))))
	return nil
}

// zoneQueries returns queries for dnsperf: 30 of 100 addresses are listed, and 5 queries are for TXT.
func zoneQueries(all []netip.Addr) []byte {
	rng := rand.New(rand.NewPCG(9, 10))
	var out []byte
	for range 1_000_000 {
		a := rng.Uint32()
		b := [4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}
		if rng.IntN(100) < 30 {
			b = all[rng.IntN(len(all))].As4()
		}
		kind := "A"
		if rng.IntN(100) < 5 {
			kind = "TXT"
		}
		out = fmt.Appendf(out, "%d.%d.%d.%d.%s %s\n", b[3], b[2], b[1], b[0], zoneName, kind)
	}
	return out
}

var completed = regexp.MustCompile(`Queries completed: +([0-9]+)`)

// ask starts a server on the first core and has dnsperf ask it from the last one. It returns queries per CPU-second of the server, and its resident memory.
func (b *bench) ask(ctx context.Context, command func(addr string) []string, queries string) (rate float64, rss int64, err error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") // a port that is free
	if err != nil {
		return 0, 0, err
	}
	addr := conn.LocalAddr().String()
	conn.Close()
	server := exec.CommandContext(ctx, "taskset", append([]string{"-c", "0"}, command(addr)...)...)
	var said strings.Builder
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		return 0, 0, err
	}
	defer func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
		if err != nil {
			err = fmt.Errorf("%w: %.300q", err, said.String())
		}
	}()
	_, port, _ := net.SplitHostPort(addr)
	perf := func(args ...string) (int64, error) {
		cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", strconv.Itoa(runtime.NumCPU() - 1), "dnsperf", "-s", "127.0.0.1", "-p", port, "-d", queries}, args...)...)
		out, err := cmd.CombinedOutput()
		m := completed.FindSubmatch(out)
		if m == nil {
			return 0, fmt.Errorf("dnsperf: %w: %.300q", errors.Join(err, errors.New("no result")), out)
		}
		return strconv.ParseInt(string(m[1]), 10, 64)
	}
	for end := time.Now().Add(time.Minute); ; {
		if n, err := perf("-n", "1", "-l", "1", "-t", "1", "-q", "1", "-Q", "10"); err == nil && n > 0 {
			break
		} else if time.Now().After(end) {
			return 0, 0, fmt.Errorf("it does not answer: %w", err)
		}
	}
	before, err := cpuTime(server.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	n, err := perf("-l", zoneSeconds, "-c", "16", "-q", "400")
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuTime(server.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			rss = kb << 10
		}
	}
	return float64(n) / (after - before).Seconds(), rss, nil
}

// cpuTime returns what a process has used.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is malformed", pid)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

func median(values []float64) float64 { return quantile(slices.Sorted(slices.Values(values)), 0.5) }
