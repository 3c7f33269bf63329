package daemon

import (
	"context"
	"net/netip"

	"mef/internal/conf"
	"mef/internal/exempt"
	"mef/internal/host"
	"mef/internal/prefixset"
)

// know takes in facts about the host.
func (e *engine) know(f host.Facts) {
	e.facts.Own = hosts(f.Addrs)
	e.facts.OnLink = prefixset.New(f.OnLink...)
	e.facts.Gateways = hosts(f.Gateways)
	e.facts.Resolvers = hosts(f.Resolvers)
	e.facts.Servers = hosts(f.DHCPServers)
}

// learn takes in what the configuration says about addresses.
func (e *engine) learn(cfg *conf.Config) {
	e.facts.Proxies = cfg.ProxyAddrs()
}

// neverListed is what no blacklist bans: who must stay reachable, proxies, and the addresses that no host elsewhere has.
func (e *engine) neverListed() prefixset.Set {
	return e.facts.Reachable().Union(e.facts.Proxies).Union(exempt.Special())
}

// watchHost follows changes of the host's addresses, routes and resolvers.
func (d *daemon) watchHost(ctx context.Context) error {
	return host.Watch(ctx, func(f host.Facts) {
		_, err := ask(ctx, &d.keeper, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, d.allow(ctx, func() {
				d.know(f)
				d.tracker.SetOnLink(d.facts.OnLink)
			})
		})
		if err != nil && ctx.Err() == nil {
			d.log.Error("allow this host's own addresses", "err", err)
		}
	})
}

func hosts(addrs []netip.Addr) prefixset.Set {
	prefixes := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		a = a.Unmap().WithZone("")
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return prefixset.New(prefixes...)
}
