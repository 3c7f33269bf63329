package ask

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/mefctl/cli"
)

func newBansClear(g *cli.Global) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "clear --yes",
		Short: "Lift every ban; the blacklist and feeds stay in force",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return console.Usage("mefctl bans clear lifts every ban of rules and operators; to do that, run mefctl bans clear --yes")
			}
			client, err := g.Client()
			if err != nil {
				return err
			}
			c, err := client.ClearBans(cmd.Context())
			if err != nil {
				return err
			}
			return g.Print(cmd, c, func(w io.Writer) {
				fmt.Fprintf(w, "Lifted %d bans.\n", c.Lifted)
				if c.Listed > 0 {
					fmt.Fprintf(w, "%d networks of lists stay banned; mefctl lists shows them.\n", c.Listed)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "lift all bans without asking")
	return cmd
}
