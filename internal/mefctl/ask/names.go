package ask

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newNames(g *cli.Global) *cobra.Command {
	limit := 50
	cmd := &cobra.Command{
		Use:   "names [PREFIX]",
		Short: "Show the user names that are tried, which of them are hot, and why others are protected",
		Long: "names shows the user names that are tried, those that most networks try first. One attempt with a hot name from an unknown\n" +
			"address leads to a ban. A name that exists on this host or has ever logged in is protected, and so is a name within two edits of it.\n" +
			"ORIGIN community is a name that hosts of the community server see attacked.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return console.Usage("mefctl names takes at most one argument, the beginning of a name")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return cli.Ask(g, cmd, func(c *control.Client, ctx context.Context) ([]control.Name, error) {
				return c.Names(ctx, strings.ToLower(strings.Join(args, "")), limit)
			}, func(w io.Writer, names []control.Name) { showNames(w, names, time.Now()) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "show at most this many names; 0 shows all")
	return cmd
}

func showNames(w io.Writer, names []control.Name, now time.Time) {
	if len(names) == 0 {
		fmt.Fprintln(w, "No such names.")
		return
	}
	rows := [][]string{{"NAME", "HOT", "NETWORKS", "TRIES", "LAST", "ORIGIN", "PROTECTED"}}
	for _, n := range names {
		hot, last := "", "-"
		if n.Hot {
			hot = "hot"
		}
		if !n.Last.IsZero() {
			last = cli.Ago(&n.Last, now)
		}
		rows = append(rows, []string{strconv.Quote(n.Name), hot, strconv.Itoa(n.Networks), strconv.Itoa(n.Tries), last, n.Origin, n.Protected})
	}
	console.Table(w, rows)
}

func newAlarms(g *cli.Global) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "alarms",
		Short: "Show logins that may be break-ins",
		Long: "alarms shows successful logins from an address that had attacked, or with a name that was being guessed, if the user\n" +
			"had never logged in from there. mefctl alarms ack marks them as seen.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Ask(g, cmd, (*control.Client).Alarms, func(w io.Writer, alarms []control.Alarm) { showAlarms(w, alarms, all) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also show acknowledged alarms")
	cmd.AddCommand(&cobra.Command{
		Use:   "ack [ID...]",
		Short: "Mark alarms as seen; without IDs, all of them",
		RunE: func(cmd *cobra.Command, args []string) error {
			var req control.AckRequest
			for _, arg := range args {
				id, err := strconv.ParseUint(arg, 10, 64)
				if err != nil {
					return console.Usage("%q is not the number of an alarm; see mefctl alarms", arg)
				}
				req.IDs = append(req.IDs, id)
			}
			return cli.Ask(g, cmd, func(c *control.Client, ctx context.Context) (control.Acked, error) {
				return c.Acknowledge(ctx, req)
			}, func(w io.Writer, done control.Acked) { fmt.Fprintf(w, "%d alarms marked as seen.\n", done.Acked) })
		},
	})
	return cmd
}

func showAlarms(w io.Writer, alarms []control.Alarm, all bool) {
	shown := 0
	for _, a := range alarms {
		if a.Acked && !all {
			continue
		}
		shown++
		fmt.Fprintf(w, "%d  %s  %q logged in to %s from %s\n    %s\n", a.ID, a.Time.Local().Format("2006-01-02 15:04:05"), a.User, a.Service, a.Addr, a.Reason)
		for _, line := range a.Evidence {
			fmt.Fprintf(w, "      %q\n", line)
		}
	}
	if shown == 0 {
		fmt.Fprintln(w, "No alarms.")
		return
	}
	fmt.Fprintln(w, "\nWas it the user? Then mefctl alarms ack. If not: lock the account, and see what that address did: mefctl why ADDR.")
}
