// Package top is mefctl top: the picture of a running daemon in a terminal, renewed every second, with keys to explain, ban, unban and
// allow addresses.
//
// A Model is a value that changes by messages only: keys, the clock, the size of the terminal, and answers of the daemon. View makes the
// screen of it, so tests need neither a terminal nor a clock. Every text on the screen is cut and made printable where the screen is
// put together (type line), whatever it came from: no byte of an attacker steers the terminal.
package top

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/exposure"
)

// Commands returns the command of this package.
func Commands(g *cli.Global) []*cobra.Command {
	return []*cobra.Command{{
		Use:   "top",
		Short: "Show attacks, attackers and services as they change",
		Long: "top shows whether this host is protected, attempts and dropped packets a second, the attackers with the highest scores, services and\n" +
			"alarms, renewed every second. Its keys explain, ban, unban and allow addresses; h lists them.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			screen, ok := console.RawTerminal(cmd.OutOrStdout()).(*os.File)
			switch term := os.Getenv("TERM"); {
			case g.JSON:
				return console.Usage("mefctl top prints no JSON; use mefctl status --json")
			case !ok || !console.Terminal(os.Stdin):
				return console.Usage("mefctl top needs a terminal; use mefctl status, or mefctl status --json for programs")
			case term == "" || term == "dumb":
				return console.Usage("the terminal (TERM=%s) cannot move its cursor; set TERM, for instance to vt100 or xterm, or use mefctl status", term)
			}
			return run(cmd.Context(), g, screen)
		},
	}}
}

// run shows the picture until the operator ends it.
func run(ctx context.Context, g *cli.Global, screen *os.File) error {
	client, err := g.Client()
	if err != nil {
		return err
	}
	first, err := client.Picture(ctx)
	if err != nil {
		return err // there is no screen yet to show it on, and nothing to wait for
	}
	places := g.Places()
	defer places.Close()
	caller, _ := exposure.Caller(os.Getenv("SSH_CONNECTION"))
	m := New(daemon{ctx, client, places, caller}, Look{Color: os.Getenv("NO_COLOR") == "", Unicode: unicodeLocale(os.Getenv)})
	m, _ = m.update(answer{picture: first})
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithoutSignalHandler(), tea.WithInput(os.Stdin), tea.WithOutput(screen), tea.WithFPS(20))
	if _, err := p.Run(); err != nil && ctx.Err() == nil && !errors.Is(err, tea.ErrInterrupted) {
		return err
	}
	return nil
}

// unicodeLocale reports whether the locale of an environment is UTF-8, as setlocale(3) chooses it.
func unicodeLocale(getenv func(string) string) bool {
	locale := strings.ToLower(cmp.Or(getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG")))
	return strings.HasSuffix(locale, "utf-8") || strings.HasSuffix(locale, "utf8")
}

// A daemon is asked by commands of the Model.
type daemon struct {
	ctx    context.Context
	client *control.Client
	places *cli.Places
	caller netip.Addr // from where the operator is logged in, which is not banned
}

// An answer is the picture, or why there is none.
type answer struct {
	picture control.Picture
	err     error
}

// A reply is what became of a request of the operator, in a sentence, or a text to read.
type reply struct {
	text string
	why  []string
	err  error
}

func (d daemon) picture() tea.Msg {
	p, err := d.client.Picture(d.ctx)
	return answer{p, err}
}
