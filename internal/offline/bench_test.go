package offline_test

import (
	"bytes"
	"testing"
	"time"

	"mef/bench/gen"
	"mef/internal/ban"
	"mef/internal/offline"
)

// mixed returns the log of a busy server.
func mixed(lines int) []byte {
	var out []byte
	g := gen.New(gen.Config{Seed: 1})
	for range lines {
		out = g.Append(out)
	}
	return out
}

const benchLines = 200_000

// BenchmarkSummarize reports what a line costs that is only recognised.
func BenchmarkSummarize(b *testing.B) {
	log := mixed(benchLines)
	matcher, err := offline.ForService(configuration(b).Rules, "")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		if _, err := matcher.Summarize(bytes.NewReader(log)); err != nil {
			b.Fatal(err)
		}
	}
	perLine(b)
}

// BenchmarkReplay reports what a line costs that is counted and decided on as well.
func BenchmarkReplay(b *testing.B) {
	log := mixed(benchLines)
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		replay, err := offline.NewReplay(configuration(b), offline.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := replay.Run(bytes.NewReader(log), time.Now(), func(ban.Ban) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	perLine(b)
}

func perLine(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchLines, "ns/line")
}
