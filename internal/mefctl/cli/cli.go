// Package cli has what the commands of mefctl share: their common flags, the client of the daemon, and how times, ports and
// counters are written for people.
package cli

import (
	"context"
	"io"
	"net/netip"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mef/internal/conf"
	"mef/internal/conf/mefconf"
	"mef/internal/console"
	"mef/internal/control"
)

// Global holds the flags that every command has.
type Global struct {
	Config string // path of mef.conf
	JSON   bool   // print JSON for programs
}

// AddFlags adds the flags to those of the program.
func (g *Global) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&g.Config, "config", conf.DefaultPath, "configuration `file` of the daemon to control")
	flags.BoolVar(&g.JSON, "json", false, "print JSON for programs")
}

// Client returns a client of the daemon whose configuration --config names. A configuration with mistakes is good enough
// for that: the daemon it belongs to still runs with the one before.
func (g *Global) Client() (*control.Client, error) {
	socket, err := mefconf.ControlSocket(g.Config)
	if err != nil {
		return nil, err
	}
	return control.NewClient(socket), nil
}

// Settings reads the keys of mef.conf; see mefconf.Settings.
func (g *Global) Settings() (*conf.Config, error) { return mefconf.Settings(g.Config) }

// Print writes v as JSON if --json was given; otherwise it calls people.
func (g *Global) Print(cmd *cobra.Command, v any, people func(io.Writer)) error {
	return console.Print(cmd, g.JSON, v, people)
}

// Ask asks the daemon, and writes the answer as JSON if --json was given; otherwise it calls people. The method of a Client that takes no
// argument is an ask.
func Ask[T any](g *Global, cmd *cobra.Command, ask func(*control.Client, context.Context) (T, error), people func(io.Writer, T)) error {
	client, err := g.Client()
	if err != nil {
		return err
	}
	answer, err := ask(client, cmd.Context())
	if err != nil {
		return err
	}
	return g.Print(cmd, answer, func(w io.Writer) { people(w, answer) })
}

// Addr reads an address of the command line.
func Addr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return addr, console.Usage("%s is not an address; write it like 192.0.2.7 or 2001:db8::7", strconv.Quote(text))
	}
	return addr, nil
}

// Input opens the file that the command line names, or standard input.
func Input(cmd *cobra.Command, args []string) (io.ReadCloser, error) {
	if len(args) == 0 || args[0] == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return os.Open(args[0])
}
