package main

import (
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"mef/internal/cloud/server"
	"mef/internal/console"
)

func newNever(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "never",
		Short: "Keep networks out of all lists",
		Long: "never keeps networks out of all lists: reports of their addresses are dropped, listed ones are removed, and hosts ban them neither for a list\n" +
			"nor for another host. Own networks and those of partners belong here. Hosts still ban by their own rules.",
	}
	var note string
	change := func(method, done string) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			var n server.Never
			if err := g.ask(cmd.Context(), method, "/never?prefix="+url.QueryEscape(args[0])+"&note="+url.QueryEscape(note), &n); err != nil {
				return err
			}
			return console.Print(cmd, g.json, n, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", done, n.Prefix) })
		}
	}
	add := &cobra.Command{Use: "add PREFIX", Short: "Never list a network or an address", Args: console.OneArg("a network or an address, such as 192.0.2.0/24"), RunE: change("POST", "added")}
	add.Flags().StringVar(&note, "note", "", "a `text` that list shows")
	remove := &cobra.Command{Use: "remove PREFIX", Short: "Let a network be listed again", Args: console.OneArg("a network as list shows it"), RunE: change("DELETE", "removed")}
	list := &cobra.Command{
		Use:   "list",
		Short: "List these networks",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []server.Never
			if err := g.ask(cmd.Context(), "GET", "/never", &all); err != nil {
				return err
			}
			return console.Print(cmd, g.json, all, func(w io.Writer) {
				rows := [][]string{{"NETWORK", "SINCE", "NOTE"}}
				for _, n := range all {
					rows = append(rows, []string{n.Prefix.String(), n.Since.Local().Format(time.DateTime), n.Note})
				}
				console.Table(w, rows)
			})
		},
	}
	cmd.AddCommand(add, remove, list)
	return cmd
}
