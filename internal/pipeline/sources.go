package pipeline

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/feed"
	"mef/internal/owner"
)

// A Look finds out what there is on a host that rules can read.
type Look func(context.Context) *feed.Host

// Sources are where the lines of a pipeline come from, and who follows them. They belong to one goroutine; Prove and Services may be called from
// any.
type Sources struct {
	p         *Pipeline
	look      Look
	current   atomic.Pointer[feed.Sources] // replaced on the engine's goroutine, together with its readers
	followers feed.Followers
	listeners feed.Listeners

	containers string // whose output is followed: feed.Selected
}

// NewSources returns Sources of which none is chosen yet; look is nil for this host.
func (p *Pipeline) NewSources(look Look) *Sources {
	listeners := feed.ListenersOf(look)
	if look == nil {
		look = func(ctx context.Context) *feed.Host { return feed.Look(ctx, p.Log) }
	}
	return &Sources{p: p, look: look, listeners: listeners}
}

// Choose chooses what the rules of a state read. It is for the time before Run.
func (f *Sources) Choose(ctx context.Context, s *State) {
	h := f.look(ctx)
	s.choose(h)
	f.containers = feed.Selected(s.Config.Rules, h)
	f.current.Store(feed.New(s.feedConfig(), s.Readers, nil))
}

// Follow begins to follow the sources until ctx is done, and End waits for that.
func (f *Sources) Follow(ctx context.Context) { f.followers.Start(ctx, f.current.Load()) }

// End waits until no source is followed any more, after the context of Follow is done.
func (f *Sources) End() { f.followers.Wait() }

// Configure puts a configuration in force between two batches. A follower whose files change ends first, with every line that it handed
// over still in the engine's queue; its successor begins behind the last of them. Those that need not change go on.
func (f *Sources) Configure(ctx context.Context, cfg *conf.Config, rules *engine.Rules) error {
	h := f.look(ctx)
	readers := feed.Read(cfg, rules, h, nil, time.Now())
	before := f.current.Load()
	f.followers.Stop(before, readers, feed.StreamsFromConf(cfg))
	err := owner.Act(ctx, f.p.Engine, func(ctx context.Context, s *State) error {
		if err := s.drain(ctx); err != nil {
			return err
		}
		readers.Inherit(s.Readers, time.Now()) // what they know of the lines up to here
		s.configure(cfg, rules, readers, h)
		s.forgetContainers(h)
		f.current.Store(feed.New(s.feedConfig(), readers, before))
		return nil
	})
	if err == nil {
		f.containers = feed.Selected(cfg.Rules, h)
		f.Follow(ctx)
	}
	return err
}

// ReadContainers puts the configuration in force again if its rules read other containers of Docker now. roots are where Docker keeps its
// data, if not at the usual places.
func (f *Sources) ReadContainers(ctx context.Context, roots ...string) error {
	h := feed.LookAtContainers(roots...)
	if h.ContainersError != nil {
		return nil // a status reports it
	}
	var cfg *conf.Config
	var rules *engine.Rules
	err := owner.Do(ctx, f.p.Engine, func(s *State) { cfg, rules = s.Config, s.Rules })
	if err != nil || feed.Selected(cfg.Rules, h) == f.containers {
		return err
	}
	return f.Configure(ctx, cfg, rules)
}

// Prove has an entry go through the journal, so that a status shows what is so now. It returns what adds to a status what the rules read
// and the state of the sources; that runs on the engine's goroutine.
func (f *Sources) Prove(ctx context.Context) (describe func(*control.Status, *State), err error) {
	h := f.look(ctx)
	sources, err := owner.Query(ctx, f.p.Engine, func(*State) *feed.Sources { return f.current.Load() }) // which there are once it answers
	if err != nil {
		return nil, err
	}
	sources.Prove(ctx)
	return func(s *control.Status, state *State) {
		now := time.Now()
		state.Readers = feed.Read(state.Config, state.Rules, h, state.Readers, now)
		state.Listen(h.Listeners, now)
		state.Readers.Describe(s, state.Config, state.Rules, h, state.Engine.Rule, state.portsOf)
		var missing []string
		s.Sources, missing = f.current.Load().Status(state.Readers, state.Engine.Source)
		s.Missing = append(s.Missing, missing...)
	}, nil
}

// portsOf returns the ports of a rule's bans, and why they are these; "" if the rule's file names them.
func (s *State) portsOf(r *conf.Rule) (ports, reason string) {
	return control.ShowPorts(s.Engine.Ports(r.Name)), s.Ports.Reason(r)
}

