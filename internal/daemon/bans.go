package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/engine"
	"mef/internal/lists"
)

// unbanGrace is how long an address stays unbanned after an operator lifted its ban, so that lines already written, or a
// client that goes on with an old password, do not bring it back at once.
const unbanGrace = 10 * time.Minute

// Bans returns the bans in force, as the kernel holds them.
func (d *daemon) Bans(ctx context.Context) ([]control.Ban, error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	return d.reasons.show(ctx, state, d.askListed), nil
}

// Ban puts a manual ban in force.
func (d *daemon) Ban(ctx context.Context, req control.BanRequest) (control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return control.Ban{}, err
	}
	ports, err := ban.ParsePorts(req.Ports)
	if err != nil {
		return control.Ban{}, refuse("%v", err)
	}
	if err := d.bannable(req.For, req.Note); err != nil {
		return control.Ban{}, err
	}
	wish := engine.Request{Prefix: prefix, For: req.For, Ports: ports, Author: req.Author, Note: req.Note, Caller: req.Caller.Unmap().WithZone(""), Force: req.Force}
	type decided struct {
		ban     ban.Ban
		refused error
	}
	decision, err := query(ctx, d.loop, func() (r decided) {
		r.ban, r.refused = d.engine.Manual(wish, time.Now())
		return r
	})
	if err != nil {
		return control.Ban{}, err
	}
	if decision.refused != nil {
		return control.Ban{}, refuse("%v", decision.refused)
	}
	b := decision.ban
	results, err := d.enforcer.BanNow(ctx, req.Force, b)
	if err != nil {
		return control.Ban{}, err
	}
	if err := results[0].Err; err != nil {
		return control.Ban{}, refuse("%v", err)
	}
	b.Until = results[0].Until
	err = d.do(ctx, func() {
		d.engine.Banned(b)
		d.unsaved.bans = append(d.unsaved.bans, b)
		d.save()
	})
	if err != nil {
		return control.Ban{}, err
	}
	d.flush(ctx)
	shown := showBan(b)
	shown.Kernel = true
	return shown, nil
}

// Unban lifts bans and returns once the kernel showed that they are gone.
func (d *daemon) Unban(ctx context.Context, req control.UnbanRequest) ([]control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return nil, err
	}
	lift, err := d.heldAt(ctx, prefix, req.Covering)
	if err != nil {
		return nil, err
	}
	if lift.Bans, err = d.withoutListed(ctx, lift.Bans); err != nil {
		return nil, err
	}
	keys := make([]ban.Key, len(lift.Bans))
	for i, held := range lift.Bans {
		keys[i] = held.Key
	}
	if len(keys) == 0 {
		return nil, refuse("%s is not banned; mefctl why %s says what is known", ban.Key{Prefix: prefix}, prefix.Addr())
	}
	lifted := d.reasons.show(ctx, lift, d.askListed)
	lifted = slices.DeleteFunc(lifted, func(b control.Ban) bool { return !b.Kernel })
	if err := d.askLift(ctx, unbanGrace, keys); err != nil {
		return nil, err
	}
	d.flush(ctx)
	for _, b := range lifted {
		rec := unbanRecord(b, time.Now())
		rec.Author = req.Author
		d.records.Add(rec)
	}
	return lifted, nil
}

// heldAt returns the bans in force of a prefix, and with covering those of networks around it.
func (d *daemon) heldAt(ctx context.Context, prefix netip.Prefix, covering bool) (enforce.State, error) {
	other := func(held enforce.Held) bool {
		return held.Prefix != prefix && !(covering && held.Prefix.Contains(prefix.Addr()))
	}
	state, err := d.enforcer.HeldOver(ctx, prefix.Addr())
	state.Bans = slices.DeleteFunc(state.Bans, other)
	if err == nil && len(state.Bans) == 0 { // bans that others have put there are found by reading everything
		state, err = d.enforcer.Held(ctx)
		state.Bans = slices.DeleteFunc(state.Bans, other)
	}
	return enforce.State{Bans: state.Bans}, err
}

// askLift has the configurator lift bans for an operator.
func (d *daemon) askLift(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	_, err := ask(ctx, &d.configurator, func(ctx context.Context) (struct{}, error) { return struct{}{}, d.liftFor(ctx, grace, keys) })
	return err
}

// unbanRecord tells that a ban is lifted, by the prefix by which its beginning was told.
func unbanRecord(b control.Ban, now time.Time) control.Record {
	if p, err := parsePrefix(b.Prefix); err == nil {
		b.Prefix = p.String()
	}
	return control.Record{Time: now, Event: "unban", Rule: b.Rule, Prefix: b.Prefix, Ports: b.Ports, Class: b.Class}
}

