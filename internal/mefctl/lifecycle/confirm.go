package lifecycle

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/mefctl/cli"
)

func newConfirm(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Say that you can still log in, after mefctl enable",
		Long: "confirm ends the time of trial that mefctl enable begins: bans stay in force from now on. Run it from a new login.\n" +
			"If the time has passed, so that the daemon only watches, it bans again.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			if err := client.Confirm(cmd.Context()); err != nil {
				return err
			}
			return g.Print(cmd, map[string]bool{"confirmed": true}, func(w io.Writer) {
				fmt.Fprintln(w, "Confirmed: mefdaemon bans from now on. mefctl status says whether this host is protected.")
			})
		},
	}
}
