// Package mefctl is the operator's tool: it asks mefdaemon through its control socket, and does without the daemon what needs
// none. The commands are grouped by what they need: package ask has those of a running daemon, lifecycle those that start, stop and
// prove it, check those that read only files.
package mefctl

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/firewall/command"
	"mef/internal/mefctl/ask"
	"mef/internal/mefctl/check"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/lifecycle"
	"mef/internal/selftest"
)

// Main runs the command line of the process and returns its exit status. version is what --version prints.
func Main(version string) int {
	if handled, exit := selftest.Child(os.Args[1:]); handled {
		return exit
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return execute(ctx, version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
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
	root := console.Root("mefctl", "See and steer what mefdaemon does",
		"mefctl shows whether this host is protected, who is banned and why, and lets an operator ban and unban.", version)
	flags := root.PersistentFlags()
	flags.StringVar(&g.Config, "config", conf.DefaultPath, "configuration `file` of the daemon to talk to")
	flags.BoolVar(&g.JSON, "json", false, "print JSON for programs")
	for _, commands := range []func(*cli.Global) []*cobra.Command{ask.Commands, lifecycle.Commands, check.Commands} {
		root.AddCommand(commands(g)...)
	}
	root.AddCommand(newRules(g))
	console.AddCompletion(root)
	return root
}

// newRules has the commands of mef, the firewall loader.
func newRules(g *cli.Global) *cobra.Command {
	o := &command.Options{Prefix: []string{"rules"}}
	cmd := console.Root("rules", "Load the static firewall policy, with a way back",
		"rules has the commands of mef(8), which loads the policy of mef.rules(5). Each of them is also a command of mef itself.", "")
	cmd.PersistentPreRun = func(*cobra.Command, []string) { o.Config, o.JSON = g.Config, g.JSON } // once the flags are read
	cmd.AddCommand(command.All(o)...)
	return cmd
}
