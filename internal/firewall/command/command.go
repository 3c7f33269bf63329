// Package command has the commands of mef, which are also those of "mefctl rules": their arguments and their output.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/atomicfile"
	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/console"
	"mef/internal/firewall/loader"
	"mef/internal/firewall/policy"
)

// Options are what the program around the commands knows.
type Options struct {
	Config string   // path of mef.conf
	JSON   bool     // print JSON for programs
	Prefix []string // words before the commands on the command line: "rules" in mefctl
}

// All returns the commands.
func All(o *Options) []*cobra.Command {
	return []*cobra.Command{
		o.check(), o.format(), o.show(), o.plan(), o.apply(), o.confirm(), o.rollback(), o.load(), o.clear(), o.status(), o.test(),
		o.trace(), o.imports(), o.watch(), o.guard(), o.listing(),
	}
}

// settings reads mef.conf. A mistake in it is reported and the key has its default: the firewall needs few keys.
func (o *Options) settings(errOut io.Writer) *conf.Config {
	cfg, err := mefconf.Settings(o.Config)
	if err != nil {
		fmt.Fprintf(errOut, "mistakes in the configuration; these keys have their defaults:\n%s\n", indent(err.Error()))
	}
	return cfg
}

func (o *Options) loader(cmd *cobra.Command) (*loader.Loader, error) {
	return loader.New(o.settings(cmd.ErrOrStderr()))
}

// readOnlyLoader is for commands that need no privileges; saved state is used if it is readable.
func (o *Options) readOnlyLoader(cmd *cobra.Command) *loader.Loader {
	l, _ := o.loader(cmd)
	return l
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// read reads the policy that a command is about: a file, "-" for standard input, or the one of the configuration.
func read(cmd *cobra.Command, l *loader.Loader, args []string) (*loader.Candidate, error) {
	name := path(l, args)
	if name != stdin {
		return l.Read(cmd.Context(), name)
	}
	src, err := source(cmd, name)
	if err != nil {
		return nil, err
	}
	return l.Consider(cmd.Context(), src)
}

// source reads a policy, and nothing else.
func source(cmd *cobra.Command, name string) (*policy.Source, error) {
	called, text, err := textOf(cmd, name)
	if err != nil {
		return nil, err
	}
	return policy.Parse(called, text)
}

// stdin stands for standard input where a file is named.
const stdin = "-"

// textOf returns the text of a file, or of standard input, and its name in messages about mistakes.
func textOf(cmd *cobra.Command, name string) (called string, text []byte, err error) {
	if name == stdin {
		called = "stdin"
		text, err = policy.ReadAll(called, cmd.InOrStdin())
		return called, text, err
	}
	text, err = policy.ReadFile(name)
	return name, text, err
}

// candidate is read with a loader of its own.
func (o *Options) candidate(cmd *cobra.Command, args []string) (*loader.Loader, *loader.Candidate, error) {
	l, err := o.loader(cmd)
	if err != nil {
		return nil, nil, err
	}
	c, err := read(cmd, l, args)
	return l, c, err
}

func path(l *loader.Loader, args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return l.RulesFile()
}

// A report is what check says.
type report struct {
	OK       bool     `json:"ok"`
	Source   string   `json:"source"`
	Rules    int      `json:"rules"`
	Sets     int      `json:"sets"`
	Expects  int      `json:"expectations"`
	Mistakes []string `json:"mistakes"`
	Warnings []string `json:"warnings"`
	Notices  []string `json:"notices"`
}

func reportOf(c *loader.Candidate) report {
	r := report{OK: true, Source: c.Source.Path, Rules: len(c.Policy.Rules), Sets: len(c.Policy.Sets), Expects: len(c.Policy.Expects), Notices: c.Notices}
	if err := c.Fatal(); err != nil {
		r.OK, r.Mistakes = false, strings.Split(err.Error(), "\n")
	}
	for _, w := range c.Warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	return r
}

func (r report) warn(w io.Writer) {
	for _, n := range r.Notices {
		fmt.Fprintf(w, "notice: %s\n", n)
	}
	for _, text := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
}

func (o *Options) check() *cobra.Command {
	return &cobra.Command{
		Use:     "check [FILE]",
		Aliases: []string{"validate"},
		Short:   "Check a policy: its mistakes, its expectations, and SSH sessions that it would cut off",
		Long: "check reads a policy and reports what is wrong with it: every mistake with file, line and column, expectations that are not met with a\n" +
			"packet that shows it, SSH sessions that would be cut off, rules that never decide, missing interfaces, and dropped traffic that\n" +
			"most hosts need. FILE defaults to the policy of the configuration; - is standard input.",
		Args: console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			l := o.readOnlyLoader(cmd)
			c, err := read(cmd, l, args)
			var mistakes conf.Errors
			if errors.As(err, &mistakes) && o.JSON {
				return o.mistakes(cmd, path(l, args), mistakes)
			}
			if err != nil {
				return err
			}
			r := reportOf(c)
			err = console.Print(cmd, o.JSON, r, func(w io.Writer) {
				r.warn(w)
				if r.OK {
					fmt.Fprintf(w, "%s: %s, %s in use, %s: all met. mef plan shows what would change.\n", conf.Name(r.Source), count(r.Rules, "rule"), count(r.Sets, "set"), count(r.Expects, "expectation"))
				}
			})
			if err == nil && !r.OK && o.JSON {
				return &console.Exit{Code: 1}
			}
			return errors.Join(err, c.Fatal())
		},
	}
}

