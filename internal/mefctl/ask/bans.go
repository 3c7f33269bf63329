package ask

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/duration"
	"mef/internal/geodb"
	"mef/internal/mefctl/cli"
	"mef/internal/mefctl/exposure"
)

func newBans(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bans",
		Short: "List, add and lift bans",
		Args:  console.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return listBans(g, cmd, listOptions{}) },
	}
	cmd.AddCommand(newBansList(g), newBansAdd(g), newBansDelete(g), newBansClear(g))
	return cmd
}

func newBansList(g *cli.Global) *cobra.Command {
	var only listOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the bans in force, with the packets each has dropped",
		Long:  "list shows the bans in the kernel, with the daemon's reasons, and how many networks lists ban. PACKETS counts both directions.",
		Args:  console.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return listBans(g, cmd, only) },
	}
	cmd.Flags().BoolVar(&only.permanent, "permanent", false, "only permanent bans")
	cmd.Flags().BoolVar(&only.addresses, "ips-only", false, "print only addresses and networks, one per line")
	return cmd
}

// listOptions are which bans are listed, and how.
type listOptions struct {
	permanent bool // only those without an end
	repeated  bool // only those of sources that were banned before
	addresses bool // addresses only
}

func (o listOptions) leavesOut(b control.Ban) bool {
	return o.permanent && b.Until != nil || o.repeated && b.Count < 2
}

func listBans(g *cli.Global, cmd *cobra.Command, only listOptions) error {
	client, err := g.Client()
	if err != nil {
		return err
	}
	bans, err := client.Bans(cmd.Context())
	if err != nil {
		return err
	}
	bans = slices.DeleteFunc(bans, only.leavesOut)
	var lists control.Lists
	if only == (listOptions{}) {
		if lists, err = client.Lists(cmd.Context(), control.InKernel); err != nil {
			return err
		}
	}
	places := g.Places()
	defer places.Close()
	shown := make([]placedBan, len(bans))
	for i, b := range bans {
		shown[i] = placedBan{b, places.Of(b.Prefix)}
	}
	return g.Print(cmd, shown, func(w io.Writer) {
		showKernel(w, lists.Kernel)
		switch {
		case only.addresses:
			for _, b := range bans {
				fmt.Fprintln(w, b.Prefix)
			}
			return
		case len(bans) == 0 && only != listOptions{}:
			fmt.Fprintln(w, "There is no such ban.")
			return
		case len(bans) == 0:
			fmt.Fprintln(w, "No address is banned. mefctl events --follow shows what happens.")
			return
		}
		console.Table(w, banRows(shown, places.Any(), time.Now()))
		fmt.Fprintln(w, "\nmefctl why ADDR shows the reason and the log lines; mefctl bans delete ADDR lifts a ban.")
	})
}

