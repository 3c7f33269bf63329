package daemon

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"mef/internal/event"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// A clock that was an hour ahead is set right. A ban holds from then on, and is not over before it has begun: lines under way ban nobody
// again.
func TestClockSetBack(t *testing.T) {
	const from = "203.0.113.7"
	h := settle(t, "", map[string]string{"log/a.log": "", "rules/counter.conf": fmt.Sprintf(counterRule, "HERE/log/a.log", 3)})
	h.await("the file is followed", func() bool { return h.active() == 1 })
	err := owner.Do(t.Context(), h.Engine, func(s *pipeline.State) {
		ev := event.Event{Time: time.Now().Add(time.Hour), Rule: "counter", Service: "counter", Kind: event.Failure, Count: 1, Verified: true,
			Addr: netip.MustParseAddr("203.0.113.8")}
		for range s.Engine.Event(&ev, time.Now()) {
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	h.guess(from, 12)
	h.await("a ban", func() bool { return h.banned() == from })
	h.await("all lines", func() bool { return h.status().Sources[0].Matched == 12 })
	if bans, err := owner.Query(t.Context(), h.Engine, func(s *pipeline.State) uint64 { return s.Engine.Rule("counter").Bans }); err != nil || bans != 1 {
		t.Errorf("%d bans (%v), want one", bans, err)
	}
}
