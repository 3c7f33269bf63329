package importer

import (
	"path"
	"slices"
)

// keepers are programs that put rules into chains and tables of their own, and again when these no longer exist. To carry their rules over
// would be to carry over one moment of them.
var keepers = []struct {
	program string
	chains  []string // patterns of names
	tables  []string // likewise, of nftables
	drops   bool     // its chains drop packets and accept none
	but     string   // a chain that is the operator's nevertheless
}{
	{program: "Docker", drops: true, chains: []string{"DOCKER-ISOLATION-STAGE-*"}},
	{program: "Docker", chains: []string{"DOCKER*"}, tables: []string{"docker-bridges"}, but: "DOCKER-USER"},
	{program: "Podman", chains: []string{"NETAVARK*", "CNI-*"}, tables: []string{"netavark"}},
	{program: "libvirt", chains: []string{"LIBVIRT_*"}, tables: []string{"libvirt_network"}},
	{program: "LXC", tables: []string{"lxc"}},
	{program: "Incus", tables: []string{"incus"}},
	{program: "Kubernetes", chains: []string{"KUBE-*"}, tables: []string{"kube-proxy"}},
	{program: "Calico", chains: []string{"cali-*"}, tables: []string{"calico"}},
	{program: "Flannel", chains: []string{"FLANNEL-*"}, tables: []string{"flannel-*"}},
	{program: "Tailscale", chains: []string{"ts-input", "ts-forward"}},
	{program: "fail2ban", drops: true, chains: []string{"f2b-*", "fail2ban-*"}, tables: []string{"f2b-table"}},
	{program: "sshguard", drops: true, chains: []string{"sshguard"}, tables: []string{"sshguard"}},
	{program: "CrowdSec", drops: true, chains: []string{"CROWDSEC*"}, tables: []string{"crowdsec*"}},
	{program: "mefdaemon", tables: []string{"mefdaemon"}},
	{program: mef, chains: []string{"MEF-*"}, tables: []string{"mef"}},
}

// mef is us. What we have loaded came from a policy, and need not become one again.
const mef = "mef"

// KeeperOfChain returns the program that keeps a chain, "" if none does.
func KeeperOfChain(name string) string {
	for _, k := range keepers {
		if name != k.but && fitsOne(name, k.chains) {
			return k.program
		}
	}
	return ""
}

// onlyDrops reports whether the program that keeps a chain accepts no packet in it.
func onlyDrops(name string) bool {
	for _, k := range keepers {
		if name != k.but && fitsOne(name, k.chains) {
			return k.drops
		}
	}
	return false
}

// KeeperOfTable returns the program that keeps a table of nftables, "" if none does.
func KeeperOfTable(name string) string {
	for _, k := range keepers {
		if fitsOne(name, k.tables) {
			return k.program
		}
	}
	return ""
}

func fitsOne(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		fits, err := path.Match(pattern, name)
		return err == nil && fits
	})
}
