// Command mefcloud is the community server: hosts that were invited report their bans to it, and fetch the list of attackers that follows.
// serve is the server; the other commands ask a running one through a socket in its data directory.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/atomicfile"
	"mef/internal/cloud/reputation"
	"mef/internal/cloud/server"
	"mef/internal/cloud/wire"
	"mef/internal/console"
	"mef/internal/printable"
	"mef/internal/sdnotify"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit status: 0 done, 1 not done, 2 wrong usage.
func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	return console.Finish(errOut, "mefcloud", console.Run(ctx, newRoot(), args, in, out, errOut))
}

// global holds the flags that every command has.
type global struct {
	data string
	json bool
}

const defaultData = "/var/lib/mefcloud"

func newRoot() *cobra.Command {
	g := new(global)
	root := console.Root("mefcloud", "Share bans among hosts",
		"mefcloud is a server to which invited hosts report the addresses that they ban, and from which they fetch the list of attackers.", version)
	flags := root.PersistentFlags()
	flags.StringVar(&g.data, "data", defaultData, "`directory` of everything that the server keeps")
	flags.BoolVar(&g.json, "json", false, "print JSON for programs")
	root.AddCommand(newServe(g), newInvite(g), newAgents(g), newRevoke(g), newQuota(g), newAppeals(g), newNever(g), newBackup(g), newRestore(g))
	console.AddCompletion(root)
	return root
}

func newServe(g *global) *cobra.Command {
	var listen, name, nats, export, dns, zone, asn string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: "serve runs the server in the foreground until SIGTERM. It makes its directory, its keys and its certificate when it is first started.\n" +
			"Hosts know the server by the hash of its key, which is in their invitation, and need no certificate of an authority.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(printable.Text(cmd.ErrOrStderr()), nil))
			opt := server.Options{Dir: g.data, Listen: listen, Name: name, DNS: dns, Zone: zone, Export: export, ASN: asn, Log: log}
			if (dns == "") != (zone == "") {
				return console.Usage("--dns and --zone belong together: --dns :53 --zone bl.example.org")
			}
			if nats != "" {
				opt.NATS = strings.Split(nats, ",")
			}
			if opt.Name == "" {
				host, err := os.Hostname()
				_, port, err2 := net.SplitHostPort(listen)
				if err := errors.Join(err, err2); err != nil {
					return console.Usage("--listen %q: %v; write it like :8443", listen, err)
				}
				opt.Name = net.JoinHostPort(host, port)
			}
			if _, _, err := net.SplitHostPort(opt.Name); err != nil {
				return console.Usage("--name %q: %v; write it like cloud.example.org:8443", opt.Name, err)
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(50) // most of the memory is addresses that stay
			}
			s, err := server.Open(cmd.Context(), opt)
			if err != nil {
				return err
			}
			defer s.Close()
			debug.FreeOSMemory() // of the copy of the state that was read
			log.Info("mefcloud is ready", "address", s.Addr().String(), "name", opt.Name, "pin", s.Pin(), "data", g.data, "log", logKind(nats), "dns", s.DNS())
			manager, err := sdnotify.New(os.Getenv)
			if err != nil {
				return err
			}
			if err := manager.Ready("serving hosts"); err != nil {
				log.Warn("report to the service manager", "err", err)
			}
			return s.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", ":8443", "`address` to which hosts connect")
	cmd.Flags().StringVar(&name, "name", "", "`HOST:PORT` that invitations name; the host name and the port of --listen if empty")
	cmd.Flags().StringVar(&dns, "dns", "", "`address` at which the list is served as a DNS block list; not at all if empty")
	cmd.Flags().StringVar(&zone, "zone", "", "`name` of its DNS zone, such as bl.example.org")
	cmd.Flags().StringVar(&nats, "nats", "", "`addresses` of a NATS cluster that keeps the log, separated by commas; the server keeps it itself if empty")
	cmd.Flags().StringVar(&asn, "asn", "", "`file` of autonomous systems in the MaxMind DB format; networks of 16 (IPv6: 32) bits stand for them if empty")
	cmd.Flags().StringVar(&export, "export", "", "`directory` of the backups that the server writes by itself; backups in --data if empty")
	return cmd
}

// logKind describes how soon an entry of the log survives a power failure.
func logKind(nats string) string {
	if nats == "" {
		return "kept by this process, synced before each answer"
	}
	return "kept by the cluster, synced as its sync_interval says"
}

func newInvite(g *global) *cobra.Command {
	var own, anchor bool
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print an invitation for one host",
		Long: "invite prints the text that a host joins with: mefctl cloud join TEXT. It is for one host, for 24 hours.\n" +
			"The first host is an own host in any case. Nothing is listed for all until some hosts are own hosts or anchors.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			role := reputation.Role("")
			switch {
			case own && anchor:
				return console.Usage("--own and --anchor exclude each other: an own host is an anchor")
			case own:
				role = reputation.Own
			case anchor:
				role = reputation.Anchor
			}
			var in server.Invited
			if err := g.ask(cmd.Context(), "POST", "/invite?role="+string(role), &in); err != nil {
				return err
			}
			return console.Print(cmd, g.json, in, func(w io.Writer) { fmt.Fprintln(w, in.Invitation) })
		},
	}
	cmd.Flags().BoolVar(&own, "own", false, "the host is one of yours: own hosts share each ban at once")
	cmd.Flags().BoolVar(&anchor, "anchor", false, "you trust the host: its reports count in full from the beginning")
	return cmd
}

