package config

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/conf/rulefile"
	"mef/internal/console"
	"mef/internal/mefctl/cli"
	"mef/internal/offline"
)

// A shownKey is what config show prints of a key as JSON.
type shownKey struct {
	Section string `json:"section,omitempty"` // of a rule's file; empty: [rule]
	Key     string `json:"key"`
	Value   string `json:"value"`
	Origin  string `json:"origin"` // FILE:LINE:COL, or "default"
}

func newConfigShow(g *cli.Global) *cobra.Command {
	var origin bool
	cmd := &cobra.Command{
		Use:   "show [RULE]",
		Short: "Print every setting of mef.conf, or of a rule, that is in force",
		Long: "show prints every key of mef.conf, or of a rule, with its value, in the format of the file; with --origin, also where it\n" +
			"is set.",
		Example: "  mefctl config show --origin\n  mefctl config show sshd --origin",
		Args:    oneRule,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, mistakes, err := offline.Check(g.Config)
			if err != nil {
				return err
			}
			if cfg == nil {
				return mistakes.Err()
			}
			section, keys := "global", shownKeys(cfg.Origins)
			if len(args) == 1 {
				section = "rule"
				if keys, err = ruleKeys(cfg, args[0]); err != nil {
					return err
				}
			}
			return g.Print(cmd, keys, func(w io.Writer) { showKeys(w, section, keys, origin) })
		},
	}
	cmd.Flags().BoolVar(&origin, "origin", false, "show where each value is set: file, line and column, or default")
	return cmd
}

func oneRule(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return console.Usage("%s takes the name of one rule; %q is one too many", cmd.CommandPath(), args[1])
	}
	return nil
}

func shownKeys(origins []conf.Origin) []shownKey {
	keys := make([]shownKey, 0, len(origins))
	for _, o := range origins {
		k := shownKey{o.Section, o.Key, o.Value, "default"}
		if o.Pos.File != "" {
			k.Origin = o.Pos.String()
		}
		keys = append(keys, k)
	}
	return keys
}

// ruleKeys returns the keys of a rule. One that names no bantime has that of mef.conf.
func ruleKeys(cfg *conf.Config, name string) ([]shownKey, error) {
	i := slices.IndexFunc(cfg.Rules, func(r conf.Rule) bool { return r.Name == name })
	if i < 0 {
		var names []string
		for _, r := range cfg.Rules {
			names = append(names, r.Name)
		}
		return nil, console.Usage("no rule %q; there are %s", name, strings.Join(names, ", "))
	}
	set := slices.DeleteFunc(rulefile.Settings(&cfg.Rules[i]), func(o conf.Origin) bool { return o.Value == "" && slices.Contains(onlyJSON, o.Key) })
	for i := range set {
		if set[i].Key != "bantime" || set[i].Pos.File != "" {
			continue
		}
		for _, o := range cfg.Origins {
			if o.Key == "bantime" {
				set[i].Pos = o.Pos
			}
		}
	}
	return shownKeys(set), nil
}

// onlyJSON are the keys of format=json. A rule of another format does not have them, not even empty.
var onlyJSON = []string{"addr", "user", "message", "when", "okwhen", "probewhen"}

// settingWidth is how much room a setting has in front of its origin. Patterns need far more.
const settingWidth = 40

func showKeys(w io.Writer, section string, keys []shownKey, origin bool) {
	if !origin {
		fmt.Fprintf(w, "[%s]\n", section)
	}
	for _, k := range keys {
		if k.Section != "" && k.Section != section {
			section = k.Section
			if !origin {
				fmt.Fprintf(w, "\n[%s]\n", section)
			}
		}
		if origin {
			fmt.Fprintf(w, "%-*s  %s\n", settingWidth, k.Key+"="+k.Value, k.Origin)
		} else {
			fmt.Fprintf(w, "%s=%s\n", k.Key, k.Value)
		}
	}
}
