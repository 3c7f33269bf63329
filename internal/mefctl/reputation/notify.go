package reputation

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newNotify(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "notify",
		Short: "Show how administrators are notified, or send a test message",
		Args:  console.NoArgs,
	}
	cmd.AddCommand(newStatus(g, "Show how many messages were sent, and what is wrong", func(s control.Status) []control.Notify { return s.Notify }, showNotify), &cobra.Command{
		Use:   "test [NAME]",
		Short: "Send a test message to one section [notify NAME], or to all",
		Long: "test makes the daemon send a message that is marked as a test. The exit status is 1 if one is not accepted.\n" +
			"After adding a section, run mefctl reload first.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sendTest(g, cmd, func(c *control.Client) ([]control.SendTest, error) {
				return c.TestNotify(cmd.Context(), strings.Join(args, ""))
			})
		},
	})
	return cmd
}

func showNotify(w io.Writer, all []control.Notify, now time.Time) {
	if len(all) == 0 {
		fmt.Fprintln(w, "Nobody is notified: mef.conf has no section [notify NAME]; see mef.conf(5).")
		return
	}
	for _, n := range all {
		fmt.Fprintf(w, "%s; the last %s\n", n, cli.Ago(n.Last, now))
		if n.Problem != "" {
			fmt.Fprintf(w, "  problem: %s\n", n.Problem)
		}
	}
}
