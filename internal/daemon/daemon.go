// Package daemon wires the parts of mefdaemon: sources hand batches to the engine (package pipeline), the enforcer keeps the kernel equal
// to what was decided, and the control socket answers.
//
// Who may touch what is in the types. The engine's goroutine has the *pipeline.State, and the configurator's goroutine the *configurator.
// The daemon, which answers requests on goroutines of their own, has neither: it hands functions to them (package owner). What all of
// them have is in parts, and safe for every goroutine by itself.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/confirm"
	"mef/internal/control"
	"mef/internal/duty"
	"mef/internal/enforce/kernel"
	"mef/internal/engine"
	"mef/internal/hostwatch"
	"mef/internal/lists"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// Options are what a daemon needs besides its configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	Hangups <-chan os.Signal // each has the configuration read again
	Level   *slog.LevelVar   // of Log, follows the configuration; nil: it was chosen otherwise

	// Load reads mef.conf and the rules again. The error is conf.Errors.
	Load func() (*conf.Config, error)
	// Manager is the service manager that started the daemon.
	Manager Manager
	// Notify notifies administrators.
	Notify Notifier
	// History counts records and makes pictures.
	History Recorder
	// Page serves the operator's page.
	Page Page
	// SelfTest tries on this machine whether bans block. It returns why that cannot be tried here, or what is wrong.
	SelfTest func(context.Context) (impossible, problem string)
	// Firewall returns what is wrong with the static policy of this host.
	Firewall func(*conf.Config) []string
}

// A Manager is what a daemon reports to a service manager: the one of package sdnotify, which may be nil.
type Manager interface {
	Ready(status string) error
	Reloading() error
	Stopping() error
	Watch(ctx context.Context, alive func(context.Context) (status string, err error), failed func(error))
}

// A Notifier notifies administrators of records: the one of package notify.
type Notifier interface {
	control.NotifyService
	Open() error
	Write(recs []control.Record) error
	Close() error
	// Wanted reports whether records of this kind (control.Record.Event) are to be written.
	Wanted(event string) bool
	Configure(sections []conf.Notify)
	Run(ctx context.Context, status func(context.Context) (control.Status, error), add func(control.Record)) error
	Status(now time.Time) (add func(*control.Status))
}

// A Recorder counts records and makes pictures: the one of package history.
type Recorder interface {
	control.ViewService
	Open() error
	Write(recs []control.Record) error
	Close() error
	Wanted(event string) bool
	Attempt(a *control.Attempt, now time.Time)
	Use(status func(context.Context) (control.Status, error), counters func(context.Context, []netip.Addr) (control.Counters, error),
		dropped func(context.Context) (control.Drops, error))
	Sampling(ctx context.Context, on bool)
	Dropped(ctx context.Context, samples []engine.Packet)
	Run(ctx context.Context) error
}

// A Page serves the operator's page: the one of package pagechild.
type Page interface {
	Configure(cfg conf.Page)
	Run(ctx context.Context, s control.Service) error
	Warnings() []string
}

// A machine is what the daemon finds where it runs. Tests have one of their own.
type machine struct {
	host   hostwatch.Host
	filter func(*pipeline.Pipeline, *pipeline.State) *kernel.Kernel
	look   pipeline.Look // nil: this host
	names  lists.Options // how DNS names are looked up
}

func thisMachine(ctx context.Context, log *slog.Logger) (m machine, err error) {
	m.host, err = hostwatch.Read(ctx)
	m.filter = func(p *pipeline.Pipeline, s *pipeline.State) *kernel.Kernel {
		facts := s.Engine.Facts()
		return kernel.New(log, s.Config.Firewall.Backend, kernel.SettingsFromConf(s.Config), p.EnforceOptions(facts.Reachable()))
	}
	m.names = lists.Options{Log: log}
	return m, err
}

// Run is the daemon: it protects the host until ctx is done, and leaves the bans in force when it ends, unless the
// configuration has clear_bans_on_stop. It returns an error only if it could not begin.
func Run(ctx context.Context, cfg *conf.Config, opt Options) error {
	m, err := thisMachine(ctx, opt.Log)
	if err != nil {
		return err
	}
	b, err := build(cfg, opt, m)
	if err != nil {
		return err
	}
	return b.run(ctx, b.serve)
}

// parts are for every goroutine.
type parts struct {
	*pipeline.Pipeline
	kernel   *kernel.Kernel
	path     string // of mef.conf
	stateIn  string // the directory of what is saved; it stays the same
	manager  Manager
	notifier Notifier
	recorder Recorder
	page     Page

	window *confirm.Keeper // the configurator's; others call Window only
	due    *duty.List      // the configurator's; others call Text only
	lists  *lists.Lists    // the configurator's; its comment names what others may call

	sources *pipeline.Sources // the configurator's; others call Prove only
	applied chan struct{}     // closed once lists were applied
	relist  chan struct{}     // holds one message: lists may have to be applied anew
}

