package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"mef/internal/control"
	"mef/internal/duration"
)

// Left reports how long something still lasts, as of now.
func Left(until *time.Time, now time.Time) string {
	if until == nil {
		return "until lifted"
	}
	return Span(until.Sub(now))
}

// Lasts is Left in a sentence.
func Lasts(until *time.Time, now time.Time) string {
	if until == nil {
		return "until lifted"
	}
	return Span(until.Sub(now)) + " left"
}

// OnPorts reports where a ban holds.
func OnPorts(ports string) string {
	if ports == "all" {
		return "on all ports"
	}
	return "on ports " + ports
}

// Span is duration.Span, or "now" for what is not a second away.
func Span(d time.Duration) string {
	if d = d.Round(time.Second); d <= 0 {
		return "now"
	}
	return duration.Span(d)
}

// Ago reports how long ago t was.
func Ago(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	if d := now.Sub(*t); d >= time.Second {
		return Span(d) + " ago"
	}
	return "now"
}

// Quoted shows text that an attacker wrote: as a Go string, so that no control character reaches the terminal.
func Quoted(lines []string, indent string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(indent + strconv.Quote(line) + "\n")
	}
	return b.String()
}

// Packets shows a counter that not every kernel keeps.
func Packets(n *uint64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(*n, 10)
}

// Kernel describes what was read back from the packet filter.
func Kernel(k control.Kernel) string {
	if !k.Present {
		return fmt.Sprintf("%s: %s is MISSING", k.Backend, k.Table)
	}
	text := fmt.Sprintf("%s: %s holds %d bans", k.Backend, k.Table, k.Elements)
	if k.Matches {
		text += ", as it should be"
	} else {
		text += ", NOT as it should be: " + strings.Join(k.Problems, "; ")
	}
	if k.Repairs > 0 {
		text += fmt.Sprintf("; repaired %d times", k.Repairs)
	}
	if k.Reason != "" && k.Backend != "nftables" {
		text += "; used because " + k.Reason
	}
	return text
}

// Lasting reports when something ends.
func Lasting(until *time.Time) string {
	if until == nil {
		return "until lifted"
	}
	return "until " + until.Local().Format("2006-01-02 15:04:05")
}

// Moment is a time of day that may be long ago.
func Moment(t time.Time) string { return t.Local().Format(time.DateTime) }

// QuotedList joins texts that an attacker may have written.
func QuotedList(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return strings.Join(q, ", ")
}
