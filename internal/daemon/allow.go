package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/lists"
	"mef/internal/owner"
)

// Allow adds an entry to the allow list. It returns once the kernel lets its addresses through and their bans are lifted; a DNS
// name has none yet then.
func (d *daemon) Allow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	if !req.Fleet {
		return d.changeEntry(ctx, req, lists.Allowed, (*lists.Lists).Add)
	}
	prefix, err := conf.ParsePrefix(req.Entry)
	if err == nil {
		err = d.Reputation.Cloud.MayAllow(prefix, req.For)
	}
	if err != nil {
		return control.Entry{}, control.Refuse("%v", err)
	}
	entry, err := d.changeEntry(ctx, req, lists.Allowed, (*lists.Lists).Add)
	if err == nil {
		d.Reputation.Cloud.Allowed(prefix, *entry.Until)
	}
	return entry, err
}

// Disallow deletes an entry that was added by command.
func (d *daemon) Disallow(ctx context.Context, req control.AllowRequest) (control.Entry, error) {
	entry, err := d.changeEntry(ctx, req, lists.Disallowed, (*lists.Lists).Delete)
	if prefix, wrong := conf.ParsePrefix(entry.Entry); err == nil && entry.Fleet && wrong == nil {
		d.Reputation.Cloud.Disallowed(prefix)
	}
	return entry, err
}

// allowShared adds an entry for another own host. One that an operator has added on this host alone stays as it is.
func (d *daemon) allowShared(ctx context.Context, req control.AllowRequest) error {
	_, err := d.changeEntry(ctx, req, lists.Allowed, func(l *lists.Lists, req control.AllowRequest) (control.Entry, map[string]string, error) {
		if e, there := l.Entry(req.Entry); there && !e.Fleet {
			return e, nil, nil
		}
		return l.Add(req)
	})
	return err
}

// disallowShared deletes an entry that holds on all own hosts.
func (d *daemon) disallowShared(ctx context.Context, entry, author string) error {
	shared, err := owner.Query(ctx, d.config, func(c *configurator) bool { e, there := c.lists.Entry(entry); return there && e.Fleet })
	if err != nil || !shared {
		return err
	}
	_, err = d.changeEntry(ctx, control.AllowRequest{Entry: entry, Author: author}, lists.Disallowed, (*lists.Lists).Delete)
	return err
}

// undoShared undoes what an own host did here, or with an empty ID all others: bans by their IDs, and entries.
func (d *daemon) undoShared(ctx context.Context, host, bans, reason string) error {
	entries, err := owner.Query(ctx, d.config, func(c *configurator) []string { return c.lists.Shared(host) })
	for _, entry := range entries {
		err = errors.Join(err, d.disallowShared(ctx, entry, reason))
	}
	return errors.Join(err, d.LiftOrigin(ctx, bans, reason))
}

// AllowAll adds many entries to the allow list.
func (d *daemon) AllowAll(ctx context.Context, req control.Batch) (control.Done, error) {
	return d.changeEntries(ctx, req, lists.Allowed, (*lists.Lists).Add)
}

// DisallowAll deletes many entries that were added by command.
func (d *daemon) DisallowAll(ctx context.Context, req control.Batch) (control.Done, error) {
	return d.changeEntries(ctx, req, lists.Disallowed, (*lists.Lists).Delete)
}

// A change adds an entry to the allow list or deletes one. It returns the notes to be saved.
type change func(*lists.Lists, control.AllowRequest) (control.Entry, map[string]string, error)

// changeEntry makes one change of the allow list and applies it.
func (d *daemon) changeEntry(ctx context.Context, req control.AllowRequest, event string, do change) (control.Entry, error) {
	entry, err := owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Entry, error) {
		entry, notes, err := do(c.lists, req)
		if err != nil {
			return entry, err
		}
		c.SaveNotes(notes)
		err = c.fulfil(ctx, applyLists)
		if added, there := c.lists.Entry(entry.Entry); there {
			entry = added // a DNS name is looked up now
		}
		return entry, err
	})
	if err != nil {
		return control.Entry{}, err
	}
	d.Flush(ctx)
	rec := control.Record{Time: time.Now(), Event: event, Prefix: entry.Entry, Author: req.Author, Note: req.Note}
	if event == lists.Allowed {
		rec.Until = entry.Until
	}
	d.Records.Add(rec)
	return entry, nil
}

// changeEntries makes one change of the allow list for each entry, and applies them together.
func (d *daemon) changeEntries(ctx context.Context, req control.Batch, event string, do change) (control.Done, error) {
	done, err := owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (done control.Done, err error) {
		notes := make(map[string]string)
		for _, entry := range req.Entries {
			_, more, err := do(c.lists, control.AllowRequest{Entry: entry, For: req.For, Author: req.Author, Note: req.Note, Force: req.Force})
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

// Lists returns the lists: all, or the one of that name.
func (d *daemon) Lists(ctx context.Context, only string) (control.Lists, error) {
	return owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Lists, error) {
		facts, err := c.facts(ctx)
		if err != nil {
			return control.Lists{}, err
		}
		return c.lists.Show(ctx, only, &facts)
	})
}
