// Package dnsbl asks DNS block lists about addresses (RFC 5782).
//
// A list is a DNS zone. To ask it about 192.0.2.7, its numbers are reversed in front of the zone: an address of 127.0.0.0/8 for
// 7.2.0.192.bl.example means that it is listed, and says why. IPv6 addresses are reversed by hexadecimal digit.
//
// Nothing waits for an answer: Checker.Ask returns at once, and what is listed is reported as an event. An error is never a listing. Neither is an
// answer outside of 127.0.0.0/8, nor one in 127.255.255.0/24, by which lists say that they do not answer. A list is used through a name server only
// if that shows its test entries, and not everything else: many lists refuse public name servers, and some lists contain every address once they are
// closed. Until then the list is suspended there, and status shows why.
//
// Everything is bounded: the addresses that wait and the answers that are kept for each list, and the queries a second and at a time. What does not
// fit is left out and counted.
package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/dns"
	"mef/internal/event"
	"mef/internal/owner"
)

// A Checker asks the lists of a configuration. Any goroutine may call its methods.
type Checker struct {
	log     *slog.Logger
	changed chan struct{} // holds one message

	// Community asks the community server about an address, for the list that is no zone. It is set before Run.
	Community func(context.Context, netip.Addr) (listed bool, err error)

	mu    sync.Mutex
	zones []*zone
	given []string  // name servers of the configuration
	found []string  // those of this host
	read  time.Time // when they were
}

// New returns a Checker, which asks nothing until Run.
func New(cfg conf.RBL, log *slog.Logger) *Checker {
	c := &Checker{log: log, changed: make(chan struct{}, 1)}
	c.Configure(cfg)
	return c
}

// Configure replaces the lists. Those that have not changed keep what is known of them.
func (c *Checker) Configure(cfg conf.RBL) {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := slices.Equal(c.given, cfg.Servers)
	before := c.zones
	c.given, c.zones = cfg.Servers, nil
	for _, z := range cfg.Zones {
		i := slices.IndexFunc(before, func(old *zone) bool { return reflect.DeepEqual(old.cfg, z) })
		if i >= 0 && same {
			c.zones = append(c.zones, before[i])
			continue
		}
		c.zones = append(c.zones, newZone(z, c.servers, c.community, c.log))
	}
	owner.Wake(c.changed)
}

// community asks the community server.
func (c *Checker) community(ctx context.Context, addr netip.Addr) (bool, error) {
	return c.Community(ctx, addr)
}

// rereadServers is how long the name servers of this host are taken as they were read.
const rereadServers = 30 * time.Second

// servers returns the name servers to ask, in order.
func (c *Checker) servers() ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.given) > 0 {
		return c.given, nil
	}
	if len(c.found) > 0 && time.Since(c.read) < rereadServers {
		return c.found, nil
	}
	found, err := dns.Servers()
	if err != nil {
		return nil, fmt.Errorf("%w; set rbl_servers", err)
	}
	c.found, c.read = found, time.Now()
	return c.found, nil
}

// all returns the lists.
func (c *Checker) all() []*zone {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.zones
}

// Ask has all lists asked about an address, unless their answers are known. It never waits. verified reports whether the address is
// certainly that of a peer, and not forged.
func (c *Checker) Ask(addr netip.Addr, verified bool) {
	now := time.Now()
	for _, z := range c.all() {
		z.ask(addr, verified, now)
	}
}

// Run asks the lists until ctx is done. report is called with an event for each listing, by several goroutines; it may wait.
func (c *Checker) Run(ctx context.Context, report func(context.Context, *event.Event) error) error {
	owner.Each(ctx, c.changed, c.all, func(ctx context.Context, z *zone) { z.run(ctx, report) })
	return nil
}

// CheckList asks the list of a name about an address now.
func (c *Checker) CheckList(ctx context.Context, name string, addr netip.Addr) (answer control.DNSBLAnswer, ok bool) {
	all := c.all()
	i := slices.IndexFunc(all, func(z *zone) bool { return z.cfg.Name == name })
	if i < 0 {
		return answer, false
	}
	return all[i].check(ctx, addr), true
}

