package reputation

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mef/internal/atomicfile"
	"mef/internal/conf"
	"mef/internal/console"
	"mef/internal/control"
	"mef/internal/mefctl/cli"
	"mef/internal/pagechild"
	"mef/internal/pagechild/password"
)

func newPage(g *cli.Global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "page",
		Short: "Manage who may log in to the operator's page",
		Args:  console.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPagePassword(g), newPageRemove(g))
	return cmd
}

func newPagePassword(g *cli.Global) *cobra.Command {
	var stdin bool
	cmd := &cobra.Command{
		Use:   "password NAME ROLE",
		Short: "Make a password for a user of the page, and print it",
		Long: "password makes a new password for a user of the page, prints it, and writes its hash to page_password_file.\n" +
			"ROLE is read, support (may lift bans) or operator. Sessions on the page end.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, role := args[0], args[1]
			if !pagechild.ValidName(name) {
				return console.Usage("%q cannot be a name: use letters, digits and . _ -, 32 at most", name)
			}
			if !slices.Contains(conf.PageRoles[:], role) {
				return console.Usage("%q is no role; write %s", role, strings.Join(conf.PageRoles[:], ", "))
			}
			secret := rand.Text()
			if stdin {
				line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), password.Max+2)).ReadString('\n')
				if err != nil && err != io.EOF {
					return err
				}
				secret = strings.TrimRight(line, "\r\n")
			}
			hash, err := password.Hash(secret)
			if err != nil {
				return err
			}
			if err := editUsers(g, func(users []pagechild.User) ([]pagechild.User, error) {
				users = slices.DeleteFunc(users, func(u pagechild.User) bool { return u.Name == name })
				return append(users, pagechild.User{Name: name, Role: role, Hash: hash}), nil
			}); err != nil {
				return err
			}
			if !stdin {
				fmt.Fprintln(cmd.OutOrStdout(), secret)
			}
			return reloadUsers(g, cmd)
		},
	}
	cmd.Flags().BoolVar(&stdin, "stdin", false, "read the password from the first line of standard input")
	return cmd
}

func newPageRemove(g *cli.Global) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a user of the page",
		Args:  console.OneArg("the name of a user of the page"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := editUsers(g, func(users []pagechild.User) ([]pagechild.User, error) {
				left := slices.DeleteFunc(slices.Clone(users), func(u pagechild.User) bool { return u.Name == args[0] })
				if len(left) == len(users) {
					return nil, fmt.Errorf("%q is no user of the page", args[0])
				}
				return left, nil
			}); err != nil {
				return err
			}
			return reloadUsers(g, cmd)
		},
	}
}

// editUsers changes the password file, which only root and the daemon's group may read.
func editUsers(g *cli.Global, edit func([]pagechild.User) ([]pagechild.User, error)) error {
	cfg, err := g.Settings()
	if err != nil {
		return err
	}
	path := cfg.Page.PasswordFile
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var users []pagechild.User
	if len(strings.TrimSpace(string(text))) > 0 {
		if users, err = pagechild.ParseUsers(path, text); err != nil && !errors.Is(err, pagechild.ErrNoUser) {
			return err
		}
	}
	if users, err = edit(users); err != nil {
		return err
	}
	out := "# Users of the operator's page: NAME:ROLE:HASH. mefctl page password changes this file.\n"
	for _, u := range users {
		out += u.Name + ":" + u.Role + ":" + u.Hash + "\n"
	}
	if err := atomicfile.Write(path, []byte(out), 0o640); err != nil {
		return err
	}
	if group, err := user.LookupGroup("mef"); err == nil && os.Geteuid() == 0 {
		gid, err := strconv.Atoi(group.Gid)
		if err != nil {
			return err
		}
		return os.Chown(path, 0, gid)
	}
	return nil
}

// reloadUsers has a running daemon read the password file again, if it serves the page.
func reloadUsers(g *cli.Global, cmd *cobra.Command) error {
	cfg, err := g.Settings()
	if err != nil {
		return err
	}
	if cfg.Page.Address == "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "mefctl: page is not set in mef.conf, so there is no page yet; set page=127.0.0.1:9180, then run mefctl reload")
		return nil
	}
	client, err := g.Client()
	if err != nil {
		return err
	}
	if _, err := client.Reload(cmd.Context()); err != nil && !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	return nil
}
