package daemon

import (
	"context"
	"fmt"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
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
		if d.listed(held.Key) {
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
			if d.listed(held.Key) {
				listed = append(listed, held.Key)
			} else {
				others = append(others, held)
			}
		}
		if len(others) == 0 && len(listed) > 0 {
			return nil, refuse("%s is listed in %s: take it out there, or run mefctl allow add", listed[0], d.placeOf(listed[0]))
		}
		return others, nil
	})
}
