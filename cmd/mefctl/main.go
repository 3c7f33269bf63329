// Command mefctl is the operator's tool: it asks mefdaemon through its control socket, and does without it what needs no
// daemon (match, config check, off).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/loader/command"
	"mef/internal/selftest"
)

// version is set by the linker.
var version = "unknown"

func main() {
	if handled, exit := selftest.Child(os.Args[1:]); handled {
		os.Exit(exit)
	}
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// execute runs one command line and returns its exit status: 0 done, 1 not done or not protected, 2 wrong usage, 3 no daemon runs
// where one is needed.
func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	var exit *console.Exit
	if !errors.As(err, &exit) && errors.Is(err, control.ErrNotRunning) {
		err = &console.Exit{Code: 3, Err: err}
	}
	return console.Finish(errOut, "mefctl", err)
}

// global holds the flags that every command has.
type global struct {
	config string
	json   bool
}

func newRoot() *cobra.Command {
	g := new(global)
	root := console.Root("mefctl", "See and steer what mefdaemon does",
		"mefctl shows whether this host is protected, who is banned and why, and lets an operator ban and unban.", version)
	flags := root.PersistentFlags()
	flags.StringVar(&g.config, "config", conf.DefaultPath, "configuration `file` of the daemon to talk to")
	flags.BoolVar(&g.json, "json", false, "print JSON for programs")
	root.AddCommand(
		newStatus(g), newBans(g), newAllow(g), newLists(g), newWhy(g), newEvents(g), newOff(g), newConfig(g), newMatch(g),
		newReload(g), newReplay(g), newSelftest(g),
		newEnable(g), newConfirm(g),
	)
	root.AddCommand(newServices(g)...)
	root.AddCommand(newRules(g))
	console.AddCompletion(root)
	return root
}

// newRules has the commands of mef, the firewall loader.
func newRules(g *global) *cobra.Command {
	o := &command.Options{Prefix: []string{"rules"}}
	cmd := console.Root("rules", "Load the static firewall policy, with a way back",
		"rules has the commands of mef(8), which loads the policy of mef.rules(5). Each of them is also a command of mef itself.", "")
	cmd.PersistentPreRun = func(*cobra.Command, []string) { o.Config, o.JSON = g.config, g.json } // once the flags are read
	cmd.AddCommand(command.All(o)...)
	return cmd
}

// client returns a client of the daemon whose configuration --config names. A configuration with mistakes is good enough
// for that: the daemon it belongs to still runs with the one before.
func (g *global) client() (*control.Client, error) {
	socket, err := conf.ControlSocket(g.config)
	if err != nil {
		return nil, err
	}
	return control.NewClient(socket), nil
}

// print writes v as JSON if --json was given, else calls people.
func (g *global) print(cmd *cobra.Command, v any, people func(io.Writer)) error {
	if g.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	people(cmd.OutOrStdout())
	return nil
}
