package pipeline

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/owner"
	"mef/internal/prefixset"
	"mef/internal/store"
)

// ban decides and makes bans that an operator wants, of which all have the same Force. It returns those in force now, each with its end in
// the kernel, and those that were refused.
func (p *Pipeline) ban(ctx context.Context, wishes ...engine.Request) (made []ban.Ban, refused []control.Refusal, err error) {
	type decision struct {
		bans    []ban.Ban
		refused []control.Refusal
	}
	refusal := func(p netip.Prefix, why error) control.Refusal {
		return control.Refusal{Entry: ban.Key{Prefix: p}.String(), Reason: why.Error()}
	}
	decided, err := owner.Query(ctx, p.Engine, func(s *State) (out decision) {
		for _, wish := range wishes {
			if b, why := s.Engine.Manual(wish, time.Now()); why != nil {
				out.refused = append(out.refused, refusal(wish.Prefix, why))
			} else {
				out.bans = append(out.bans, b)
			}
		}
		return out
	})
	if err != nil || len(decided.bans) == 0 {
		return nil, decided.refused, err
	}
	results, err := p.Enforcer.BanNow(ctx, wishes[0].Force, decided.bans...)
	if err != nil {
		return nil, nil, err
	}
	refused = decided.refused
	for i, r := range results {
		b := decided.bans[i]
		if r.Err != nil {
			refused = append(refused, refusal(b.Prefix, r.Err))
			continue
		}
		b.Until = r.Until
		made = append(made, b)
	}
	return made, refused, owner.Do(ctx, p.Engine, func(s *State) { s.Made(made...) })
}

// Lift ends bans, in the kernel first, and forgets them. grace is as in enforce.Enforcer.Unban.
func (p *Pipeline) Lift(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	if len(keys) == 0 {
		return nil
	}
	err := p.Enforcer.Unban(ctx, grace, keys...)
	if err != nil && !errors.Is(err, enforce.ErrUnread) {
		return err
	}
	return cmp.Or(p.Lifted(ctx, time.Now(), keys), err)
}

// LiftSince ends the bans in force that began at a time or later, and those without a record: the daemon may have been killed before it
// saved one.
func (p *Pipeline) LiftSince(ctx context.Context, t time.Time) (bans []ban.Ban, err error) {
	state, err := p.Enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	known := p.Reasons.Look(ctx, state.Bans)
	var keys []ban.Key
	for _, held := range state.Bans {
		b, ok := known[held.Key]
		switch {
		case !ok:
			b = ban.Ban{Key: held.Key, Rule: ban.Unknown}
		case b.Start.Before(t):
			continue
		}
		bans, keys = append(bans, b), append(keys, held.Key)
	}
	return bans, p.Lift(ctx, 0, keys)
}

// LiftWithin lifts the bans all of whose addresses are in a set, and reports the reason. Wider ones stay.
func (p *Pipeline) LiftWithin(ctx context.Context, set prefixset.Set, reason string) error {
	lift, err := p.Enforcer.Held(ctx)
	if err != nil {
		return err
	}
	lift.Bans = slices.DeleteFunc(lift.Bans, func(b enforce.Held) bool { return !set.Covers(b.Prefix) })
	if len(lift.Bans) == 0 {
		return nil
	}
	shown := p.Reasons.Show(ctx, lift)
	if err := p.Lift(ctx, 0, keysOf(lift.Bans)); err != nil {
		return err
	}
	p.ReportLifted(lift.Bans, shown, control.Record{Reason: reason})
	return nil
}

// Clear lifts every ban and deletes its record. It is for the time after Run.
func (p *Pipeline) Clear(ctx context.Context) error {
	state, err := p.Enforcer.Held(ctx)
	if err != nil {
		return err
	}
	if err := p.Enforcer.Flush(ctx); err != nil {
		return err
	}
	p.Saver.Save(store.Update{Lifted: keysOf(state.Bans)})
	return nil
}

func keysOf(bans []enforce.Held) []ban.Key {
	keys := make([]ban.Key, len(bans))
	for i, b := range bans {
		keys[i] = b.Key
	}
	return keys
}

// An index finds bans by their addresses.
type index struct {
	keys    []ban.Key // of all bans
	at      map[netip.Prefix][]ban.Key
	lengths map[int]bool // of IPv6 networks, for bans that cover an address
}

// newIndex returns an index of the bans that the kernel holds.
func newIndex(bans []enforce.Held) *index {
	x := &index{keys: keysOf(bans), at: make(map[netip.Prefix][]ban.Key, len(bans)), lengths: make(map[int]bool)}
	for _, k := range x.keys {
		x.at[k.Prefix] = append(x.at[k.Prefix], k)
		if k.Prefix.Addr().Is6() {
			x.lengths[k.Prefix.Bits()] = true
		}
	}
	return x
}

// find returns the bans of a prefix, and those that cover it if it is one IPv6 address.
func (x *index) find(p netip.Prefix) []ban.Key {
	found := slices.Clip(x.at[p]) // what is appended belongs to the caller
	if !p.IsSingleIP() || !p.Addr().Is6() {
		return found
	}
	for bits := range x.lengths {
		if wider, err := p.Addr().Prefix(bits); err == nil && wider != p {
			found = append(found, x.at[wider]...)
		}
	}
	return found
}
