package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"mef/internal/dns"
)

// errNone means that a name has no addresses.
var errNone = errors.New("no addresses")

// servers returns whom to ask.
func (k *Keeper) servers() ([]string, error) {
	if len(k.opt.Servers) > 0 {
		return k.opt.Servers, nil
	}
	return dns.Servers()
}

// lookup returns the addresses of both families, and for how long they may be kept. One family that cannot be resolved makes it
// fail: half an answer must not replace a whole one.
func (k *Keeper) lookup(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	servers, err := k.servers()
	if err != nil {
		return nil, 0, err
	}
	var all []netip.Addr
	ttl := maxTTL
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		addrs, kept, err := k.ask(ctx, servers, dns.FQDN(name), kind)
		if err != nil {
			return nil, 0, err
		}
		if len(addrs) > 0 {
			all, ttl = append(all, addrs...), min(ttl, kept)
		}
	}
	if len(all) == 0 {
		return nil, 0, errNone
	}
	return all, ttl, nil
}

// ask asks the servers in turn until one answers.
func (k *Keeper) ask(ctx context.Context, servers []string, name string, kind dnsmessage.Type) (addrs []netip.Addr, ttl time.Duration, err error) {
	for _, server := range servers {
		var answer []dns.Record
		if answer, err = k.askOne(ctx, server, name, kind); err == nil {
			return read(answer, name)
		}
		err = fmt.Errorf("name server %s: %w", server, err)
	}
	return nil, 0, err
}

func (k *Keeper) askOne(ctx context.Context, server, name string, kind dnsmessage.Type) ([]dns.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, k.opt.Timeout)
	defer cancel()
	return dns.Ask(ctx, server, name, kind)
}

// maxAliases is how many aliases in a row a name may lead through.
const maxAliases = 8

// read returns the addresses of name, or of what it is an alias of.
func read(answer []dns.Record, name string) (addrs []netip.Addr, ttl time.Duration, err error) {
	ttl = maxTTL
	for range maxAliases {
		alias := ""
		for _, r := range answer {
			if !strings.EqualFold(r.Name, name) {
				continue
			}
			switch {
			case r.Addr.IsValid():
				addrs = append(addrs, r.Addr)
			case r.Type == dnsmessage.TypeCNAME:
				alias = r.Text
			default:
				continue
			}
			ttl = min(ttl, r.TTL)
		}
		if alias == "" || len(addrs) > 0 {
			return addrs, ttl, nil
		}
		name = alias
	}
	return nil, 0, errors.New("too many aliases")
}
