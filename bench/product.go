package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A product is a program under test.
type product struct {
	name     string
	version  string
	failures int // failed logins that lead to a ban with its default settings

	// matcher returns the command that only recognises the lines of file. It may be nil.
	matcher func(file string) *exec.Cmd

	// daemon writes a configuration for following log into dir and returns the command that runs with it in the foreground.
	daemon func(dir, log string) (*exec.Cmd, error)

	// bans reports whether a kernel set holds its bans.
	bans func(table, set string) bool

	daemonPath string // path of mefdaemon; the loader is in the same directory
	ctlPath    string // path of mefctl

	slow  bool // it gets a tenth of the lines
	keeps bool // its bans survive a restart
}

// findProducts returns those of the named products that are installed, mef from the directory bin.
func findProducts(bin string, names []string) ([]*product, error) {
	var found []*product
	for _, name := range names {
		var p *product
		switch name {
		case "mef":
			p = mef(bin)
		case "fail2ban":
			p = fail2ban()
		case "sshguard":
			p = sshguard()
		default:
			return nil, fmt.Errorf("unknown product %q; say mef, fail2ban or sshguard", name)
		}
		if p == nil {
			fmt.Fprintf(os.Stderr, "bench: %s is not installed and takes no part\n", name)
			continue
		}
		found = append(found, p)
	}
	return found, nil
}

// mef is this repository's build, with all shipped rules.
func mef(bin string) *product {
	ctl, daemon := filepath.Join(bin, "mefctl"), filepath.Join(bin, "mefdaemon")
	if _, err := os.Stat(daemon); err != nil {
		return nil
	}
	return &product{
		name:       "mef",
		daemonPath: daemon,
		ctlPath:    ctl,
		version:    firstLine(ctl, "--version"),
		failures:   5,
		matcher:    func(file string) *exec.Cmd { return exec.Command(ctl, "match", "--summary", file) },
		daemon: func(dir, log string) (*exec.Cmd, error) {
			path, err := mefConfig(dir, log)
			return exec.Command(daemon, "--config", path), err
		},
		bans:  func(table, set string) bool { return table == "mefdaemon" && strings.HasPrefix(set, "ban") },
		keeps: true,
	}
}

// mefConfig writes a configuration that keeps everything in dir and has the shipped rules of the services in the log
// follow it. All other shipped rules stay enabled and wait for their files.
func mefConfig(dir, log string) (string, error) {
	path := filepath.Join(dir, "mef.conf")
	files := map[string]string{path: fmt.Sprintf(`[global]
rules_dir=%[1]s/rules.d
whitelist_dir=%[1]s/whitelist
blacklist_dir=%[1]s/blacklist
cache_dir=%[1]s/state
control_socket=%[1]s/mefdaemon.sock
ban_log_enabled=true
ban_log_path=%[1]s/bans.log
`, dir)}
	for _, sub := range []string{"rules.d", "whitelist", "blacklist", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
	}
	for _, rule := range []string{"sshd", "postfix", "dovecot"} {
		files[filepath.Join(dir, "rules.d", rule+".conf")] = fmt.Sprintf("[rule]\nsource=file\nfiles=%s\n", log)
	}
	return path, writeFiles(files)
}

// fail2ban is Debian's, with its own sshd jail (on inotify where python3-pyinotify is installed) and its nftables action. Ban and find time are a day, so that no
// ban ends and no failure is forgotten while it works.
func fail2ban() *product {
	if _, err := exec.LookPath("fail2ban-server"); err != nil {
		return nil
	}
	const etc = "/etc/fail2ban"
	return &product{
		name:     "fail2ban",
		version:  "fail2ban " + firstLine("fail2ban-server", "-V"),
		failures: 5,
		matcher: func(file string) *exec.Cmd { // --no-check-all: stop at the first match, as the server does
			return exec.Command("fail2ban-regex", "--no-check-all", "--print-no-missed", file, filepath.Join(etc, "filter.d/sshd.conf"))
		},
		daemon: func(dir, log string) (*exec.Cmd, error) {
			for _, name := range []string{"filter.d", "action.d", "jail.conf", "fail2ban.conf", "paths-common.conf", "paths-debian.conf"} {
				if err := os.Symlink(filepath.Join(etc, name), filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
					return nil, err
				}
			}
			err := writeFiles(map[string]string{
				filepath.Join(dir, "fail2ban.local"): fmt.Sprintf("[Definition]\nlogtarget = %[1]s/fail2ban.log\ndbfile = %[1]s/fail2ban.sqlite3\n", dir),
				filepath.Join(dir, "jail.local"): fmt.Sprintf("[DEFAULT]\nbackend = auto\nbanaction = nftables\nbantime = 1d\nfindtime = 1d\nmaxretry = 5\n"+
					"[sshd]\nenabled = true\nlogpath = %s\n", log),
			})
			return exec.Command("fail2ban-server", "-xf", "-c", dir, "-s", filepath.Join(dir, "f2b.sock"), "-p", filepath.Join(dir, "f2b.pid"), "start"), err
		},
		bans:  func(table, set string) bool { return table == "f2b-table" && strings.HasPrefix(set, "addr") },
		slow:  true,
		keeps: true,
	}
}

// sshguard is Debian's, run as the pipeline that its start script builds, because the paths in the script cannot be changed.
func sshguard() *product {
	const lib = "/usr/libexec/sshguard/"
	if _, err := os.Stat(lib + "sshg-parser"); err != nil {
		return nil
	}
	return &product{
		name:     "sshguard",
		version:  "SSHGuard " + strings.Trim(firstLine("dpkg-query", "-W", "-f", "${Version}", "sshguard"), `"`),
		failures: 3,
		matcher: func(file string) *exec.Cmd {
			return exec.Command("sh", "-c", lib+`sshg-parser < "$0" > /dev/null`, file)
		},
		daemon: func(dir, log string) (*exec.Cmd, error) {
			return exec.Command("sh", "-c", `tail -F -n 0 "$0" | `+lib+"sshg-parser | "+lib+"sshg-blocker -a 30 -p 86400 -s 86400 | "+lib+"sshg-fw-nft-sets", log), nil
		},
		bans: func(table, set string) bool { return table == "sshguard" && set == "attackers" },
		slow: true,
	}
}

// writeFiles writes files by path.
func writeFiles(files map[string]string) error {
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// firstLine returns the first line that a command prints, or "unknown".
func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line)
}
