package ask

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

// listNames are the arguments of mefctl lists.
var listNames = []string{"whitelist", "blacklist", "recidive"}

func newLists(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "lists [whitelist|blacklist|recidive]",
		Short: "Show the feeds, and the files and entries of whitelist and blacklist",
		Long: "lists shows every feed, section about countries and file of the lists with its age and last error, the lists in the kernel with\n" +
			"the packets they dropped, and the entries with their source. recidive shows the bans in force of sources that were banned before.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && !slices.Contains(listNames, args[0]) {
				return console.Usage("mefctl lists takes whitelist, blacklist or recidive, or nothing for the first two")
			}
			return nil
		},
		ValidArgs: listNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "recidive" {
				return listBans(g, cmd, listOptions{repeated: true})
			}
			client, err := g.Client()
			if err != nil {
				return err
			}
			only := ""
			if len(args) == 1 {
				only = args[0]
			}
			lists, err := client.Lists(cmd.Context(), only)
			if err != nil {
				return err
			}
			return g.Print(cmd, lists, func(w io.Writer) { showLists(w, lists, time.Now()) })
		},
	}
}

func showLists(w io.Writer, lists control.Lists, now time.Time) {
	feeds := slices.DeleteFunc(slices.Clone(lists.Feeds), func(f control.Feed) bool { return !f.Enabled })
	if len(lists.Files)+len(lists.Entries)+len(feeds)+len(lists.Access) == 0 {
		fmt.Fprintln(w, "There are no list files, no entries were added by command, and no feed is enabled.")
		return
	}
	if len(feeds) > 0 {
		cli.ShowFeeds(w, feeds, now)
		fmt.Fprintln(w)
	}
	if len(lists.Access) > 0 {
		cli.ShowAccess(w, lists.Access, now)
		fmt.Fprintln(w)
	}
	showKernel(w, lists.Kernel)
	rows := [][]string{{"FILE", "LIST", "ENTRIES", "BYTES", "CHANGED", "LAST ERROR"}}
	for _, f := range lists.Files {
		last := "-"
		if n := len(f.Errors); n > 0 {
			last = f.Errors[n-1]
		}
		rows = append(rows, []string{f.Path, f.List, strconv.Itoa(f.Entries), strconv.FormatInt(f.Size, 10), cli.Ago(&f.Modified, now), last})
	}
	if len(lists.Files) > 0 {
		console.Table(w, rows)
		fmt.Fprintln(w)
	}
	if len(lists.Files)+len(lists.Entries) > 0 {
		console.Table(w, entryRows(lists.Entries, now))
	}
	if lists.More > 0 {
		fmt.Fprintf(w, "%d more entries of the blacklist are not shown; mefctl why ADDR shows the entry that has an address.\n", lists.More)
	}
}

// showKernel prints the lists whose packets the kernel drops.
func showKernel(w io.Writer, all []control.KernelList) {
	if len(all) == 0 {
		return
	}
	rows := [][]string{{"IN THE KERNEL", "NETWORKS", "PACKETS DROPPED"}}
	for _, l := range all {
		networks := "?"
		if l.Networks >= 0 {
			networks = strconv.Itoa(l.Networks)
		}
		rows = append(rows, []string{l.Name, networks, strconv.FormatUint(l.Packets, 10)})
	}
	console.Table(w, rows)
	fmt.Fprintln(w)
}
