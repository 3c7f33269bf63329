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

// ShowAccess prints a table of sections about countries, and what is wrong or left out below it.
func ShowAccess(w io.Writer, all []control.Access, now time.Time) {
	rows := [][]string{{"ACCESS", "STATE", "CLOSES", "RULE", "ENTRIES", "DROPPED", "READ"}}
	for _, a := range all {
		state, dropped := "not in force", "-"
		if a.InForce {
			state, dropped = "on", strconv.FormatUint(a.Packets, 10)
		}
		if a.InForce && a.Error != "" {
			state = "on, not updated"
		}
		ports := "all ports"
		if a.Ports != "all" {
			ports = "ports " + a.Ports
		}
		rows = append(rows, []string{a.Name, state, ports, a.Rule, strconv.Itoa(a.Entries), dropped, Ago(a.Read, now)})
	}
	console.Table(w, rows)
	for _, a := range all {
		for _, note := range leftOut(a.Spared, a.Admins) {
			fmt.Fprintf(w, "%s: %s\n", a.Name, note)
		}
		if a.Error != "" {
			fmt.Fprintf(w, "%s: last error: %s\n", a.Name, a.Error)
		}
	}
}

// leftOut returns what is not dropped although a list has it.
func leftOut(spared, admins float64) (notes []string) {
	if spared > 0 {
		notes = append(notes, fmt.Sprintf("without %.0f addresses that this host needs, that are allowed, or that many clients share", spared))
	}
	if admins > 0 {
		notes = append(notes, fmt.Sprintf("without %.0f addresses from which administrators log in", admins))
	}
	return notes
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
	if f.Special > 0 {
		notes = append(notes, fmt.Sprintf("without %.0f addresses that no public host has", f.Special))
	}
	notes = append(notes, leftOut(f.Spared, f.Admins)...)
	if f.Fetched != nil && f.Action == "drop" && !f.InForce {
		notes = append(notes, "not in force: bans are not applied, or nothing of it is left")
	}
	return notes
}
