package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mef/internal/conf"
	"mef/internal/offline"
)

// A shownKey is what config show prints of a key as JSON.
type shownKey struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // FILE:LINE:COL, or "default"
}

func newConfigShow(g *global) *cobra.Command {
	var origin bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print every setting of mef.conf that is in force",
		Long:  "show prints every key of mef.conf with its value, as mef.conf would have it; with --origin, also where it comes from.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, mistakes, err := offline.Check(g.config)
			if err != nil {
				return err
			}
			if cfg == nil {
				return mistakes.Err()
			}
			keys := shownKeys(cfg)
			return g.print(cmd, keys, func(w io.Writer) { showKeys(w, keys, origin) })
		},
	}
	cmd.Flags().BoolVar(&origin, "origin", false, "say where each value comes from: file, line and column, or default")
	return cmd
}

func shownKeys(cfg *conf.Config) []shownKey {
	keys := make([]shownKey, 0, len(cfg.Origins))
	for _, o := range cfg.Origins {
		k := shownKey{o.Key, o.Value, "default"}
		if o.Pos.File != "" {
			k.Origin = o.Pos.String()
		}
		keys = append(keys, k)
	}
	return keys
}

func showKeys(w io.Writer, keys []shownKey, origin bool) {
	if !origin {
		fmt.Fprintln(w, "[global]")
	}
	var rows [][]string
	for _, k := range keys {
		if origin {
			rows = append(rows, []string{k.Key + "=" + k.Value, k.Origin})
		} else {
			fmt.Fprintf(w, "%s=%s\n", k.Key, k.Value)
		}
	}
	table(w, rows)
}
