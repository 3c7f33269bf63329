package enforce

import (
	"context"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
)

// A Tally is how many bans are in force, all of them and those of some kinds.
type Tally struct {
	Total, IPv4, IPv6, Unverified, Permanent int
}

// Overview returns how many bans are in force and what is not as it should be. Unlike Compare it reads no set, so that its cost hardly
// depends on how many bans there are; only if objects are damaged, or the kernel counts fewer bans than it should hold, it looks as
// closely as Compare. (Before Linux 6.16 the kernel does not count; that others deleted bans is known from its notifications.)
func (e *Enforcer) Overview(ctx context.Context) (t Tally, wrong []string, err error) {
	type overview struct {
		tally Tally
		check Check
	}
	o, err := call(ctx, e, func(ctx context.Context) (o overview, err error) {
		if o.check, err = e.backend.Check(ctx); err != nil {
			return o, err
		}
		e.model.prune(time.Now())
		o.tally = e.model.tally()
		return o, nil
	})
	if err != nil || len(o.check.Damaged) == 0 && (o.check.Bans < 0 || o.check.Bans >= o.tally.Total) {
		return o.tally, nil, err
	}
	state, wrong, err := e.Compare(ctx)
	return tally(state.Bans), wrong, err
}

// Tally returns how many bans should be in force. It asks the packet filter nothing, and looks at no ban, so those count that have ended since the
// last Overview.
func (e *Enforcer) Tally(ctx context.Context) (Tally, error) {
	return call(ctx, e, func(context.Context) (Tally, error) { return e.model.tally(), nil })
}

// tally counts what should hold. It takes as long as there are kinds of bans.
func (m *model) tally() (t Tally) {
	for kind, n := range m.bans.kinds {
		t.Total += n
		if kind.v4 {
			t.IPv4 += n
		} else {
			t.IPv6 += n
		}
		if kind.class == ban.Unverified {
			t.Unverified += n
		}
	}
	t.Permanent = m.bans.forever
	return t
}

// tally counts what the kernel holds.
func tally(bans []Held) (t Tally) {
	for _, b := range bans {
		t.Total++
		if b.Prefix.Addr().Is4() {
			t.IPv4++
		} else {
			t.IPv6++
		}
		if b.Class == ban.Unverified {
			t.Unverified++
		}
		if b.Until.IsZero() {
			t.Permanent++
		}
	}
	return t
}

// A Report is whether the packet filter holds what it should.
type Report struct {
	Names
	Bans     Tally
	Present  bool     // what is ours is there
	Matches  bool     // and is as it should be
	Problems []string // why not
	Repairs  uint64
	Evicted  uint64 // bans that ended early since the start, because there were too many
}

// Report looks at the packet filter, without reading the bans. The error is that of ctx.
func (e *Enforcer) Report(ctx context.Context) (Report, error) {
	bans, wrong, err := e.Overview(ctx)
	if ctx.Err() != nil {
		return Report{}, ctx.Err()
	}
	s := e.Status()
	r := Report{Names: e.backend.Names(), Bans: bans, Repairs: s.Repairs, Evicted: s.Evicted,
		Present: err == nil && s.Ready && !slices.Contains(wrong, "table")}
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	if s.Problem != "" && (err == nil || s.Problem != err.Error()) {
		r.Problems = append(r.Problems, s.Problem)
	}
	if r.Present && len(wrong) > 0 {
		r.Problems = append(r.Problems, "missing or changed, and not restored yet: "+strings.Join(wrong, ", "))
	}
	r.Matches = r.Present && len(r.Problems) == 0
	return r, nil
}

// SetOf returns where in the packet filter a ban is, as its own tool names it.
func (e *Enforcer) SetOf(k ban.Key) string { return e.backend.SetOf(k) }
