//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// An Account is a user of the server, with a home directory and no rights.
type Account struct {
	Name     string
	UID      int
	Password string
}

// The accounts of every world.
var (
	// Alice is the legitimate user.
	Alice = Account{"alice", 1000, "correct horse battery staple"}
	// Mallory has an account and attacks from it.
	Mallory = Account{"mallory", 1001, "mallory's own password"}
)

// Home returns the account's home directory.
func (a Account) Home() string { return filepath.Join(dir, "home", a.Name) }

// Session returns the control group of the account's login session.
func (a Account) Session() string {
	return fmt.Sprintf("user.slice/user-%d.slice/session-%d.scope", a.UID, a.UID-997)
}

// firstUser is the lowest user ID of a person (UID_MIN of login.defs(5)).
const firstUser = 1000

// addAccounts rewrites the private passwd, group and shadow. It keeps the system accounts and replaces the host's users.
func addAccounts(accounts ...Account) error {
	passwd, err := systemEntries("/etc/passwd")
	if err != nil {
		return err
	}
	group, err := systemEntries("/etc/group")
	if err != nil {
		return err
	}
	shadow := "root:*:19000:0:99999:7:::\n"
	for _, a := range accounts {
		// The cheapest hash of crypt(5): it protects nothing, and every guess computes it.
		hash, err := bcrypt.GenerateFromPassword([]byte(a.Password), bcrypt.MinCost)
		if err != nil {
			return err
		}
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", a.Name, a.UID, a.UID, a.Home())
		group += fmt.Sprintf("%s:x:%d:\n", a.Name, a.UID)
		shadow += fmt.Sprintf("%s:%s:19000:0:99999:7:::\n", a.Name, hash)
		if err := os.MkdirAll(a.Home(), 0o755); err != nil {
			return err
		}
		if err := os.Chown(a.Home(), a.UID, a.UID); err != nil {
			return err
		}
	}
	return writeFiles(map[string]string{"/etc/passwd": passwd, "/etc/group": group, "/etc/shadow": shadow})
}

// systemAccount returns the account of a daemon: the host's, or one of that name and ID that it adds.
func systemAccount(name string, uid int, home string) (Account, error) {
	if u, err := user.Lookup(name); err == nil {
		uid, err = strconv.Atoi(u.Uid)
		return Account{Name: name, UID: uid}, err
	}
	return Account{Name: name, UID: uid}, errors.Join(
		appendFile("/etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:/usr/sbin/nologin\n", name, uid, uid, home)),
		appendFile("/etc/group", fmt.Sprintf("%s:x:%d:\n", name, uid)),
	)
}

// systemEntries returns the lines of passwd(5) or group(5) that are system accounts.
func systemEntries(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) < 3 {
			continue
		}
		id, err := strconv.Atoi(fields[2])
		if err == nil && (id < firstUser || id == 65534) {
			kept.WriteString(line)
		}
	}
	return kept.String(), nil
}
