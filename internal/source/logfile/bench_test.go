package logfile_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/source/logfile"
)

// BenchmarkRead reads a log of a million lines from its beginning.
func BenchmarkRead(b *testing.B) {
	const lines = 1_000_000
	dir := b.TempDir()
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "Jan  2 03:04:05 host sshd[%d]: Failed password for root from 192.0.2.%d port 40000 ssh2\n", 1000+i%30000, i%250)
	}
	if err := os.WriteFile(filepath.Join(dir, "full"), []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		path := filepath.Join(dir, fmt.Sprintf("%d.log", i))
		out := make(chan *event.Batch, 4)
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error)
		follow := logfile.New(logfile.Config{Globs: []string{path}}, out)
		go func() { done <- follow.Run(ctx) }()
		for len(follow.Status()) == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := os.Link(filepath.Join(dir, "full"), path); err != nil {
			b.Fatal(err)
		}
		for seen := 0; seen < lines; {
			batch := <-out
			seen += len(batch.Lines)
			batch.Release()
		}
		cancel()
		<-done
		os.Remove(path)
	}
	b.ReportMetric(float64(b.N)*lines/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkLatency is the time from the write of a line to its arrival on the channel, while nothing else happens.
func BenchmarkLatency(b *testing.B) {
	path := filepath.Join(b.TempDir(), "auth.log")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	out := make(chan *event.Batch, 4)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- logfile.New(logfile.Config{Globs: []string{path}}, out).Run(ctx) }()
	(<-out).Release()
	line := []byte("Jan  2 03:04:05 host sshd[1]: Failed password for root from 192.0.2.1 port 40000 ssh2\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
		(<-out).Release()
	}
	cancel()
	<-done
}
