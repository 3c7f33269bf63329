package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/owner"
	"mef/internal/pipeline/wayout"
)

// unbanGrace is how long an address stays unbanned after an operator lifted its ban, so that lines already written, or a
// client that goes on with an old password, do not bring it back at once.
const unbanGrace = 10 * time.Minute

// batchStep is how many addresses of a batch are decided, or given to the kernel, at a time: between two steps the engine reads lines,
// and one transaction stays small.
const batchStep = 1000

// Requests answers operators' requests about bans. It may be used by any goroutine.
type Requests struct {
	p     *Pipeline
	lists Lists

	ways *wayout.Ways // for blocked customers
}

// Lists is what requests need of the lists.
type Lists struct {
	// Listed reports whether the blacklist has an address, and Place returns the place of its entry, "" if there is none.
	Listed func(netip.Addr) bool
	Place  func(netip.Addr) string
	// Lift lifts bans. What fails is tried again. grace is as in enforce.Enforcer.Unban.
	Lift func(ctx context.Context, grace time.Duration, keys []ban.Key) error
}

// Requests returns what answers requests about the bans of the pipeline.
func (p *Pipeline) Requests(l Lists) *Requests {
	return &Requests{p: p, lists: l, ways: wayout.New(func(text string) { p.SaveNotes(map[string]string{noteWaysOut: text}) })}
}

// Restore takes over the notes of an earlier run.
func (r *Requests) Restore(notes map[string]string) { r.ways.Restore(notes[noteWaysOut]) }

// Bans returns the bans in force, as the kernel holds them.
func (r *Requests) Bans(ctx context.Context) ([]control.Ban, error) {
	state, err := r.p.Enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	return r.Show(ctx, state), nil
}

// Show returns bans that the kernel holds, each with its record.
func (r *Requests) Show(ctx context.Context, state enforce.State) []control.Ban {
	return r.p.Reasons.Show(ctx, state)
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := conf.ParsePrefix(s)
	if err != nil {
		return p, control.Refuse("%q is neither an address nor a network", s)
	}
	return p, nil
}

// Ban puts a manual ban in force.
func (r *Requests) Ban(ctx context.Context, req control.BanRequest) (control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return control.Ban{}, err
	}
	wish, err := r.wish(control.Batch{For: req.For, Ports: req.Ports, Note: req.Note, Force: req.Force, Caller: req.Caller, Author: req.Author})
	if err != nil {
		return control.Ban{}, err
	}
	wish.Prefix = prefix
	made, refused, err := r.p.ban(ctx, wish)
	switch {
	case err != nil:
		return control.Ban{}, err
	case len(refused) > 0:
		return control.Ban{}, control.Refuse("%s", refused[0].Reason)
	}
	r.p.Flush(ctx)
	shown := control.ShowBan(made[0])
	shown.Kernel = true
	return shown, nil
}

// BanAll puts manual bans in force, those that are not refused.
func (r *Requests) BanAll(ctx context.Context, req control.Batch) (done control.Done, err error) {
	wish, err := r.wish(req)
	if err != nil {
		return done, err
	}
	var wishes []engine.Request
	for _, entry := range req.Entries {
		prefix, err := parsePrefix(entry)
		if err != nil {
			done.Refuse(entry, err)
			continue
		}
		wish.Prefix = prefix
		wishes = append(wishes, wish)
	}
	for step := range slices.Chunk(wishes, batchStep) {
		var made []ban.Ban
		var refused []control.Refusal
		if made, refused, err = r.p.ban(ctx, step...); err != nil {
			break
		}
		done.Done += len(made)
		done.Refused = append(done.Refused, refused...)
	}
	r.p.Flush(ctx)
	return done, err
}

// wish returns what the bans of a batch have in common, or why none can be made now.
func (r *Requests) wish(req control.Batch) (engine.Request, error) {
	ports, err := ban.ParsePorts(req.Ports)
	why := r.p.WhyObserve()
	switch {
	case err != nil:
		return engine.Request{}, control.Refuse("%v", err)
	case req.For < 0:
		return engine.Request{}, control.Refuse("for_ns %d is negative", req.For)
	case len(req.Note) > control.MaxNote:
		return engine.Request{}, control.Refuse("the note is longer than %d bytes", control.MaxNote)
	case why != "":
		return engine.Request{}, control.Refuse("%s", why)
	}
	return engine.Request{For: req.For, Ports: ports, Note: req.Note, Author: req.Author, Caller: req.Caller.Unmap().WithZone(""), Force: req.Force}, nil
}

