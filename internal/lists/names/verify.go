package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
)

var errNoReverse = errors.New("the name servers have not named any address yet")

// maxNames bounds the names of an address that Verify looks up: the owner of the address chooses how many there are.
const maxNames = 4

// Verify reports whether an address has a name in one of the domains, and that name the address: the owner of an address
// chooses its name, and the owner of the domain chooses which addresses have the name. The error means that it could not be found out. A
// missing name means nothing as long as no public address had one: some name servers answer no reverse look-ups.
func (k *Keeper) Verify(ctx context.Context, addr netip.Addr, domains []string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*k.opt.Timeout)
	defer cancel()
	r := k.resolver()
	names, err := r.LookupAddr(ctx, addr.String())
	if err = unlessNotFound(err); err != nil {
		return false, err
	}
	if len(names) > 0 && !addr.IsPrivate() && addr.IsGlobalUnicast() {
		k.reverse.Store(true)
	}
	if !k.reverse.Load() {
		return false, errNoReverse
	}
	family := "ip6"
	if addr.Is4() {
		family = "ip4"
	}
	asked := 0
	var failed error
	for _, name := range names {
		if !inside(name, domains) || asked == maxNames {
			continue
		}
		asked++
		addrs, err := r.LookupNetIP(ctx, family, name)
		if err != nil {
			failed = errors.Join(failed, unlessNotFound(err))
			continue
		}
		for _, a := range addrs {
			if a.Unmap() == addr {
				return true, nil
			}
		}
	}
	return false, failed
}

// resolver asks the servers of the options, or those of resolv.conf(5).
func (k *Keeper) resolver() *net.Resolver {
	r := &net.Resolver{PreferGo: true}
	if len(k.opt.Servers) > 0 {
		r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: k.opt.Timeout}
			return d.DialContext(ctx, network, k.opt.Servers[0])
		}
	}
	return r
}

// unlessNotFound returns an error that is no answer; that there is nothing of the name is one.
func unlessNotFound(err error) error {
	var e *net.DNSError
	if errors.As(err, &e) && e.IsNotFound {
		return nil
	}
	return err
}

// inside reports whether a name is in one of the domains.
func inside(name string, domains []string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, d := range domains {
		if name == d || strings.HasSuffix(name, "."+d) {
			return true
		}
	}
	return false
}
