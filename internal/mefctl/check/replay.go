package check

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/ban"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/duration"
	"mef/internal/mefctl/cli"
	"mef/internal/offline"
	"mef/internal/run"
)

// replayed is one ban of a replay in JSON.
type replayed struct {
	Config   string     `json:"config,omitempty"` // with --compare: which of the two
	Time     time.Time  `json:"time"`
	Prefix   string     `json:"prefix"`
	Ports    string     `json:"ports"`
	Rule     string     `json:"rule"`
	Until    *time.Time `json:"until"`
	Reason   string     `json:"reason"`
	Evidence []string   `json:"evidence"`
}

// summarized is what a replay comes to in JSON.
type summarized struct {
	Config  string                `json:"config"`
	Summary offline.ReplaySummary `json:"summary"`
}

type replayFlags struct {
	service, compare, since string
	whatIf, journal, events bool
}

func newReplay(g *cli.Global) *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay [FILE...]",
		Short: "Show the bans that old logs would have led to, and why",
		Long: "replay runs the lines of FILEs, or of standard input, through the configured rules, counters and decisions, in order of\n" +
			"their time. Files may be compressed by gzip, zstd or xz. It needs no daemon and changes nothing.",
		Example: "  mefctl replay /var/log/auth.log\n  mefctl replay --what-if /var/log/auth.log* /var/log/mail.log*\n" +
			"  mefctl replay --what-if --compare ./new.conf --journal --since 14d",
		RunE: func(cmd *cobra.Command, args []string) error { return replay(cmd, g, &f, args) },
	}
	cmd.Flags().StringVar(&f.service, "service", "", "only the rules of this service")
	cmd.Flags().BoolVar(&f.whatIf, "what-if", false, "ignore lines that a ban would have prevented, and print a summary")
	cmd.Flags().BoolVar(&f.events, "events", false, "print every event with the score of its source, not only bans")
	cmd.Flags().StringVar(&f.compare, "compare", "", "also replay with a second configuration `file`, and compare the two")
	cmd.Flags().BoolVar(&f.journal, "journal", false, "read the journal instead of files")
	cmd.Flags().StringVar(&f.since, "since", "", "how far back to read the journal, such as 2h or 14d")
	return cmd
}

func replay(cmd *cobra.Command, g *cli.Global, f *replayFlags, args []string) error {
	if f.journal && len(args) > 0 {
		return console.Usage("use either files or --journal")
	}
	if f.since != "" && !f.journal {
		return console.Usage("--since needs --journal")
	}
	if f.events && f.compare != "" {
		return console.Usage("--events does not go with --compare")
	}
	configs := []string{g.Config}
	if f.compare != "" {
		configs = append(configs, f.compare)
	}
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	defer out.Flush()
	p := &replayOutput{out: out, json: g.JSON, bans: f.compare == ""}
	var replays []*offline.Replay
	for _, path := range configs {
		r, err := newReplayOf(path, f)
		if err != nil {
			return err
		}
		r.OnBan(func(b ban.Ban) error { return p.ban(path, b) })
		if f.events {
			r.OnEvent(p.event)
		}
		replays = append(replays, r)
	}
	bar := newProgress(cmd, args, g.JSON)
	logs, done, err := replayInputs(cmd, f, args, bar)
	if err != nil {
		return err
	}
	defer func() { done() }()
	err = offline.Play(logs, func(text string) { bar.clear(); fmt.Fprintf(cmd.ErrOrStderr(), "mefctl: %s\n", text) }, replays...)
	bar.clear()
	incomplete := errors.Is(err, offline.ErrIncomplete)
	if closed := done(); closed != nil || err != nil && !incomplete {
		return errors.Join(err, closed)
	}
	done = func() error { return nil }
	if end := p.end(configs, replays, f); end != nil {
		return end
	}
	return err
}

