package daemon

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"mef/internal/ban"
	"mef/internal/engine"
	"mef/internal/hostwatch"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

func (p *parts) facts(ctx context.Context) (engine.Facts, error) {
	return owner.Query(ctx, p.Engine, func(s *pipeline.State) engine.Facts { return s.Engine.Facts() })
}

// listHost is what the lists need of the daemon.
func (p *parts) listHost() lists.Host {
	return lists.Host{
		Enforcer: p.Enforcer, Observing: p.Observing, Facts: p.facts, LiftWithin: p.LiftWithin,
		SetAllowed: func(ctx context.Context, allow lists.Allow) (engine.Facts, error) {
			return owner.Query(ctx, p.Engine, func(s *pipeline.State) engine.Facts {
				s.SaveObserving(time.Now())
				return s.SetFacts(func(f *engine.Facts) { f.Allowed = allow.Set })
			})
		},
		SetBlocked: func(ctx context.Context, block lists.Block) error {
			return owner.Do(ctx, p.Engine, func(s *pipeline.State) { s.Engine.SetBlocked(block.Addrs) })
		},
		Save: p.SaveNotes, Flush: p.Flush, Record: p.Records.Add, Changed: p.Memory.Changed,
	}
}

// restoreLists takes over the notes of an earlier run, and reads the files.
func (c *configurator) restoreLists(s *pipeline.State, notes map[string]string, guard *hostwatch.Guard) lists.Allow {
	allow := c.lists.Restore(notes, c.cfg)
	admins := guard.Load(notes[noteAdmins])
	s.SetFacts(func(f *engine.Facts) {
		f.Allowed = allow.Set
		f.SetAdmins(nil, admins, "")
	})
	return allow
}

// rereadLists reads the files of lists again and applies them.
func (c *configurator) rereadLists(ctx context.Context) {
	c.lists.Watch(ctx, c.cfg.Paths, c.cfg.WhitelistReload, c.cfg.BlacklistReload)
	c.lists.Refresh(c.cfg.Paths)
	_ = c.fulfil(ctx, applyLists) // has been logged
}

// noteListed is the note in mef.db of an earlier version that banned the networks of the blacklist one by one, for ever: what
// netip.Prefix.MarshalBinary returns for each, after its length.
const noteListed = "listed"

// formerBlacklist returns the bans by the blacklist that an earlier version left in the kernel. No record tells their reason, and without
// being lifted they would never end. Those that were banned otherwise, too, are left out.
func formerBlacklist(saved *pipeline.Saved) (keys []ban.Key) {
	for buf := []byte(saved.Notes[noteListed]); len(buf) > 0; {
		n, used := binary.Uvarint(buf)
		var p netip.Prefix
		if used <= 0 || n > uint64(len(buf)-used) || p.UnmarshalBinary(buf[used:used+int(n)]) != nil {
			break
		}
		buf = buf[used+int(n):]
		keys = append(keys, ban.Key{Prefix: p})
	}
	if len(keys) == 0 {
		return nil
	}
	known := make(map[ban.Key]bool, len(saved.Bans))
	for _, b := range saved.Bans {
		known[b.Key] = true
	}
	return slices.DeleteFunc(keys, func(k ban.Key) bool { return known[k] })
}

// liftEarlier lifts bans that were in force when the daemon last ran, and are not to be any more.
func (c *configurator) liftEarlier(ctx context.Context) error {
	if len(c.gone) == 0 {
		return nil
	}
	for len(c.gone) > 0 {
		some := c.gone[:min(len(c.gone), liftedAtOnce)]
		if err := c.Enforcer.Unban(ctx, 0, some...); err != nil {
			return err
		}
		c.gone = c.gone[len(some):]
	}
	c.gone = nil
	c.SaveNotes(map[string]string{noteListed: ""})
	return nil
}

// liftedAtOnce is how many bans are lifted at a time, so that new ones need not wait.
const liftedAtOnce = 2000

// liftFor lifts bans for an operator. If that fails, it is tried again.
func (c *configurator) liftFor(ctx context.Context, grace time.Duration, keys []ban.Key) error {
	if len(keys) == 0 {
		return nil
	}
	for _, k := range keys {
		c.owed[k] = max(grace, c.owed[k])
	}
	if err := c.fulfil(ctx, liftAsked); err != nil {
		return fmt.Errorf("%w; mefdaemon tries again until they are lifted", err)
	}
	return nil
}

// liftOwed lifts what operators want lifted.
func (c *configurator) liftOwed(ctx context.Context) error {
	by := make(map[time.Duration][]ban.Key)
	for k, grace := range c.owed {
		by[grace] = append(by[grace], k)
	}
	for grace, keys := range by {
		if err := c.Lift(ctx, grace, keys); err != nil {
			return err
		}
		maps.DeleteFunc(c.owed, func(_ ban.Key, g time.Duration) bool { return g == grace })
	}
	return nil
}

// listsForRequests is what requests about bans need of the lists.
func (d *daemon) listsForRequests() pipeline.Lists {
	return pipeline.Lists{Listed: d.lists.Listed, Place: d.lists.Place,
		Lift: func(ctx context.Context, grace time.Duration, keys []ban.Key) error {
			return owner.Act(ctx, d.config, func(ctx context.Context, c *configurator) error { return c.liftFor(ctx, grace, keys) })
		},
	}
}
