package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/exempt"
)

// ClearBans lifts every ban that no blacklist file asks for, and returns once the kernel showed that they are gone.
func (d *daemon) ClearBans(ctx context.Context, author string) (control.Cleared, error) {
	c, err := ask(ctx, &d.keeper, func(ctx context.Context) (control.Cleared, error) {
		keys, listed, err := d.notListed(ctx)
		if err == nil && len(keys) > 0 {
			err = d.lift(ctx, keys)
		}
		return control.Cleared{Lifted: len(keys), Listed: listed}, err
	})
	if err != nil {
		return control.Cleared{}, err
	}
	d.flush(ctx)
	d.records.Add(control.Record{Time: time.Now(), Event: "unban", Author: author, Reason: fmt.Sprintf("all %d bans are lifted", c.Lifted)})
	return c, nil
}

// notListed returns the bans in force that no blacklist file asks for, and how many one asks for.
func (d *daemon) notListed(ctx context.Context) (keys []ban.Key, listed int, err error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, held := range state.Bans {
		if d.lists.asksFor(held.Key) {
			listed++
		} else {
			keys = append(keys, held.Key)
		}
	}
	return keys, listed, nil
}

// withoutListed returns the bans that no blacklist file asks for. If there are others only, the error says where they are listed:
// lifted, they would come back.
func (d *daemon) withoutListed(ctx context.Context, bans []enforce.Held) (others []enforce.Held, err error) {
	return ask(ctx, &d.keeper, func(context.Context) (others []enforce.Held, err error) {
		var listed []ban.Key
		for _, held := range bans {
			if d.lists.asksFor(held.Key) {
				listed = append(listed, held.Key)
			} else {
				others = append(others, held)
			}
		}
		if len(others) == 0 && len(listed) > 0 {
			return nil, refuse("%s is listed in %s: take it out there, or run mefctl allow add", listed[0], d.lists.placeOf(listed[0].Prefix))
		}
		return others, nil
	})
}

// asksFor reports whether a blacklist file asks for the ban.
func (l *listKeeper) asksFor(k ban.Key) bool {
	return k.Ports == "" && k.Class == ban.Verified && l.listed[k.Prefix] != 0
}

// placeOf returns where the blacklist has the entry that a ban was made of.
func (l *listKeeper) placeOf(p netip.Prefix) string {
	for _, entry := range entriesOf(l.black) {
		prefixes, _ := entry.Prefixes()
		if slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return !exempt.TooWide(q) && q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			return entry.Pos.String()
		}
	}
	return "the blacklist"
}
