package ask

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/metrics"
)

// topRows is how many rows stats prints of each table unless one is asked for.
const topRows = 10

// stats is what mefctl stats prints as JSON.
type stats struct {
	Window string          `json:"window"`
	Rules  []ruleStats     `json:"rules,omitempty"` // since the daemon started
	Tables []control.Stats `json:"tables"`
}

type ruleStats struct {
	Rule     string `json:"rule"`
	Failures uint64 `json:"failures"`
	Probes   uint64 `json:"probes"`
	Logins   uint64 `json:"logins"`
	Bans     uint64 `json:"bans"`
}

// tables are the tables that there are, with what their first column has.
var tables = []struct{ by, title string }{
	{"services", "SERVICE"}, {"ports", "PORTS"}, {"sources", "SOURCE"}, {"networks", "NETWORK"}, {"names", "USER NAME"},
}

func newStats(g *cli.Global) *cobra.Command {
	window, limit := "day", 0
	var names []string
	for _, t := range tables {
		names = append(names, t.by)
	}
	cmd := &cobra.Command{
		Use:   "stats [" + strings.Join(names, "|") + "]",
		Short: "Count attempts and bans by service, port, source, network and user name",
		Long: "stats shows the attempts and bans of each rule since the daemon started, and from the kept history the services, ports, sources,\n" +
			"networks (/24 and /48) and user names with the most attempts within the last hour, day, month or year. With a name it shows that\n" +
			"table only. With very many sources some counts are too low, and in a storm of attempts they are estimated from samples.",
		ValidArgs: names,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			s, err := collect(cmd.Context(), client, window, args, limit)
			if err != nil {
				return err
			}
			return g.Print(cmd, s, s.show)
		},
	}
	cmd.Flags().StringVar(&window, "window", window, "the last hour, day, month or year")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most `N` rows of a table (default 10, or 100 with a name)")
	return cmd
}

func newMetrics(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "Print the counters for Prometheus",
		Long: "metrics prints the counters of the daemon in the text format of Prometheus, for the textfile collector of node_exporter.\n" +
			"With --json it prints the picture that they are made of.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Ask(g, cmd, (*control.Client).Picture, func(w io.Writer, p control.Picture) { _, _ = w.Write(metrics.Text(&p)) })
		},
	}
}

// collect asks for the table of a name, or without one for all and the rules.
func collect(ctx context.Context, client *control.Client, window string, names []string, limit int) (*stats, error) {
	s := &stats{Window: window}
	if len(names) == 0 {
		limit = cmp.Or(limit, topRows)
		status, err := client.Status(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range status.Rules {
			if r.Failures+r.Probes+r.Logins+r.Bans > 0 {
				s.Rules = append(s.Rules, ruleStats{r.Name, r.Failures, r.Probes, r.Logins, r.Bans})
			}
		}
		slices.SortStableFunc(s.Rules, func(a, b ruleStats) int { return cmp.Compare(b.Failures+b.Probes, a.Failures+a.Probes) })
	}
	for _, t := range tables {
		if len(names) > 0 && names[0] != t.by {
			continue
		}
		one, err := client.Stats(ctx, window, t.by, limit)
		if err != nil {
			return nil, err
		}
		s.Tables = append(s.Tables, one)
	}
	return s, nil
}

func (s *stats) show(w io.Writer) {
	if len(s.Rules) > 0 {
		rows := [][]string{{"RULE", "FAILURES", "PROBES", "LOGINS", "BANS SINCE START"}}
		for _, r := range s.Rules {
			rows = append(rows, []string{r.Rule, count(r.Failures), count(r.Probes), count(r.Logins), count(r.Bans)})
		}
		console.Table(w, rows)
		fmt.Fprintln(w)
	}
	for i, t := range s.Tables {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if len(t.Rows) == 0 {
			fmt.Fprintf(w, "No %s since %s.\n", t.By, t.Since.Local().Format(time.DateTime))
			continue
		}
		title := ""
		for _, one := range tables {
			if one.by == t.By {
				title = one.title
			}
		}
		rows := [][]string{{title, "ATTEMPTS", "BANS", "DROPS", "FIRST", "LAST"}}
		for _, r := range t.Rows {
			label := r.Label
			if t.By == "names" {
				label = strconv.Quote(label)
			}
			rows = append(rows, []string{label, count(r.Attempts), count(r.Bans), count(r.Drops), r.First.Local().Format(time.DateTime), r.Last.Local().Format(time.DateTime)})
		}
		console.Table(w, rows)
	}
	if len(s.Tables) > 0 && s.Tables[0].Problem != "" {
		fmt.Fprintln(w, "\n"+s.Tables[0].Problem)
	}
}