// Follow streams records.
func (d *daemon) Follow(ctx context.Context, emit func(control.Record) error) error {
	return d.records.Follow(ctx, emit)
}

// Stop ends the daemon.
func (d *daemon) Stop(author string) {
	d.log.Info("asked to stop", "by", author)
	d.stop()
}

func refuse(format string, args ...any) error {
	return &control.Error{Message: fmt.Sprintf(format, args...)}
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := conf.ParsePrefix(s)
	if err != nil {
		return p, refuse("%q is no address and no network", s)
	}
	return p, nil
}

// batchStep is how many addresses of a batch are decided, or given to the kernel, at a time: between two steps the engine reads lines,
// and one transaction stays small.
const batchStep = 1000

// BanAll puts manual bans in force, those that are not refused.
func (d *daemon) BanAll(ctx context.Context, req control.Batch) (done control.Done, err error) {
	ports, err := ban.ParsePorts(req.Ports)
	if err != nil {
		return done, refuse("%v", err)
	}
	if err := d.bannable(req.For, req.Note); err != nil {
		return done, err
	}
	var wishes []engine.Request
	for _, entry := range req.Entries {
		prefix, err := parsePrefix(entry)
		if err != nil {
			done.Refuse(entry, err)
			continue
		}
		wishes = append(wishes, engine.Request{Prefix: prefix, For: req.For, Ports: ports, Author: req.Author, Note: req.Note,
			Caller: req.Caller.Unmap().WithZone(""), Force: req.Force})
	}
	for len(wishes) > 0 && err == nil {
		step := wishes[:min(batchStep, len(wishes))]
		wishes = wishes[len(step):]
		err = d.banStep(ctx, step, &done)
	}
	d.flush(ctx)
	return done, err
}

// bannable returns why no ban of this length and note can be made now.
func (d *daemon) bannable(lasts time.Duration, note string) error {
	switch {
	case lasts < 0:
		return refuse("for_ns %d is negative", lasts)
	case len(note) > lists.MaxNote:
		return refuse("the note is longer than %d bytes", lists.MaxNote)
	case d.observe.Load():
		return refuse("%s", d.whyObserve())
	}
	return nil
}

// banStep decides and makes some bans. It adds to done what became of them.
func (d *daemon) banStep(ctx context.Context, wishes []engine.Request, done *control.Done) error {
	type decided struct {
		ban     ban.Ban
		refused error
	}
	decisions, err := query(ctx, d.loop, func() (all []decided) {
		for _, wish := range wishes {
			b, refused := d.engine.Manual(wish, time.Now())
			all = append(all, decided{b, refused})
		}
		return all
	})
	if err != nil {
		return err
	}
	var bans []ban.Ban
	for i, decision := range decisions {
		if decision.refused != nil {
			done.Refuse(ban.Key{Prefix: wishes[i].Prefix}.String(), decision.refused)
			continue
		}
		bans = append(bans, decision.ban)
	}
	if len(bans) == 0 {
		return nil
	}
	results, err := d.enforcer.BanNow(ctx, wishes[0].Force, bans...)
	if err != nil {
		return err
	}
	made := bans[:0]
	for i, r := range results {
		if r.Err != nil {
			done.Refuse(ban.Key{Prefix: bans[i].Prefix}.String(), r.Err)
			continue
		}
		b := bans[i]
		b.Until = r.Until
		made = append(made, b)
	}
	done.Done += len(made)
	return d.do(ctx, func() {
		for _, b := range made {
			d.engine.Banned(b)
		}
		d.unsaved.bans = append(d.unsaved.bans, made...)
		d.save()
	})
}

