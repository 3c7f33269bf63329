package reputation

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newCloud(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cloud",
		Short: "Join a community server, or show what is exchanged with it",
		Args:  console.NoArgs,
	}
	cmd.AddCommand(newCloudJoin(g), newCloudLeave(g), newCloudPreview(g), newCloudLookup(g),
		newStatus(g, "Show which server this host has joined, what was sent, and its lists", func(s control.Status) control.Cloud { return s.Cloud }, showCloud))
	return cmd
}

func newCloudJoin(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "join TEXT",
		Short: "Join the server of an invitation",
		Long: "join makes a key for this host and enrols it at the server of an invitation, which mefcloud invite prints there. The server must have the key that\n" +
			"the invitation names. What is then sent and used is up to community_report and community_cloud_protection of mef.conf(5).",
		Args: console.OneArg("the text that mefcloud invite printed"),
		RunE: func(cmd *cobra.Command, args []string) error {
			join := func(c *control.Client, ctx context.Context) (control.Cloud, error) { return c.JoinCloud(ctx, args[0]) }
			return cli.Ask(g, cmd, join, func(w io.Writer, s control.Cloud) { showCloud(w, s, time.Now()) })
		},
	}
}

func newCloudLeave(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "leave",
		Short: "Leave the server, and drop its lists",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			leave := func(c *control.Client, ctx context.Context) (struct{}, error) { return struct{}{}, c.LeaveCloud(ctx) }
			return cli.Ask(g, cmd, leave, func(w io.Writer, _ struct{}) { fmt.Fprintln(w, "This host has left the community server.") })
		},
	}
}

func newCloudPreview(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "preview",
		Short: "Print exactly what would be sent to the server next",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Ask(g, cmd, (*control.Client).PreviewCloud, func(w io.Writer, text json.RawMessage) { fmt.Fprintf(w, "%s\n", text) })
		},
	}
}

func newCloudLookup(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "lookup ADDR",
		Short: "Find out whether the server lists an address, and who was shown what for that",
		Long: "lookup finds out about an address in the way that community_cloud_lookup of mef.conf(5) names: in the copy of the list on this host, by DNS, or by asking the\n" +
			"server for all listed addresses of its network. Without community_cloud_protection, the server is asked about the address itself.",
		Args: console.OneArg("an address, such as 192.0.2.7"),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := cli.Addr(args[0])
			if err != nil {
				return err
			}
			lookup := func(c *control.Client, ctx context.Context) (control.CloudVerdict, error) {
				return c.LookupCloud(ctx, addr)
			}
			return cli.Ask(g, cmd, lookup, func(w io.Writer, v control.CloudVerdict) {
				switch {
				case !v.Listed:
					fmt.Fprintf(w, "%s is not listed.\n", addr)
				case v.Until == "":
					fmt.Fprintf(w, "%s is listed.\n", addr)
				default:
					fmt.Fprintf(w, "%s is listed until %s for %s: score %d of 100, %s reporters.\n", addr, v.Until, strings.Join(v.Categories, ", "), v.Score, v.Reporters)
				}
				fmt.Fprintf(w, "To find that out, %s.\n", v.Shown)
			})
		},
	}
}

func showCloud(w io.Writer, s control.Cloud, now time.Time) {
	if s.Server == "" {
		fmt.Fprintln(w, "This host has joined no community server; see mefctl cloud join --help.")
	} else {
		fmt.Fprintf(w, "Server %s, joined %s; this host is %s there.\n", s.Server, cli.Ago(s.Since, now), s.Host)
		if s.Reporting {
			fmt.Fprintf(w, "Reports: %d sent since start, %d waiting, %d not wanted by the server, %d left out.\n", s.Sent, s.Waiting, s.Dropped, s.LeftOut)
		} else {
			fmt.Fprintln(w, "Bans are not reported; set community_report=true in mef.conf and run mefctl reload.")
		}
		if !s.Protecting {
			fmt.Fprintln(w, "Lists are not used; set community_cloud_protection=true in mef.conf and run mefctl reload.")
		}
	}
	if f := s.Fleet; f != nil {
		showFleet(w, f, now)
	}
	for _, l := range s.Lists {
		if s.Protecting {
			fmt.Fprintf(w, "List %s: %d entries, signed %s.\n", l.Name, l.Entries, cli.Ago(l.Of, now))
		}
	}
	if n := s.Names; n != nil {
		showCloudNames(w, n, now)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "  problem: %s\n", p)
	}
}

func showCloudNames(w io.Writer, n *control.CloudNames, now time.Time) {
	reported, used := "none reported yet", "none of other hosts are used"
	if n.At != nil {
		reported = fmt.Sprintf("%d reported %s", n.Reported, cli.Ago(n.At, now))
	}
	if n.Of != nil {
		used = fmt.Sprintf("%d that other hosts see attacked are used, signed %s", n.Listed, cli.Ago(n.Of, now))
	}
	fmt.Fprintf(w, "User names: %s; %s.\n", reported, used)
}

func showFleet(w io.Writer, f *control.Fleet, now time.Time) {
	if f.Connected {
		fmt.Fprintf(w, "Own hosts: %d connected; this one has shared %d of %d bans in this hour.\n", f.Hosts, f.Used, f.Quota)
	} else {
		fmt.Fprintln(w, "Own hosts: not connected; what they ban arrives later.")
	}
	last := ""
	if f.Last != nil {
		last = fmt.Sprintf("; the last one %s: %s", cli.Ago(f.Last, now), f.LastEvent)
	}
	fmt.Fprintf(w, "  %d events sent since start, %d waiting, %d received%s.\n", f.Sent, f.Waiting, f.Received, last)
	if f.Dropped+f.LeftOut > 0 {
		fmt.Fprintf(w, "  %d were not accepted by the server, %d left out.\n", f.Dropped, f.LeftOut)
	}
}
