// Package lifecycle has the commands of mefctl that start, stop, arm and prove mefdaemon.
package lifecycle

import (
	"github.com/spf13/cobra"

	"mef/internal/mefctl/cli"
)

// Commands returns the commands of this package.
func Commands(g *cli.Global) []*cobra.Command {
	return append(newServices(g), newEnable(g), newConfirm(g), newReload(g), newSelftest(g), newOff(g))
}
