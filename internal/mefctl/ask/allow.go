package ask

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

const allowWants = "an address, network, range a-b or host name, such as 192.0.2.7, 2001:db8::/48 or office.example.net"

func newAllow(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "allow",
		Short: "List, add and remove addresses that are never banned",
		Args:  console.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return listAllowed(g, cmd) },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List the allow list: entries of files, and those that were added by command",
		Args:  console.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return listAllowed(g, cmd) },
	}, newAllowAdd(g), newAllowDelete(g))
	return cmd
}

func listAllowed(g *cli.Global, cmd *cobra.Command) error {
	client, err := g.Client()
	if err != nil {
		return err
	}
	lists, err := client.Lists(cmd.Context(), "whitelist")
	if err != nil {
		return err
	}
	return g.Print(cmd, lists, func(w io.Writer) {
		if len(lists.Entries) == 0 {
			fmt.Fprintln(w, "The allow list is empty. mefctl allow add ADDR adds an entry.")
			return
		}
		console.Table(w, entryRows(lists.Entries, time.Now()))
	})
}

// entryRows are the rows of a table of entries.
func entryRows(entries []control.Entry, now time.Time) [][]string {
	rows := [][]string{{"ENTRY", "LIST", "SOURCE", "BY", "AGE", "LEFT", "ADDRESSES", "NOTE"}}
	for _, e := range entries {
		age, ends := "-", "-"
		if e.Since != nil {
			age, ends = cli.Span(now.Sub(*e.Since)), strings.Replace(cli.Left(e.Until, now), "lifted", "removed", 1)
		}
		rows = append(rows, []string{e.Entry, e.List, e.Source, e.Author, age, ends, resolved(e.Resolved, now), remark(e)})
	}
	return rows
}

// resolved reports what a DNS name stands for.
func resolved(r *control.Resolved, now time.Time) string {
	if r == nil {
		return "-"
	}
	text := "none"
	if len(r.Addrs) > 0 {
		text = fmt.Sprintf("%s, looked up %s", strings.Join(r.Addrs, ","), cli.Ago(r.At, now))
	}
	if r.Ends != nil {
		text += ", dropped in " + cli.Span(r.Ends.Sub(now))
	}
	return text
}

// remark is what is to be reported of an entry: why it has no effect, and its note.
func remark(e control.Entry) string {
	var parts []string
	if e.Error != "" {
		parts = append(parts, e.Error)
	}
	if e.Resolved != nil && e.Resolved.Error != "" {
		parts = append(parts, e.Resolved.Error)
	}
	if e.Note != "" {
		parts = append(parts, strconv.Quote(e.Note))
	}
	return strings.Join(parts, "; ")
}

func newAllowAdd(g *cli.Global) *cobra.Command {
	var lasts, file string
	var req control.AllowRequest
	cmd := &cobra.Command{
		Use:   "add ADDR|CIDR|NAME",
		Short: "Never ban an address, a network, or the addresses of a DNS name",
		Long: "add adds an entry to the allow list, which takes precedence over every ban, and lifts the bans of its addresses. The daemon saves it\n" +
			"with its author; the files of the whitelist directory are not changed.",
		Example: "  mefctl allow add 192.0.2.7 --note \"the office\"\n  mefctl allow add 198.51.100.0/24 --for 2h\n  mefctl allow add office.example.net",
		Args:    console.OneArg(allowWants),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if req.For, err = banTime(lasts); err != nil {
				return err
			}
			if file != "" && req.Fleet {
				return console.Usage("--fleet is for one entry at a time")
			}
			if file != "" {
				many := control.Batch{For: req.For, Note: req.Note, Force: req.Force}
				return batch(g, cmd, file, many, false, (*control.Client).AllowAll, "Added %d entries to the allow list.")
			}
			if req.Entry, err = allowEntry(args[0]); err != nil {
				return err
			}
			client, err := g.Client()
			if err != nil {
				return err
			}
			e, err := client.Allow(cmd.Context(), req)
			if err != nil {
				return err
			}
			return g.Print(cmd, e, func(w io.Writer) {
				what := "is never banned"
				if e.Resolved != nil && len(e.Resolved.Addrs) == 0 {
					what = "is being resolved; its addresses, which mefctl allow list shows, are never banned"
				}
				fmt.Fprintf(w, "%s %s, %s. Remove it with mefctl allow delete %s.\n", e.Entry, what,
					strings.Replace(cli.Lasting(e.Until), "lifted", "removed", 1), e.Entry)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&lasts, "for", "", "how long, such as 10m, 24h or 7d; without it, until removed")
	flags.StringVar(&req.Note, "note", "", "the reason, shown by mefctl why and the lists")
	flags.BoolVar(&req.Force, "force", false, "allow networks wider than /16 (IPv4) or /32 (IPv6)")
	flags.BoolVar(&req.Fleet, "fleet", false, "on all own hosts of the community server; needs --for, at most 30d")
	fileFlag(cmd, &file)
	return cmd
}

func newAllowDelete(g *cli.Global) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "delete ADDR|CIDR|NAME",
		Aliases: []string{"del", "rm"},
		Short:   "Remove an entry that was added by command",
		Args:    console.OneArg("an entry, as mefctl allow list shows it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				return batch(g, cmd, file, control.Batch{}, false, (*control.Client).DisallowAll, "Removed %d entries from the allow list.")
			}
			entry, err := allowEntry(args[0])
			if err != nil {
				return err
			}
			client, err := g.Client()
			if err != nil {
				return err
			}
			e, err := client.Disallow(cmd.Context(), control.AllowRequest{Entry: entry})
			if err != nil {
				return err
			}
			return g.Print(cmd, e, func(w io.Writer) { fmt.Fprintf(w, "%s can be banned again.\n", e.Entry) })
		},
	}
	fileFlag(cmd, &file)
	return cmd
}

// allowEntry checks an entry before the daemon is asked.
func allowEntry(text string) (string, error) {
	entries, errs := conf.ParseList("", []byte(text))
	if len(errs) > 0 {
		return "", console.Usage("%s", strings.TrimPrefix(errs[0].Error(), errs[0].Pos.String()+": "))
	}
	if len(entries) != 1 {
		return "", console.Usage("%q is not an entry; write %s", text, allowWants)
	}
	return entries[0].Text, nil
}
