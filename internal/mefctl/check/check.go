// Package check has the commands of mefctl about detection rules, which need no daemon: they list and make rules, and try them on log lines.
package check

import (
	"github.com/spf13/cobra"

	"mef/internal/mefctl/cli"
)

// Commands returns the commands of this package.
func Commands(g *cli.Global) []*cobra.Command {
	return []*cobra.Command{newMatch(g), newReplay(g)}
}