func newReplayOf(path string, f *replayFlags) (*offline.Replay, error) {
	cfg, err := offline.Load(path)
	if err != nil {
		return nil, err
	}
	r, err := offline.NewReplay(cfg, offline.Options{Service: f.service, WhatIf: f.whatIf, Accounts: offline.Accounts()})
	if errors.Is(err, offline.ErrUnknownService) {
		return nil, console.Usage("%v; rules know %s", err, strings.Join(offline.Services(cfg.Rules), ", "))
	}
	return r, err
}

// replayInputs opens the logs. done closes them and returns what went wrong at the end.
func replayInputs(cmd *cobra.Command, f *replayFlags, args []string, bar *progress) (logs []offline.Input, done func() error, err error) {
	switch {
	case f.journal:
		return journalInput(cmd.Context(), f.since)
	case len(args) == 0 || len(args) == 1 && args[0] == "-":
		in, err := offline.Decompress(cmd.InOrStdin())
		return []offline.Input{{Name: "standard input", Reader: in, Near: time.Now()}}, func() error { return nil }, err
	}
	var closers []io.Closer
	done = func() (err error) {
		for _, c := range closers {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	for _, path := range args {
		in, c, err := offline.Open(path, bar.add)
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		logs, closers = append(logs, in), append(closers, c)
	}
	return logs, done, nil
}

// journalInput reads the journal by journalctl.
func journalInput(ctx context.Context, since string) ([]offline.Input, func() error, error) {
	args := []string{"--quiet", "--no-pager", "--output=short-iso-precise"}
	if since != "" {
		d, err := duration.Parse(since)
		if err != nil || d <= 0 {
			return nil, nil, console.Usage("--since %q: write how far back, such as 2h or 14d", since)
		}
		args = append(args, "--since=@"+strconv.FormatInt(time.Now().Add(-d).Unix(), 10))
	}
	p, err := run.Start(ctx, "journalctl", args...)
	if err != nil {
		return nil, nil, err
	}
	return []offline.Input{{Name: "journal", Reader: p.Stdout, Near: time.Now()}}, p.Wait, nil
}

// A replayOutput prints what a replay finds.
type replayOutput struct {
	out  *bufio.Writer
	json bool
	bans bool // each ban, not only the summary
	made int
}

func (p *replayOutput) ban(config string, b ban.Ban) error {
	p.made++
	if !p.bans && !p.json {
		return nil
	}
	prefix := ban.Key{Prefix: b.Prefix}.String()
	if !p.json {
		_, err := p.out.WriteString(b.Start.Format(time.DateTime) + " " + prefix + " by " + b.Rule + ": " + b.Reason + "\n")
		return err
	}
	r := replayed{Time: b.Start, Prefix: prefix, Ports: control.ShowPorts(b.Ports), Rule: b.Rule, Reason: b.Reason,
		Evidence: b.Evidence}
	if !p.bans {
		r.Config = config
	}
	if !b.Permanent() {
		r.Until = &b.Until
	}
	return console.Encoder(p.out).Encode(r)
}

// event prints an event, in JSON as mefctl events does.
func (p *replayOutput) event(ev *offline.Event, score float64) error {
	rec := control.Record{Time: ev.Time, Event: ev.Kind.String(), Rule: ev.Rule, Service: ev.Service, Host: ev.Host, User: ev.User, Count: ev.Count, Score: score}
	if ev.Addr.IsValid() {
		rec.Addr = ev.Addr.String()
	}
	if p.json {
		return console.Encoder(p.out).Encode(rec)
	}
	_, err := fmt.Fprintf(p.out, "%s %s %s at %s of user %q: %d points\n", rec.Time.Format("2006-01-02 15:04:05"), cmp.Or(rec.Addr, strconv.Quote(rec.Host)),
		rec.Event, rec.Rule, rec.User, int(math.Round(score)))
	return err
}

// end prints the summaries.
func (p *replayOutput) end(configs []string, replays []*offline.Replay, f *replayFlags) error {
	if !f.whatIf && f.compare == "" {
		if p.json {
			return nil
		}
		_, err := fmt.Fprintf(p.out, "%d bans.\n", p.made)
		return err
	}
	sums := make([]offline.ReplaySummary, len(replays))
	for i, r := range replays {
		sums[i] = r.Summary()
		if p.json {
			if err := console.Encoder(p.out).Encode(summarized{configs[i], sums[i]}); err != nil {
				return err
			}
		}
	}
	if p.json {
		return nil
	}
	if p.bans && p.made > 0 {
		fmt.Fprintln(p.out)
	}
	showSummaries(p.out, configs, sums, f.whatIf)
	return nil
}

func showSummaries(w io.Writer, configs []string, sums []offline.ReplaySummary, whatIf bool) {
	var rows [][]string
	if len(configs) > 1 {
		rows = append(rows, append([]string{""}, configs...))
	}
	add := func(what string, value func(s *offline.ReplaySummary) string) {
		row := []string{what}
		for i := range sums {
			row = append(row, value(&sums[i]))
		}
		rows = append(rows, row)
	}
	number := func(what string, value func(s *offline.ReplaySummary) int) {
		add(what, func(s *offline.ReplaySummary) string { return strconv.Itoa(value(s)) })
	}
	if whatIf {
		add("attempts stopped", func(s *offline.ReplaySummary) string {
			return fmt.Sprintf("%d (%.1f %%)", s.Stopped, 100*float64(s.Stopped)/float64(max(1, s.Stopped+s.Through)))
		})
		number("attempts that got through", func(s *offline.ReplaySummary) int { return s.Through })
	} else {
		number("attempts", func(s *offline.ReplaySummary) int { return s.Through })
	}
	number("logins", func(s *offline.ReplaySummary) int { return s.Logins })
	number("bans", func(s *offline.ReplaySummary) int { return s.Bans })
	number("addresses banned", func(s *offline.ReplaySummary) int { return s.Banned })
	number("of them with a login, before or after", func(s *offline.ReplaySummary) int { return s.Honest })
	if whatIf {
		number("logins that a ban would have refused", func(s *offline.ReplaySummary) int { return s.LoginsLost })
	}
	rules := map[string]bool{}
	for i := range sums {
		for name := range sums[i].Rules {
			rules[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		add("  "+name, func(s *offline.ReplaySummary) string {
			r := s.Rules[name]
			if whatIf {
				return fmt.Sprintf("%d stopped, %d through, %d bans", r.Stopped, r.Through, r.Bans)
			}
			return fmt.Sprintf("%d attempts, %d bans", r.Through, r.Bans)
		})
	}
	console.Table(w, rows)
	for i, s := range sums {
		if len(s.Addresses) > 0 {
			fmt.Fprintf(w, "Banned although a user logged in from it%s: %s\n", of(configs, i), strings.Join(s.Addresses, ", "))
		}
	}
	if sums[0].Logins == 0 {
		fmt.Fprintln(w, "The log has no logins, so it does not show which of the banned addresses are those of honest users.")
	}
}

// of names a configuration where there are two.
func of(configs []string, i int) string {
	if len(configs) < 2 {
		return ""
	}
	return " by " + configs[i]
}

// A progress bar shows on a terminal how much of the files has been read.
type progress struct {
	w           io.Writer // nil: nothing is shown
	total, read int64
	shown       time.Time
}

func newProgress(cmd *cobra.Command, files []string, json bool) *progress {
	p := &progress{}
	terminal := console.RawTerminal(cmd.ErrOrStderr())
	if terminal == nil || json {
		return p
	}
	for _, path := range files {
		if info, err := os.Stat(path); err == nil {
			p.total += info.Size()
		}
	}
	if p.total > 0 {
		p.w, p.shown = terminal, time.Now()
	}
	return p
}

const barWidth = 40

func (p *progress) add(n int) {
	p.read += int64(n)
	if p.w == nil || time.Since(p.shown) < 200*time.Millisecond {
		return
	}
	p.shown = time.Now()
	part := min(1, float64(p.read)/float64(p.total))
	full := int(part * barWidth)
	fmt.Fprintf(p.w, "\r[%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*part)
}

// clear removes the bar.
func (p *progress) clear() {
	if p.w != nil {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", barWidth+10))
	}
}