// mistakes prints the mistakes of files for programs.
func (o *Options) mistakes(cmd *cobra.Command, source string, all conf.Errors) error {
	r := report{Source: source}
	for _, e := range all {
		r.Mistakes = append(r.Mistakes, e.Error())
	}
	if err := console.Encoder(cmd.OutOrStdout()).Encode(r); err != nil {
		return err
	}
	return &console.Exit{Code: 1}
}

func (o *Options) format() *cobra.Command {
	var write bool
	cmd := &cobra.Command{
		Use:     "fmt [FILE]",
		Aliases: []string{"migrate"},
		Short:   "Print a policy in its canonical form",
		Long: "fmt prints a file in canonical form, in which policies are easily compared: fields in a fixed order, without those that have their\n" +
			"default. Comments are kept. Included files are not changed.",
		Args: console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := o.settings(cmd.ErrOrStderr())
			name := cfg.Firewall.RulesFile
			if len(args) > 0 {
				name = args[0]
			}
			if write && name == stdin {
				return console.Usage("%s --write takes a file, not standard input", cmd.CommandPath())
			}
			called, before, err := textOf(cmd, name)
			if err != nil {
				return err
			}
			after, err := policy.Format(called, before)
			if err != nil {
				return err
			}
			if write {
				return rewrite(name, before, after)
			}
			_, err = console.Exact(cmd.OutOrStdout()).Write(after)
			return err
		},
	}
	cmd.Flags().BoolVar(&write, "write", false, "write it back to the file")
	return cmd
}

// rewrite replaces a file in one step, with the mode and the owner that it has. Of a symbolic link, it is the file behind it.
func rewrite(name string, before, after []byte) error {
	if string(before) == string(after) {
		return nil
	}
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(name, after, info.Mode().Perm()); err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && (int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid()) {
		return os.Chown(name, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

func (o *Options) show() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show the ruleset of a policy",
		Long: "show prints what would be loaded: as input for nft or iptables-restore, or as model, the policy with files, names\n" +
			"and interfaces resolved as on this host now.",
		Args: console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := read(cmd, o.readOnlyLoader(cmd), args)
			if err != nil {
				return err
			}
			text, err := loader.Show(c, as)
			if errors.Is(err, loader.ErrForm) {
				return console.Usage("--as %q: write nft, iptables or model", as)
			}
			if err != nil {
				return err
			}
			return console.Print(cmd, o.JSON, map[string]string{"as": as, "text": text}, func(w io.Writer) { io.WriteString(w, text) })
		},
	}
	cmd.Flags().StringVar(&as, "as", "nft", "nft, iptables or model")
	return cmd
}

