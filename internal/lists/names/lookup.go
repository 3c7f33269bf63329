package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// errNone means that a name has no addresses.
var errNone = errors.New("no addresses")

// servers returns whom to ask.
func (k *Keeper) servers() ([]string, error) {
	if len(k.opt.Servers) > 0 {
		return k.opt.Servers, nil
	}
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil, fmt.Errorf("name servers: %w", err)
	}
	if len(c.Servers) == 0 {
		return nil, errors.New("/etc/resolv.conf has no name server")
	}
	var servers []string
	for _, s := range c.Servers {
		servers = append(servers, net.JoinHostPort(s, c.Port))
	}
	return servers, nil
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
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		addrs, kept, err := k.ask(ctx, servers, dns.Fqdn(name), kind)
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
func (k *Keeper) ask(ctx context.Context, servers []string, name string, kind uint16) (addrs []netip.Addr, ttl time.Duration, err error) {
	for _, server := range servers {
		var answer *dns.Msg
		if answer, err = k.exchange(ctx, server, name, kind); err == nil {
			return read(answer, name)
		}
	}
	return nil, 0, err
}

// exchange asks one server, over TCP if the answer does not fit a datagram.
func (k *Keeper) exchange(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	q := new(dns.Msg).SetQuestion(name, kind)
	q.SetEdns0(1232, false) // what passes every network unfragmented
	for _, transport := range []string{"udp", "tcp"} {
		c := dns.Client{Net: transport, Timeout: k.opt.Timeout}
		answer, _, err := c.ExchangeContext(ctx, q, server)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ask %s: %w", server, err)
		case len(answer.Question) != 1 || answer.Question[0].Qtype != kind || !strings.EqualFold(answer.Question[0].Name, name):
			return nil, fmt.Errorf("%s answered another question", server)
		case answer.Rcode != dns.RcodeSuccess:
			return nil, fmt.Errorf("%s answered %s", server, dns.RcodeToString[answer.Rcode])
		case !answer.Truncated:
			return answer, nil
		}
	}
	return nil, fmt.Errorf("%s cut its answer short", server)
}

// maxAliases is how many aliases in a row a name may lead through.
const maxAliases = 8

// read returns the addresses of name, or of what it is an alias of.
func read(answer *dns.Msg, name string) (addrs []netip.Addr, ttl time.Duration, err error) {
	ttl = maxTTL
	shorten := func(h *dns.RR_Header) { ttl = min(ttl, time.Duration(h.Ttl)*time.Second) }
	for range maxAliases {
		alias := ""
		for _, rr := range answer.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			switch rr := rr.(type) {
			case *dns.A:
				addrs = appendAddr(addrs, rr.A)
			case *dns.AAAA:
				addrs = appendAddr(addrs, rr.AAAA)
			case *dns.CNAME:
				alias = rr.Target
			default:
				continue
			}
			shorten(h)
		}
		if alias == "" || len(addrs) > 0 {
			return addrs, ttl, nil
		}
		name = alias
	}
	return nil, 0, errors.New("too many aliases")
}

func appendAddr(list []netip.Addr, ip net.IP) []netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return list
	}
	return append(list, a.Unmap())
}
