package reputation_test

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/reputation"
)

// A source that attacks is looked for in feeds: once as long as the entry counts, and each feed that has it is reported.
func TestFeedsAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reputation.New(&conf.Config{}, slog.New(slog.DiscardHandler))
		listed := netip.MustParseAddr("45.83.0.7")
		r.Feeds = func(addr netip.Addr) (all []event.Listing) {
			if addr == listed {
				for feed, points := range map[string]int{"own": 70, "watch": 0} {
					all = append(all, event.Listing{Rule: "feed/" + feed, Zone: "feed " + feed, Codes: "score", Points: points, Until: time.Now().Add(time.Hour)})
				}
			}
			return all
		}
		found := make(map[string]int)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- r.Run(ctx, func(_ context.Context, ev *event.Event) error {
				found[ev.Rule]++
				if l := ev.OnLists(); ev.Kind != event.Listed || ev.Addr != listed || !ev.Verified || len(l) != 1 || l[0].Rule != ev.Rule {
					t.Errorf("event %+v with %+v", ev, l)
				}
				return nil
			}, func(context.Context, string) {})
		}()
		ask := func() {
			for range 3 {
				r.Ask(listed, true)
				r.Ask(netip.MustParseAddr("45.83.0.8"), true)
				synctest.Wait()
			}
		}
		ask()
		if found["feed/own"] != 1 || found["feed/watch"] != 1 || len(found) != 2 {
			t.Errorf("reported %v, want each feed once", found)
		}
		time.Sleep(time.Hour)
		ask()
		if found["feed/own"] != 2 || found["feed/watch"] != 2 {
			t.Errorf("reported %v an hour later, want each feed twice", found)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
