package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// What cobra's own checks of arguments say leaves out what to write instead, and does not tell a wrong command line from a
// command that failed.

// noArgs is for commands that take no argument. Of a command that stands for others, a word behind it was meant to be one of them.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case !cmd.HasAvailableSubCommands():
		return usage("%s takes no argument, and %q is one", cmd.CommandPath(), args[0])
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usage("%s; did you mean %q?", text, near[0])
	}
	return usage("%s; see %s --help", text, cmd.CommandPath())
}

// oneArg is for commands that take exactly one argument.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return usage("%s needs %s", cmd.CommandPath(), what)
		case 1:
			return nil
		}
		return usage("%s takes one argument, %s; %q is one too many", cmd.CommandPath(), what, args[1])
	}
}

// oneFile is for commands that read a file, or do without.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage("%s takes one file; %q is one too many", cmd.CommandPath(), args[1])
	}
	return nil
}
