package ask

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newWhy(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "why ADDR|REFERENCE",
		Short: "Explain why an address is banned, or why it is not",
		Long: "why explains an address, banned or not. Instead of an address it takes the reference that a blocked customer was shown, such as\n" +
			"MEF-ABCD2345, also after the ban has ended.",
		Args: console.OneArg("an address, such as 192.0.2.7"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			addr, past, err := referred(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			why, err := client.Why(cmd.Context(), addr)
			if err != nil {
				return err
			}
			places := g.Places()
			defer places.Close()
			placed := places.Why(why)
			return g.Print(cmd, placed, func(w io.Writer) {
				if past != nil {
					fmt.Fprintf(w, "%s is a ban of %s on %s that began at %s and is no longer in force.\n", past.Reference, past.Prefix, past.Ports, past.Time.Local().Format(time.DateTime))
				}
				placed.Show(w, time.Now())
			})
		},
	}
}

func newSupport(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "support",
		Short: "Help customers who see the page for blocked addresses",
		Args:  console.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "code ADDR|REFERENCE",
		Short: "Make a code with which a blocked customer can lift the ban once",
		Long: "code prints a code for the customer at an address, or of a reference that the page shows. Typed into the page within an hour, it lifts\n" +
			"the bans of the address, which is then not banned for ten minutes. It is void after five wrong ones, or when another is made.",
		Args: console.OneArg("an address, such as 192.0.2.7, or a reference, such as MEF-ABCD2345"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := g.Client()
			if err != nil {
				return err
			}
			addr, _, err := referred(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			code, err := client.SupportCode(cmd.Context(), control.CodeRequest{Addr: addr})
			if err != nil {
				return err
			}
			return g.Print(cmd, code, func(w io.Writer) {
				fmt.Fprintf(w, "%s lifts the ban of %s once, %s.\n", code.Code, addr, cli.Lasting(&code.Until))
			})
		},
	})
	return cmd
}

// referred returns the address that the command line names, or the first address of the ban that it names by its reference; past is that ban if
// it is no longer in force.
func referred(ctx context.Context, client *control.Client, text string) (addr netip.Addr, past *control.PastBan, err error) {
	reference, ok := control.ReadReference(text)
	if !ok {
		addr, err = cli.Addr(text)
		return addr, nil, err
	}
	bans, err := client.Bans(ctx)
	if err != nil {
		return addr, nil, err
	}
	first := func(text string) (netip.Addr, error) {
		prefix, err := conf.ParsePrefix(text)
		return prefix.Addr(), err
	}
	for i := range bans {
		if bans[i].Reference() == reference {
			addr, err = first(bans[i].Prefix)
			return addr, nil, err
		}
	}
	ended, err := client.PastBans(ctx, reference, 1)
	if err != nil {
		return addr, nil, err
	}
	if len(ended) == 0 {
		return addr, nil, fmt.Errorf("neither a ban in force nor one of the latest that are kept has the reference %s", reference)
	}
	addr, err = first(ended[0].Prefix)
	return addr, &ended[0], err
}
