package ask

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

// maxFile bounds a file of entries, in bytes; the daemon takes as much in one request.
const maxFile = 16 << 20

// shownRefusals is how many refusals of a batch are printed one by one. With --json all of them are.
const shownRefusals = 20

// fileFlag adds --file to a command that otherwise takes one entry.
func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "file", "", "use all entries of this `file`, one per line, in one request; - is standard input")
	one := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("file"):
			return one(cmd, args)
		case len(args) > 0:
			return console.Usage("%s takes either an entry or --file", cmd.CommandPath())
		case *file == "":
			return console.Usage("%s --file needs a file, or - for standard input", cmd.CommandPath())
		}
		return nil
	}
}

// batch sends the entries of a file in one request, and prints what became of them: done reports it of a number.
func batch(g *cli.Global, cmd *cobra.Command, file string, req control.Batch, addresses bool,
	send func(*control.Client, context.Context, control.Batch) (control.Done, error), done string) (err error) {
	if req.Entries, err = entries(cmd, file, addresses); err != nil {
		return err
	}
	client, err := g.Client()
	if err != nil {
		return err
	}
	d, err := send(client, cmd.Context(), req)
	if err != nil {
		return err
	}
	err = g.Print(cmd, d, func(w io.Writer) {
		for _, r := range d.Refused[:min(len(d.Refused), shownRefusals)] {
			console.Complain(cmd.ErrOrStderr(), "mefctl", fmt.Errorf("%s: %s", r.Entry, r.Reason))
		}
		if more := len(d.Refused) - shownRefusals; more > 0 {
			console.Complain(cmd.ErrOrStderr(), "mefctl", fmt.Errorf("%d more were refused; --json prints all", more))
		}
		fmt.Fprintf(w, done+"\n", d.Done)
	})
	if err == nil && len(d.Refused) > 0 {
		err = &console.Exit{Code: 1}
	}
	return err
}

// entries reads a file in the format of list files, or standard input. With addresses, only addresses and networks may be in it, and a range
// counts as its networks. The error lists every mistake.
func entries(cmd *cobra.Command, path string, addresses bool) ([]string, error) {
	in, name := cmd.InOrStdin(), "standard input"
	if path != "-" {
		f, err := conf.Open(path)
		if err != nil {
			return nil, conf.FileError(path, err)
		}
		defer f.Close()
		in, name = f, conf.Name(path)
	}
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d MiB; put it into the whitelist or blacklist directory instead", name, maxFile>>20)
	}
	list, mistakes := conf.ParseList(name, text)
	var all []string
	for _, e := range list {
		prefixes, ok := e.Prefixes()
		switch {
		case !addresses:
			all = append(all, e.Text)
		case !ok:
			mistakes = append(mistakes, &conf.Error{Pos: e.Pos, Msg: fmt.Sprintf("%q is a name", e.Text), Hint: "write addresses and networks"})
		default:
			for _, p := range prefixes {
				all = append(all, ban.Key{Prefix: p}.String())
			}
		}
	}
	if err := mistakes.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no entry; write one per line", strings.TrimSpace(name))
	}
	return all, nil
}
