// Package console has what the commands of several programs share: exit statuses, tables, and questions to the operator.
package console

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mef/internal/host"
	"mef/internal/printable"
)

// An Exit is an error that chooses the exit status; without Err everything has been reported already.
type Exit struct {
	Code int
	Err  error
}

// Error returns the status and the error.
func (e *Exit) Error() string { return fmt.Sprintf("exit status %d: %v", e.Code, e.Err) }

// Unwrap returns the error.
func (e *Exit) Unwrap() error { return e.Err }

// Usage is for what the command line itself has wrong: exit status 2.
func Usage(format string, args ...any) error { return &Exit{2, fmt.Errorf(format, args...)} }

// Run runs a command line. Everything the commands print is made printable on its way out.
func Run(ctx context.Context, root *cobra.Command, args []string, in io.Reader, out, errOut io.Writer) error {
	people, complaints := printable.Text(out), printable.Text(errOut)
	root.SetArgs(args)
	root.SetIn(&input{ctx: ctx, Reader: in})
	root.SetOut(people)
	root.SetErr(complaints)
	return errors.Join(root.ExecuteContext(ctx), people.Flush(), complaints.Flush())
}

// An input is standard input, of which no read outlasts ctx: a signal ends a command that waits for somebody to write.
type input struct {
	ctx context.Context
	io.Reader
	buf []byte // for the next read
}

// Read reads, or returns why ctx has ended.
func (in *input) Read(p []byte) (int, error) {
	if in.ctx.Err() != nil {
		return 0, context.Cause(in.ctx)
	}
	if len(in.buf) < len(p) {
		in.buf = make([]byte, len(p))
	}
	buf := in.buf[:len(p)]
	var n int
	var err error
	done := make(chan struct{})
	go func() {
		n, err = in.Reader.Read(buf)
		close(done)
	}()
	select {
	case <-done:
		return copy(p, buf[:n]), err
	case <-in.ctx.Done(): // the other read ends with the program
		return 0, context.Cause(in.ctx)
	}
}

// Encoder returns an encoder of JSON for programs, in which everything is escaped that is not printable.
func Encoder(w io.Writer) *json.Encoder { return json.NewEncoder(printable.JSON(w)) }

// RawTerminal returns the terminal that a stream of a command goes to, nil if it goes elsewhere. It is for text of our own that moves the
// cursor, such as a progress bar.
func RawTerminal(w io.Writer) io.Writer {
	if p, ok := w.(*printable.Writer); ok {
		if file, ok := p.Exact().(*os.File); ok && host.Terminal(file) {
			return file
		}
	}
	return nil
}

// Exact returns the writer of a command for text that is read back, such as a policy: it stays as it is, byte by byte, unless
// it goes to a terminal.
func Exact(w io.Writer) io.Writer {
	p, ok := w.(*printable.Writer)
	if !ok {
		return w
	}
	if file, ok := p.Exact().(*os.File); ok && host.Terminal(file) {
		return w
	}
	return p.Exact()
}

// Finish reports what went wrong, if anything did and it was not reported yet, and returns the exit status: 1 unless the error chooses
// another.
func Finish(w io.Writer, program string, err error) int {
	var exit *Exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.Err != nil {
			Complain(w, program, exit.Err)
		}
		return exit.Code
	}
	Complain(w, program, err)
	return 1
}

// Complain prints an error, every line of it as the program's.
func Complain(w io.Writer, program string, err error) {
	fmt.Fprintf(printable.Text(w), "%s: %s\n", program, strings.ReplaceAll(err.Error(), "\n", "\n"+program+": "))
}

// Print writes v as JSON, or calls people.
func Print(cmd *cobra.Command, asJSON bool, v any, people func(io.Writer)) error {
	if asJSON {
		return Encoder(cmd.OutOrStdout()).Encode(v)
	}
	people(cmd.OutOrStdout())
	return nil
}

// Table prints rows in aligned columns.
func Table(w io.Writer, rows [][]string) {
	out := bufio.NewWriterSize(w, 64<<10) // tabwriter writes every cell and its padding by themselves
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	tw.Flush()
	out.Flush()
}

// Terminal reports whether somebody sits at in, to be asked.
func Terminal(in io.Reader) bool {
	if of, ok := in.(*input); ok {
		in = of.Reader
	}
	file, ok := in.(*os.File)
	return ok && host.Terminal(file)
}

// Yes reads an answer. Only "y" and "yes" mean yes.
func Yes(in io.Reader) bool {
	answer, _ := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// Root returns the command of a program, or one that stands for others, which reports what there is.
func Root(use, short, long, version string) *cobra.Command {
	root := &cobra.Command{
		Use:           use,
		Short:         short,
		Long:          long,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Flags().BoolP("version", "v", false, "print the version and exit")
	root.PersistentFlags().BoolP("help", "h", false, "describe the command and exit")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return Usage("%v; see %s --help", err, cmd.Root().Name()) })
	return root
}

// AddCompletion adds the command that prints completion scripts to a root that has all other commands. What is no shell is refused:
// help in place of a script would be installed as one.
func AddCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Use, cmd.Short = "help [COMMAND]", "Describe a command"
			cmd.Long = "help describes a command, as COMMAND --help does."
		case "completion":
			cmd.Args, cmd.RunE = NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.Use, cmd.Short = "completion SHELL", "Print a script with which a shell completes commands"
			cmd.Long = "completion prints a script for bash, zsh or fish. To load it into the shell that is running: source <(" + root.Name() + " completion bash)"
			for _, shell := range cmd.Commands() {
				if shell.Name() == "powershell" {
					cmd.RemoveCommand(shell)
				}
				shell.Short = "The script for " + shell.Name()
				shell.Long = shell.Short
			}
		}
	}
}

// NoArgs is for commands that take no argument. Of a command that stands for others, a word behind it was meant to be one of them.
func NoArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case !cmd.HasAvailableSubCommands():
		return Usage("%s takes no argument, and %q is one", cmd.CommandPath(), args[0])
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	for _, c := range cmd.Commands() {
		if slices.Contains(c.SuggestFor, args[0]) {
			return Usage("%s; did you mean %q?", text, c.Name())
		}
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		// Two letters in the wrong order are the likeliest slip.
		slices.SortStableFunc(near, func(a, b string) int {
			return cmp.Compare(max(len(a)-len(args[0]), len(args[0])-len(a)), max(len(b)-len(args[0]), len(args[0])-len(b)))
		})
		return Usage("%s; did you mean %q?", text, near[0])
	}
	return Usage("%s; see %s --help", text, cmd.CommandPath())
}

// OneFile is for commands that read a file, or do without.
func OneFile(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return Usage("%s takes one file; %q is one too many", cmd.CommandPath(), args[1])
	}
	return nil
}

// OneArg is for commands that take exactly one argument.
func OneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return Usage("%s needs %s", cmd.CommandPath(), what)
		case 1:
			return nil
		}
		return Usage("%s takes one argument, %s; %q is one too many", cmd.CommandPath(), what, args[1])
	}
}
