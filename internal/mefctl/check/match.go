package check

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/filter"
	"mef/internal/mefctl/cli"
	"mef/internal/offline"
)

func newMatch(g *cli.Global) *cobra.Command {
	var service, rule string
	var summary bool
	cmd := &cobra.Command{
		Use:   "match [FILE]",
		Short: "Match log lines against the rules and show the result",
		Long: "match runs the lines of FILE, or of standard input, through the same filters as the daemon. It needs neither a daemon nor\n" +
			"root. With --json it prints one object per line, in order; for a line without a match, only its number.",
		Example: "  mefctl match /var/log/auth.log\n  journalctl -u ssh -o short | mefctl match --service sshd --json\n  mefctl match --rule ./myrule.conf sample.log",
		Args:    console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if service != "" && rule != "" {
				return console.Usage("--service and --rule exclude each other; use one of them")
			}
			matcher, err := newMatcher(g, service, rule)
			if err != nil {
				return err
			}
			file, err := cli.Input(cmd, args)
			if err != nil {
				return err
			}
			defer file.Close()
			in, err := offline.Decompress(file)
			if err != nil {
				return err
			}
			if summary {
				return summarize(g, cmd, matcher, in)
			}
			out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			emit := showMatches(out)
			if g.JSON {
				emit = encodeMatches(out)
			}
			err = matcher.Run(in, emit)
			if err != nil && len(args) > 0 {
				err = fmt.Errorf("%s: %w", args[0], err)
			}
			return errors.Join(err, out.Flush())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&service, "service", "", "only the rules of this service, such as sshd; lines without a program name are read as its messages")
	flags.StringVar(&rule, "rule", "", "only the rule of this `file`")
	flags.BoolVar(&summary, "summary", false, "print counts only")
	return cmd
}

func newMatcher(g *cli.Global, service, rule string) (*offline.Matcher, error) {
	if rule != "" {
		return offline.ForRule(rule)
	}
	cfg, err := offline.Load(g.Config)
	if err != nil {
		return nil, err
	}
	matcher, err := offline.ForService(cfg.Rules, service)
	if errors.Is(err, offline.ErrUnknownService) {
		return nil, console.Usage("%v; rules know %s", err, strings.Join(offline.Services(cfg.Rules), ", "))
	}
	return matcher, err
}

// matched is one line's answer in JSON. Names are stable.
type matched struct {
	Line    int    `json:"line"`
	Rule    string `json:"rule,omitempty"`
	Service string `json:"service,omitempty"`
	Kind    string `json:"kind,omitempty"`
	Addr    string `json:"addr,omitempty"`
	Host    string `json:"host,omitempty"`
	User    string `json:"user,omitempty"`
	Unknown bool   `json:"unknown_user,omitempty"`
	Count   int    `json:"count,omitempty"` // attempts that the line reports, if more than one
	Echo    bool   `json:"echo,omitempty"`  // another line of the session may have reported the attempt already
}

func answerFor(n int, m *filter.Match) matched {
	a := matched{Line: n}
	if m == nil {
		return a
	}
	a.Rule, a.Service, a.Kind = m.Rule.Name, m.Rule.Service, m.Kind.String()
	if m.Addr.IsValid() {
		a.Addr = m.Addr.String()
	} else {
		a.Host = string(m.Host)
	}
	a.User, a.Unknown, a.Echo = string(m.User), m.UnknownUser, m.Echo
	if m.Count > 1 {
		a.Count = m.Count
	}
	return a
}

func encodeMatches(w io.Writer) func(int, *filter.Match) error {
	enc := console.Encoder(w)
	enc.SetEscapeHTML(false)
	return func(n int, m *filter.Match) error { return enc.Encode(answerFor(n, m)) }
}

func showMatches(w io.Writer) func(int, *filter.Match) error {
	return func(n int, m *filter.Match) error {
		if m == nil {
			return nil
		}
		a := answerFor(n, m)
		who := a.Addr
		if who == "" {
			who = "host " + strconv.Quote(a.Host)
		}
		fmt.Fprintf(w, "%d: %s %s from %s", a.Line, a.Rule, a.Kind, who)
		if a.User != "" {
			fmt.Fprintf(w, " user %s", strconv.Quote(a.User))
			if a.Unknown {
				fmt.Fprint(w, " (does not exist)")
			}
		}
		if a.Count > 1 {
			fmt.Fprintf(w, " ×%d", a.Count)
		}
		_, err := fmt.Fprintln(w)
		return err
	}
}

func summarize(g *cli.Global, cmd *cobra.Command, matcher *offline.Matcher, in io.Reader) error {
	s, err := matcher.Summarize(in)
	if err != nil {
		return err
	}
	return g.Print(cmd, s, func(w io.Writer) {
		fmt.Fprintf(w, "%d lines, %d matched, %d sources\n", s.Lines, s.Matched, s.Sources)
		if s.Matched == 0 {
			return
		}
		rows := [][]string{{"RULE", "FAILURES", "PROBES", "LOGINS"}}
		for _, name := range slices.Sorted(maps.Keys(s.Rules)) {
			k := s.Rules[name]
			rows = append(rows, []string{name, strconv.Itoa(k.Failures), strconv.Itoa(k.Probes), strconv.Itoa(k.Logins)})
		}
		console.Table(w, rows)
	})
}
