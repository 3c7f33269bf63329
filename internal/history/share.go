package history

import (
	"cmp"
	"context"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/event"
)

// The kernel counts all packets that it drops by cause, and reports samples of them with their peers and ports, about once a second. When samples
// arrive, what a counter has moved since the last time is shared out over the samples of that cause, in proportion, so that the sums by service,
// family and cause are the same as the counter. Packets without samples are of no known service or peer.
//
// A counter that has moved and that no sample has come for is left until the next minute, because its samples may be on the way.
type sharing struct {
	drops    [causes]uint64 // of the kernel's counters, as far as they are counted
	waiting  [causes]uint64 // of the kernel's counters at the beginning of this minute
	sampling bool           // samples are received
	begun    bool           // the counters were read since then, so that there are samples of what they move
	served   []served
}

// A served are the ports of a service that runs on this host.
type served struct {
	ports   ban.Ports
	service string
}

// setServices takes over which ports are those of services. Of services with the same port, the one with fewer ports has it.
func (s *sharing) setServices(c *control.Counters) {
	s.served = s.served[:0]
	for _, one := range c.Services {
		if one.State != "journal" && one.State != "files" {
			continue
		}
		for _, rule := range one.Rules {
			ports, err := ban.ParsePorts(c.Ports[rule])
			if err == nil && ports != "" {
				s.served = append(s.served, served{ports, one.Name})
			}
		}
	}
	slices.SortFunc(s.served, func(a, b served) int {
		return cmp.Or(cmp.Compare(len(a.ports.Ranges()), len(b.ports.Ranges())), cmp.Compare(len(a.ports), len(b.ports)), cmp.Compare(a.service, b.service))
	})
}

// serving returns the service at a port and its ports, as they are called in tables.
func (s *sharing) serving(port uint16) (service, ports string) {
	for _, one := range s.served {
		if one.ports.Lists(port) {
			return one.service, string(one.ports)
		}
	}
	if port == 0 {
		return otherServices, ""
	}
	return otherServices, strconv.Itoa(int(port))
}

// Sampling tells whether samples of dropped packets are received from now on. What was dropped before has none.
func (r *Recorder) Sampling(ctx context.Context, on bool) {
	d, _ := r.dropped(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sampling, r.begun = on, false
	now := time.Now()
	r.roll(now)
	r.countDrops(d, nil, now)
}

// Dropped counts dropped packets, of which it gets samples: Mark is their cause, From their peer, and Port their port at this host, 0 if they have none.
func (r *Recorder) Dropped(ctx context.Context, samples []event.Packet) {
	d, err := r.dropped(ctx)
	if err != nil || !d.Known {
		return // they are counted by cause later
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.roll(now)
	r.countDrops(d, samples, now)
}

// countDrops counts by how much the kernel's counters have moved. Without samples, a minute is over.
func (r *Recorder) countDrops(d control.Drops, samples []event.Packet, now time.Time) {
	if !d.Known {
		return
	}
	for i, n := range [causes]uint64{d.Verified, d.Unverified, d.Replies, d.Lists} {
		var of []event.Packet
		for _, p := range samples {
			if p.Mark == causeNames[i] {
				of = append(of, p)
			}
		}
		switch before := r.waiting[i]; {
		case !r.sampling || !r.begun || len(of) > 0:
			r.waiting[i] = n
			if !r.begun {
				of = nil // they stand for a part of it only
			}
			r.countCause(i, n, of, now)
		case samples == nil:
			r.waiting[i] = n
			if before <= n { // otherwise it began anew meanwhile
				r.countCause(i, before, nil, now)
			}
		}
	}
	r.begun = r.sampling
}

// countCause counts a cause up to what its counter has.
func (r *Recorder) countCause(cause int, upTo uint64, samples []event.Packet, now time.Time) {
	n := since(r.drops[cause], upTo)
	r.drops[cause] = upTo
	if n == 0 {
		return
	}
	r.minute[ofCause(cause)] += n
	if len(samples) == 0 {
		r.minute[ofDropsTo(maxSeries-1)] += n
		r.hourTops.dropped[1].add(otherServices, n, 0, now.Unix())
		return
	}
	for _, p := range shareOut(n, samples) {
		r.countDrop(&p, now)
	}
}

// countDrop counts packets of one peer and port.
func (r *Recorder) countDrop(p *portion, now time.Time) {
	service, ports := r.serving(p.port)
	number := maxSeries - 1
	if service != otherServices {
		number = r.serviceNumber(service)
	}
	r.minute[ofDropsTo(number)] += p.n
	r.minute[ofDropsIn(family(p.peer))] += p.n
	r.hourTops.dropped.count(p.peer, labels{ports: ports, service: service}, p.n, 0, now.Unix())
}

// A portion is how many of the dropped packets are counted for a peer and a port.
type portion struct {
	peer netip.Addr
	port uint16
	n    uint64
	rest uint64 // of the division
}

// shareOut shares out packets over samples of them, by the method of the largest remainder: the portions are in proportion to how many samples a peer
// and port have, and their sum is n exactly.
func shareOut(n uint64, samples []event.Packet) []portion {
	slices.SortFunc(samples, func(a, b event.Packet) int { return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Port, b.Port)) })
	var all []portion
	for _, p := range samples {
		if last := len(all) - 1; last >= 0 && all[last].peer == p.From && all[last].port == p.Port {
			all[last].n++
			continue
		}
		all = append(all, portion{peer: p.From, port: p.Port, n: 1})
	}
	left := n
	for i := range all {
		high, low := bits.Mul64(n, all[i].n) // less than n times all samples, so that the quotient is less than n
		all[i].n, all[i].rest = bits.Div64(high, low, uint64(len(samples)))
		left -= all[i].n
	}
	slices.SortStableFunc(all, func(a, b portion) int { return cmp.Compare(b.rest, a.rest) })
	for i := range left { // fewer than portions
		all[i].n++
	}
	return slices.DeleteFunc(all, func(p portion) bool { return p.n == 0 })
}
