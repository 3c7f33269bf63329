package eventlog

import (
	"log/slog"
	"time"

	"mef/internal/control"
)

const (
	// summaryLines is how many bans a minute a Summary logs one by one.
	summaryLines = 20
	summarySpan  = time.Minute
)

// A Summary logs bans and unbans to the daemon's own log. Under attack it logs a few bans a minute and counts the others:
// the event log has all of them, and a flooded log daemon drops lines of other programs.
type Summary struct {
	log   *slog.Logger
	since time.Time // the beginning of the minute
	lines int       // in it
	more  int       // bans in it that were not logged
}

// NewSummary returns a Summary that logs to log.
func NewSummary(log *slog.Logger) *Summary { return &Summary{log: log} }

// Summarized reports whether a Summary logs records of this kind.
func Summarized(event string) bool { return event == "ban" || event == "would-ban" || event == "unban" }

// Open does nothing.
func (s *Summary) Open() error { return nil }

// Write logs records.
func (s *Summary) Write(recs []control.Record) error {
	for i := range recs {
		s.write(&recs[i])
	}
	return nil
}

func (s *Summary) write(rec *control.Record) {
	if rec.Time.Sub(s.since) >= summarySpan || rec.Time.Before(s.since) {
		s.flush()
		s.since, s.lines = rec.Time, 0
	}
	if s.lines >= summaryLines {
		s.more++
		return
	}
	s.lines++
	args := []any{"prefix", rec.Prefix}
	if rec.Ports != "" && rec.Ports != "all" {
		args = append(args, "ports", rec.Ports)
	}
	if rec.Rule != "" {
		args = append(args, "rule", rec.Rule)
	}
	if rec.Until != nil && rec.Event != "unban" {
		args = append(args, "for", rec.Until.Sub(rec.Time).Round(time.Second).String())
	}
	if rec.Author != "" {
		args = append(args, "by", rec.Author)
	}
	if rec.Reason != "" {
		args = append(args, "reason", rec.Reason)
	}
	s.log.Info(rec.Event, args...)
}

// flush logs how many bans were left out.
func (s *Summary) flush() {
	if s.more > 0 {
		s.log.Info("more bans and unbans; see mefctl events and the event log", "count", s.more)
		s.more = 0
	}
}

// Close logs what is left.
func (s *Summary) Close() error {
	s.flush()
	return nil
}
