// Package check has the commands of mefctl that need no daemon: they check the configuration and try rules on log lines.
package check

import (
	"github.com/spf13/cobra"

	"mef/internal/mefctl/cli"
)

// Commands returns the commands of this package.
func Commands(g *cli.Global) []*cobra.Command {
	return []*cobra.Command{newConfig(g), newMatch(g), newReplay(g)}
}
