package reputation

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newFeeds(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "feeds",
		Short: "Show, enable and update lists of addresses that others publish",
		Long: "A feed is a list of attackers' addresses that somebody publishes. mefdaemon downloads it now and then and drops the packets by\n" +
			"which its addresses open connections to this host. Some feeds are built in; none is on until you enable it.",
		Args: console.NoArgs,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "Show all feeds: age, entries, dropped packets and the last error",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Ask(g, cmd, (*control.Client).Feeds, func(w io.Writer, all []control.Feed) { cli.ShowFeeds(w, all, time.Now()) })
		},
	})
	var force bool
	update := &cobra.Command{
		Use:   "update [NAME]",
		Short: "Download a feed now, or all that are enabled",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := control.FeedRequest{Do: control.UpdateFeed, Force: force}
			if len(args) == 1 {
				req.Name = args[0]
			}
			return changeFeed(g, cmd, req)
		},
	}
	update.Flags().BoolVar(&force, "force", false, "accept a feed that has more than ten times, or less than a tenth, of the entries or addresses it had")
	cmd.AddCommand(update, &cobra.Command{
		Use:   "enable NAME",
		Short: "Enable a feed, and download it now",
		Args:  console.OneArg("the name of a feed, such as spamhaus-drop"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeFeed(g, cmd, control.FeedRequest{Name: args[0], Do: control.EnableFeed})
		},
	}, &cobra.Command{
		Use:   "disable NAME",
		Short: "Disable a feed",
		Args:  console.OneArg("the name of a feed, such as spamhaus-drop"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeFeed(g, cmd, control.FeedRequest{Name: args[0], Do: control.DisableFeed})
		},
	})
	return cmd
}

// changeFeed does what is asked and shows the feed, or all if the request names none.
func changeFeed(g *cli.Global, cmd *cobra.Command, req control.FeedRequest) error {
	client, err := g.Client()
	if err != nil {
		return err
	}
	all, err := client.ChangeFeed(cmd.Context(), req)
	if err != nil {
		return err
	}
	shown := []control.Feed{}
	for _, f := range all {
		if f.Name == req.Name || req.Name == "" && f.Enabled {
			shown = append(shown, f)
		}
	}
	return g.Print(cmd, shown, func(w io.Writer) { cli.ShowFeeds(w, shown, time.Now()) })
}
