package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mef/internal/control"
)

// A duty is something that must come to hold in the kernel. If it fails, it stays due and is tried again until it holds; status shows
// why it does not meanwhile. Duties belong to the keeper.
type duty string

const (
	liftEarlier duty = "lift bans of an earlier run"
	liftLapsed  duty = "lift the bans that nobody confirmed"
	applyLists  duty = "apply the lists"
)

// Between two attempts, at first and at most.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// due are the duties that failed when last tried.
type due struct {
	failed map[duty]error
	timer  *time.Timer // to the next attempt; running while any is due
	wait   time.Duration
}

func newDue() due {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return due{failed: make(map[duty]error), timer: t}
}

// fulfil does a duty, and has it tried again later if it fails.
func (d *daemon) fulfil(ctx context.Context, what duty) error {
	var err error
	switch what {
	case liftEarlier:
		err = d.liftEarlier(ctx)
	case liftLapsed:
		err = d.liftLapsed(ctx)
	case applyLists:
		err = d.applyLists(ctx)
	}
	if ctx.Err() != nil {
		return err // the daemon ends
	}
	_, again := d.due.failed[what]
	switch {
	case err == nil && again:
		d.log.Info("done after all", "what", string(what))
		delete(d.due.failed, what)
	case err != nil && !again:
		d.log.Error("not done yet; trying again", "what", string(what), "err", err)
		d.records.Add(control.Record{Time: time.Now(), Event: "error", Reason: fmt.Sprintf("%s: %v; trying again", what, err)})
	}
	if err != nil {
		d.due.failed[what] = err
	}
	switch {
	case len(d.due.failed) == 0:
		d.due.timer.Stop()
		d.due.wait = 0
	case d.due.wait == 0:
		d.due.wait = retryFirst
		d.due.timer.Reset(d.due.wait)
	}
	d.undone.Store(d.due.text())
	return err
}

// retry tries again what is due.
func (d *daemon) retry(ctx context.Context) {
	for _, what := range slices.Sorted(maps.Keys(d.due.failed)) {
		_ = d.fulfil(ctx, what) // has been logged
	}
	if len(d.due.failed) > 0 {
		d.due.wait = min(2*d.due.wait, retryMost)
		d.due.timer.Reset(d.due.wait)
	}
}

// text returns what is due and why, nil if nothing is.
func (d *due) text() *string {
	if len(d.failed) == 0 {
		return nil
	}
	var all []string
	for _, what := range slices.Sorted(maps.Keys(d.failed)) {
		all = append(all, fmt.Sprintf("%s: %v", what, d.failed[what]))
	}
	text := strings.Join(all, "; ")
	return &text
}
