package ask

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/exposure"
)

func newStatus(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Report whether this host is protected, and what is missing if not",
		Long:  "status asks the daemon, which reads the kernel. The exit status is 0 if the host is protected and 1 if not.",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			s.Warnings = append(s.Warnings, exposure.Blind(cmd.Context(), func(rule string) bool {
				return slices.ContainsFunc(s.Rules, func(r control.Rule) bool { return r.Name == rule && r.Enabled && r.Live != "off" })
			})...)
			if err := g.Print(cmd, s, func(w io.Writer) { showStatus(w, s, time.Now()) }); err != nil {
				return err
			}
			if !s.Protected {
				return &console.Exit{Code: 1}
			}
			return nil
		},
	}
	cmd.Flags().BoolP("verbose", "v", false, "an option of MEF 1.0; everything is shown without it")
	cmd.Flags().Lookup("verbose").Hidden = true
	return cmd
}

func showStatus(w io.Writer, s control.Status, now time.Time) {
	for _, a := range s.Alarms {
		fmt.Fprintf(w, "ALARM: %s\n", a)
	}
	if s.AlarmCount > 0 {
		fmt.Fprintf(w, "%d alarms: see mefctl alarms; then run mefctl alarms ack.\n\n", s.AlarmCount)
	}
	if s.Protected {
		fmt.Fprintln(w, "Protected: yes")
	} else {
		fmt.Fprintln(w, "Protected: NO")
		for _, m := range s.Missing {
			fmt.Fprintf(w, "  missing: %s\n", m)
		}
	}
	for _, m := range s.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", m)
	}
	if len(s.Uncovered) > 0 {
		fmt.Fprintf(w, "  no rule covers: %s\n", strings.Join(s.Uncovered, ", "))
	}
	fmt.Fprintf(w, "Mode:      %s\n", s.Mode)
	fmt.Fprintf(w, "Bans:      %d (%d IPv4, %d IPv6; %d unverified, %d until lifted), %d since start\n",
		s.Bans.Total, s.Bans.IPv4, s.Bans.IPv6, s.Bans.Unverified, s.Bans.Permanent, s.Bans.Ever)
	if text := showSpared(s.Spared); text != "" {
		fmt.Fprintf(w, "Exempt:    %s\n", text)
	}
	fmt.Fprintf(w, "Kernel:    %s\n", cli.Kernel(s.Kernel))
	fmt.Fprintf(w, "Tracking:  %d of %d sources, %d known logins\n", s.Tracker.Sources, s.Tracker.Limit, s.Tracker.KnownLogins)
	if text := showScans(s.Scans, now); text != "" {
		fmt.Fprintf(w, "Scans:     %s\n", text)
	}
	if s.Floods.On && s.Floods.Off == "" {
		fmt.Fprintf(w, "Floods:    %d times a source exceeded the limits of a port since start, %d bans\n", s.Floods.Found, s.Floods.Bans)
	}
	for _, l := range s.DNSBL.Lists {
		fmt.Fprintf(w, "DNSBL:     %s\n", l)
	}
	for _, r := range s.Reports {
		fmt.Fprintf(w, "Reports:   %s\n", r)
	}
	for _, n := range s.Notify {
		fmt.Fprintf(w, "Notify:    %s\n", n)
	}
	for _, a := range s.Attacks {
		fmt.Fprintf(w, "Attack:    %s\n", a)
	}
	fmt.Fprintf(w, "Self-test: %s\n", showProof(s.Proof, now))
	fmt.Fprintf(w, "State:     %s, %d KB, saved %s\n", s.Store.Path, s.Store.Size>>10, cli.Ago(s.Store.LastSaved, now))
	fmt.Fprintf(w, "Daemon:    mefdaemon %s, PID %d, up %s, %s\n", s.Version, s.PID, cli.Span(now.Sub(s.Since)), s.Config)

	fmt.Fprintln(w)
	rows := [][]string{{"SOURCE", "STATE", "LINES", "MATCHED", "LOST", "LAG", "LAST", "RULES"}}
	for _, src := range s.Sources {
		state := src.State
		if src.Reason != "" {
			state += " (" + src.Reason + ")"
		}
		rows = append(rows, []string{src.Name, state, count(src.Lines), count(src.Matched), count(src.Lost), src.Lag,
			cli.Ago(src.Last, now), strings.Join(src.Rules, ",")})
	}
	console.Table(w, rows)

	fmt.Fprintln(w)
	rows = [][]string{{"RULE", "LIVE", "LIMIT", "BAN", "PORTS", "FAILURES", "PROBES", "LOGINS", "BANS", "WHY"}}
	var off []string
	for _, r := range s.Rules {
		live := r.Live
		switch {
		case !r.Enabled:
			live = "off"
		case r.Live == "off":
			off = append(off, r.Name)
			continue
		}
		ban := r.BanTime
		if r.Action == "detect" {
			ban = "detect"
		}
		limit := fmt.Sprintf("%d in %s", r.MaxRetry, r.FindTime)
		if r.Thresholds > 0 {
			limit = fmt.Sprintf("%d thresholds", r.Thresholds)
		}
		reason := r.Reason
		if r.PortsReason != "" && r.Ports != "all" {
			reason += "; ports: " + r.PortsReason
		}
		rows = append(rows, []string{r.Name, live, limit, ban, r.Ports,
			showFailures(r), count(r.Probes), count(r.Logins), count(r.Bans), reason})
	}
	console.Table(w, rows)
	if len(off) > 0 {
		fmt.Fprintf(w, "Off, because the service is not on this host: %s\n", strings.Join(off, ", "))
	}
	fmt.Fprintln(w, "\nLocked out? mefctl off lifts all bans. mefctl why ADDR explains any address.")
}

// showScans returns what was found of port scans; "" if they are not looked for.
func showScans(s control.Scans, now time.Time) string {
	if !s.On || s.Off != "" {
		return ""
	}
	text := fmt.Sprintf("%d found since start", s.Found)
	if s.Last != nil {
		text += fmt.Sprintf(", the last %s from %s: %s", cli.Ago(s.Last, now), s.From, s.Text)
	}
	return text
}

// showFailures returns the failures of a rule, with those that do not count.
func showFailures(r control.Rule) string {
	if r.Forgiven == 0 {
		return count(r.Failures)
	}
	return fmt.Sprintf("%d (%d forgiven)", r.Failures, r.Forgiven)
}

// showSpared reports what is not banned, and why; "" if there is nothing to report.
func showSpared(s control.Spared) string {
	var parts []string
	if s.AdminPeers > 0 {
		parts = append(parts, fmt.Sprintf("the SSH ports for %d addresses of administrators who are logged in", s.AdminPeers))
	}
	for _, reason := range slices.Sorted(maps.Keys(s.Reasons)) {
		parts = append(parts, fmt.Sprintf("%d since start for %s", s.Reasons[reason], reason))
	}
	return strings.Join(parts, "; ")
}

func showProof(p control.Proof, now time.Time) string {
	text := p.State
	if p.At != nil {
		text += ", " + cli.Ago(p.At, now)
	}
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	return text
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }
