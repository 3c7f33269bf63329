package pipeline

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/enforce/enforcetest"
	"mef/internal/enforce/kernel"
	"mef/internal/engine"
	"mef/internal/event"
	"mef/internal/owner"
	"mef/internal/store"
)

// A recording is a packet filter that records what it is asked for.
type recording struct {
	enforcetest.Fake
	mu     sync.Mutex
	banned []string
}

func (r *recording) Apply(ctx context.Context, c enforce.Changes) ([]enforce.Failure, error) {
	r.mu.Lock()
	for _, b := range c.Bans {
		if !b.Remove {
			r.banned = append(r.banned, b.Key.String())
		}
	}
	r.mu.Unlock()
	return r.Fake.Apply(ctx, c)
}

// A notebook is a sink in memory.
type notebook struct {
	mu     sync.Mutex
	events []string
}

func (*notebook) Open() error  { return nil }
func (*notebook) Close() error { return nil }
func (n *notebook) Write(recs []control.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range recs {
		n.events = append(n.events, r.Event+" "+r.Rule)
	}
	return nil
}

// What comes next plugs in beside what is there: a rule that no file has and whose events are no lines, a second sink of records, and
// another packet filter.
func TestSeams(t *testing.T) {
	cfg := configured(t)
	synctest.Test(t, func(t *testing.T) {
		p, state := replayed(t, cfg)
		filter, sink := new(recording), new(notebook)
		p.Records.Attach("notebook", sink, nil)
		p.Enforcer = kernel.Over(filter, p.Log, p.EnforceOptions(state.Engine.Facts().Allowed)).Enforcer
		st, err := store.Open(StorePath(cfg), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p.Saver = store.NewSaver(st, p.Log)
		settings := state.settings()
		settings.Track.Rules = append(settings.Track.Rules, event.Rule{Name: "scan", Service: "scan", MaxRetry: 3, FindTime: time.Hour, BanTime: time.Hour})
		state.Engine.Configure(settings)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 3)
		go func() { done <- p.Enforcer.Run(ctx) }()
		go func() { done <- p.Saver.Run(ctx) }()
		go func() { done <- p.Run(ctx, state) }()
		for i := range 3 {
			err := owner.Act(ctx, p.Engine, func(ctx context.Context, s *State) error {
				return s.Event(ctx, &engine.Event{Time: time.Now(), Rule: "scan", Service: "scan", Addr: netip.MustParseAddr("198.51.100.77"),
					Kind: event.Failure, Count: 1, Verified: true, Position: event.Position{Stream: "scan", Offset: uint64(i)}})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		filter.mu.Lock()
		if !slices.Equal(filter.banned, []string{"198.51.100.77"}) {
			t.Errorf("the packet filter was asked for %q", filter.banned)
		}
		filter.mu.Unlock()
		sink.mu.Lock()
		if want := []string{"failure scan", "failure scan", "failure scan", "ban scan"}; !slices.Equal(sink.events, want) {
			t.Errorf("the sink has %q, want %q", sink.events, want)
		}
		sink.mu.Unlock()
		stop()
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		p.Records.Close(time.Second)
	})
}
