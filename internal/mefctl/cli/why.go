package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/geodb"
)

// A Why is an answer with the country and the autonomous system of its address.
type Why struct {
	control.Why
	geodb.Place
}

// Why adds its place to an answer.
func (p *Places) Why(why control.Why) Why { return Why{why, p.Of(why.Addr)} }

// Show writes the answer for people. Text that strangers wrote is quoted.
func (why Why) Show(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "%s: %s\n", why.Addr, why.Verdict)
	if from := PlaceText(why.Place); from != "" {
		if why.ASName != "" {
			from += " " + strconv.Quote(why.ASName)
		}
		fmt.Fprintf(w, "  from %s\n", from)
	}
	for _, b := range why.Bans {
		fmt.Fprintf(w, "  banned as %s %s by %s since %s, %s; set %s, %s packets dropped\n", b.Prefix, OnPorts(b.Ports), b.Rule,
			Moment(b.Start), Lasts(b.Until, now), b.Set, Packets(b.Packets))
		fmt.Fprintf(w, "    %s\n", b.Reason)
		if b.Note != "" {
			fmt.Fprintf(w, "    note %s\n", strconv.Quote(b.Note))
		}
	}
	if why.Allowed != "" {
		fmt.Fprintf(w, "  never banned: %s\n", why.Allowed)
	}
	if len(why.Known) > 0 {
		fmt.Fprintf(w, "  known logins: %s\n", QuotedList(why.Known))
	}
	if why.Limit > 0 {
		fmt.Fprintf(w, "  score %.1f of %d\n", why.Score, why.Limit)
	} else {
		fmt.Fprintf(w, "  score %.1f, which bans nobody (score_ban=0)\n", why.Score)
	}
	for _, line := range why.Arithmetic {
		fmt.Fprintf(w, "    %s\n", line)
	}
	for _, r := range why.Rules {
		fmt.Fprintf(w, "  %s: %s of %d attempts within %s\n", r.Rule, strconv.FormatFloat(r.Attempts, 'f', -1, 64), r.MaxRetry, r.FindTime)
	}
	for _, line := range why.Scans {
		fmt.Fprintf(w, "  port scans: %s\n", line)
	}
	for _, line := range why.Listings {
		fmt.Fprintf(w, "  block list: %s\n", line)
	}
	for _, line := range why.Requests {
		fmt.Fprintf(w, "  web requests: %s\n", line)
	}
	for _, b := range why.History {
		if !holds(why.Bans, b) {
			fmt.Fprintf(w, "  earlier ban: %s by %s, %s %s, %s\n", b.Prefix, b.Rule, Moment(b.Start), Lasting(b.Until), b.Reason)
		}
	}
	for _, n := range why.Prefix {
		state := ""
		if n.Banned {
			state = ", banned"
		}
		fmt.Fprintf(w, "  same network: %s, score %.1f%s\n", n.Prefix, n.Score, state)
	}
	for _, text := range why.Foreign {
		fmt.Fprintf(w, "  another table: %s\n", text)
	}
	if len(why.Evidence) > 0 {
		fmt.Fprintf(w, "  evidence:\n%s", Quoted(why.Evidence, "    "))
	}
	if why.Banned {
		fmt.Fprintln(w, wayOut(why.Why))
	}
}

// wayOut reports how an address gets through again.
func wayOut(why control.Why) string {
	switch {
	case len(why.Bans) > 0:
		return fmt.Sprintf("mefctl bans delete %s lifts the ban.", why.Addr)
	case !slices.Contains(why.Lists, ban.ByList):
		return fmt.Sprintf("mefctl allow add %s lets the address through.", why.Addr)
	}
	return fmt.Sprintf("Remove the entry from the blacklist, or allow the address with mefctl allow add %s.", why.Addr)
}

// holds reports whether a ban of the history is one of the active bans, which are shown already.
func holds(inForce []control.Ban, past control.Ban) bool {
	return slices.ContainsFunc(inForce, func(b control.Ban) bool {
		return b.Prefix == past.Prefix && b.Rule == past.Rule && b.Start.Equal(past.Start)
	})
}
