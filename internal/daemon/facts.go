package daemon

import (
	"context"
	"net/netip"

	"mef/internal/engine"
	"mef/internal/exempt"
	"mef/internal/host"
	"mef/internal/prefixset"
)

// setHost sets the facts about this host.
func setHost(f *exempt.Facts, h host.Facts) {
	f.Own = hosts(h.Addrs)
	f.OnLink = prefixset.New(h.OnLink...)
	f.Gateways = hosts(h.Gateways)
	f.Resolvers = hosts(h.Resolvers)
	f.Servers = hosts(h.DHCPServers)
}

// accountNames returns the accounts of the host as the tracker compares users.
func accountNames(accounts []host.Account) map[string]bool {
	names := make(map[string]bool, len(accounts))
	for _, a := range accounts {
		name := engine.AccountName(a.Name)
		names[name] = names[name] || a.CanLogIn
	}
	return names
}

// setFacts changes who must stay reachable. It runs on the engine's goroutine.
func (e *loop) setFacts(change func(*exempt.Facts)) exempt.Facts {
	f := e.engine.Facts()
	change(&f)
	e.engine.SetFacts(f)
	return f
}

// watchHost follows changes of the host's addresses, routes and resolvers.
func (d *daemon) watchHost(ctx context.Context) error {
	return host.Watch(ctx, func(f host.Facts) {
		_, err := ask(ctx, &d.keeper, func(ctx context.Context) (struct{}, error) {
			err := d.allow(ctx, func(facts *exempt.Facts) {
				setHost(facts, f)
				d.engine.SetAccounts(accountNames(f.Accounts))
			})
			d.relist(ctx) // an entry of the blacklist may be one of our own addresses now
			return struct{}{}, err
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
