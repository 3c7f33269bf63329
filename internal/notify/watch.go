package notify

import (
	"context"
	"time"

	"mef/internal/control"
)

// look is how often the status is looked at.
const look = 30 * time.Second

// watch adds a record when the status has turned red or yellow or is well again, once two looks in a row agree: what passes by itself is
// no news. A daemon that starts well has no news either.
func watch(ctx context.Context, status func(context.Context) (control.Status, error), add func(control.Record)) {
	every := time.NewTicker(look)
	defer every.Stop()
	reported, seen := control.Green, control.Green
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		s, err := status(ctx)
		if err != nil {
			continue // the watchdog of the service manager is about that
		}
		level, reason := s.Level()
		if level == seen && level != reported {
			reported = level
			add(control.Record{Time: time.Now(), Event: control.StatusChanged, Level: level, Reason: reason})
		}
		seen = level
	}
}
