// Command mefctl is the operator's tool: it asks mefdaemon through its control socket, and does without the daemon what needs
// none. The commands are grouped by what they need: package mefctl/ask has those of a running daemon, lifecycle those that start, stop
// and test it, config and check those that read only files.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/enforce/kernel"
	"mef/internal/firewall/command"
	"mef/internal/mefctl/ask"
	"mef/internal/mefctl/check"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/config"
	"mef/internal/mefctl/lifecycle"
	"mef/internal/mefctl/reputation"
	"mef/internal/mefctl/top"
	"mef/internal/selftest"
)

// version is set by the linker.
var version = "unknown"

func main() {
	if handled, exit := selftest.Child(os.Args[1:], kernel.Open); handled {
		os.Exit(exit)
	}
	debug.SetGCPercent(200) // a command ends soon, and replay makes much garbage beside little that stays
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit status: 0 done, 1 not done or not protected, 2 wrong usage, 3 no daemon runs
// where one is needed.
func execute(ctx context.Context, version string, args []string, in io.Reader, out, errOut io.Writer) int {
	err := console.Run(ctx, newRoot(version), args, in, out, errOut)
	var exit *console.Exit
	if !errors.As(err, &exit) && errors.Is(err, control.ErrNotRunning) {
		err = &console.Exit{Code: 3, Err: err}
	}
	return console.Finish(errOut, "mefctl", err)
}

func newRoot(version string) *cobra.Command {
	g := new(cli.Global)
	root := console.Root("mefctl", "Control mefdaemon and show what it does",
		"mefctl shows whether this host is protected and which addresses are banned and why; it bans, unbans and allows addresses.", version)
	g.AddFlags(root.PersistentFlags())
	for _, commands := range []func(*cli.Global) []*cobra.Command{ask.Commands, reputation.Commands, lifecycle.Commands, config.Commands, check.Commands, top.Commands} {
		root.AddCommand(commands(g)...)
	}
	root.AddCommand(newRules(g), newVersion(g, version))
	addFormer(root)
	console.AddCompletion(root)
	return root
}

// newRules has the commands about detection rules. The commands of mef, the firewall loader, work here as well, and are not listed: a
// name that both know is a detection rule's, unless a file is meant.
func newRules(g *cli.Global) *cobra.Command {
	o := &command.Options{Prefix: []string{"rules"}}
	cmd := console.Root("rules", "List, enable, disable, make and check detection rules",
		"rules manages the detection rules of mefdaemon. The commands of mef(8), which loads the firewall policy, are subcommands too.", "")
	cmd.PersistentPreRun = func(*cobra.Command, []string) { o.Config, o.JSON = g.Config, g.JSON } // once the flags are read
	cmd.AddCommand(slices.Concat(check.RuleCommands(g), config.RuleCommands(g))...)
	for _, c := range command.All(o) {
		c.Hidden = true
		switch c.Name() {
		case "show":
			sharedName(cmd, "show", c, func(cmd *cobra.Command, args []string) bool {
				return len(args) == 0 || cmd.Flags().Changed("as") || strings.ContainsAny(args[0], "/.-") && exists(args[0])
			})
			continue
		case "check":
			c.Aliases = nil // in MEF 1.0: validate
			sharedName(cmd, "validate", c, func(_ *cobra.Command, args []string) bool { return len(args) > 0 && filepath.Ext(args[0]) == ".rules" })
		}
		cmd.AddCommand(c)
	}
	return cmd
}

// sharedName has a command about detection rules do what one of the firewall policy does, where the arguments mean that.
func sharedName(rules *cobra.Command, name string, policy *cobra.Command, meant func(*cobra.Command, []string) bool) {
	for _, c := range rules.Commands() {
		if c.Name() != name {
			continue
		}
		ofRule := c.RunE
		policy.Flags().VisitAll(func(f *pflag.Flag) {
			hidden := *f
			hidden.Hidden = true
			c.Flags().AddFlag(&hidden)
		})
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if meant(cmd, args) {
				return policy.RunE(cmd, args)
			}
			return ofRule(cmd, args)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil || path == "-"
}
