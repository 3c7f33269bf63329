package pipeline

import (
	"context"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/owner"
)

// TakeOver bans what another host of the same operator has banned, unless it must stay reachable here. The error is that of ctx.
func (p *Pipeline) TakeOver(ctx context.Context, r ban.Shared) error {
	return owner.Act(ctx, p.Engine, func(ctx context.Context, s *State) error {
		o := s.Engine.TakeOver(r, time.Now())
		if o.Kind == engine.Refused {
			p.Records.Add(control.Record{Time: o.Time, Event: "refused", Rule: ban.ByFleet, Prefix: r.Prefix.String(), Reason: o.Reason, Author: r.Host})
			return nil
		}
		if o.Kind == engine.Banned {
			s.changed(saveSoon)
		}
		return s.carryOut(ctx, &o)
	})
}

// LogsIn reports whether users log in from a prefix. The error is that of ctx.
func (p *Pipeline) LogsIn(ctx context.Context, prefix netip.Prefix) (bool, error) {
	return owner.Query(ctx, p.Engine, func(s *State) bool { return s.Engine.LogsIn(prefix) })
}

// LiftShared lifts all bans of a prefix because an operator did so on another host.
func (r *Requests) LiftShared(ctx context.Context, prefix netip.Prefix, reason string) error {
	state, err := r.p.Enforcer.HeldAt(ctx, prefix, false)
	if err != nil || len(state.Bans) == 0 {
		return err
	}
	shown := r.Show(ctx, state)
	if err := r.lift(ctx, unbanGrace, keysOf(state.Bans)); err != nil {
		return err
	}
	r.p.ReportLifted(state.Bans, shown, control.Record{Reason: reason})
	return nil
}

// LiftOrigin lifts the bans that were taken over from other hosts and whose ID has a prefix.
func (r *Requests) LiftOrigin(ctx context.Context, id, reason string) error {
	state, err := r.p.Enforcer.Held(ctx)
	if err != nil {
		return err
	}
	return r.liftTaken(ctx, state, id, reason)
}

// Withdraw does that for one prefix.
func (r *Requests) Withdraw(ctx context.Context, prefix netip.Prefix, id, reason string) error {
	state, err := r.p.Enforcer.HeldAt(ctx, prefix, false)
	if err != nil {
		return err
	}
	return r.liftTaken(ctx, state, id, reason)
}

func (r *Requests) liftTaken(ctx context.Context, state enforce.State, id, reason string) error {
	known := r.p.Reasons.Look(ctx, state.Bans)
	var theirs enforce.State
	for _, held := range state.Bans {
		if b := known[held.Key]; b.Rule == ban.ByFleet && strings.HasPrefix(b.ID, id) {
			theirs.Bans = append(theirs.Bans, held)
		}
	}
	if len(theirs.Bans) == 0 {
		return nil
	}
	shown := r.Show(ctx, theirs)
	if err := r.lift(ctx, 0, keysOf(theirs.Bans)); err != nil {
		return err
	}
	r.p.ReportLifted(theirs.Bans, shown, control.Record{Reason: reason})
	return nil
}

// shareLifted has the other hosts lift what an operator has lifted here.
func (r *Requests) shareLifted(keys []ban.Key) {
	var prefixes []netip.Prefix
	for _, k := range keys {
		prefixes = append(prefixes, k.Prefix)
	}
	sort.Slice(prefixes, func(i, j int) bool { return prefixes[i].Compare(prefixes[j]) < 0 })
	r.p.Reputation.Cloud.Unbanned(slices.Compact(prefixes)...)
}