func (o *Options) plan() *cobra.Command {
	return &cobra.Command{
		Use:   "plan [FILE]",
		Short: "Show what would change if a policy were loaded",
		Long: "plan compares a policy with what is in force: which packets it treats differently, which statements are added and removed, and the\n" +
			"difference of the loaded rulesets. It changes nothing.",
		Args: console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, c, err := o.candidate(cmd, args)
			if err != nil {
				return err
			}
			p, err := l.Plan(cmd.Context(), c, o.self("listing")...)
			if err != nil {
				return err
			}
			diff, err := p.Diff()
			if err != nil {
				return err
			}
			return console.Print(cmd, o.JSON, planOf(p, diff), func(w io.Writer) {
				showPlan(w, p)
				if diff != "" {
					fmt.Fprintf(w, "\n%s", diff)
				}
			})
		},
	}
}

// planJSON is a plan for programs.
type planJSON struct {
	Changes []changeJSON `json:"changes"`
	Partly  bool         `json:"partly"`
	Added   []string     `json:"added"`
	Removed []string     `json:"removed"`
	Diff    string       `json:"diff"`
	Kernel  string       `json:"kernel_diff"`
}

type changeJSON struct {
	Dir  string `json:"dir"`
	Fam  string `json:"family"`
	What string `json:"packets"`
	Old  string `json:"old"`
	New  string `json:"new"`
	Case string `json:"example"`
}

func planOf(p *loader.Plan, diff string) planJSON {
	out := planJSON{Partly: p.Partly, Added: p.Added, Removed: p.Removed, Diff: diff, Kernel: p.Kernel}
	for _, c := range p.Verdicts {
		out.Changes = append(out.Changes, changeJSON{c.Dir.String(), c.Family.String(), c.What, c.Before(), c.After(), c.Sample.String()})
	}
	return out
}

// shown is how many changes are printed for people.
const shown = 20

func showPlan(w io.Writer, p *loader.Plan) {
	if p.Kernel != "" {
		fmt.Fprintf(w, "Another program changed the rules in the kernel since they were loaded:\n%s\n", indent(strings.TrimRight(p.Kernel, "\n")))
	}
	if p.First {
		fmt.Fprintln(w, "No rules of mef are in force yet: everything that this policy drops or rejects is a change.")
	}
	for _, line := range p.Removed {
		fmt.Fprintf(w, "- %s\n", line)
	}
	for _, line := range p.Added {
		fmt.Fprintf(w, "+ %s\n", line)
	}
	switch {
	case p.First:
		return
	case len(p.Verdicts) == 0 && p.Partly:
		fmt.Fprintln(w, "The policies have too many cases of packets to compare.")
	case len(p.Verdicts) == 0:
		fmt.Fprintln(w, "Nothing changes for any packet.")
		return
	}
	fmt.Fprintln(w, "These packets are treated differently:")
	for i, c := range p.Verdicts {
		if i == shown {
			fmt.Fprintf(w, "  and %d more; --json has them\n", len(p.Verdicts)-shown)
			break
		}
		fmt.Fprintf(w, "  %s\n", c)
	}
}

func (o *Options) test() *cobra.Command {
	return &cobra.Command{
		Use:   "test FILE [RULES]",
		Short: "Check the expectations of a file against a policy",
		Long:  "test reads expect statements from FILE and reports those that the policy does not meet, with a packet that shows it.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return console.Usage("%s takes a file with expect statements, and a policy", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l := o.readOnlyLoader(cmd)
			src, err := source(cmd, path(l, args[1:]))
			if err != nil {
				return err
			}
			called, text, err := textOf(cmd, args[0])
			if err != nil {
				return err
			}
			if err := src.Expect(called, text); err != nil {
				return err
			}
			c, err := l.Consider(cmd.Context(), src)
			if err != nil {
				return err
			}
			return o.unmet(cmd, c)
		},
	}
}

