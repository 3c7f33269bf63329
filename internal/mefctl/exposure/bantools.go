package exposure

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// banTools are other programs that ban addresses, by the names of their processes, which the kernel cuts after 15 bytes.
var banTools = map[string]string{
	"fail2ban-server": "fail2ban",
	"crowdsec":        "crowdsec",
	"crowdsec-firewa": "crowdsec-firewall-bouncer",
	"sshguard":        "sshguard",
	"sshg-parser":     "sshguard",
	"sshg-blocker":    "sshguard",
	"lfd":             "lfd (CSF)",
	"denyhosts":       "denyhosts",
	"reaction":        "reaction",
}

// BanTools returns the names of other running programs that ban addresses, in order.
func BanTools() []string { return banToolsIn("/proc") }

func banToolsIn(proc string) (found []string) {
	paths, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	for _, path := range paths {
		comm, _ := os.ReadFile(path) // gone, if the process has ended
		// lfd adds what it is doing to its name.
		if name, ok := banTools[strings.TrimSuffix(strings.Fields(string(comm) + " -")[0], ":")]; ok {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
