// Package ask has the commands of mefctl that ask a running mefdaemon: its status, bans, lists and events.
package ask

import (
	"github.com/spf13/cobra"

	"mef/internal/mefctl/cli"
)

// Commands returns the commands of this package.
func Commands(g *cli.Global) []*cobra.Command {
	return []*cobra.Command{newStatus(g), newServices(g), newBans(g), newAllow(g), newLists(g), newWhy(g), newEvents(g), newNames(g), newAlarms(g), newStats(g), newMetrics(g), newSupport(g)}
}
