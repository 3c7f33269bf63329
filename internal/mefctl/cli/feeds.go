package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"mef/internal/console"
	"mef/internal/control"
)

// ShowFeeds prints a table of feeds, and what is wrong or left out below it.
func ShowFeeds(w io.Writer, all []control.Feed, now time.Time) {
	rows := [][]string{{"FEED", "STATE", "DOES", "ENTRIES", "DROPPED", "AGE", "SOURCE"}}
	for _, f := range all {
		state, entries, dropped := "off", "-", "-"
		switch {
		case f.Enabled && f.Error != "" && f.Fetched == nil:
			state = "failed"
		case f.Enabled && f.Error != "":
			state = "on, not updated"
		case f.Enabled && f.Fetched == nil:
			state = "not fetched yet"
		case f.Enabled:
			state = "on"
		}
		if f.Fetched != nil && f.Enabled {
			entries = strconv.Itoa(f.Entries)
		}
		does := f.Action
		if f.Action == "drop" {
			does += " " + f.Direction
			if f.Ports != "all" {
				does += ", ports " + f.Ports
			}
			if f.InForce {
				dropped = strconv.FormatUint(f.Packets, 10)
			}
		}
		rows = append(rows, []string{f.Name, state, does, entries, dropped, Ago(f.Fetched, now), f.URL})
	}
	console.Table(w, rows)
	for _, f := range all {
		for _, note := range feedNotes(f) {
			fmt.Fprintf(w, "%s: %s\n", f.Name, note)
		}
	}
}

// feedNotes returns what else an operator should know about a feed.
func feedNotes(f control.Feed) (notes []string) {
	if !f.Enabled {
		return nil
	}
	if f.Error != "" {
		notes = append(notes, "last error: "+f.Error)
	}
	if f.Wrong > 0 {
		notes = append(notes, fmt.Sprintf("%d lines are no entries", f.Wrong))
	}
	for _, left := range []struct {
		n   float64
		why string
	}{
		{f.Special, "that no public host has"},
		{f.Spared, "that this host needs, that are allowed, or that many clients share"},
		{f.Admins, "from which administrators log in"},
	} {
		if left.n > 0 {
			notes = append(notes, fmt.Sprintf("without %.0f addresses %s", left.n, left.why))
		}
	}
	if f.Fetched != nil && f.Action == "drop" && !f.InForce {
		notes = append(notes, "not in force: bans are not applied, or nothing of it is left")
	}
	return notes
}
