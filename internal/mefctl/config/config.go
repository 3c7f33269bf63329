// Package config has the commands of mefctl about the configuration, which need no daemon: they check and show it.
package config

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/offline"
)

// Commands returns the commands of this package.
func Commands(g *cli.Global) []*cobra.Command { return []*cobra.Command{newConfig(g)} }

// RuleCommands returns those for mefctl rules.
func RuleCommands(g *cli.Global) []*cobra.Command {
	return []*cobra.Command{newRulesShow(g), newRulesValidate(g)}
}

func newConfig(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration",
		Args:  console.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigCheck(g), newConfigShow(g))
	return cmd
}

// checked is what config check prints as JSON.
type checked struct {
	File    string   `json:"file"`
	Valid   bool     `json:"valid"`
	Errors  []string `json:"errors,omitempty"`
	Notices []string `json:"notices,omitempty"`
	// Warnings are what a valid configuration leaves open on this host.
	Warnings []string `json:"warnings,omitempty"`
	Rules    int      `json:"rules"`
}

func newConfigCheck(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check mef.conf, rules, whitelists and blacklists, and report every mistake",
		Args:  console.OneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := g.Config
			if len(args) == 1 {
				path = args[0]
			}
			cfg, errs, err := offline.Check(path)
			if err != nil {
				return err
			}
			result := checked{File: path, Valid: len(errs) == 0}
			for _, e := range errs {
				result.Errors = append(result.Errors, e.Error())
			}
			if cfg != nil {
				result.Rules = enabled(cfg)
				for _, n := range cfg.Notices {
					result.Notices = append(result.Notices, fmt.Sprintf("%s: %s", n.Pos, n.Text))
				}
				var daemon *control.Client
				if path == g.Config {
					daemon = control.NewClient(cfg.Paths.ControlSocket)
				}
				result.Warnings = warnings(cmd.Context(), cfg, daemon, time.Now())
			}
			if err := g.Print(cmd, result, func(w io.Writer) { showChecked(w, cmd.ErrOrStderr(), result) }); err != nil {
				return err
			}
			if !result.Valid {
				return &console.Exit{Code: 1}
			}
			return nil
		},
	}
}

func enabled(cfg *conf.Config) int {
	n := 0
	for _, r := range cfg.Rules {
		if r.Enabled {
			n++
		}
	}
	return n
}

func showChecked(w, errOut io.Writer, c checked) {
	for _, e := range c.Errors {
		fmt.Fprintf(errOut, "mefctl: %s\n", e)
	}
	for _, n := range c.Notices {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	for _, text := range c.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
	if c.Valid {
		fmt.Fprintf(w, "%s is valid; %d rules are enabled.\n", c.File, c.Rules)
	}
}

func newRulesShow(g *cli.Global) *cobra.Command {
	cmd := newConfigShow(g)
	cmd.Use, cmd.Short = "show RULE", "Print every setting of a detection rule"
	cmd.Long, cmd.Example = "show prints every key of a rule with its value, in the format of its file; with --origin, also where it is set.",
		"  mefctl rules show sshd --origin"
	return cmd
}

func newRulesValidate(g *cli.Global) *cobra.Command {
	cmd := newConfigCheck(g)
	cmd.Use, cmd.Short = "validate [FILE]", "Check the rules and the rest of the configuration, as config check does"
	return cmd
}