// Unban lifts bans and returns once the kernel no longer has them.
func (r *Requests) Unban(ctx context.Context, req control.UnbanRequest) ([]control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return nil, err
	}
	if len(req.Note) > control.MaxNote {
		return nil, control.Refuse("the note is longer than %d bytes", control.MaxNote)
	}
	state, err := r.p.Enforcer.HeldAt(ctx, prefix, req.Covering)
	if err != nil {
		return nil, err
	}
	if len(state.Bans) == 0 {
		if place := r.lists.Place(prefix.Addr()); place != "" {
			return nil, control.Refuse("%s is listed in %s: remove it there, or run mefctl allow add", ban.Key{Prefix: prefix}, place)
		}
		return nil, control.Refuse("%s is not banned; mefctl why %s shows what is known", ban.Key{Prefix: prefix}, prefix.Addr())
	}
	shown := r.Show(ctx, state)
	if err := r.lift(ctx, unbanGrace, keysOf(state.Bans)); err != nil {
		return nil, err
	}
	r.p.ReportLifted(state.Bans, shown, control.Record{Author: req.Author, Note: req.Note})
	r.shareLifted(keysOf(state.Bans))
	return shown, nil
}

// lift lifts bans and waits until that is saved. What the blacklist has gets no grace, for that would let it through ahead of the list.
func (r *Requests) lift(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	var plain, listed []ban.Key
	for _, k := range keys {
		if r.lists.Listed(k.Prefix.Addr()) {
			listed = append(listed, k)
		} else {
			plain = append(plain, k)
		}
	}
	err := errors.Join(r.lists.Lift(ctx, grace, plain), r.lists.Lift(ctx, 0, listed))
	if err == nil {
		r.p.Flush(ctx)
	}
	return err
}

// ReportLifted reports that bans were lifted, each by the prefix by which its beginning was reported. shown are the answers about them;
// rec has the author and the reason.
func (p *Pipeline) ReportLifted(bans []enforce.Held, shown []control.Ban, rec control.Record) {
	rec.Time, rec.Event = time.Now(), "unban"
	for i, b := range shown {
		rec.Rule, rec.Prefix, rec.Ports, rec.Class = b.Rule, bans[i].Prefix.String(), b.Ports, b.Class
		p.Records.Add(rec)
	}
}

// UnbanAll lifts the bans of many addresses and returns once the kernel showed that they have ended.
func (r *Requests) UnbanAll(ctx context.Context, req control.Batch) (done control.Done, err error) {
	state, err := r.p.Enforcer.Held(ctx)
	if err != nil {
		return done, err
	}
	held := newIndex(state.Bans)
	var keys []ban.Key
	for _, entry := range req.Entries {
		prefix, err := parsePrefix(entry)
		if err != nil {
			done.Refuse(entry, err)
			continue
		}
		found := held.find(prefix)
		keys = append(keys, found...)
		switch {
		case len(found) > 0:
		case r.lists.Listed(prefix.Addr()):
			done.Refuse(entry, control.Refuse("on the blacklist: remove it there, or run mefctl allow add"))
		default:
			done.Refuse(entry, control.Refuse("not banned"))
		}
	}
	slices.SortFunc(keys, ban.Key.Compare)
	keys = slices.Compact(keys)
	if len(keys) == 0 {
		return done, nil
	}
	if err := r.lift(ctx, unbanGrace, keys); err != nil {
		return done, err
	}
	done.Done = len(keys)
	r.shareLifted(keys)
	r.p.Records.Add(control.Record{Time: time.Now(), Event: "unban", Author: req.Author, Reason: fmt.Sprintf("%d bans are lifted", len(keys))})
	return done, nil
}

// ClearBans lifts every ban, and returns once the kernel no longer has them. Lists stay in force.
func (r *Requests) ClearBans(ctx context.Context, author string) (cleared control.Cleared, err error) {
	state, err := r.p.Enforcer.Held(ctx)
	if err != nil {
		return cleared, err
	}
	if err := r.lift(ctx, 0, keysOf(state.Bans)); err != nil {
		return cleared, err
	}
	cleared.Lifted = len(state.Bans)
	r.p.Records.Add(control.Record{Time: time.Now(), Event: "unban", Author: author, Reason: fmt.Sprintf("all %d bans are lifted", cleared.Lifted)})
	held, err := r.p.Enforcer.Lists(ctx)
	for _, l := range held {
		cleared.Listed += max(0, l.Entries)
	}
	return cleared, err
}

// noteWaysOut is the note in mef.db of the ways out for blocked customers.
const noteWaysOut = "waysout"

const (
	// sumGrace is unbanGrace for a sum, which proves nothing about the customer.
	sumGrace = time.Minute
	// freeDelay is how long a customer's ban goes on after the answer, for the customer to receive it: his connection leads to the page by
	// the ban.
	freeDelay = 2 * time.Second
	// freeTime is how long lifting it may take.
	freeTime = 30 * time.Second
)

