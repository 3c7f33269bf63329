package filter_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mef/bench/gen"
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
)

// benchRules are the rules of a benchmark: those that the generated log is about and one more, a choice of 20, and all.
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

// BenchmarkJSON reports what a line costs that is a JSON object: the samples of all rules with format=json, and one of a program that
// no rule is about.
func BenchmarkJSON(b *testing.B) {
	var lines [][]byte
	for _, r := range shippedRules(b) {
		if r.JSON == nil {
			continue
		}
		for _, s := range readSamples(b, r.Name) {
			if strings.HasPrefix(s.text, "{") {
				lines = append(lines, []byte(s.text))
			}
		}
	}
	b.Run("samples", func(b *testing.B) { matchLines(b, lines, all) })
	other := `{"level":"info","ts":"2026-03-01T10:00:00Z","caller":"app/server.go:42","msg":"served","request":{"id":"4c7e","took":12.5,"path":"/x"}}`
	b.Run("no rule's", func(b *testing.B) { matchLines(b, [][]byte{[]byte(other)}, all) })
}

// BenchmarkStart reports what a start spends on the shipped rules: reading, checking and compiling them, and the first lines of the
// programs of a mail server.
func BenchmarkStart(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		v := compile(b, shippedRules(b)).View(all)
		var m filter.Match
		for _, text := range mixed {
			v.Match(line(text), &m)
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
