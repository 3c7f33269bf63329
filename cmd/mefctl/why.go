package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/ban"
	"mef/internal/console"
	"mef/internal/control"
)

func newWhy(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "why ADDR",
		Short: "Explain why an address is banned, or why it is not",
		Args:  console.OneArg("an address, such as 192.0.2.7"),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(args[0])
			if err != nil {
				return console.Usage("%s is no address; write it like 192.0.2.7 or 2001:db8::7", strconv.Quote(args[0]))
			}
			client, err := g.client()
			if err != nil {
				return err
			}
			why, err := client.Why(cmd.Context(), addr)
			if err != nil {
				return err
			}
			return g.print(cmd, why, func(w io.Writer) { showWhy(w, why, time.Now()) })
		},
	}
}

func showWhy(w io.Writer, why control.Why, now time.Time) {
	fmt.Fprintf(w, "%s: %s\n", why.Addr, why.Verdict)
	for _, b := range why.Bans {
		fmt.Fprintf(w, "  banned as %s %s by %s since %s, %s; set %s, %s packets dropped\n", b.Prefix, onPorts(b.Ports), b.Rule,
			moment(b.Start), lasts(b.Until, now), b.Set, packets(b.Packets))
		fmt.Fprintf(w, "    %s\n", b.Reason)
		if b.Note != "" {
			fmt.Fprintf(w, "    note %s\n", strconv.Quote(b.Note))
		}
	}
	if why.Allowed != "" {
		fmt.Fprintf(w, "  never banned: %s\n", why.Allowed)
	}
	if len(why.Known) > 0 {
		fmt.Fprintf(w, "  known logins: %s\n", quotedList(why.Known))
	}
	fmt.Fprintf(w, "  score %.1f of %d\n", why.Score, why.Limit)
	for _, line := range why.Arithmetic {
		fmt.Fprintf(w, "    %s\n", line)
	}
	for _, r := range why.Rules {
		fmt.Fprintf(w, "  %s: %s of %d attempts within %s\n", r.Rule, strconv.FormatFloat(r.Attempts, 'f', -1, 64), r.MaxRetry, r.FindTime)
	}
	for _, b := range why.History {
		if !holds(why.Bans, b) {
			fmt.Fprintf(w, "  earlier ban: %s by %s, %s %s, %s\n", b.Prefix, b.Rule, moment(b.Start), lasting(b.Until), b.Reason)
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
		fmt.Fprintf(w, "  somebody else's: %s\n", text)
	}
	if len(why.Evidence) > 0 {
		fmt.Fprintf(w, "  evidence:\n%s", quoted(why.Evidence, "    "))
	}
	if why.Banned {
		fmt.Fprintln(w, wayOut(why))
	}
}

// wayOut says how a ban is lifted. Those of blacklist files alone are the files' to lift.
func wayOut(why control.Why) string {
	if slices.ContainsFunc(why.Bans, func(b control.Ban) bool { return b.Rule != ban.ByList }) {
		return fmt.Sprintf("mefctl bans delete %s lifts the ban.", why.Addr)
	}
	return fmt.Sprintf("Take the entry out of the blacklist, or let it through by mefctl allow add %s.", why.Addr)
}

// holds reports whether a ban of the history is one of those in force, of which all has been said.
func holds(inForce []control.Ban, past control.Ban) bool {
	return slices.ContainsFunc(inForce, func(b control.Ban) bool {
		return b.Prefix == past.Prefix && b.Rule == past.Rule && b.Start.Equal(past.Start)
	})
}

// moment is a time of day that may be long ago.
func moment(t time.Time) string { return t.Local().Format(time.DateTime) }

func quotedList(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return strings.Join(q, ", ")
}
