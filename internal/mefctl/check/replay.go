package check

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/filter"
	"mef/internal/mefctl/cli"
	"mef/internal/offline"
)

// replayed is one ban of a replay in JSON.
type replayed struct {
	Time     time.Time  `json:"time"`
	Prefix   string     `json:"prefix"`
	Ports    string     `json:"ports"`
	Rule     string     `json:"rule"`
	Until    *time.Time `json:"until"`
	Reason   string     `json:"reason"`
	Evidence []string   `json:"evidence"`
}

func newReplay(g *cli.Global) *cobra.Command {
	var service string
	var whatIf bool
	cmd := &cobra.Command{
		Use:   "replay [FILE]",
		Short: "Say whom an old log would have had banned, and why",
		Long: "replay runs the lines of FILE, or of standard input, through the configured rules, counting and decisions, by the\n" +
			"time that each line names. It needs no daemon and no root, and changes nothing.",
		Example: "  mefctl replay /var/log/auth.log",
		Args:    console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := conf.Load(g.Config, filter.Shipped())
			if err != nil {
				return err
			}
			replay, err := offline.NewReplay(cfg, service, whatIf)
			if errors.Is(err, offline.ErrUnknownService) {
				return console.Usage("%v; rules know %s", err, strings.Join(offline.Services(cfg.Rules), ", "))
			}
			if err != nil {
				return err
			}
			in, err := cli.Input(cmd, args)
			if err != nil {
				return err
			}
			defer in.Close()
			out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			defer out.Flush()
			enc, bans := console.Encoder(out), 0
			err = replay.Run(in, time.Now(), func(b ban.Ban) error {
				bans++
				r := replayed{Time: b.Start, Prefix: ban.Key{Prefix: b.Prefix}.String(), Ports: control.ShowPorts(b.Ports), Rule: b.Rule, Reason: b.Reason,
					Evidence: b.Evidence}
				if !b.Permanent() {
					r.Until = &b.Until
				}
				if g.JSON {
					return enc.Encode(r)
				}
				_, err := fmt.Fprintf(out, "%s %s by %s: %s\n", r.Time.Format("2006-01-02 15:04:05"), r.Prefix, r.Rule, r.Reason)
				return err
			})
			if err == nil && !g.JSON {
				fmt.Fprintf(out, "%d bans.\n", bans)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&whatIf, "what-if", false, "leave out what a ban would have kept away")
	cmd.Flags().StringVar(&service, "service", "", "only the rules of this service")
	return cmd
}