// portsEvery is how often it is looked whether services listen at other ports.
const portsEvery = 30 * time.Second

// FollowPorts follows at which ports services listen until ctx is done, for rules with ports=auto.
func (f *Sources) FollowPorts(ctx context.Context) error {
	again := false
	ticker := time.NewTicker(portsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		found, changed, err := f.listeners.Changed(again)
		if err != nil {
			f.p.Log.Debug("cannot list listening services", "err", err) // the ports known stay
		} else if changed {
			again, _ = owner.Query(ctx, f.p.Engine, func(s *State) bool { // ctx is done otherwise
				now := time.Now()
				s.Listen(found, now)
				return s.Ports.Waiting(now)
			})
		}
	}
}

// Services returns the services of this host with the rules that cover them.
func (f *Sources) Services(ctx context.Context) ([]control.ListeningService, error) {
	h := f.look(ctx)
	return owner.Query(ctx, f.p.Engine, func(s *State) []control.ListeningService {
		now := time.Now()
		s.Listen(h.Listeners, now)
		return s.Readers.List(s.Config, s.Rules, h, func(rule string) engine.LastHour { return s.Engine.LastHour(rule, now) }, s.Engine.Ports)
	})
}

// Counters returns what the engine and the enforcer count now, and which of some addresses are banned. Its cost hardly depends on how many
// bans there are. The error is that of ctx, or of an enforcer that has ended.
func (p *Pipeline) Counters(ctx context.Context, addrs []netip.Addr) (control.Counters, error) {
	tally, err := p.Enforcer.Tally(ctx)
	if err != nil {
		return control.Counters{}, err
	}
	mode, ever := p.Mode(), p.Reasons.Total()
	dropped, unread := p.Dropped(ctx)
	c, err := owner.Query(ctx, p.Engine, func(s *State) control.Counters { return s.counters(addrs, time.Now()) })
	c.Mode = mode
	if unread == nil {
		c.Dropped = dropped
	}
	c.Bans = control.Tally{Total: tally.Total, IPv4: tally.IPv4, IPv6: tally.IPv6, Unverified: tally.Unverified, Permanent: tally.Permanent, Ever: ever}
	return c, err
}

// Dropped returns how many packets the kernel has dropped.
func (p *Pipeline) Dropped(ctx context.Context) (control.Drops, error) {
	d, err := p.Enforcer.Drops(ctx)
	return control.Drops{Known: err == nil, Total: d.Verified + d.Unverified + d.Replies + d.Lists, Verified: d.Verified, Unverified: d.Unverified,
		Replies: d.Replies, Lists: d.Lists}, err
}

func (s *State) counters(addrs []netip.Addr, now time.Time) control.Counters {
	c := control.Counters{ScoreLimit: s.Config.Score.Ban, HalfLife: s.Config.Score.HalfLife, Ports: make(map[string]string)}
	for _, a := range s.Engine.Alarms() {
		if !a.Acked {
			c.AlarmCount++
		}
	}
	services := make(map[string]*control.ServiceCounter)
	for _, name := range slices.Sorted(maps.Keys(s.Readers)) {
		r, n := s.Readers[name], s.Engine.Rule(name)
		c.Attempts, c.Probes, c.Logins = c.Attempts+n.Failures, c.Probes+n.Probes, c.Logins+n.Logins
		c.Ports[name] = control.ShowPorts(s.Engine.Ports(name))
		of := services[r.Rule.Service]
		if of == nil {
			of = &control.ServiceCounter{Name: r.Rule.Service, State: r.Live()}
			services[of.Name] = of
		}
		if of.State == "off" || of.State == "none" {
			of.State = r.Live()
		}
		of.Rules = append(of.Rules, name)
		of.Failures, of.Probes, of.Logins, of.Bans = of.Failures+n.Failures, of.Probes+n.Probes, of.Logins+n.Logins, of.Bans+n.Bans
		of.Sources = max(of.Sources, s.Engine.LastHour(name, now).Sources)
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		c.Services = append(c.Services, *services[name])
	}
	c.InForce = make(map[netip.Addr]time.Time)
	for _, addr := range addrs {
		for _, held := range s.Engine.InForce(addr, now) {
			until, banned := c.InForce[addr]
			if !banned || held.Until.IsZero() || !until.IsZero() && held.Until.After(until) {
				c.InForce[addr] = held.Until
			}
		}
	}
	return c
}
