package lists

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/exempt"
	"mef/internal/prefixset"
)

// A Host is what Lists need of a running daemon. All of it may be called from any goroutine. The zero value is none: nothing is dropped.
type Host struct {
	Enforcer  *enforce.Enforcer
	Observing func() bool
	Facts     func(context.Context) (exempt.Facts, error)
	// SetAllowed sets the allow list, and returns the facts with it; SetBlocked sets the blacklist that is in force.
	SetAllowed func(context.Context, Allow) (exempt.Facts, error)
	SetBlocked func(context.Context, Block) error
	// LiftWithin lifts the bans all of whose addresses are in a set, for a reason.
	LiftWithin func(ctx context.Context, allowed prefixset.Set, reason string) error
	Save       func(notes map[string]string) // soon
	Flush      func(context.Context)         // returns once that is saved
	Record     func(control.Record)
	Changed    func(entries int) // how many were replaced, for memory to be given back
}

// On sets the daemon. It is called before Run and Apply.
func (l *Lists) On(host Host) { l.host, l.feeds.host = host, host }

// Restore takes over the notes of an earlier run and reads the files. It returns the allow list.
func (l *Lists) Restore(notes map[string]string, cfg *conf.Config) Allow {
	l.load(notes)
	l.Read(cfg.Paths)
	l.feeds.Configure(cfg)
	allow := l.Allow()
	l.allowed = allow.Set
	l.publish(report{allowed: allow.Items})
	return allow
}

// Apply applies the lists as they are, and returns once the kernel holds them: it lets allowed addresses through first, then the bans of
// these are lifted, and then it drops packets of the other lists. In observe mode it drops none.
func (l *Lists) Apply(ctx context.Context) error {
	now := time.Now()
	ended, leftOut, notes := l.Update(now)
	for _, e := range ended {
		l.host.Record(control.Record{Time: now, Event: Disallowed, Prefix: e.Entry, Author: e.Author, Note: e.Note, Reason: "it has expired"})
	}
	l.host.Save(notes)
	allow := l.Allow()
	next := report{allowed: allow.Items, mistakes: l.Mistakes(), leftOutNames: leftOut}
	if last := l.report.Load(); last != nil {
		next.leftOut, next.held = last.leftOut, last.held
		if leftOut > last.leftOutNames {
			l.log.Error("DNS names of the allow list ignored: too many", "most", MaxNames, "left out", leftOut)
		}
	}
	l.publish(next)
	facts, err := l.host.SetAllowed(ctx, allow)
	if err != nil {
		return err
	}
	if err := l.host.Enforcer.Allow(ctx, facts.Reachable()); err != nil {
		return err
	}
	if added := allow.Set.Subtract(l.allowed); added.Len() > 0 {
		if err := l.host.LiftWithin(ctx, added, "now an entry of the allow list"); err != nil {
			return err
		}
	}
	l.allowed = allow.Set
	block := l.Block(&facts)
	next.leftOut, next.held = block.LeftOut, block.Held
	l.publish(next)
	block.logNotable(l.log, &l.logged.notable)
	return l.applyBlock(ctx, block, now)
}

// applyBlock has the kernel drop packets of the blacklist and of feeds.
func (l *Lists) applyBlock(ctx context.Context, block Block, now time.Time) error {
	if l.host.Observing() {
		block.Addrs = nil
	}
	next := block.Addrs
	l.feeds.setBlacklist(next, l.block.files)
	if err := errors.Join(l.host.SetBlocked(ctx, block), l.feeds.Apply(ctx)); err != nil {
		return err
	}
	before := l.blocked
	if l.blocked = next; !next.Equal(before) {
		l.log.Info("the blacklist has changed", "networks", next.Len(), "before", before.Len())
		l.host.Record(control.Record{Time: now, Event: "list", Rule: ban.ByList, Reason: fmt.Sprintf("%d networks, %d before", next.Len(), before.Len())})
	}
	return nil
}

// Refresh reads the files that have changed, and reports the mistakes in them. Apply follows.
func (l *Lists) Refresh(paths conf.Paths) {
	l.Read(paths)
	mistakes := l.Mistakes()
	text := strings.Join(mistakes, "\n")
	if text == l.logged.mistakes {
		return
	}
	l.logged.mistakes = text
	for _, m := range mistakes[:min(len(mistakes), 20)] {
		l.log.Error("list entry ignored", "error", m, "mistakes in total", len(mistakes))
	}
	if len(mistakes) > 0 {
		l.host.Record(control.Record{Time: time.Now(), Event: "error", Reason: "lists: " + mistakes[0]})
	}
}