// A daemon answers requests. It is a control.Service.
type daemon struct {
	*parts
	control.ReputationService
	control.CloudService
	control.NotifyService
	control.ViewService
	*pipeline.Requests
	lists.FeedService
	config   owner.Of[*configurator]
	version  string
	since    time.Time
	stop     context.CancelFunc
	selfTest func(context.Context) (impossible, problem string)
	firewall func() []string // what is wrong with the static policy
}

// A built is a daemon before its goroutines begin, which then have its parts.
type built struct {
	*daemon
	configurator *configurator
	state        *pipeline.State
	guard        *hostwatch.Guard
	saved        *pipeline.Saved
	restored     []ban.Ban // of an earlier run
}

// build builds everything and restores what must hold again first, without starting a goroutine.
func build(cfg *conf.Config, opt Options, m machine) (*built, error) {
	rules, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	guard := hostwatch.NewGuard()
	facts := engine.FactsFromConf(cfg)
	m.host.SetFacts(&facts)
	p, state := pipeline.New(pipeline.Options{Config: cfg, Rules: rules, Facts: facts, Accounts: m.host.AccountNames(engine.AccountName),
		OnLogin: func(ev *engine.Event) { guard.Login(ev.Service, ev.User, ev.Addr) }, OnAttempt: opt.History.Attempt, Log: opt.Log})
	k := m.filter(p, state)
	p.Enforcer = k.Enforcer
	now := time.Now()
	shared := &parts{Pipeline: p, kernel: k, path: cfg.Path, stateIn: cfg.Paths.StateDir, manager: opt.Manager, notifier: opt.Notify, recorder: opt.History, page: opt.Page, sources: p.NewSources(m.look),
		window: confirm.NewKeeper(filepath.Join(cfg.Paths.StateDir, windowFile), now), applied: make(chan struct{}), relist: make(chan struct{}, 1)}
	shared.due = duty.New(shared.reportDuty)
	m.names.StateDir, m.names.Version = cfg.Paths.StateDir, opt.Version
	shared.lists = lists.New(m.names)
	shared.lists.On(shared.listHost())
	p.Reputation.Feeds = shared.lists.Feeds().Listings
	shared.lists.Feeds().Community = p.Reputation.Cloud.List
	p.Reputation.Cloud.Changed = func(ctx context.Context) { _ = shared.lists.Feeds().Apply(ctx) } // the enforcer logs it, shows it and tries again
	c := newConfigurator(shared, cfg, opt)
	b := &built{configurator: c, state: state, guard: guard, daemon: &daemon{parts: shared, ReputationService: p.Reputation, CloudService: p.Reputation, NotifyService: opt.Notify, ViewService: opt.History, FeedService: shared.lists.Feeds().Service(), config: owner.New[*configurator](), version: opt.Version,
		since: now, selfTest: opt.SelfTest, firewall: func() []string { return opt.Firewall(cfg) }}}
	b.Requests = p.Requests(b.listsForRequests())
	names := &p.Reputation.Cloud.Names
	names.Attacked, names.Users, names.Use = b.attackedNames, b.userNames, b.shareNames
	host := &p.Reputation.Host
	host.LogsIn, host.Withdraw = p.LogsIn, b.Withdraw
	host.TakeOver, host.Lift, host.Allow, host.Disallow, host.Undo = p.TakeOver, b.LiftShared, b.allowShared, b.disallowShared, b.undoShared
	b.recorder.Use(b.Status, b.Counters, b.Dropped)
	if b.saved, err = p.Open(state, opt.Version, now); err != nil {
		return nil, err
	}
	b.Requests.Restore(b.saved.Notes)
	b.restore(now)
	return b, nil
}

// run runs the enforcer, the saver, and serve, until ctx is done or Stop is called.
func (b *built) run(ctx context.Context, serve func(context.Context) error) error {
	ctx, b.stop = context.WithCancel(ctx)
	defer b.stop()
	g, ctx := errgroup.WithContext(ctx)
	// The enforcer and the saver outlive the others by what it takes to lift the bans, if that is asked for, and to save the
	// last of the state.
	after, release := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return b.Enforcer.Run(after) })
	b.saved.Count(b.state, b.restored)
	b.saved, b.restored = nil, nil
	g.Go(func() error { return b.Saver.Run(after) })
	g.Go(func() error {
		defer release()
		return serve(ctx)
	})
	defer b.Records.Close(time.Second) // the disk may hang
	return g.Wait()
}

