//go:build linux

package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// unitDirs are where systemd finds units (systemd.unit(5)), and initDirs where scripts of other init systems are.
var (
	unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/run/systemd/generator.late",
		"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
	initDirs = []string{"/etc/init.d", "/etc/rc.d/init.d"}
)

// Units returns the names of the services that are installed on this host, sorted: unit files ("ssh.service", "postfix@.service") and
// scripts of init systems, as "NAME.service".
func Units() []string { return unitsInstalled(unitDirs, initDirs) }

func unitsInstalled(unitDirs, initDirs []string) (units []string) {
	for _, dir := range unitDirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			name, socket := strings.CutSuffix(e.Name(), ".socket")
			if socket {
				name += ".service"
			}
			if strings.HasSuffix(name, ".service") {
				units = append(units, name)
			}
		}
	}
	for _, dir := range initDirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				units = append(units, e.Name()+".service")
			}
		}
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// ProgramInstalled reports whether a program of that name is in one of the directories for programs.
func ProgramInstalled(name string) bool {
	if name == "" || strings.Contains(name, "/") {
		return false
	}
	return slices.ContainsFunc([]string{"/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/sbin", "/bin"}, func(dir string) bool {
		info, err := os.Stat(filepath.Join(dir, name))
		return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
	})
}

// JournaldSocket is where journald receives entries in its own protocol (systemd.journal-fields(7)).
const JournaldSocket = "/run/systemd/journal/socket"

// JournaldRuns reports whether journald receives what programs of this host log. Where it does, it stands before every syslog daemon.
func JournaldRuns() bool {
	info, err := os.Stat(JournaldSocket)
	return err == nil && info.Mode()&os.ModeSocket != 0
}
