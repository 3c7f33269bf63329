package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/enforce/nftset"
)

func newOff(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "off",
		Short: "Stop the daemon and remove its table from the kernel",
		Long: "off is the way back when locked out: it ends every ban at once. It works without a daemon. Nothing but\n" +
			"table inet mefdaemon is touched.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			result := struct {
				Stopped bool `json:"daemon_stopped"`
				Deleted bool `json:"table_deleted"`
			}{}
			client, err := g.client()
			if err == nil {
				err = client.Stop(cmd.Context())
			}
			if result.Stopped = err == nil; err != nil && !errors.Is(err, control.ErrNotRunning) {
				fmt.Fprintf(cmd.ErrOrStderr(), "mefctl: stop the daemon: %v\n", err)
			}
			if result.Deleted, err = nftset.Delete(); err != nil {
				return err
			}
			return g.print(cmd, result, func(w io.Writer) {
				if result.Stopped {
					fmt.Fprintln(w, "mefdaemon has stopped.")
				} else {
					fmt.Fprintln(w, "mefdaemon was not running.")
				}
				if result.Deleted {
					fmt.Fprintln(w, "table inet mefdaemon is gone: nobody is banned any more. Start mefdaemon to be protected again.")
				} else {
					fmt.Fprintln(w, "There was no table inet mefdaemon.")
				}
			})
		},
	}
}
