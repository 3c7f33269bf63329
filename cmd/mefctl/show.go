package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"mef/internal/control"
)

// left says how long something still lasts, as of now.
func left(until *time.Time, now time.Time) string {
	if until == nil {
		return "until lifted"
	}
	return span(until.Sub(now))
}

// lasts is left in a sentence.
func lasts(until *time.Time, now time.Time) string {
	if until == nil {
		return "until lifted"
	}
	return span(until.Sub(now)) + " left"
}

// onPorts says where a ban holds.
func onPorts(ports string) string {
	if ports == "all" {
		return "on all ports"
	}
	return "on ports " + ports
}

// span rounds a duration to what a person wants to read: "3d4h", "2h05m", "9m58s", "now".
func span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d <= 0:
		return "now"
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return d.String()
}

// ago says how long ago t was.
func ago(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	if d := now.Sub(*t); d >= time.Second {
		return span(d) + " ago"
	}
	return "now"
}

// quoted shows text that an attacker wrote: as a Go string, so that no control character reaches the terminal.
func quoted(lines []string, indent string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(indent + strconv.Quote(line) + "\n")
	}
	return b.String()
}

// packets shows a counter that not every kernel keeps.
func packets(n *uint64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(*n, 10)
}

func banRows(bans []control.Ban, now time.Time) [][]string {
	rows := [][]string{{"PREFIX", "PORTS", "LEFT", "PACKETS", "RULE", "CLASS", "BY", "NOTE"}}
	for _, b := range bans {
		by, note := b.Author, ""
		if b.Note != "" {
			note = strconv.Quote(b.Note)
		}
		if !b.Kernel {
			note = strings.TrimSpace("NOT IN THE KERNEL " + note)
		}
		rows = append(rows, []string{b.Prefix, b.Ports, left(b.Until, now), packets(b.Packets), b.Rule, b.Class, by, note})
	}
	return rows
}
