package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// unbanGrace is how long an address stays unbanned after an operator lifted its ban, so that lines already written, or a
// client that goes on with an old password, do not bring it back at once.
const unbanGrace = 10 * time.Minute

// batchStep is how many addresses of a batch are decided, or given to the kernel, at a time: between two steps the engine reads lines,
// and one transaction stays small.
const batchStep = 1000

// Bans returns the bans in force, as the kernel holds them.
func (d *daemon) Bans(ctx context.Context) ([]control.Ban, error) {
	state, err := d.Enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	return d.Reasons.Show(ctx, state, d.askListed), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := conf.ParsePrefix(s)
	if err != nil {
		return p, control.Refuse("%q is neither an address nor a network", s)
	}
	return p, nil
}

// Ban puts a manual ban in force.
func (d *daemon) Ban(ctx context.Context, req control.BanRequest) (control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return control.Ban{}, err
	}
	wish, err := d.wish(req.Ports, req.For, req.Note)
	if err != nil {
		return control.Ban{}, err
	}
	wish.Prefix, wish.Author, wish.Caller, wish.Force = prefix, req.Author, req.Caller.Unmap().WithZone(""), req.Force
	made, refused, err := d.Pipeline.Ban(ctx, wish)
	switch {
	case err != nil:
		return control.Ban{}, err
	case len(refused) > 0:
		return control.Ban{}, control.Refuse("%s", refused[0].Reason)
	}
	d.Flush(ctx)
	shown := control.ShowBan(made[0])
	shown.Kernel = true
	return shown, nil
}

// BanAll puts manual bans in force, those that are not refused.
func (d *daemon) BanAll(ctx context.Context, req control.Batch) (done control.Done, err error) {
	wish, err := d.wish(req.Ports, req.For, req.Note)
	if err != nil {
		return done, err
	}
	wish.Author, wish.Caller, wish.Force = req.Author, req.Caller.Unmap().WithZone(""), req.Force
	var wishes []engine.Request
	for _, entry := range req.Entries {
		if wish.Prefix, err = parsePrefix(entry); err != nil {
			done.Refuse(entry, err)
			continue
		}
		wishes = append(wishes, wish)
	}
	err = nil
	for step := range slices.Chunk(wishes, batchStep) {
		var made []ban.Ban
		var refused []control.Refusal
		if made, refused, err = d.Pipeline.Ban(ctx, step...); err != nil {
			break
		}
		done.Done += len(made)
		done.Refused = append(done.Refused, refused...)
	}
	d.Flush(ctx)
	return done, err
}

// wish returns what manual bans have in common, or why none can be made now.
func (d *daemon) wish(ports string, lasts time.Duration, note string) (engine.Request, error) {
	list, err := ban.ParsePorts(ports)
	switch {
	case err != nil:
		return engine.Request{}, control.Refuse("%v", err)
	case lasts < 0:
		return engine.Request{}, control.Refuse("for_ns %d is negative", lasts)
	case len(note) > lists.MaxNote:
		return engine.Request{}, control.Refuse("the note is longer than %d bytes", lists.MaxNote)
	case d.Observing():
		return engine.Request{}, control.Refuse("%s", d.whyObserve())
	}
	return engine.Request{For: lasts, Ports: list, Note: note}, nil
}

// Unban lifts bans and returns once the kernel showed that they are gone.
func (d *daemon) Unban(ctx context.Context, req control.UnbanRequest) ([]control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return nil, err
	}
	lift, err := d.Enforcer.HeldAt(ctx, prefix, req.Covering)
	if err != nil {
		return nil, err
	}
	var found, keys []ban.Key
	for _, held := range lift.Bans {
		found = append(found, held.Key)
	}
	listed, err := d.placesOf(ctx, found)
	if err != nil {
		return nil, err
	}
	every := lift.Bans
	lift.Bans = nil
	for _, held := range every {
		if listed[held.Key] == "" {
			lift.Bans, keys = append(lift.Bans, held), append(keys, held.Key)
		}
	}
	switch {
	case len(found) == 0:
		return nil, control.Refuse("%s is not banned; mefctl why %s shows what is known", ban.Key{Prefix: prefix}, prefix.Addr())
	case len(keys) == 0:
		return nil, control.Refuse("%s is listed in %s: remove it there, or run mefctl allow add", found[0], listed[found[0]])
	}
	lifted := d.Reasons.Show(ctx, lift, d.askListed)
	if err := d.lift(ctx, keys); err != nil {
		return nil, err
	}
	for _, b := range lifted {
		rec := unbanRecord(b, time.Now())
		rec.Author = req.Author
		d.Records.Add(rec)
	}
	return lifted, nil
}

