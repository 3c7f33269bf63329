package enforce

import (
	"context"
	"net/netip"
	"time"

	"mef/internal/ban"
)

// HeldOver reads back what the kernel holds of the bans that should touch an address, and says which grace period spares it. Only
// these bans are asked for, so that the answer comes as soon with 100,000 bans in force as with one.
func (e *Enforcer) HeldOver(ctx context.Context, addr netip.Addr) (State, error) {
	type touching struct {
		keys  []ban.Key
		grace []Element
	}
	t, err := call(ctx, e, func(context.Context) (t touching, err error) {
		t.keys, t.grace = e.model.over(addr)
		return t, nil
	})
	if err != nil || len(t.keys) == 0 {
		return State{Grace: t.grace}, err // no keys would mean all of them
	}
	state, err := e.Held(ctx, t.keys...)
	state.Grace = t.grace
	return state, err
}

// over returns what touches an address: the bans, and the grace periods with the time left.
func (m *model) over(addr netip.Addr) (keys []ban.Key, grace []Element) {
	for k := range m.bans.keys() {
		if k.Prefix.Contains(addr) {
			keys = append(keys, k)
		}
	}
	now := time.Now()
	for p, until := range m.grace {
		if p.Contains(addr) && until.After(now) {
			grace = append(grace, Element{Prefix: p, Timeout: TimeoutUntil(until, now)})
		}
	}
	return keys, grace
}
