// Package inforce reports whether the policy that mef loaded is in the kernel.
//
// The loader notes what it has loaded, with a digest of what the kernel held right afterwards, in a file that everybody can read. A
// program that may dump nf_tables, such as mefdaemon, can compare the two: a table that somebody flushed or changed has another digest. The note is
// about one boot, for the kernel forgets its rules with each.
package inforce

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mef/internal/conf"
	"mef/internal/netlink/nfnl"
)

// Table is the table of nf_tables that mef owns, as nft names it.
const Table = "inet mef"

// NoteFile is the name of the note in the state directory.
const NoteFile = "loaded.json"

// A Note is what the note says that concerns others than the loader.
type Note struct {
	Backend string `json:"backend"`
	Frame   string `json:"frame"`  // digest of what the kernel held just afterwards, elements of sets apart
	Boot    string `json:"boot"`   // ID of the boot that it is about
	From    string `json:"from"`   // file, confirmed, previous, trial, rescue
	Notice  string `json:"notice"` // why it is not what the file says; empty if it is
}

// StateDir returns the directory of the loader: beside the daemon's state, whose directory belongs to another user.
func StateDir(settings *conf.Config) string { return settings.Paths.StateDir + "-firewall" }

// Boot returns the ID of this boot, empty if the kernel does not report one.
func Boot() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

// AtBoot reports whether systemd loads the policy at boot.
func AtBoot() bool {
	links, err := filepath.Glob("/etc/systemd/system/*.wants/mef.service")
	return err == nil && len(links) > 0
}

// Check returns what is wrong with the static policy of this host, nil if nothing is: it was loaded in this boot, or systemd loads it at
// every boot, and it is not in force as it was loaded. A problem is a sentence with what to do. It takes a few dumps of nf_tables, of no
// set. Rules that iptables holds are not looked at: that needs root, and mef status does it.
func Check(settings *conf.Config) []string {
	return check(StateDir(settings), settings.Paths.StateDir == conf.DefaultStateDir && AtBoot())
}

func check(dir string, enabled bool) (problems []string) {
	n, err := ReadNote(dir)
	loaded := err == nil && n.Boot == Boot()
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return []string{"the loaded firewall policy cannot be read: " + err.Error()}
	case !loaded && enabled:
		return []string{"the firewall policy is not loaded, though mef.service is enabled; mef load loads it"}
	case !loaded || n.Backend != conf.NFTables.String():
		return nil
	}
	if n.From == "rescue" {
		problems = append(problems, "only the rescue rules of the firewall are in force, which accept SSH and little else: run mef check, then mef apply")
	}
	_, frame, err := fingerprint(false)
	switch {
	case errors.Is(err, nfnl.ErrChanging):
	case err != nil:
		problems = append(problems, "the firewall policy cannot be read back: "+err.Error())
	case frame == "":
		problems = append(problems, "the firewall policy is not in force: another program removed table inet mef; mef load restores it")
	case frame != n.Frame:
		problems = append(problems, "another program changed the firewall policy in the kernel: mef plan shows how, mef load restores it")
	}
	return problems
}

// ReadNote reads the note in a state directory. The error wraps fs.ErrNotExist if nothing is loaded.
func ReadNote(dir string) (n Note, err error) {
	text, err := os.ReadFile(filepath.Join(dir, NoteFile))
	if err != nil {
		return n, err
	}
	return n, json.Unmarshal(text, &n)
}

// Others names other firewalls whose rules are in force beside ours, each in a sentence: a packet has to pass all of them.
func Others() (sentences []string) {
	for _, o := range []struct{ name, table, chain string }{{"firewalld", "firewalld", ""}, {"ufw", "filter", "ufw-"}} {
		if holds(o.table, o.chain) {
			sentences = append(sentences, o.name+" has rules in force too: packets that mef accepts must also pass those")
		}
	}
	return sentences
}
