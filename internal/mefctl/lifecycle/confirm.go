package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/exposure"
)

func newConfirm(g *cli.Global) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "Confirm that you can still log in, after mefctl enable",
		Long: "confirm ends the trial that mefctl enable begins: mefdaemon continues to ban. Run it in a new SSH session: the\n" +
			"session in which mefctl enable was run does not show that you can log in. If the trial has ended and the daemon only logs bans,\n" +
			"it applies them again from now on.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			if !force {
				if err := newLogin(cmd.Context(), client, exposure.Connection()); err != nil {
					return err
				}
			}
			if err := client.Confirm(cmd.Context()); err != nil {
				return err
			}
			return g.Print(cmd, map[string]bool{"confirmed": true}, func(w io.Writer) {
				fmt.Fprintln(w, "Confirmed: mefdaemon bans from now on. mefctl status reports whether this host is protected.")
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "confirm even in the session in which mefctl enable was run")
	return cmd
}

// newLogin returns an error if from, the SSH connection of this process, is the one in which mefctl enable was run: that it is still
// open does not show that another one can be made.
func newLogin(ctx context.Context, client *control.Client, from string) error {
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if from == "" || s.Armed == nil || s.Armed.Lapsed || s.Armed.From != from {
		return nil
	}
	return errors.New("this is the SSH session in which mefctl enable was run: open another one, to see that you can, and run mefctl confirm there;\n" +
		"or, if you can log in without SSH, run mefctl confirm --force")
}