// Check asks all lists about an address now, whatever is known of it.
func (c *Checker) Check(ctx context.Context, addr netip.Addr) []control.DNSBLAnswer {
	zones := c.all()
	answers := make([]control.DNSBLAnswer, len(zones))
	var asking sync.WaitGroup
	for i, z := range zones {
		asking.Go(func() { answers[i] = z.check(ctx, addr) })
	}
	asking.Wait()
	return answers
}

func (z *zone) check(ctx context.Context, addr netip.Addr) control.DNSBLAnswer {
	out := control.DNSBLAnswer{List: z.cfg.Name, Zone: z.cfg.Zone}
	server, ipv6, err := z.server(ctx)
	switch {
	case err != nil:
		out.Problem = z.problem(time.Now())
		if out.Problem == "" {
			out.Problem = err.Error()
		}
		return out
	case addr.Is6() && !ipv6:
		out.Problem = "the list has no IPv6 addresses"
		return out
	}
	out.Server = server
	l, err := z.find(ctx, server, addr)
	if err != nil {
		out.Problem = err.Error()
	} else if l != nil {
		out.Listed, out.Codes, out.Reason, out.Action = true, l.Codes, l.Reason, does(l)
	}
	return out
}

// does returns in words what a listing leads to.
func does(l *event.Listing) string {
	switch {
	case l.Ban:
		return "ban"
	case l.Points > 0:
		return fmt.Sprintf("%d points", l.Points)
	}
	return "reported only"
}

// Status returns what the lists are asked, and which of them cannot be used.
func (c *Checker) Status(now time.Time) (s control.DNSBL) {
	for _, z := range c.all() {
		s.Lists = append(s.Lists, z.status(now))
	}
	return s
}

func (z *zone) status(now time.Time) control.DNSBLList {
	out := control.DNSBLList{Name: z.cfg.Name, Zone: z.cfg.Zone, Waiting: len(z.queue), Queries: z.queries.Load(), Listed: z.listings.Load(),
		Failed: z.failed.Load(), LeftOut: z.left.Load(), Problem: z.problem(now)}
	z.mu.Lock()
	defer z.mu.Unlock()
	out.Usable = z.cfg.Prefix
	out.Cached = len(z.cache.by)
	for _, server := range slices.Sorted(maps.Keys(z.states)) {
		s := z.states[server]
		one := control.DNSBLServer{Server: server, Usable: s.usable, IPv6: s.ipv6, Tested: control.Moment(s.tested)}
		if !s.usable && s.cause != nil {
			one.Cause, one.Retry = s.cause.Error(), control.Moment(s.retry)
		}
		out.Servers = append(out.Servers, one)
		out.Usable = out.Usable || s.usable
	}
	return out
}

// problem returns why the list cannot be used, and what to do; "" if it can, or is not tested yet.
func (z *zone) problem(now time.Time) string {
	if z.cfg.Prefix {
		return "" // package agent has it
	}
	servers, err := z.servers()
	if err != nil {
		return err.Error()
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	var text string
	for _, server := range servers {
		s := z.states[server]
		switch {
		case s == nil || s.usable || s.cause == nil:
			return ""
		case text == "":
			text = fmt.Sprintf("%s; name server %s, asked again in %v; %s", s.cause, server, max(0, s.retry.Sub(now)).Round(time.Second), z.advice(s.cause))
		}
	}
	return text
}

// advice returns what to do about a cause.
func (z *zone) advice(cause error) string {
	var refused refusal
	var other foreign
	var wrong wrongList
	switch {
	case errors.As(cause, &refused) && refused.code.As4()[3] == 255:
		return "ask the operator of the list for access, or remove rbl_" + z.cfg.Name + "_enabled"
	case errors.As(cause, &refused), errors.As(cause, &other):
		return "run a name server of your own, and name it in rbl_servers"
	case errors.As(cause, &wrong):
		return "check rbl_" + z.cfg.Name + "_zone; if the name server is a public one, run one of your own and name it in rbl_servers"
	}
	return "check the name server, or name another one in rbl_servers"
}
