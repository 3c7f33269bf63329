package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/selftest"
	"mef/internal/sleep"
)

func newSelftest(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "selftest",
		Short: "Test with real packets whether bans block on this machine",
		Long: "selftest bans documentation addresses in temporary network namespaces and sends packets from them; this host's\n" +
			"network and bans are not affected. Then it asks the daemon, if one runs, whether its table is as it should be.\n" +
			"The exit status is 1 if anything failed.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			backend := conf.Automatic
			if cfg, _ := g.Settings(); cfg != nil {
				backend = cfg.Firewall.Backend
			}
			packets, err := selftest.Spawn(cmd.Context(), backend)
			if err != nil {
				return err
			}
			v := verdict{Packets: packets, Live: liveTable(cmd.Context(), g)}
			v.OK = !packets.Failed() && (v.Live == nil || v.Live.OK)
			if err := g.Print(cmd, v, v.show); err != nil {
				return err
			}
			if !v.OK {
				return &console.Exit{Code: 1}
			}
			return nil
		},
	}
}

// A verdict is what mefctl selftest found.
type verdict struct {
	OK      bool            `json:"ok"` // nothing failed
	Packets selftest.Result `json:"packets"`
	Live    *selftest.Step  `json:"live"` // null: no daemon runs
}

// liveTable asks the daemon whether the kernel holds what it should; nil if none runs.
func liveTable(ctx context.Context, g *cli.Global) *selftest.Step {
	step := &selftest.Step{Name: "live table"}
	client, err := g.Client()
	if err != nil {
		step.Detail = err.Error()
		return step
	}
	s, err := settled(ctx, client)
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return nil
	case err != nil:
		step.Detail = err.Error()
	case s.Mode == "observe":
		step.OK, step.Detail = true, "mode=observe, bans are not applied"
	default:
		step.OK, step.Detail = s.Kernel.Matches, cli.Kernel(s.Kernel)
	}
	return step
}

// settled asks for the status, and again for as long as what others did to the table a moment ago may take to be repaired.
func settled(ctx context.Context, client *control.Client) (control.Status, error) {
	for end := time.Now().Add(control.MendTime); ; {
		s, err := client.Status(ctx)
		if err != nil || s.Kernel.Matches || s.Mode == "observe" || time.Now().After(end) {
			return s, err
		}
		if !sleep.For(ctx, control.MendTime/10) {
			return s, ctx.Err()
		}
	}
}

func (v verdict) show(w io.Writer) {
	switch {
	case !v.OK:
		fmt.Fprintln(w, "Self-test: FAILED")
	case v.Packets.Impossible != "":
		fmt.Fprintln(w, "Self-test: not possible on this host")
	default:
		fmt.Fprintf(w, "Self-test: bans block, tested in %v\n", v.Packets.Took.Round(time.Millisecond))
	}
	if v.Packets.Impossible != "" {
		fmt.Fprintln(w, "  -       packets: "+v.Packets.Problem())
	}
	for _, s := range v.Packets.Steps {
		showStep(w, s)
	}
	if v.Live == nil {
		fmt.Fprintln(w, "  -       live table: mefdaemon is not running, so there is none to compare")
		return
	}
	showStep(w, *v.Live)
}

func showStep(w io.Writer, s selftest.Step) {
	word := "ok"
	if !s.OK {
		word = "FAILED"
	}
	fmt.Fprintf(w, "  %-6s  %s: %s\n", word, s.Name, strings.ReplaceAll(s.Detail, "\n", "\n          "))
}
