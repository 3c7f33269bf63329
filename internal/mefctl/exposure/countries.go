package exposure

import (
	"net/netip"
	"os"

	"mef/internal/conf"
	"mef/internal/lists"
	"mef/internal/prefixset"
)

// Countries returns what is wrong with the databases of countries and with the sections that need them, and whether one of these would lock
// out the caller.
func Countries(cfg *conf.Config) []string {
	all := lists.CheckAccess(cfg)
	from, ok := Caller(os.Getenv("SSH_CONNECTION"))
	if !ok {
		return all
	}
	own := prefixset.New(netip.PrefixFrom(from, from.BitLen()))
	for _, e := range cfg.Whitelist {
		prefixes, _ := e.Prefixes()
		own = own.Subtract(prefixset.New(prefixes...))
	}
	if why := lists.LockOut(cfg, nil, own, "22"); why != "" {
		all = append(all, why)
	}
	return all
}
