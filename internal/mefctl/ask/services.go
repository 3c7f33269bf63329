package ask

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newServices(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "services",
		Short: "Show what listens on this host, and which rules cover it",
		Long: "services shows each service that listens, its ports, whether others can reach it, the rules that cover it, and the failures and\n" +
			"logins that these rules counted within the last hour, with the number of sources that failed. USUAL is the average of failures in\n" +
			"an hour since the daemon started. Published ports of containers and other ports that nf_tables forwards (DNAT) are listed too.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Ask(g, cmd, (*control.Client).Services, func(w io.Writer, services []control.ListeningService) { showServices(w, services) })
		},
	}
}

func showServices(w io.Writer, services []control.ListeningService) {
	if len(services) == 0 {
		fmt.Fprintln(w, "Nothing listens on this host.")
		return
	}
	rows := [][]string{{"SERVICE", "PORTS", "FROM", "RULES", "FAILURES", "LOGINS", "SOURCES", "USUAL"}}
	for _, s := range services {
		from, rules := "others", strings.Join(s.Rules, ",")
		if s.Local {
			from = "this host"
		}
		if rules == "" {
			rules = "none"
		}
		if len(s.Open) > 0 {
			rules += "; bans leave port " + showPorts(s.Open) + " open, see ports="
		}
		if s.Help != "" {
			rules += "; " + s.Help
		}
		row := []string{s.Name, s.Protocol + " " + showPorts(s.Ports), from, rules, "-", "-", "-", "-"}
		if len(s.Rules) > 0 {
			sources := strconv.Itoa(s.Sources)
			if s.More {
				sources = "over " + sources
			}
			row = append(row[:4], count(s.Failures), count(s.Logins), sources, "-")
			if s.Usual != nil {
				row[7] = strconv.FormatFloat(*s.Usual, 'f', 1, 64)
			}
		}
		rows = append(rows, row)
	}
	console.Table(w, rows)
}

// shownPorts is how many ports of a service are shown.
const shownPorts = 8

func showPorts(ports []uint16) string {
	var all []string
	for i, p := range ports {
		if i == shownPorts {
			all = append(all, fmt.Sprintf("and %d more", len(ports)-i))
			break
		}
		all = append(all, strconv.Itoa(int(p)))
	}
	return strings.Join(all, ", ")
}