// UnbanAll lifts the bans of many addresses and returns once the kernel showed that they have ended.
func (d *daemon) UnbanAll(ctx context.Context, req control.Batch) (done control.Done, err error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return done, err
	}
	held := make(map[netip.Prefix][]ban.Key, len(state.Bans))
	lengths := make(map[int]bool) // of IPv6 networks, for bans that cover an address
	for _, b := range state.Bans {
		held[b.Prefix] = append(held[b.Prefix], b.Key)
		if b.Prefix.Addr().Is6() {
			lengths[b.Prefix.Bits()] = true
		}
	}
	listed, err := d.listedKeys(ctx, state)
	if err != nil {
		return done, err
	}
	var keys []ban.Key
	for _, entry := range req.Entries {
		prefix, err := parsePrefix(entry)
		if err != nil {
			done.Refuse(entry, err)
			continue
		}
		found := held[prefix]
		if prefix.IsSingleIP() && prefix.Addr().Is6() {
			for bits := range lengths {
				if wider, err := prefix.Addr().Prefix(bits); err == nil && wider != prefix {
					found = append(found, held[wider]...)
				}
			}
		}
		n := len(keys)
		for _, key := range found {
			if listed[key] == "" {
				keys = append(keys, key)
			}
		}
		switch {
		case len(found) == 0:
			done.Refuse(entry, refuse("not banned"))
		case len(keys) == n:
			done.Refuse(entry, refuse("listed in %s: take it out there, or run mefctl allow add", listed[found[0]]))
		}
	}
	slices.SortFunc(keys, ban.Key.Compare)
	keys = slices.Compact(keys)
	if len(keys) == 0 {
		return done, nil
	}
	if err := d.askLift(ctx, unbanGrace, keys); err != nil {
		return done, err
	}
	d.flush(ctx)
	done.Done = len(keys)
	d.records.Add(control.Record{Time: time.Now(), Event: "unban", Author: req.Author, Reason: fmt.Sprintf("%d bans are lifted", len(keys))})
	return done, nil
}

// listedKeys returns the bans in force that a blacklist file asks for, each with the place of the entry: lifted, they would come back.
func (d *daemon) listedKeys(ctx context.Context, state enforce.State) (map[ban.Key]string, error) {
	return ask(ctx, &d.configurator, func(context.Context) (map[ban.Key]string, error) {
		listed := make(map[ban.Key]string)
		var keys []ban.Key
		for _, b := range state.Bans {
			if d.listed(b.Key) {
				keys = append(keys, b.Key)
			}
		}
		for k, b := range d.lists.Records(keys) {
			listed[k] = strings.TrimPrefix(b.Reason, "listed in ")
		}
		return listed, nil
	})
}

// AllowAll adds many entries to the allow list.
func (d *daemon) AllowAll(ctx context.Context, req control.Batch) (control.Done, error) {
	now := time.Now()
	return d.changeAllowed(ctx, req, "allow", func(one control.AllowRequest) (control.Entry, map[string]string, error) { return d.lists.Add(one, now) })
}

// DisallowAll removes many entries that were added by command.
func (d *daemon) DisallowAll(ctx context.Context, req control.Batch) (control.Done, error) {
	return d.changeAllowed(ctx, req, "allow-end", d.lists.Delete)
}

// changeAllowed makes one change of the allow list for each entry, and applies them together.
func (d *daemon) changeAllowed(ctx context.Context, req control.Batch, event string,
	change func(control.AllowRequest) (control.Entry, map[string]string, error)) (control.Done, error) {
	done, err := ask(ctx, &d.configurator, func(ctx context.Context) (done control.Done, err error) {
		notes := make(map[string]string)
		for _, entry := range req.Entries {
			_, more, err := change(control.AllowRequest{Entry: entry, For: req.For, Author: req.Author, Note: req.Note, Force: req.Force})
			if err != nil {
				done.Refuse(entry, err)
				continue
			}
			maps.Copy(notes, more)
			done.Done++
		}
		d.saveNotes(notes)
		return done, d.fulfil(ctx, applyLists)
	})
	if err != nil {
		return done, err
	}
	d.flush(ctx)
	d.records.Add(control.Record{Time: time.Now(), Event: event, Author: req.Author, Note: req.Note, Reason: fmt.Sprintf("%d entries", done.Done)})
	return done, nil
}

// ClearBans lifts every ban that no blacklist file asks for, and returns once the kernel showed that they are gone.
func (d *daemon) ClearBans(ctx context.Context, author string) (control.Cleared, error) {
	c, err := ask(ctx, &d.configurator, func(ctx context.Context) (control.Cleared, error) {
		keys, listed, err := d.notListed(ctx)
		if err == nil {
			err = d.liftFor(ctx, 0, keys)
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
	return ask(ctx, &d.configurator, func(context.Context) (others []enforce.Held, err error) {
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

// noteLifted records that bans are lifted: nothing from before now counts against their sources. The error is that of ctx.
func (d *daemon) noteLifted(ctx context.Context, now time.Time, keys []ban.Key) error {
	d.reasons.lift(keys)
	return d.do(ctx, func() {
		d.engine.Lifted(now, keys...)
		d.unsaved.lifted = append(d.unsaved.lifted, keys...)
		d.save()
	})
}
