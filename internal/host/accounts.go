//go:build linux

package host

import (
	"bufio"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"mef/internal/ordered"
)

// An Account is a user of this host.
type Account struct {
	Name     string
	CanLogIn bool // its shell is one
}

// passwdFiles are the files of NSS that hold accounts (passwd(5), nss_extrausers). Those of a directory service are not listed
// anywhere.
var passwdFiles = []string{"/etc/passwd", "/var/lib/extrausers/passwd"}

// maxAccounts bounds what is read of them.
const maxAccounts = 50_000

// Accounts returns the users in the host's files, ordered by name. Missing files are no error.
func Accounts() []Account { return accounts(passwdFiles) }

func accounts(files []string) (all []Account) {
	for _, file := range files {
		if f, err := os.Open(file); err == nil {
			all = append(all, readPasswd(f)...)
			f.Close()
		}
	}
	ordered.Sort(all, func(a, b Account) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func readPasswd(r io.Reader) (all []Account) {
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(all) < maxAccounts {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 7 || fields[0] == "" || strings.ContainsAny(fields[0][:1], "#+-") {
			continue
		}
		all = append(all, Account{fields[0], isShell(fields[6])})
	}
	return all
}

// isShell reports whether a login with this shell leads anywhere. None at all is /bin/sh.
func isShell(shell string) bool {
	return !slices.Contains([]string{"nologin", "false", "sync", "shutdown", "halt"}, path.Base(shell))
}