func newAgents(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "agents",
		Short: "List the hosts that have joined",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []server.Agent
			if err := g.ask(cmd.Context(), "GET", "/agents", &all); err != nil {
				return err
			}
			return console.Print(cmd, g.json, all, func(w io.Writer) {
				rows := [][]string{{"HOST", "NAME", "ROLE", "NETWORK", "TRUST", "REPORTS", "BANS THIS HOUR", "JOINED", "LAST REPORT"}}
				for _, a := range all {
					role, last := string(a.Role), "never"
					if a.Revoked {
						role = "revoked"
					}
					if !a.Last.IsZero() {
						last = a.Last.Local().Format(time.DateTime)
					}
					name, bans := "-", "-"
					if a.Quota > 0 {
						bans = fmt.Sprintf("%d of %d", a.Shared, a.Quota)
					}
					if a.Name != "" {
						name = a.Name
					}
					rows = append(rows, []string{a.ID, name, role, a.System, fmt.Sprintf("%.2f", a.Trust), strconv.FormatUint(a.Reports, 10), bans, a.Enrolled.Local().Format(time.DateTime), last})
				}
				console.Table(w, rows)
			})
		},
	}
}

func newRevoke(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke HOST",
		Short: "Exclude a host and undo everything that it did",
		Long: "revoke excludes a host and removes its reports. If it is an own host, its bans are lifted and its allow entries deleted on all own hosts,\n" +
			"and bans of others that it had lifted hold again.",
		Args: console.OneArg("a host as mefcloud agents shows it, or the name of an own host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := g.ask(cmd.Context(), "POST", "/revoke?id="+url.QueryEscape(args[0]), nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "revoked %s\n", args[0])
			return nil
		},
	}
}

func newQuota(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "quota BANS [HOST]",
		Short: "Set how many bans an own host may share in an hour",
		Long:  "quota sets how many bans each own host may share in an hour, 200 at first, or with HOST this one. It bounds what a compromised host can do.",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/quota?bans=" + url.QueryEscape(args[0])
			if len(args) == 2 {
				path += "&id=" + url.QueryEscape(args[1])
			}
			return g.ask(cmd.Context(), "POST", path, nil)
		},
	}
}

func newAppeals(g *global) *cobra.Command {
	var accept string
	cmd := &cobra.Command{
		Use:   "appeals",
		Short: "List the addresses whose listing hosts contest, or remove one",
		Long: "appeals lists the addresses that were removed because hosts know them as benign. Unless an anchor sees one attack again, those who reported it\n" +
			"lose trust at the time shown. --accept removes any address at once, for a week, and takes trust from those who reported it.",
		Args: console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("accept") {
				addr, err := netip.ParseAddr(accept)
				if err != nil {
					return console.Usage("%q is not an address; write it like 192.0.2.7 or 2001:db8::7", accept)
				}
				if err := g.ask(cmd.Context(), "POST", "/clear?address="+url.QueryEscape(addr.String()), nil); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", addr)
				return nil
			}
			var all []server.Appeal
			if err := g.ask(cmd.Context(), "GET", "/appeals", &all); err != nil {
				return err
			}
			return console.Print(cmd, g.json, all, func(w io.Writer) {
				rows := [][]string{{"ADDRESS", "REPORTERS LOSE TRUST"}}
				for _, a := range all {
					rows = append(rows, []string{a.Address, a.Ends.Local().Format(time.DateTime)})
				}
				console.Table(w, rows)
			})
		},
	}
	cmd.Flags().StringVar(&accept, "accept", "", "remove this `address`")
	return cmd
}

func newBackup(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write everything that a server needs to begin again to a file",
		Long:  "backup writes the hosts, the reports, the decisions and the keys of the running server. Keep the file secret: it has the server's keys.",
		Args:  console.OneArg("the file to be written"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var data []byte
			if err := g.ask(cmd.Context(), "GET", "/backup", &data); err != nil {
				return err
			}
			return atomicfile.Write(args[0], data, 0o600)
		},
	}
}

func newRestore(g *global) *cobra.Command {
	var sameLog bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the data directory from a backup",
		Long:  "restore makes the directory of --data, which must be empty or missing. Reports since the backup are lost; hosts need no new invitation.",
		Args:  console.OneArg("the file that mefcloud backup wrote"),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			if err := server.Restore(g.data, data, sameLog); err != nil {
				return fmt.Errorf("%s: %w", strconv.Quote(args[0]), err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&sameLog, "same-log", false, "the server continues with the log of a NATS cluster that other servers use")
	return cmd
}

// maxAnswer bounds the answer of the server to one of these commands.
const maxAnswer = 4 << 30

// ask asks the running server. The answer is decoded into v: bytes as they are, anything else from JSON.
func (g *global) ask(ctx context.Context, method, path string, v any) error {
	socket := filepath.Join(g.data, server.SocketFile)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://mefcloud"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	var refused *net.OpError
	if errors.As(err, &refused) {
		return fmt.Errorf("no server runs with the directory %s (%w); start it with mefcloud serve, or name its directory by --data", strconv.Quote(g.data), refused.Err)
	} else if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return errors.New(wire.ProblemOf(resp.StatusCode, data).Detail)
	}
	switch v := v.(type) {
	case nil:
		return nil
	case *[]byte:
		*v = slices.Clone(data)
		return nil
	}
	return json.Unmarshal(data, v)
}
