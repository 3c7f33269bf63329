package eventlog_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"mef/internal/control"
	"mef/internal/eventlog"
)

// The daemon's own log has a line for each ban, and under attack a few and their number.
func TestSummary(t *testing.T) {
	var out strings.Builder
	noTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	s := eventlog.NewSummary(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: noTime})))
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	until := now.Add(10 * time.Minute)
	recs := []control.Record{
		{Time: now, Event: "ban", Prefix: "192.0.2.7", Ports: "all", Rule: "sshd", Until: &until, Reason: "5 failures in 42s"},
		{Time: now, Event: "unban", Prefix: "192.0.2.7", Author: "alice"},
	}
	if err := s.Write(recs); err != nil {
		t.Fatal(err)
	}
	want := "level=INFO msg=ban prefix=192.0.2.7 rule=sshd for=10m0s reason=\"5 failures in 42s\"\nlevel=INFO msg=unban prefix=192.0.2.7 by=alice\n"
	if out.String() != want {
		t.Errorf("logged\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	for i := range 1000 {
		s.Write([]control.Record{{Time: now, Event: "ban", Prefix: fmt.Sprint(i)}})
	}
	s.Write([]control.Record{{Time: now.Add(time.Minute), Event: "ban", Prefix: "later"}})
	if lines := strings.Split(out.String(), "\n"); len(lines) != 18+1+1+1 || !strings.Contains(out.String(), "count=982\n") || !strings.Contains(out.String(), "prefix=later\n") {
		t.Errorf("1,000 bans are %d lines:\n%s", len(lines), out.String())
	}
}
