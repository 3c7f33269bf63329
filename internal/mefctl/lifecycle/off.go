package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/confirm"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/enforce/kernel"
	"mef/internal/mefctl/cli"
	"mef/internal/sleep"
)

func newOff(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "off",
		Short: "Stop the daemon and remove its table from the kernel",
		Long: "off lifts every ban at once: use it when you are locked out. It also works when no daemon runs. It changes nothing but\n" +
			"table inet mefdaemon, and the sets mefd_* and the rules of iptables that use them.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			result := struct {
				Stopped bool `json:"daemon_stopped"`
				Deleted bool `json:"table_deleted"`
			}{}
			client, err := g.Client()
			if err == nil {
				err = client.Stop(cmd.Context())
			}
			err = newManager(g).stopAnyway(cmd.Context(), err)
			if result.Stopped = err == nil; err != nil && !errors.Is(err, control.ErrNotRunning) {
				console.Complain(cmd.ErrOrStderr(), "mefctl", fmt.Errorf("stop the daemon: %w", err))
			}
			if cfg, _ := g.Settings(); cfg.Paths.StateDir != "" {
				if err := confirm.SetOff(cfg.Paths.StateDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
					console.Complain(cmd.ErrOrStderr(), "mefctl", fmt.Errorf("bans will be restored when mefdaemon is started: %w", err))
				}
			}
			removed, err := kernel.Delete()
			if err != nil {
				return err
			}
			result.Deleted = len(removed) > 0
			if result.Deleted && !result.Stopped {
				if err := staysGone(cmd.Context()); err != nil {
					return err
				}
			}
			return g.Print(cmd, result, func(w io.Writer) {
				if result.Stopped {
					fmt.Fprintln(w, "mefdaemon has stopped.")
				} else {
					fmt.Fprintln(w, "mefdaemon was not running.")
				}
				if result.Deleted {
					fmt.Fprintln(w, strings.Join(removed, ", ")+" is removed: all bans are lifted. To be protected again, run mefctl start; these bans stay lifted, but blacklists apply again.")
				} else {
					fmt.Fprintln(w, "There was no table inet mefdaemon.")
				}
			})
		},
	}
}

// stopAnyway has the service manager stop a daemon that could not be asked to, for reason: it does not answer, the configuration does
// not name its socket any more, or it has failed and is about to be started again. It returns nil if a daemon has ended.
func (m *manager) stopAnyway(ctx context.Context, reason error) error {
	if reason == nil || m.can("stop", daemon) != nil {
		return reason
	}
	if err := m.do(ctx, daemon, "stop"); err != nil {
		return fmt.Errorf("%v; %w", reason, err)
	}
	if errors.Is(reason, control.ErrNotRunning) {
		return reason
	}
	return nil
}

// staysGone returns an error if the table comes back: a daemon runs that could not be stopped.
func staysGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, control.MendTime)
	defer cancel()
	for sleep.For(ctx, 50*time.Millisecond) {
		if back, err := kernel.Present(); back || err != nil {
			return cmp.Or(err, errors.New("a mefdaemon still runs and has restored its table; stop it, for example with pkill mefdaemon, and run mefctl off again"))
		}
	}
	return nil
}
