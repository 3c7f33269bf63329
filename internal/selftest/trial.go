package selftest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mef/internal/ban"
	"mef/internal/enforce"
)

// A kind is a kind of ban, and what it must do to packets.
type kind struct {
	name  string
	class ban.Class
	ports ban.Ports

	blocked []route // while the ban holds
	open    []route // always
}

// A route is a way that packets take in the world.
type route struct {
	network string // "tcp" or "udp"
	from    role
	to      role
	port    uint16
}

// A role is one of the addresses at a site.
type role int

const (
	server    role = iota
	banned         // a peer that gets the ban
	neighbour      // another peer, outside of the ban
)

var kinds = []kind{{
	name: "ban",
	blocked: []route{
		{"tcp", banned, server, 22},
		{"udp", banned, server, 53},
		{"tcp", server, banned, 443},
	},
	open: []route{
		{"tcp", neighbour, server, 22},
		{"udp", neighbour, server, 53},
	},
}, {
	name:    "ban of one port",
	ports:   "25",
	blocked: []route{{"tcp", banned, server, 25}},
	open: []route{
		{"tcp", banned, server, 22},
		{"udp", banned, server, 53},
		{"tcp", neighbour, server, 25},
	},
}, {
	name:  "unverified ban",
	class: ban.Unverified,
	blocked: []route{
		{"tcp", banned, server, 22},
		{"udp", banned, server, 53},
	},
	open: []route{
		{"tcp", server, banned, 443}, // what we open ourselves gets its answers
		{"udp", server, banned, 53},
		{"tcp", neighbour, server, 22},
	},
}}

// A trial is one self-test.
type trial struct {
	world    *world
	enforcer *enforce.Enforcer
	counters bool // the kernel counts what a ban drops
}

// try proves the kind of ban with the given index in one address family.
func (t *trial) try(ctx context.Context, f family, index int) Step {
	name := f.name + " " + kinds[index].name
	if err := t.world.missing[f.name]; err != nil {
		return step(name, "not tested, this machine does not let it: "+err.Error(), nil)
	}
	k, at := kinds[index], f.sites[index]
	key := ban.Key{Prefix: at.ban, Ports: k.ports, Class: k.class}
	dropped, err := t.prove(ctx, k, at, key)
	detail := fmt.Sprintf("%s: packets vanished while banned", key)
	if t.counters {
		detail += fmt.Sprintf(", counted: %d", dropped)
	}
	return step(name, detail, err)
}

// banTime is how long the bans of a self-test hold at most.
const banTime = time.Minute

// prove returns how many packets the ban counted, or what went wrong.
func (t *trial) prove(ctx context.Context, k kind, at site, key ban.Key) (dropped uint64, err error) {
	if err := t.passes(ctx, at, k.blocked); err != nil {
		return 0, fmt.Errorf("before the ban of %s: %w", key, err)
	}
	now := time.Now()
	results, err := t.enforcer.BanNow(ctx, false, ban.Ban{Key: key, Start: now, Until: now.Add(banTime), Rule: "selftest"})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		return 0, fmt.Errorf("ban %s: %w", key, err)
	}
	if dropped, err = t.vanish(ctx, k, at, key); err == nil {
		err = t.passes(ctx, at, k.open)
	}
	if liftErr := t.enforcer.Unban(ctx, 0, key); err != nil {
		return 0, fmt.Errorf("while %s was banned: %w", key, err)
	} else if liftErr != nil {
		return 0, fmt.Errorf("lift the ban of %s: %w", key, liftErr)
	}
	if err := t.passes(ctx, at, k.blocked); err != nil {
		return 0, fmt.Errorf("after the ban of %s was lifted: %w", key, err)
	}
	return dropped, nil
}

// passes returns an error unless packets get through on all routes.
func (t *trial) passes(ctx context.Context, at site, routes []route) error {
	for _, r := range routes {
		if err := t.world.passes(ctx, at, r); err != nil {
			return err
		}
	}
	return nil
}

// vanish returns an error unless the ban swallows packets on all routes that it blocks, and how many it counted. Silence alone
// proves nothing: it could be a slow machine's; the counter shows that it was the ban.
func (t *trial) vanish(ctx context.Context, k kind, at site, key ban.Key) (dropped uint64, err error) {
	for end := time.Now().Add(patience); ; {
		for _, r := range k.blocked {
			if err := t.world.vanishes(ctx, at, r); err != nil {
				return 0, err
			}
		}
		state, err := t.enforcer.Held(ctx, key)
		if err != nil {
			return 0, err
		}
		if len(state.Bans) != 1 {
			return 0, errors.New("the kernel does not list the ban")
		}
		dropped = state.Bans[0].Packets
		if !t.counters || dropped >= uint64(len(k.blocked)) {
			return dropped, nil
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("the ban counted %d packets, and at least %d were sent", dropped, len(k.blocked))
		}
	}
}
