package lifecycle

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newReload(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "reload [mefdaemon|mef]",
		Short: "Make the daemon read its configuration again",
		Long: "reload makes the daemon read mef.conf and all files it names again. If there is a mistake, the current configuration\n" +
			"stays in force, every mistake is reported, and the exit status is 1. Counters and bans stay in any case.\n" +
			"reload mef loads the firewall policy again.",
		Args:      serviceArg("reload"),
		ValidArgs: []string{daemon, policy},
		RunE: func(cmd *cobra.Command, args []string) error {
			if serviceOf(args) == policy {
				return reloadPolicy.run(g, cmd, policy)
			}
			return cli.Ask(g, cmd, (*control.Client).Reload, func(w io.Writer, r control.Reloaded) { showReloaded(w, cmd.ErrOrStderr(), r) })
		},
	}
}

func showReloaded(w, errOut io.Writer, r control.Reloaded) {
	for _, m := range r.Mistakes {
		fmt.Fprintf(errOut, "mefctl: %s\n", m)
	}
	for _, n := range r.Notices {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	fmt.Fprintf(w, "%s is in force; %d rules are enabled, mode=%s.\n", r.Config, r.Rules, r.Mode)
}
