package daemon

import (
	"context"
	"testing"
	"time"

	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/feed"
	"mef/internal/source/journal"
)

// A rule that reads elsewhere after a restart than before it begins at that moment; one that reads where it did, or that is new, does not.
func TestRuleThatMovesAtTheStart(t *testing.T) {
	const rule = "[rule]\nprograms=shop\nfiles=HERE/log/shop.log\nfailregex=^refused <HOST>$\n"
	withJournald := *withoutJournald
	withJournald.Journald = true
	for name, tt := range map[string]struct {
		host *feed.Host
		rule string
		want bool // what happened before counts
	}{
		"from files to the journal": {&withJournald, "shop", false},
		"a new rule":                {&withJournald, "new", true},
		"files as before":           {withoutJournald, "shop", true},
	} {
		t.Run(name, func(t *testing.T) {
			h := settle(t, "", map[string]string{"rules/shop.conf": rule})
			h.end()
			h.write("rules/new.conf", rule)
			b := h.build()
			b.NewSources(func(context.Context) *feed.Host { return tt.host }).Choose(t.Context(), b.state)
			source := h.dir + "/log/shop.log"
			if tt.host.Journald {
				source = journal.Source
			}
			failure := func(at time.Time) *engine.Event { return &engine.Event{Rule: tt.rule, Kind: event.Failure, Time: at} }
			if got := b.state.Readers.Accept(source, failure(time.Now().Add(-time.Minute))); got != tt.want {
				t.Errorf("what happened before counts: %v, want %v", got, tt.want)
			}
			if !b.state.Readers.Accept(source, failure(time.Now())) {
				t.Error("what happens now does not count")
			}
			ctx, end := context.WithCancel(t.Context())
			end()
			if err := b.run(ctx, func(context.Context) error { return nil }); err != nil { // closes the saved state
				t.Error(err)
			}
		})
	}
}