// blocked returns the bans of an address, and the one that the page for blocked customers is for. It returns whether a sum may lift them: if rules
// made them for this customer alone, and they end.
func (r *Requests) blocked(ctx context.Context, addr netip.Addr) (state enforce.State, shown []control.Ban, one control.Ban, forSum bool, err error) {
	state, err = r.p.Enforcer.HeldAt(ctx, netip.PrefixFrom(addr, addr.BitLen()), true)
	if err != nil {
		return state, nil, one, false, err
	}
	shown = r.Show(ctx, state)
	forSum = len(shown) > 0
	found := -1
	for i, held := range state.Bans {
		b := &shown[i]
		if held.Class == ban.Verified && held.Ports != "" && (found < 0 || held.Ports.Overlaps(engine.WebPorts) && !state.Bans[found].Ports.Overlaps(engine.WebPorts)) {
			found = i
		}
		forSum = forSum && held.Prefix.Bits() >= wayout.Customer(addr).Bits() && b.Until != nil &&
			b.Author == "" && !slices.Contains([]string{ban.Unknown, ban.ByHand, ban.ByFleet}, b.Rule) && (held.Ports != "" || held.Class == ban.Unverified)
	}
	if found < 0 {
		return state, nil, one, false, control.Refuse("%s has no verified ban of some ports", addr)
	}
	return state, shown, shown[found], forSum, nil
}

// sums returns how often bans may be lifted by a sum.
func (r *Requests) sums(ctx context.Context) (wayout.Limits, error) {
	return owner.Query(ctx, r.p.Engine, func(s *State) wayout.Limits {
		return wayout.Limits{Each: s.Config.Page.BlockSum, Total: s.Config.Page.BlockSumTotal}
	})
}

// Blocked implements control.BlockedService.
func (r *Requests) Blocked(ctx context.Context, addr netip.Addr) (v control.Blocked, err error) {
	_, _, b, forSum, err := r.blocked(ctx, addr)
	if err != nil {
		return v, err
	}
	v = control.Blocked{Addr: addr.String(), Since: b.Start, Until: b.Until, Service: b.Service, Ports: b.Ports, Reference: b.Reference()}
	if forSum {
		limits, err := r.sums(ctx)
		if err != nil {
			return v, err
		}
		if sum, ok := r.ways.Ask(addr, limits, time.Now()); ok {
			v.Sum, v.Token = sum.Question, sum.Token
		}
	}
	return v, nil
}

// SupportCode implements control.BlockedService.
func (r *Requests) SupportCode(ctx context.Context, req control.CodeRequest) (c control.Code, err error) {
	addr := req.Addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return c, control.Refuse("a code is for an address, such as 192.0.2.7")
	}
	if _, _, _, _, err := r.blocked(ctx, addr); err != nil {
		return c, err
	}
	if c.Code, c.Until, err = r.ways.MakeCode(addr, req.Author, time.Now()); err != nil {
		return c, control.Refuse("%v", err)
	}
	r.p.Flush(ctx)
	return c, nil
}

// Free implements control.BlockedService.
func (r *Requests) Free(ctx context.Context, req control.FreeRequest) error {
	addr := req.Addr.Unmap().WithZone("")
	state, shown, _, forSum, err := r.blocked(ctx, addr)
	if err != nil {
		return err
	}
	rec, lift := control.Record{Reason: "the customer has a code of support"}, r.liftByCode
	if req.Token != "" {
		limits, err := r.sums(ctx)
		switch {
		case err != nil:
			return err
		case !forSum:
			return control.Refuse("%v", wayout.ErrUsed)
		}
		if err := r.ways.Solve(addr, req.Token, req.Answer, limits, time.Now()); err != nil {
			return control.Refuse("%v", err)
		}
		rec, lift = control.Record{Author: "page", Reason: "the customer solved a sum"}, r.p.endEarly
	} else if rec.Author, err = r.ways.UseCode(addr, req.Code, time.Now()); err != nil {
		return control.Refuse("%v", err)
	}
	time.AfterFunc(freeDelay, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), freeTime)
		defer cancel()
		if req.Token != "" {
			now, seen, _, still, err := r.blocked(ctx, addr)
			if err != nil || !still {
				return // it has ended, or an operator has banned meanwhile
			}
			state, shown = now, seen
		}
		if err := lift(ctx, keysOf(state.Bans)); err != nil {
			r.p.Log.Error("lift the ban of a blocked customer", "addr", addr, "err", err)
			return
		}
		r.p.ReportLifted(state.Bans, shown, rec)
	})
	return nil
}

// liftByCode lifts bans as an operator does.
func (r *Requests) liftByCode(ctx context.Context, keys []ban.Key) error {
	if err := r.lift(ctx, unbanGrace, keys); err != nil {
		return err
	}
	r.shareLifted(keys)
	return nil
}

// endEarly ends bans as if their time were over: nothing is forgiven, so that the next one is longer.
func (p *Pipeline) endEarly(ctx context.Context, keys []ban.Key) error {
	grace := time.Duration(sumGrace)
	if slices.ContainsFunc(keys, func(k ban.Key) bool { return k.Prefix.Addr().Is6() }) {
		grace = 0 // it would be for the /64, and another address there may be banned otherwise
	}
	if err := p.Enforcer.Unban(ctx, grace, keys...); err != nil && !errors.Is(err, enforce.ErrUnread) {
		return err
	}
	p.Reasons.forget(keys)
	return owner.Do(ctx, p.Engine, func(s *State) {
		s.Engine.Evicted(time.Now(), false, keys...)
		s.unsaved.lifted = append(s.unsaved.lifted, keys...)
		s.Save()
	})
}
