// Package reputation has the commands of mefctl about what this host exchanges with others: DNS block lists, feeds, reports, notifications and the
// operator's page.
package reputation

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

// Commands returns the commands of this package.
func Commands(g *cli.Global) []*cobra.Command {
	return []*cobra.Command{newDNSBL(g), newReports(g), newFeeds(g), newNotify(g), newCloud(g), newPage(g)}
}

func newDNSBL(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dnsbl",
		Short: "Ask DNS block lists about an address, or show how they are used",
		Args:  console.NoArgs,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "check ADDR",
		Short: "Ask all lists that are enabled about an address now",
		Long: "check has the daemon ask all lists that are enabled about an address, even if it has an answer already. The answers lead to no ban.\n" +
			"The query shows the address to the lists and the name servers. 127.0.0.2 is the test entry of most lists.",
		Args: console.OneArg("an address, such as 192.0.2.7"),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := cli.Addr(args[0])
			if err != nil {
				return err
			}
			return cli.Ask(g, cmd, func(c *control.Client, ctx context.Context) ([]control.DNSBLAnswer, error) {
				return c.CheckDNSBL(ctx, addr)
			}, func(w io.Writer, answers []control.DNSBLAnswer) { showAnswers(w, answers) })
		},
	}, newStatus(g, "Show which lists are used through which name servers", func(s control.Status) control.DNSBL { return s.DNSBL }, showDNSBL))
	return cmd
}

// newStatus returns the command that shows a part of the daemon's status.
func newStatus[T any](g *cli.Global, short string, part func(control.Status) T, show func(io.Writer, T, time.Time)) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: short,
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			return g.Print(cmd, part(s), func(w io.Writer) { show(w, part(s), time.Now()) })
		},
	}
}

func showAnswers(w io.Writer, answers []control.DNSBLAnswer) {
	rows := [][]string{{"LIST", "ZONE", "ANSWER", "LEADS TO", "REASON"}}
	for _, a := range answers {
		answer, reason := "not listed", ""
		switch {
		case a.Problem != "":
			answer, reason = "unknown", a.Problem
		case a.Listed:
			answer = "listed: " + a.Codes
			if a.Reason != "" {
				reason = strconv.Quote(a.Reason)
			}
		}
		rows = append(rows, []string{a.List, a.Zone, answer, a.Action, reason})
	}
	console.Table(w, rows)
}

func showDNSBL(w io.Writer, s control.DNSBL, now time.Time) {
	if len(s.Lists) == 0 {
		fmt.Fprintln(w, "No block list is asked (rbl_enabled=false).")
		return
	}
	rows := [][]string{{"LIST", "ZONE", "NAME SERVER", "STATE", "IPV6", "TESTED"}}
	for _, l := range s.Lists {
		if len(l.Servers) == 0 {
			rows = append(rows, []string{l.Name, l.Zone, "-", "not tested yet", "-", "-"})
		}
		for _, server := range l.Servers {
			state, ipv6 := "in use", "no"
			if !server.Usable {
				state, ipv6 = "not tested yet", "-"
			}
			if server.Cause != "" {
				state = "suspended, tested again " + cli.Moment(*server.Retry) + ": " + server.Cause
			}
			if server.IPv6 {
				ipv6 = "yes"
			}
			rows = append(rows, []string{l.Name, l.Zone, server.Server, state, ipv6, cli.Ago(server.Tested, now)})
		}
	}
	console.Table(w, rows)
	fmt.Fprintln(w)
	for _, l := range s.Lists {
		fmt.Fprintf(w, "%s: %s\n", l.Name, l)
	}
}

func newReports(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reports",
		Short: "Show what was reported to AbuseIPDB and blocklist.de, or test whether it can be",
		Args:  console.NoArgs,
	}
	cmd.AddCommand(newStatus(g, "Show how many bans were reported, and what is wrong", func(s control.Status) []control.Reports { return s.Reports }, showReports), &cobra.Command{
		Use:   "test",
		Short: "Test whether the key is accepted, without reporting anything",
		Long: "test has the daemon ask AbuseIPDB about 127.0.0.1, which shows whether the key is accepted, and blocklist.de for its page.\n" +
			"Nothing is reported. The exit status is 1 if one of them fails.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return sendTest(g, cmd, func(c *control.Client) ([]control.SendTest, error) { return c.TestReports(cmd.Context()) })
		},
	})
	return cmd
}

// sendTest has the daemon test what it sends, and shows how that went. The exit status is 1 if something was not accepted.
func sendTest(g *cli.Global, cmd *cobra.Command, test func(*control.Client) ([]control.SendTest, error)) error {
	client, err := g.Client()
	if err != nil {
		return err
	}
	results, err := test(client)
	if err != nil {
		return err
	}
	if err := g.Print(cmd, results, func(w io.Writer) { showTests(w, results) }); err != nil {
		return err
	}
	if slices.ContainsFunc(results, func(r control.SendTest) bool { return !r.OK }) {
		return &console.Exit{Code: 1}
	}
	return nil
}

func showReports(w io.Writer, all []control.Reports, now time.Time) {
	if len(all) == 0 {
		fmt.Fprintln(w, "No reports are sent (report_abuseipdb=false, report_blocklist_de=false).")
		return
	}
	for _, r := range all {
		fmt.Fprintf(w, "%s; the last %s\n", r, cli.Ago(r.Last, now))
		switch {
		case r.Problem != "":
			fmt.Fprintf(w, "  problem: %s\n", r.Problem)
		case r.Until != nil:
			fmt.Fprintf(w, "  paused until %s, at the request of the service\n", cli.Moment(*r.Until))
		}
	}
}

func showTests(w io.Writer, results []control.SendTest) {
	for _, r := range results {
		state := "works"
		if !r.OK {
			state = "FAILS"
		}
		fmt.Fprintf(w, "%s %s: %s\n", r.To, state, r.Detail)
	}
}