// unmet prints which expectations are not met.
func (o *Options) unmet(cmd *cobra.Command, c *loader.Candidate) error {
	result := struct {
		Expects int      `json:"expectations"`
		Unmet   []string `json:"unmet"`
	}{Expects: len(c.Policy.Expects)}
	for _, f := range c.Unmet {
		result.Unmet = append(result.Unmet, fmt.Sprintf("%s: %s", f.Expect.At, f))
	}
	err := console.Print(cmd, o.JSON, result, func(w io.Writer) {
		if len(result.Unmet) == 0 {
			fmt.Fprintf(w, "%d expectations: all met\n", result.Expects)
		}
	})
	switch {
	case err != nil || len(result.Unmet) == 0:
		return err
	case o.JSON:
		return &console.Exit{Code: 1}
	}
	return errors.New(strings.Join(result.Unmet, "\n"))
}

func (o *Options) trace() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "trace KEY=VALUE...",
		Short: "Show which rule decides about packets",
		Long: "trace takes the fields of an expect statement without action, and shows which rule decides about the packets that match; if\n" +
			"several do, each with its share of the packets.",
		Example: "  mef trace dir=in proto=tcp src=203.0.113.7 dport=22",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return console.Usage("%s takes fields such as dir=in proto=tcp dport=22", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l := o.readOnlyLoader(cmd)
			if file == "" {
				file = l.RulesFile()
			}
			src, err := source(cmd, file)
			if err != nil {
				return err
			}
			cases, err := ask(cmd.Context(), l, src, args)
			if err != nil {
				return err
			}
			return o.cases(cmd, cases)
		},
	}
	cmd.Flags().StringVar(&file, "rules", "", "the policy, instead of that of the configuration")
	return cmd
}

// ask returns what becomes of packets that the words describe.
func ask(ctx context.Context, l *loader.Loader, src *policy.Source, words []string) ([]policy.Case, error) {
	about, err := src.Describe("trace", words)
	if err != nil {
		return nil, err
	}
	facts, _, err := l.Facts(ctx, src)
	if err != nil {
		return nil, err
	}
	pol := src.Policy(facts)
	return policy.NewModel(pol).Ask(about(facts))
}

// caseJSON is a case for programs.
type caseJSON struct {
	Action string `json:"action"`
	At     string `json:"at"`
	What   string `json:"packets"`
	Case   string `json:"example"`
}

func (o *Options) cases(cmd *cobra.Command, cases []policy.Case) error {
	out := make([]caseJSON, 0, len(cases))
	for _, c := range cases {
		at := ""
		if c.Rule != nil {
			at = c.Rule.At.String()
		} else if c.Policy != nil {
			at = c.Policy.At.String()
		}
		out = append(out, caseJSON{c.Action.String(), at, c.What, c.Sample.String()})
	}
	return console.Print(cmd, o.JSON, out, func(w io.Writer) {
		if len(cases) == 0 {
			fmt.Fprintln(w, "No packet matches these fields.")
		}
		for i, c := range cases {
			if i == shown {
				fmt.Fprintf(w, "and %d more cases; --json has them\n", len(cases)-shown)
				break
			}
			what := c.What
			if what == "" {
				what = "all of them"
			}
			fmt.Fprintf(w, "%s: %s, as for %s\n", c.Verdict, what, c.Sample)
		}
	})
}

// listing is for programs that run us in a namespace of their own.
func (o *Options) listing() *cobra.Command {
	return &cobra.Command{
		Use:    "listing BACKEND FILE",
		Short:  "Load rules in a private namespace, and list them",
		Hidden: true, // started by plan
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := loader.List(cmd.Context(), args[0], args[1])
			if err == nil {
				_, err = io.WriteString(cmd.OutOrStdout(), text)
			}
			return err
		},
	}
}

// until reports how long something lasts.
func until(t time.Time) string { return t.Local().Format(time.TimeOnly) }
