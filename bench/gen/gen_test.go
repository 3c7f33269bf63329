package gen_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"mef/bench/gen"
)

// lines returns the first n lines of a log.
func lines(cfg gen.Config, n int) []byte {
	g := gen.New(cfg)
	var b []byte
	for range n {
		b = g.Append(b)
	}
	return b
}

// Figures in RESULTS.md are comparable only if every run measures the same log.
func TestSameConfigSameBytes(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  gen.Config
		want string
	}{
		"RFC 3164":   {gen.Config{Seed: 1}, "080f8638e2653aa2"},
		"RFC 3339":   {gen.Config{Seed: 1, RFC3339: true}, "c36b043c554f24af"},
		"other seed": {gen.Config{Seed: 2}, "fd44bcae5ebc5212"},
	} {
		t.Run(name, func(t *testing.T) {
			sum := sha256.Sum256(lines(tt.cfg, 10_000))
			if got := hex.EncodeToString(sum[:8]); got != tt.want {
				t.Errorf("10,000 lines have SHA-256 %s..., want %s...", got, tt.want)
			}
		})
	}
}

// program finds the name of the program that wrote a line.
var program = regexp.MustCompile(`^\w{3} [ \d]\d [\d:]{8} srv1 ([A-Za-z-]+)`)

func TestShares(t *testing.T) {
	service := map[string]gen.Service{
		"sshd": gen.SSHD, "postfix": gen.Postfix, "dovecot": gen.Dovecot, "CRON": gen.Cron,
		"kernel": gen.Kernel, "systemd-logind": gen.Logind, "sudo": gen.Sudo,
	}
	for name, shares := range map[string]gen.Shares{
		"default":   gen.DefaultShares(),
		"only sshd": {gen.SSHD: 1},
		"no sshd":   {gen.Postfix: 1, gen.Cron: 3},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 20_000
			var got [7]int
			for line := range bytes.Lines(lines(gen.Config{Seed: 1, Shares: shares}, n)) {
				m := program.FindSubmatch(line)
				if m == nil {
					t.Fatalf("no program in %q", line)
				}
				s, ok := service[string(m[1])]
				if !ok {
					t.Fatalf("unknown program in %q", line)
				}
				got[s]++
			}
			sum := 0
			for _, share := range shares {
				sum += share
			}
			for s, share := range shares {
				want := float64(share) / float64(sum)
				if share := float64(got[s]) / n; math.Abs(share-want) > 0.01 {
					t.Errorf("%v has %.3f of the lines, want %.3f", gen.Service(s), share, want)
				}
			}
		})
	}
}

// A few attackers make most attempts, many are seen once.
func TestAttackersFollowZipf(t *testing.T) {
	failed := regexp.MustCompile(`Failed password for (?:invalid user )?\S+ from (\S+) port`)
	count := map[string]int{}
	sum := 0
	for _, m := range failed.FindAllSubmatch(lines(gen.Config{Seed: 1}, 100_000), -1) {
		count[string(m[1])]++
		sum++
	}
	once, most := 0, 0
	for _, n := range count {
		most = max(most, n)
		if n == 1 {
			once++
		}
	}
	if len(count) < 1000 || once < len(count)/3 || most < sum/100 {
		t.Errorf("%d failures of %d addresses, %d of them once, the busiest %d times", sum, len(count), once, most)
	}
}

func TestAddrsDiffer(t *testing.T) {
	reserved := []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.0.0.0/8"), netip.MustParsePrefix("198.0.0.0/8"), netip.MustParsePrefix("203.0.0.0/8"),
		netip.MustParsePrefix("224.0.0.0/3"),
	}
	seen := map[netip.Prefix]bool{}
	for n := range uint64(200_000) {
		addr := gen.Addr(n)
		prefix, _ := addr.Prefix(map[bool]int{true: 32, false: 64}[addr.Is4()])
		if seen[prefix] {
			t.Fatalf("Addr(%d) = %v: seen before", n, addr)
		}
		seen[prefix] = true
		for _, r := range reserved {
			if r.Contains(addr) {
				t.Fatalf("Addr(%d) = %v, in the reserved %v", n, addr, r)
			}
		}
	}
}

func TestAppendAtStampsAsTold(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.FixedZone("", 3600))
	for name, tt := range map[string]struct {
		rfc3339 bool
		want    string
	}{
		"RFC 3164": {false, "Mar  4 05:06:07 srv1 "},
		"RFC 3339": {true, "2026-03-04T05:06:07.089000+01:00 srv1 "},
	} {
		t.Run(name, func(t *testing.T) {
			got := string(gen.New(gen.Config{RFC3339: tt.rfc3339}).AppendAt(nil, at))
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("line = %q, want the prefix %q", got, tt.want)
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	g := gen.New(gen.Config{Seed: 1})
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		line = g.Append(line[:0])
	}
}
