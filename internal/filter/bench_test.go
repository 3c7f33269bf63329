package filter_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"mef/bench/gen"
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
)

// benchRules are the rules whose number the benchmarks grow: the four that the generated log is about, a choice of 20, and all.
func benchRules(b *testing.B) map[string]func(*conf.Rule) bool {
	four := []string{"sshd", "postfix", "dovecot", "exim"}
	twenty := append([]string{"dropbear", "pam", "courier", "cyrus", "proftpd", "vsftpd", "pure-ftpd", "nginx", "apache", "lighttpd",
		"mysql", "postgresql", "bind", "openvpn", "asterisk", "roundcube"}, four...)
	only := func(names []string) func(*conf.Rule) bool {
		return func(r *conf.Rule) bool { return slices.Contains(names, r.Name) }
	}
	return map[string]func(*conf.Rule) bool{"4 rules": only(four), "20 rules": only(twenty), "all rules": all}
}

// logOf returns the lines of a generated log.
func logOf(cfg gen.Config) [][]byte {
	var lines [][]byte
	g := gen.New(cfg)
	for range 20_000 {
		lines = append(lines, bytes.TrimRight(g.Append(nil), "\n"))
	}
	return lines
}

// BenchmarkRules reports what a line costs by the number of rules that read its file: a rule costs nothing where no line is its own.
func BenchmarkRules(b *testing.B) {
	for _, mix := range []struct {
		name string
		cfg  gen.Config
	}{
		{"mixed", gen.Config{Seed: 1}},
		{"no rule's", gen.Config{Seed: 1, Shares: gen.Shares{gen.Cron: 2, gen.Kernel: 2, gen.Sudo: 1, gen.Logind: 1}}},
	} {
		lines := logOf(mix.cfg)
		for name, include := range benchRules(b) {
			b.Run(fmt.Sprintf("%s/%s", mix.name, name), func(b *testing.B) { matchLines(b, lines, include) })
		}
	}
}

// matchLines reports what a line costs.
func matchLines(b *testing.B, lines [][]byte, include func(*conf.Rule) bool) {
	v := compile(b, shippedRules(b)).View(include)
	var m filter.Match
	size := 0
	for _, text := range lines {
		size += len(text) + 1
		v.Match(&event.Line{Text: text}, &m) // makes states
	}
	b.SetBytes(int64(size / len(lines)))
	b.ReportAllocs()
	var line event.Line
	for i := 0; b.Loop(); i++ {
		line.Text = lines[i%len(lines)]
		v.Match(&line, &m)
	}
}
