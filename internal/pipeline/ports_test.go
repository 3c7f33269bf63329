package pipeline

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/ban"
	"mef/internal/feed"
	"mef/internal/owner"
)

// While the daemon runs, the ports of bans follow a service that moves, and stay while it is restarted.
func TestPortsAreFollowed(t *testing.T) {
	cfg := configured(t)
	synctest.Test(t, func(t *testing.T) {
		p, state := replayed(t, cfg)
		defer p.Records.Close(time.Second)
		if _, err := p.Open(state, "test", time.Now()); err != nil {
			t.Fatal(err)
		}
		listens := make(chan []uint16, 1) // the latest
		sources := p.NewSources(func(context.Context) *feed.Host {
			ports := <-listens
			listens <- ports
			h := new(feed.Host)
			for _, port := range ports {
				h.Listeners = append(h.Listeners, feed.Listener{Protocol: "tcp", Addr: netip.IPv6Unspecified(), Port: port, Unit: "postgresql.service"})
			}
			return h
		})
		listens <- nil
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- sources.FollowPorts(ctx) }()
		go func() {
			for ctx.Err() == nil {
				select {
				case call := <-p.Engine.Calls():
					call(ctx, state)
				case <-ctx.Done():
				}
			}
			ended <- nil
		}()
		for i, step := range []struct {
			listens []uint16
			want    ban.Ports
		}{
			{nil, "5432,6432"},
			{[]uint16{5432}, "5432,6432"},
			{[]uint16{5433}, "5432-5433,6432"},
			{nil, "5432-5433,6432"},
			{[]uint16{5432, 5433}, "5432-5433,6432"},
		} {
			<-listens
			listens <- step.listens
			time.Sleep(portsEvery + time.Second)
			got, err := owner.Query(ctx, p.Engine, func(s *State) ban.Ports { return s.Engine.Ports("postgresql") })
			if err != nil || got != step.want {
				t.Errorf("step %d: bans cover ports %s, %v; want %s", i, got, err, step.want)
			}
		}
		stop()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}