// lift lifts bans for an operator.
func (d *daemon) lift(ctx context.Context, keys []ban.Key) error {
	err := owner.Act(ctx, d.config, func(ctx context.Context, c *configurator) error { return c.liftFor(ctx, unbanGrace, keys) })
	if err == nil {
		d.Flush(ctx)
	}
	return err
}

// unbanRecord reports that a ban is lifted, by the prefix by which its beginning was reported.
func unbanRecord(b control.Ban, now time.Time) control.Record {
	if p, err := parsePrefix(b.Prefix); err == nil {
		b.Prefix = p.String()
	}
	return control.Record{Time: now, Event: "unban", Rule: b.Rule, Prefix: b.Prefix, Ports: b.Ports, Class: b.Class}
}

// UnbanAll lifts the bans of many addresses and returns once the kernel showed that they have ended.
func (d *daemon) UnbanAll(ctx context.Context, req control.Batch) (done control.Done, err error) {
	state, err := d.Enforcer.Held(ctx)
	if err != nil {
		return done, err
	}
	held := pipeline.NewIndex(state.Bans)
	listed, err := d.placesOf(ctx, held.Keys)
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
		found := held.At(prefix)
		n := len(keys)
		for _, key := range found {
			if listed[key] == "" {
				keys = append(keys, key)
			}
		}
		switch {
		case len(found) == 0:
			done.Refuse(entry, control.Refuse("not banned"))
		case len(keys) == n:
			done.Refuse(entry, control.Refuse("listed in %s: remove it there, or run mefctl allow add", listed[found[0]]))
		}
	}
	slices.SortFunc(keys, ban.Key.Compare)
	keys = slices.Compact(keys)
	if len(keys) == 0 {
		return done, nil
	}
	if err := d.lift(ctx, keys); err != nil {
		return done, err
	}
	done.Done = len(keys)
	d.Records.Add(control.Record{Time: time.Now(), Event: "unban", Author: req.Author, Reason: fmt.Sprintf("%d bans are lifted", len(keys))})
	return done, nil
}

// placesOf returns the bans that a blacklist file asks for, each with the place of the entry: lifted, they would come back.
func (d *daemon) placesOf(ctx context.Context, keys []ban.Key) (map[ban.Key]string, error) {
	return owner.Query(ctx, d.config, func(c *configurator) map[ban.Key]string { return c.applied.Places(c.lists, keys) })
}

// ClearBans lifts every ban that no blacklist file asks for, and returns once the kernel showed that they are gone.
func (d *daemon) ClearBans(ctx context.Context, author string) (control.Cleared, error) {
	cleared, err := owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (out control.Cleared, err error) {
		state, err := c.Enforcer.Held(ctx)
		if err != nil {
			return out, err
		}
		var keys []ban.Key
		for _, held := range state.Bans {
			if c.applied.IsBlocked(held.Key) {
				out.Listed++
			} else {
				keys = append(keys, held.Key)
			}
		}
		out.Lifted = len(keys)
		return out, c.liftFor(ctx, 0, keys)
	})
	if err != nil {
		return control.Cleared{}, err
	}
	d.Flush(ctx)
	d.Records.Add(control.Record{Time: time.Now(), Event: "unban", Author: author, Reason: fmt.Sprintf("all %d bans are lifted", cleared.Lifted)})
	return cleared, nil
}
