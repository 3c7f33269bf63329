package ask

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/metrics"
)

// topRows is how many rows stats prints of each table.
const topRows = 10

// stats is what mefctl stats prints as JSON.
type stats struct {
	Rules   []ruleStats `json:"rules"`   // since the daemon started
	Banned  []counted   `json:"banned"`  // bans in force by rule
	Sources []counted   `json:"sources"` // of the records that the daemon keeps
	Users   []counted   `json:"users"`   // the same
	Ports   []counted   `json:"ports"`   // bans in force by ports
	Records int         `json:"records"` // how many records that is
}

type ruleStats struct {
	Rule     string `json:"rule"`
	Failures uint64 `json:"failures"`
	Probes   uint64 `json:"probes"`
	Logins   uint64 `json:"logins"`
	Bans     uint64 `json:"bans"`
}

type counted struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

func newStats(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "stats",
		Short: "Count attempts and bans by rule, source and user name",
		Long: "stats shows the attempts and bans of each rule since the daemon started, the bans in force, and the sources and user\n" +
			"names of the latest records, as mefctl events shows them.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			s, err := collect(cmd.Context(), client)
			if err != nil {
				return err
			}
			return g.Print(cmd, s, s.show)
		},
	}
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

func collect(ctx context.Context, client *control.Client) (*stats, error) {
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	bans, err := client.Bans(ctx)
	if err != nil {
		return nil, err
	}
	s := &stats{Rules: []ruleStats{}}
	for _, r := range status.Rules {
		if r.Failures+r.Probes+r.Logins+r.Bans > 0 {
			s.Rules = append(s.Rules, ruleStats{r.Name, r.Failures, r.Probes, r.Logins, r.Bans})
		}
	}
	slices.SortStableFunc(s.Rules, func(a, b ruleStats) int { return cmp.Compare(b.Failures+b.Probes, a.Failures+a.Probes) })
	byRule, byPorts := make(map[string]int), make(map[string]int)
	for _, b := range bans {
		byRule[b.Rule]++
		byPorts[b.Ports]++
	}
	sources, users := make(map[string]int), make(map[string]int)
	err = client.Follow(ctx, func(rec control.Record) error {
		if rec.Event == control.Caught {
			return errCaughtUp
		}
		s.Records++
		if rec.Event == "failure" || rec.Event == "probe" {
			sources[cmp.Or(rec.Addr, strconv.Quote(rec.Host))] += max(rec.Count, 1)
			if rec.User != "" {
				users[rec.User] += max(rec.Count, 1)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errCaughtUp) {
		return nil, err
	}
	s.Banned, s.Ports, s.Sources, s.Users = top(byRule), top(byPorts), top(sources), top(users)
	return s, nil
}

// top returns the names with the highest counts.
func top(counts map[string]int) []counted {
	all := make([]counted, 0, len(counts))
	for name, n := range maps.All(counts) {
		all = append(all, counted{name, n})
	}
	slices.SortFunc(all, func(a, b counted) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name)) })
	return all[:min(len(all), topRows)]
}

func (s *stats) show(w io.Writer) {
	rows := [][]string{{"RULE", "FAILURES", "PROBES", "LOGINS", "BANS SINCE START"}}
	for _, r := range s.Rules {
		rows = append(rows, []string{r.Rule, count(r.Failures), count(r.Probes), count(r.Logins), count(r.Bans)})
	}
	console.Table(w, rows)
	for _, table := range []struct {
		title string
		all   []counted
		quote bool
	}{
		{"BANS IN FORCE BY RULE", s.Banned, false},
		{"BANS IN FORCE BY PORTS", s.Ports, false},
		{fmt.Sprintf("SOURCES IN THE LATEST %d RECORDS", s.Records), s.Sources, false},
		{fmt.Sprintf("USER NAMES IN THE LATEST %d RECORDS", s.Records), s.Users, true},
	} {
		if len(table.all) == 0 {
			continue
		}
		rows := [][]string{{table.title, "COUNT"}}
		for _, c := range table.all {
			name := c.Name
			if table.quote {
				name = strconv.Quote(name)
			}
			rows = append(rows, []string{name, strconv.Itoa(c.Count)})
		}
		fmt.Fprintln(w)
		console.Table(w, rows)
	}
}
