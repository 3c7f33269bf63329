package control

import (
	"fmt"
	"time"

	"mef/internal/ban"
)

// ShowPorts is the word for ports in answers.
func ShowPorts(p ban.Ports) string {
	if p == "" {
		return "all"
	}
	return string(p)
}

// Moment is a time in answers: nil for the zero time.
func Moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// ShowBan is a ban in answers, without what the kernel counts.
func ShowBan(b ban.Ban) Ban {
	return Ban{Prefix: ban.Key{Prefix: b.Prefix}.String(), Ports: ShowPorts(b.Ports), Class: b.Class.String(), Rule: b.Rule,
		Service: b.Service, Start: b.Start, Until: Moment(b.Until), Count: b.Count, Reason: b.Reason, Evidence: b.Evidence,
		Author: b.Author, Note: b.Note}
}

// BanRecord is the record of an event about a ban: "ban", "would-ban", "unban" or "error".
func BanRecord(event string, b ban.Ban) Record {
	return Record{Time: b.Start, Event: event, Rule: b.Rule, Service: b.Service, Prefix: b.Key.Prefix.String(),
		Ports: ShowPorts(b.Ports), Class: b.Class.String(), Until: Moment(b.Until), Reason: b.Reason,
		Listed: b.Listed, Evidence: b.Evidence, Author: b.Author, Note: b.Note}
}

// Refuse returns an Error.
func Refuse(format string, args ...any) error { return &Error{Message: fmt.Sprintf(format, args...)} }
