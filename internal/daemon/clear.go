package daemon

import (
	"context"
	"fmt"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
)

// ClearBans lifts every ban that no blacklist file asks for, and returns once the kernel showed that they are gone.
func (d *daemon) ClearBans(ctx context.Context, author string) (c control.Cleared, err error) {
	askErr := d.ask(ctx, func(ctx context.Context) {
		var keys []ban.Key
		if keys, c.Listed, err = d.notListed(ctx); err == nil && len(keys) > 0 {
			err = d.lift(ctx, keys)
		}
		c.Lifted = len(keys)
	})
	if askErr != nil {
		return control.Cleared{}, askErr
	}
	if err != nil {
		return control.Cleared{}, err
	}
	d.flush(ctx)
	d.records.add(control.Record{Time: time.Now(), Event: "unban", Author: author, Reason: fmt.Sprintf("all %d bans are lifted", c.Lifted)})
	return c, nil
}

// notListed returns the bans in force that no blacklist file asks for, and how many one asks for.
func (d *daemon) notListed(ctx context.Context) (keys []ban.Key, listed int, err error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, held := range state.Bans {
		if held.Ports == "" && held.Class == ban.Verified && d.lists.listed[held.Prefix] != 0 {
			listed++
		} else {
			keys = append(keys, held.Key)
		}
	}
	return keys, listed, nil
}
