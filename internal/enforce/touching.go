package enforce

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
)

// HeldOver reads back what the kernel holds of the bans that should touch an address, and returns the grace period or the exception
// that spares it. Only these bans are asked for: the answer takes as long with 100,000 bans in force as with one.
func (e *Enforcer) HeldOver(ctx context.Context, addr netip.Addr) (State, error) {
	t, err := call(ctx, e, func(context.Context) (touching, error) { return e.model.touching(addr, time.Now()), nil })
	state := State{Grace: t.grace, Except: t.except}
	if err != nil || len(t.bans) == 0 {
		return state, err // no keys would mean all of them
	}
	held, err := e.Held(ctx, t.bans...)
	state.Bans, state.Replies = held.Bans, held.Replies
	return state, err
}

// touching is what touches an address: the bans, and what spares it, with the time left.
type touching struct {
	bans          []ban.Key
	grace, except []Element
}

func (m *model) touching(addr netip.Addr, now time.Time) (t touching) {
	addr = addr.Unmap().WithZone("")
	for k := range m.bans.over(addr) {
		t.bans = append(t.bans, k)
	}
	for p, until := range m.grace {
		if p.Contains(addr) && until.After(now) {
			t.grace = append(t.grace, Element{Prefix: p, Timeout: TimeoutUntil(until, now)})
		}
	}
	if c := m.exception(addr, now); !c.Remove {
		t.except = []Element{c}
	}
	return t
}

// HeldAt reads back the bans of a prefix, and with covering those of networks around it. Unless there is none it reads no others.
func (e *Enforcer) HeldAt(ctx context.Context, prefix netip.Prefix, covering bool) (State, error) {
	other := func(held Held) bool {
		return held.Prefix != prefix && !(covering && held.Prefix.Contains(prefix.Addr()))
	}
	state, err := e.HeldOver(ctx, prefix.Addr())
	state.Bans = slices.DeleteFunc(state.Bans, other)
	if err == nil && len(state.Bans) == 0 { // bans that others have put there are found by reading everything
		state, err = e.Held(ctx)
		state.Bans = slices.DeleteFunc(state.Bans, other)
	}
	return State{Bans: state.Bans}, err
}
