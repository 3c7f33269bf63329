package check

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"mef/internal/atomicfile"
	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/offline"
)

// RuleCommands returns the commands of mefctl rules, which are about detection rules.
func RuleCommands(g *cli.Global) []*cobra.Command {
	return []*cobra.Command{newRulesList(g), newRulesSwitch(g, true), newRulesSwitch(g, false), newRulesNew(g), newRulesSuggest(g)}
}

// A listedRule is what rules list prints of a rule as JSON.
type listedRule struct {
	Name     string   `json:"name"`
	Enabled  bool     `json:"enabled"`
	Service  string   `json:"service"`
	Source   string   `json:"source"`
	Programs []string `json:"programs"`
	Action   string   `json:"action"`
	Ports    string   `json:"ports"`
	Origin   string   `json:"origin"` // "built in", or the file
}

func newRulesList(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the detection rules by service, built in and your own",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loaded(g)
			if err != nil {
				return err
			}
			rules := make([]listedRule, 0, len(cfg.Rules))
			for _, r := range cfg.Rules {
				rules = append(rules, listedRule{r.Name, r.Enabled, r.Service, r.Source.String(), append([]string{}, r.Programs...), r.Action.String(),
					r.PortsText(), origin(&r)})
			}
			slices.SortStableFunc(rules, func(a, b listedRule) int {
				return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
			})
			return g.Print(cmd, rules, func(w io.Writer) {
				rows := [][]string{{"RULE", "STATE", "SERVICE", "SOURCE", "ACTION", "PORTS", "ORIGIN"}}
				for _, r := range rules {
					state := "on"
					if !r.Enabled {
						state = "off"
					}
					rows = append(rows, []string{r.Name, state, r.Service, r.Source, r.Action, r.Ports, r.Origin})
				}
				console.Table(w, rows)
				fmt.Fprintln(w, "\nmefctl status shows which are active on this host; mefctl rules suggest finds services without a rule.")
			})
		},
	}
}

// loaded returns the configuration, or all mistakes in it.
func loaded(g *cli.Global) (*conf.Config, error) {
	cfg, mistakes, err := offline.Check(g.Config)
	if err == nil && cfg == nil {
		err = mistakes.Err()
	}
	return cfg, err
}

// origin returns where a rule stands.
func origin(r *conf.Rule) string {
	if r.BuiltIn() {
		return "built in"
	}
	return conf.Name(r.Pos.File)
}

func newRulesSwitch(g *cli.Global, on bool) *cobra.Command {
	verb, short := "disable", "Disable a detection rule"
	if on {
		verb, short = "enable", "Enable a detection rule"
	}
	return &cobra.Command{
		Use:   verb + " RULE",
		Short: short,
		Long: verb + " writes enabled= into the rule's file in the rules directory; for a built-in rule, a new file with only that line.\n" +
			"A running daemon then reads its configuration again.",
		Args: console.OneArg("the name of a rule, as mefctl rules list shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loaded(g)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(cfg.Rules, func(r conf.Rule) bool { return r.Name == args[0] })
			if i < 0 {
				return console.Usage("no rule %q; see mefctl rules list", args[0])
			}
			path, err := switchRule(&cfg.Rules[i], cfg.Paths.RulesDir, on)
			if err != nil {
				return err
			}
			return reloaded(g, cmd, map[string]any{"rule": args[0], "enabled": on, "file": path},
				fmt.Sprintf("Rule %s is %sd in %s.", args[0], verb, conf.Name(path)))
		},
	}
}

// reloaded has a running daemon read its configuration again and prints what was done.
func reloaded(g *cli.Global, cmd *cobra.Command, v any, done string) error {
	client, err := g.Client()
	if err != nil {
		return err
	}
	_, err = client.Reload(cmd.Context())
	if err != nil && !errors.Is(err, control.ErrNotRunning) {
		return fmt.Errorf("%s\nmefdaemon does not apply it: %w", done, err)
	}
	return g.Print(cmd, v, func(w io.Writer) {
		if err == nil {
			done += " mefdaemon has read it."
		}
		fmt.Fprintln(w, done)
	})
}

var (
	enabledLine = regexp.MustCompile(`(?m)^[ \t]*enabled[ \t]*=.*$`)
	ruleHeader  = regexp.MustCompile(`(?m)^[ \t]*\[rule\].*$`)
)

// switchRule writes whether a rule is enabled into its file, and returns the file's path.
func switchRule(r *conf.Rule, dir string, on bool) (string, error) {
	setting := fmt.Sprintf("enabled=%v", on)
	path := r.Pos.File
	if r.BuiltIn() {
		path = filepath.Join(dir, r.Name+".conf")
		if _, err := os.Stat(path); err == nil {
			return "", fmt.Errorf("%s exists and belongs to another rule; write name=%s and %s into another file", conf.Name(path), r.Name, setting)
		}
		return path, writeRule(path, "[rule]\nname="+r.Name+"\n"+setting+"\n")
	}
	text, err := conf.ReadFile(path, conf.MaxConfig)
	if err != nil {
		return "", err
	}
	switch {
	case enabledLine.Match(text):
		text = enabledLine.ReplaceAll(text, []byte(setting))
	case ruleHeader.Match(text):
		at := ruleHeader.FindIndex(text)[1]
		text = slices.Concat(text[:at], []byte("\n"+setting), text[at:])
	default:
		return "", fmt.Errorf("%s has no section [rule]; write %s into it", conf.Name(path), setting)
	}
	return path, writeRule(path, string(text))
}

// writeRule writes a rule file, whole or not at all.
func writeRule(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(text), 0o644)
}
