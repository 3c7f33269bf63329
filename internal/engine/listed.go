package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/prefixset"
)

// serviceOfLists is the service of what block lists report.
const serviceOfLists = "dnsbl"

// rulesOfLists returns a rule for each list and feed that is asked. Its ports and ban time are those of listings that ban.
func rulesOfLists(cfg *conf.Config) (all []event.Rule) {
	for _, f := range cfg.Feeds {
		if f.Action != conf.FeedDrop {
			all = append(all, event.Rule{Name: f.Rule(), Service: "feed", MaxRetry: 1, FindTime: time.Hour, NoLogins: true})
		}
	}
	for _, z := range cfg.RBL.Zones {
		all = append(all, event.Rule{Name: z.Rule(), Service: serviceOfLists, MaxRetry: 1, FindTime: z.Positive, BanTime: z.BanTime, Ports: z.Ports, NoLogins: true})
	}
	return all
}

// mayAsk reports whether block lists may be asked about the source of an event. They are not asked about addresses that are never banned, nor
// about those where users log in: a query reveals which addresses connect to this host. Queries about forged addresses would be useless.
func (e *Engine) mayAsk(ev *event.Event, tally *event.Tally) bool {
	if len(e.cfg.RBL.Zones) == 0 && !e.cfg.Feeds || !ev.Verified || ev.Unreachable() || tally.Rule == nil || tally.KnownUsers > 0 ||
		ev.Kind != event.Failure && ev.Kind != event.Probe {
		return false
	}
	return e.mayBeListed(ev.Addr)
}

// mayBeListed reports whether an address may be named to block lists: it is public, and not one that is never banned.
func (e *Engine) mayBeListed(addr netip.Addr) bool {
	return e.facts.Inside(netip.PrefixFrom(addr, addr.BitLen())) == "" && !notPublic.Contains(addr)
}

// peer yields that block lists may be asked about the source of a packet that opens a connection. The packet can be forged, so the answer leads
// to points and to unverified bans at most.
func (e *Engine) peer(p *Packet, yield func(*Outcome) bool) bool {
	if len(e.cfg.RBL.Zones) == 0 || !e.mayBeListed(p.From) || e.tracker.KnownWithin(e.tracker.Source(p.From)) > 0 {
		return true
	}
	e.ev = event.Event{Time: p.Time, Addr: p.From}
	return e.emit(Outcome{Kind: Ask, Time: p.Time, Event: &e.ev}, yield)
}

// notPublic are networks of which no block list knows anything: private ones, those of carriers, for benchmarks and reserved ones.
var notPublic = prefixset.New(
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"))

// maxListings is how many addresses the engine keeps that block lists have; the oldest goes first.
const maxListings = 16_384

// listings are what block lists report of addresses. The zero value is empty.
type listings struct {
	by   map[netip.Addr]*[]event.Listing
	ring []netip.Addr // in the order in which they came, oldest at next once full
	next int
}

// addListings adds to an event what block lists report of its address. What an event.Listed reports is kept for those that follow. It returns
// false if that is from before an operator lifted a ban of the address.
func (e *Engine) addListings(ev *event.Event) bool {
	if ev.Kind != event.Listed {
		if len(e.listed.by) > 0 {
			ev.Listings = e.listingsAt(ev.Addr, ev.Time)
		}
		return true
	}
	if len(ev.OnLists()) == 0 || e.tracker.Forgiven(ev.Addr, ev.OnLists()[0].At) {
		return false
	}
	all := ev.OnLists()[:1:1]
	if before := e.listingsAt(ev.Addr, ev.Time); before != nil {
		all = append(all, *without(before, func(old event.Listing) bool { return old.Zone == all[0].Zone })...)
	}
	e.listed.put(ev.Addr, &all)
	ev.Listings = &all
	return true
}

// listingsAt returns the listings of an address that count at a time.
func (e *Engine) listingsAt(addr netip.Addr, at time.Time) *[]event.Listing {
	l := &e.listed
	all := l.by[addr]
	over := func(one event.Listing) bool { return !at.Before(one.Until) || e.tracker.Forgiven(addr, one.At) }
	if all != nil && slices.ContainsFunc(*all, over) {
		all = without(all, over)
		l.by[addr] = all
	}
	return all
}

// without returns the listings that do not fit. An event may have all still.
func without(all *[]event.Listing, fit func(event.Listing) bool) *[]event.Listing {
	rest := slices.DeleteFunc(slices.Clone(*all), fit)
	return &rest
}

// put keeps the listings of an address.
func (l *listings) put(addr netip.Addr, all *[]event.Listing) {
	if l.by == nil {
		l.by = make(map[netip.Addr]*[]event.Listing)
	}
	if _, known := l.by[addr]; !known {
		if len(l.ring) < maxListings {
			l.ring = append(l.ring, addr)
		} else {
			delete(l.by, l.ring[l.next])
			l.ring[l.next] = addr
			l.next = (l.next + 1) % maxListings
		}
	}
	l.by[addr] = all
}

// configure forgets the listings of lists that are no longer asked.
func (l *listings) configure(rules map[string]*rule) {
	for addr, all := range l.by {
		l.by[addr] = without(all, func(one event.Listing) bool { return rules[one.Rule] == nil })
	}
}

// explainListings returns what block lists report of an address, a line for each, and the points that this adds. known: users log in from there.
func (e *Engine) explainListings(addr netip.Addr, now time.Time, known bool) (lines []string, points int) {
	all := e.listingsAt(addr, now)
	if all == nil {
		return nil, 0
	}
	for _, one := range *all {
		does := fmt.Sprintf("%d more points", one.Points)
		switch {
		case known:
			does = "which does not count, because users log in from here,"
		case one.Ban:
			does = "a reason for a ban"
		case one.Points == 0:
			does = "which is only reported"
		}
		if !known {
			points += one.Points
		}
		lines = append(lines, fmt.Sprintf("listed by %s, %s until %s", one, does, one.Until.Local().Format(time.DateTime)))
	}
	return lines, points
}