func newBansAdd(g *cli.Global) *cobra.Command {
	var lasts, ports, note, file string
	var force, permanent bool
	cmd := &cobra.Command{
		Use:   "add ADDR|CIDR",
		Short: "Ban an address or a network, or all entries of a file",
		Example: "  mefctl bans add 192.0.2.7 --for 2h --note \"asked three times\"\n  mefctl bans add 2001:db8:7::/48 --for 1d --ports 25,465,587\n" +
			"  mefctl bans add --file scanners.txt --for 7d",
		Args: console.OneArg("an address or network, such as 192.0.2.7 or 2001:db8:7::/48"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			req := control.Batch{Note: note, Force: force}
			req.Caller, _ = exposure.Caller(os.Getenv("SSH_CONNECTION"))
			if lasts != "" && permanent {
				return console.Usage("--for and --permanent exclude each other; use one of them")
			}
			if req.For, err = banTime(lasts); err != nil {
				return err
			}
			p, err := ban.ParsePorts(ports)
			if err != nil {
				return console.Usage("--ports: %v", err)
			}
			req.Ports = string(p)
			if file != "" {
				return batch(g, cmd, file, req, true, (*control.Client).BanAll, "Banned %d addresses and networks.")
			}
			prefix, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			client, err := g.Client()
			if err != nil {
				return err
			}
			b, err := client.Ban(cmd.Context(), control.BanRequest{Prefix: prefix.String(), For: req.For, Ports: req.Ports, Note: req.Note,
				Caller: req.Caller, Force: req.Force})
			if err != nil {
				return err
			}
			return g.Print(cmd, b, func(w io.Writer) {
				fmt.Fprintf(w, "Banned %s %s, %s. Lift it with mefctl bans delete %s.\n",
					b.Prefix, cli.OnPorts(b.Ports), cli.Lasting(b.Until), b.Prefix)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&lasts, "for", "", "how long, such as 10m, 24h or 7d; without it, until lifted")
	flags.StringVar(&lasts, "timeout", "", "the name of --for in MEF 1.0")
	flags.Lookup("timeout").Hidden = true
	flags.BoolVar(&permanent, "permanent", false, "until lifted, as without --for")
	flags.StringVar(&ports, "ports", "", "only these TCP and UDP ports, such as 22 or 25,465,8000-8010")
	flags.StringVar(&note, "note", "", "the reason, shown by mefctl why and the lists")
	flags.BoolVar(&force, "force", false, "also ban networks wider than /16 (IPv4) or /32 (IPv6), known logins, proxies, CDNs, and addresses of administrators")
	fileFlag(cmd, &file)
	return cmd
}

// banTime reads the value of --for, 0 if it is empty.
func banTime(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := duration.Parse(text)
	if err != nil || d < time.Second {
		return 0, console.Usage("--for %q: write a time of at least a second, such as 10m, 24h or 7d", text)
	}
	return d, nil
}

func newBansDelete(g *cli.Global) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "delete ADDR|CIDR",
		Aliases: []string{"del", "rm"},
		Short:   "Lift the bans of an address or a network",
		Long: "delete lifts every ban of exactly this address or network, on all ports; for an address, also the ban of the\n" +
			"IPv6 network that it belongs to. It returns when the kernel has been read back.",
		Args: console.OneArg("an address or network, as mefctl bans list shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				return batch(g, cmd, file, control.Batch{}, true, (*control.Client).UnbanAll, "Lifted %d bans.")
			}
			prefix, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			client, err := g.Client()
			if err != nil {
				return err
			}
			req := control.UnbanRequest{Prefix: prefix.String(), Covering: prefix.IsSingleIP() && !strings.Contains(args[0], "/")}
			lifted, err := client.Unban(cmd.Context(), req)
			if err != nil {
				return err
			}
			still := ""
			if why, err := client.Why(cmd.Context(), prefix.Addr()); err == nil && why.Banned && req.Covering {
				still = why.Verdict
			}
			return g.Print(cmd, lifted, func(w io.Writer) {
				for _, b := range lifted {
					fmt.Fprintf(w, "Lifted the ban of %s %s (%s).\n", b.Prefix, cli.OnPorts(b.Ports), b.Rule)
				}
				if still != "" {
					fmt.Fprintf(w, "%s is still %s; mefctl why %s shows the reason.\n", prefix.Addr(), still, prefix.Addr())
				}
			})
		},
	}
	fileFlag(cmd, &file)
	return cmd
}

// parsePrefix reads an address or a CIDR; host bits may be set and are dropped.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := conf.ParsePrefix(s)
	if err != nil {
		return p, console.Usage("%s is neither an address nor a network; write it like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64", strconv.Quote(s))
	}
	return p, nil
}

// A placedBan is a ban with the country and the autonomous system of its first address.
type placedBan struct {
	control.Ban
	geodb.Place
}

// banRows returns the table of bans; places reports whether it shows where they are.
func banRows(bans []placedBan, places bool, now time.Time) [][]string {
	rows := [][]string{{"PREFIX", "PORTS", "LEFT", "PACKETS", "RULE", "CLASS", "BY", "NOTE"}}
	for _, b := range bans {
		by, note := b.Author, ""
		if b.Note != "" {
			note = strconv.Quote(b.Note)
		}
		if !b.Kernel {
			note = strings.TrimSpace("NOT IN THE KERNEL " + note)
		}
		rows = append(rows, []string{b.Prefix, b.Ports, cli.Left(b.Until, now), cli.Packets(b.Packets), b.Rule, b.Class, by, note})
	}
	if places {
		rows[0] = slices.Insert(rows[0], 1, "FROM")
		for i, b := range bans {
			rows[i+1] = slices.Insert(rows[i+1], 1, cmp.Or(cli.PlaceText(b.Place), "-"))
		}
	}
	return rows
}
