package daemon

import (
	"context"
	"fmt"
	"maps"
	"time"

	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// Allow adds an entry to the allow list. It returns once the kernel lets its addresses through and their bans are lifted; a DNS
// name has none yet then.
func (d *daemon) Allow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	now := time.Now()
	entry, err := owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Entry, error) {
		entry, notes, err := c.lists.Add(req, now)
		if err != nil {
			return entry, err
		}
		c.SaveNotes(notes)
		err = c.fulfil(ctx, applyLists)
		return c.lists.Entry(entry.Entry), err
	})
	if err != nil {
		return control.Entry{}, err
	}
	d.Flush(ctx)
	d.Records.Add(control.Record{Time: now, Event: "allow", Prefix: entry.Entry, Until: entry.Until, Author: entry.Author, Note: entry.Note})
	return entry, nil
}

// Disallow deletes an entry that was added by command.
func (d *daemon) Disallow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	entry, err := owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Entry, error) {
		entry, notes, err := c.lists.Delete(req)
		if err != nil {
			return entry, err
		}
		c.SaveNotes(notes)
		return entry, c.fulfil(ctx, applyLists)
	})
	if err != nil {
		return control.Entry{}, err
	}
	d.Flush(ctx)
	d.Records.Add(control.Record{Time: time.Now(), Event: "allow-end", Prefix: entry.Entry, Author: req.Author})
	return entry, nil
}

// Lists returns the lists: both, or the one of that name.
func (d *daemon) Lists(ctx context.Context, only string) (control.Lists, error) {
	if only != "" && only != lists.AllowList && only != lists.BlockList {
		return control.Lists{}, control.Refuse("no list %q; there are %s and %s", only, lists.AllowList, lists.BlockList)
	}
	return owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Lists, error) {
		// Programs that read JSON want lists, if empty ones.
		out := control.Lists{Files: []control.ListFile{}, Entries: []control.Entry{}}
		if only != lists.BlockList {
			c.lists.ShowAllow(&out)
		}
		if only == lists.AllowList {
			return out, nil
		}
		facts, err := owner.Query(ctx, c.Engine, func(s *pipeline.State) engine.Facts { return s.Engine.Facts() })
		if err != nil {
			return out, err
		}
		c.lists.ShowBlock(&out, &facts)
		return out, nil
	})
}

// AllowAll adds many entries to the allow list.
func (d *daemon) AllowAll(ctx context.Context, req control.Batch) (control.Done, error) {
	now := time.Now()
	return d.changeAllowed(ctx, req, "allow", func(l *lists.Lists, one control.AllowRequest) (control.Entry, map[string]string, error) {
		return l.Add(one, now)
	})
}

// DisallowAll removes many entries that were added by command.
func (d *daemon) DisallowAll(ctx context.Context, req control.Batch) (control.Done, error) {
	return d.changeAllowed(ctx, req, "allow-end", (*lists.Lists).Delete)
}

// changeAllowed makes one change of the allow list for each entry, and applies them together.
func (d *daemon) changeAllowed(ctx context.Context, req control.Batch, event string,
	change func(*lists.Lists, control.AllowRequest) (control.Entry, map[string]string, error)) (control.Done, error) {
	done, err := owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (done control.Done, err error) {
		notes := make(map[string]string)
		for _, entry := range req.Entries {
			_, more, err := change(c.lists, control.AllowRequest{Entry: entry, For: req.For, Author: req.Author, Note: req.Note, Force: req.Force})
			if err != nil {
				done.Refuse(entry, err)
				continue
			}
			maps.Copy(notes, more)
			done.Done++
		}
		c.SaveNotes(notes)
		return done, c.fulfil(ctx, applyLists)
	})
	if err != nil {
		return done, err
	}
	d.Flush(ctx)
	d.Records.Add(control.Record{Time: time.Now(), Event: event, Author: req.Author, Note: req.Note, Reason: fmt.Sprintf("%d entries", done.Done)})
	return done, nil
}