// serve opens the socket, follows the sources, and blocks until ctx is done.
func (b *built) serve(ctx context.Context) error {
	socket := b.state.Config.Paths.ControlSocket
	listener, err := control.Listen(socket)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	b.state.OpenEventLog()
	b.Records.Attach("notifications", b.notifier, b.notifier.Wanted)
	g.Go(func() error { return b.notify(ctx) }) // the boot waits for the kernel to hold the bans, not for a long journal
	b.decide(ctx, g)
	g.Go(func() error { return b.kernel.EndSessions(ctx) })
	for _, detector := range b.detectors() {
		g.Go(func() error { return detector.run(ctx) })
	}
	g.Go(func() error { return b.watchHost(ctx) })
	g.Go(func() error { return b.watchSessions(ctx, b.guard) })
	g.Go(func() error { return b.watchAccounts(ctx) })
	g.Go(func() error { return b.watchContainers(ctx) })
	g.Go(func() error { return b.kernel.RemoveOthers(ctx) })
	g.Go(func() error { return b.kernel.RunSelfTests(ctx, b.selfTest, b.selfTestFailed) })
	g.Go(func() error { return b.Memory.Run(ctx, func() bool { return b.Saver.Status().Pending > 0 }) })
	g.Go(func() error { return control.Serve(ctx, listener, b.daemon) })
	g.Go(func() error { return b.page.Run(ctx, b.daemon) })
	b.Log.Info("mefdaemon is ready", "mode", b.Mode(), "socket", socket)
	err = g.Wait()
	if b.configurator.cfg.ClearOnStop { // its goroutine has ended
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := errors.Join(b.Clear(ctx), b.Enforcer.SetLists(ctx, nil)); err != nil {
			b.Log.Error("clear_bans_on_stop", "err", err)
		}
	}
	return err
}

// decide starts what makes bans: the sources, the engine, and the configurator.
func (b *built) decide(ctx context.Context, g *errgroup.Group) {
	state, c := b.state, b.configurator
	b.sources.Choose(ctx, state)
	b.Records.Attach("history", b.recorder, b.recorder.Wanted)
	g.Go(func() error { return b.recorder.Run(ctx) })
	g.Go(func() error { return b.Pipeline.Run(ctx, state) })
	g.Go(func() error { return b.sources.FollowPorts(ctx) })
	g.Go(func() error { return c.run(ctx, b.config.Calls()) })
}

func (d *daemon) selfTestFailed(t kernel.SelfTest) {
	d.Log.Error("the self-test failed: bans may not block", "detail", t.Detail)
	d.Records.Add(control.Record{Time: t.At, Event: "error", Reason: "self-test: " + t.Detail})
}

// watchHost follows changes of the host's addresses, routes and resolvers.
func (d *daemon) watchHost(ctx context.Context) error {
	return hostwatch.Watch(ctx, func(h hostwatch.Host) {
		err := owner.Act(ctx, d.config, func(ctx context.Context, c *configurator) error { return c.setHost(ctx, h) })
		if err != nil && ctx.Err() == nil {
			d.Log.Error("allow this host's own addresses", "err", err)
		}
	})
}

// watchAccounts compiles the rules again when /etc/passwd changes. A rule names the accounts of its daemon, which a package makes when it
// is installed: until their numbers are known, their journal entries are not believed.
func (d *daemon) watchAccounts(ctx context.Context) error {
	return hostwatch.WatchAccounts(ctx, func() {
		if err := owner.Act(ctx, d.config, recompile); err != nil && ctx.Err() == nil {
			d.Log.Error("accounts have changed but cannot be read; the previous ones stay in use", "err", err)
		}
	})
}

// watchContainers follows containers of Docker that appear, are renamed or removed.
func (d *daemon) watchContainers(ctx context.Context) error {
	return hostwatch.WatchContainers(ctx, func() {
		err := owner.Act(ctx, d.config, func(ctx context.Context, c *configurator) error {
			return c.sources.ReadContainers(ctx)
		})
		if err != nil && ctx.Err() == nil {
			d.Log.Error("Docker's containers have changed but cannot be followed; the previous ones stay in use", "err", err)
		}
	})
}

// noteAdmins is the note in mef.db about recent logins of administrators: see hostwatch.Guard.
const noteAdmins = "admins"

// watchSessions follows the SSH sessions of administrators.
func (d *daemon) watchSessions(ctx context.Context, guard *hostwatch.Guard) error {
	return guard.Run(ctx, hostwatch.Client{
		Groups: func(ctx context.Context) ([]string, error) {
			return owner.Query(ctx, d.Engine, func(s *pipeline.State) []string { return s.Config.ProtectGroups })
		},
		Apply: d.applyAdmins,
		Save:  func(text string) { d.SaveNotes(map[string]string{noteAdmins: text}) },
		Log:   d.Log,
	})
}

// applyAdmins protects administrators. Bans in force stay as they are, but for lists, which hold back what would ban one.
func (d *daemon) applyAdmins(ctx context.Context, a hostwatch.Admins) error {
	changed, err := owner.Query(ctx, d.Engine, func(s *pipeline.State) (changed bool) {
		s.SetFacts(func(f *engine.Facts) { changed = f.SetAdmins(a.Live, a.Recent, a.SSHPorts) })
		return changed
	})
	if err != nil || !changed {
		return err
	}
	owner.Wake(d.relist)
	return nil
}
