package ask

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/mefctl/cli"
)

func newWhy(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "why ADDR",
		Short: "Explain why an address is banned, or why it is not",
		Args:  console.OneArg("an address, such as 192.0.2.7"),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := cli.Addr(args[0])
			if err != nil {
				return err
			}
			client, err := g.Client()
			if err != nil {
				return err
			}
			why, err := client.Why(cmd.Context(), addr)
			if err != nil {
				return err
			}
			places := g.Places()
			defer places.Close()
			placed := places.Why(why)
			return g.Print(cmd, placed, func(w io.Writer) { placed.Show(w, time.Now()) })
		},
	}
}
