package enforce

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/sleep"
)

// Compare reads back what the kernel holds, as Held does, and returns what is not as it should be: objects as in Check, "allow" and
// "grace" and "exceptions" if these sets are not as they should be, and bans. It repairs nothing; another program may have changed something this moment.
func (e *Enforcer) Compare(ctx context.Context) (state State, wrong []string, err error) {
	if state, err = e.Held(ctx); err != nil {
		return state, nil, err
	}
	wrong, err = call(ctx, e, func(ctx context.Context) ([]string, error) { return e.compare(ctx, state) })
	return state, wrong, err
}

// comparePause is between two looks at a table that is not as it should be.
const comparePause = 100 * time.Millisecond

// Fault describes what is wrong in the kernel, "" if nothing is. What others changed a moment ago may take until within to be restored.
func (e *Enforcer) Fault(ctx context.Context, within time.Duration) string {
	for end := time.Now().Add(within); ; {
		_, wrong, err := e.Compare(ctx)
		switch {
		case err == nil && len(wrong) == 0:
			return ""
		case ctx.Err() == nil && time.Now().Before(end):
			sleep.For(ctx, comparePause)
		case err != nil:
			return err.Error()
		default:
			return "missing or changed, and not restored: " + strings.Join(wrong, ", ")
		}
	}
}

func (e *Enforcer) compare(ctx context.Context, state State) (wrong []string, err error) {
	check, err := e.backend.Check(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	e.model.prune(now)
	c := e.model.missing(state, now)
	if !c.empty() {
		// Or it has come to hold since the kernel was read.
		if c, err = e.stillMissing(ctx, c, now); err != nil {
			return nil, err
		}
	}
	wrong = check.Damaged
	if c.Allow != nil {
		wrong = append(wrong, "allow")
	}
	if len(c.Grace) > 0 {
		wrong = append(wrong, "grace")
	}
	if len(c.Except) > 0 {
		wrong = append(wrong, "exceptions")
	}
	const shown = 3
	for _, change := range c.Bans[:min(len(c.Bans), shown)] {
		wrong = append(wrong, "ban "+change.Key.String())
	}
	if more := len(c.Bans) - shown; more > 0 {
		wrong = append(wrong, fmt.Sprintf("%d more bans", more))
	}
	return wrong, nil
}

// stillMissing returns what of c does not hold, after another look at it.
func (e *Enforcer) stillMissing(ctx context.Context, c Changes, now time.Time) (Changes, error) {
	var keys []ban.Key
	if c.Allow == nil && len(c.Grace) == 0 && len(c.Except) == 0 { // otherwise everything is read
		for _, change := range c.Bans {
			keys = append(keys, change.Key)
		}
	}
	state, err := e.backend.Held(ctx, keys...)
	if err != nil {
		return c, err
	}
	if len(keys) == 0 {
		return e.model.missing(state, now), nil
	}
	held := make(map[ban.Key]int64, len(state.Bans))
	for _, h := range state.Bans {
		held[h.Key] = untilOf(h.Until)
	}
	c.Bans = slices.DeleteFunc(c.Bans, func(change Change) bool {
		until, ok := held[change.Key]
		want, _ := e.model.bans.get(change.Key)
		return ok && want.until-until <= slack
	})
	return c, nil
}
