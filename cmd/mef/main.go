// Command mef loads the static policy of mef.rules into the kernel's packet filter: at boot, and on demand with a way back.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/firewall/command"
)

// version is set by the linker.
var version = "unknown"

func main() {
	debug.SetGCPercent(400) // a command ends soon, and nearly all that it makes of a policy stays until then
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit status: 0 done, 1 not done or not as it should be, 2 wrong usage.
func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	return console.Finish(errOut, "mef", console.Run(ctx, newRoot(), args, in, out, errOut))
}

func newRoot() *cobra.Command {
	o := new(command.Options)
	root := console.Root("mef", "Load a firewall policy, with automatic rollback",
		"mef loads /etc/mef/mef.rules into the kernel, completely or not at all, at boot and on demand. mef.rules(5) describes the language.", version)
	flags := root.PersistentFlags()
	flags.StringVar(&o.Config, "config", conf.DefaultPath, "configuration `file`")
	flags.BoolVar(&o.JSON, "json", false, "print JSON for programs")
	root.AddCommand(command.All(o)...)
	console.AddCompletion(root)
	return root
}
