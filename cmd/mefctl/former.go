package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/console"
	"mef/internal/mefctl/cli"
)

// former are commands of MEF 1.0 that have another name here, or nothing to do, and what to use instead.
var former = []struct{ parent, name, instead string }{
	{"", "fix", "mefctl config check and mef check report every mistake and its fix"},
	{"", "update", "the package that installed mef updates it; mefctl version prints the version"},
	{"config", "update", "there is nothing to update: keys that are not set have their defaults; mefctl config show prints them"},
}

// addFormer adds the commands of MEF 1.0, unlisted: they report what to use instead, and their exit status is 2.
func addFormer(root *cobra.Command) {
	for _, f := range former {
		parent := root
		for _, c := range root.Commands() {
			if c.Name() == f.parent {
				parent = c
			}
		}
		parent.AddCommand(&cobra.Command{
			Use:                f.name,
			Hidden:             true,
			DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return console.Usage("%s is a command of MEF 1.0; %s", cmd.CommandPath(), f.instead)
			},
		})
	}
}

func newVersion(g *cli.Global, version string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  console.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.Print(cmd, map[string]string{"version": version}, func(w io.Writer) { fmt.Fprintln(w, "mefctl version "+version) })
		},
	}
}
