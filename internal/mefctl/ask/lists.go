package ask

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

func newLists(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "lists [whitelist|blacklist]",
		Short: "Show the files and entries of whitelist and blacklist, and what is wrong with them",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] != "whitelist" && args[0] != "blacklist" {
				return console.Usage("mefctl lists takes whitelist or blacklist, or nothing for both")
			}
			return nil
		},
		ValidArgs: []string{"whitelist", "blacklist"},
		RunE: func(cmd *cobra.Command, args []string) error {
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
	if len(lists.Files)+len(lists.Entries) == 0 {
		fmt.Fprintln(w, "There are no list files, and nothing was added by command.")
		return
	}
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
	console.Table(w, entryRows(lists.Entries, now))
}
