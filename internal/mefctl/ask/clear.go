package ask

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
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
			return cli.Ask(g, cmd, (*control.Client).ClearBans, func(w io.Writer, c control.Cleared) {
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
