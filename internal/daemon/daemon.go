// Package daemon wires the stages into mefdaemon: sources hand batches to the engine, the engine decides, the enforcer keeps
// the kernel equal to what was decided, and the control socket answers.
//
//	source ──► engine (filter, track, decide) ──► enforcer ──► kernel
//	                 │                                │
//	                 └──────────► records ◄───────────┘ ──► event log, mefctl events
//
// Three goroutines hold all state: the engine's, the enforcer's, and each source its own. Requests from the control socket
// run as functions on the engine's goroutine, so nothing is locked on the way of a line.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/enforce/kernel"
	"mef/internal/feed"
	"mef/internal/host"
	"mef/internal/lists"
	"mef/internal/store"
)

// Options are what a daemon is told beside its configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	Hangups <-chan os.Signal // each has the configuration read again
	Level   *slog.LevelVar   // of Log, follows the configuration; nil: it was chosen otherwise

	// Manager is the service manager that started the daemon.
	Manager Manager
	// SelfTest tries on this machine whether bans block. It returns why that cannot be tried here, or what is wrong.
	SelfTest func(context.Context) (impossible, problem string)
	// Firewall returns what is wrong with the static policy of this host.
	Firewall func(*conf.Config) []string
}

// A Manager is what a daemon reports to a service manager; package sdnotify has it.
type Manager interface {
	Ready(status string) error
	Reloading() error
	Stopping() error
	Watch(ctx context.Context, alive func(context.Context) (status string, err error), failed func(error))
}

// Run is the daemon: it protects the host until ctx is done, and leaves the bans in force when it ends, unless the
// configuration says clear_bans_on_stop. It returns an error only if it could not begin.
func Run(ctx context.Context, cfg *conf.Config, opt Options) error {
	d, err := start(ctx, cfg, opt)
	if err != nil {
		return err
	}
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	g, ctx := errgroup.WithContext(ctx)
	// The enforcer and the saver outlive the others by what it takes to lift the bans, if that is asked for, and to save the
	// last of the state.
	after, release := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return d.enforcer.Run(after) })
	d.loadTracker(d.store, d.restored)
	d.store, d.restored = nil, nil
	g.Go(func() error { return d.saver.Run(after) })
	g.Go(func() error {
		defer release()
		return d.run(ctx)
	})
	defer d.records.Close(time.Second) // the disk may hang
	return g.Wait()
}

// A daemon is everything that Run holds together.
type daemon struct {
	*loop
	configurator
	path     string // of mef.conf
	version  string
	level    *slog.LevelVar
	since    time.Time
	sources  *feed.Sources
	kernel   *kernel.Kernel // nil in tests
	manager  Manager
	stop     context.CancelFunc
	selftest atomic.Pointer[selftestResult]
	selfTest func(context.Context) (impossible, problem string)
	firewall func() []string // what is wrong with the static policy
	// lookAround returns what is known of logs and services of this host.
	lookAround func(context.Context) *feed.Host
	off        bool      // mefctl off was run since the last start
	forgiven   []ban.Key // the bans that it lifted
	gone       []ban.Key // bans that were in force when the daemon last ran, and are not to be any more

	// Until Run has read the rest of the saved state.
	store    *store.Store // then the saver's
	restored []ban.Ban
}

// start builds everything without starting a goroutine.
func start(ctx context.Context, cfg *conf.Config, opt Options) (*daemon, error) {
	log := opt.Log
	here, err := host.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("facts about this host: %w", err)
	}
	e, err := newLoop(cfg, here, log)
	if err != nil {
		return nil, err
	}
	facts := e.engine.Facts()
	k, err := kernel.New(log, cfg.Log, enforce.Options{Allow: facts.Reachable(), OnResult: e.reasons.settle, OnEnded: e.evictions.add, OnRepair: e.repaired})
	if err != nil {
		return nil, err
	}
	e.enforcer = k.Enforcer
	st, err := store.Open(e.storePath(), store.Options{Version: opt.Version})
	if err != nil {
		return nil, err
	}
	if err := st.Warning(); err != nil {
		log.Warn("saved state", "err", err)
	}
	e.saver = store.NewSaver(st, log)
	e.reasons.saved = e.saver.Bans
	d := newDaemon(e, opt)
	d.kernel, d.store = k, st
	if d.restored, err = d.restore(st, d.since); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return d, nil
}

// unmanaged stands for no service manager.
type unmanaged struct{}

func (unmanaged) Ready(string) error { return nil }
func (unmanaged) Reloading() error   { return nil }
func (unmanaged) Stopping() error    { return nil }
func (unmanaged) Watch(context.Context, func(context.Context) (string, error), func(error)) {
}

// newDaemon returns a daemon around an engine that has its enforcer and its saver.
func newDaemon(e *loop, opt Options) *daemon {
	lapse := time.NewTimer(time.Hour)
	lapse.Stop()
	settings := e.cfg // a reload replaces it
	if opt.Manager == nil {
		opt.Manager = unmanaged{}
	}
	if opt.Firewall == nil {
		opt.Firewall = func(*conf.Config) []string { return nil }
	}
	return &daemon{loop: e, path: e.cfg.Path, version: opt.Version, level: opt.Level, since: time.Now(), selfTest: opt.SelfTest, firewall: func() []string { return opt.Firewall(settings) }, manager: opt.Manager,
		lookAround:   func(ctx context.Context) *feed.Host { return feed.Look(ctx, e.log) },
		configurator: configurator{adminsChanged: make(chan struct{}, 1), asked: make(chan func(context.Context)), hangups: opt.Hangups, lapse: lapse, lists: lists.New(lists.Options{Log: e.log}), owed: make(map[ban.Key]time.Duration), due: newDue()}}
}

// run opens the socket, follows the sources, and blocks until ctx is done.
func (d *daemon) run(ctx context.Context) error {
	socket := d.cfg.Paths.ControlSocket
	listener, err := control.Listen(socket)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	d.openEventLog(d.cfg)
	g.Go(func() error { return d.notify(ctx) }) // the boot waits for the kernel to hold the bans, not for a long journal
	d.choose(d.lookAround(ctx))
	d.saveOrigins()
	d.sources = feed.New(d.feedConfig(), d.readers, nil)
	g.Go(func() error { return d.loop.run(ctx) })
	g.Go(func() error { return d.keep(ctx) })
	g.Go(func() error { return d.kernel.EndSessions(ctx) })
	g.Go(func() error { return d.watchHost(ctx) })
	g.Go(func() error { return d.watchSessions(ctx) })
	g.Go(func() error { return d.watchAccounts(ctx) })
	g.Go(func() error { return d.runSelftests(ctx) })
	g.Go(func() error { return d.tidy(ctx, d.saving, giveBack) })
	g.Go(func() error { return control.Serve(ctx, listener, d) })
	d.log.Info("mefdaemon is ready", "mode", d.mode(), "socket", socket)
	err = g.Wait()
	if d.cfg.ClearOnStop {
		if err := d.clear(context.WithoutCancel(ctx)); err != nil {
			d.log.Error("clear_bans_on_stop", "err", err)
		}
	}
	return err
}

// clear lifts every ban and forgets it.
func (d *daemon) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return err
	}
	if err := d.enforcer.Flush(ctx); err != nil {
		return err
	}
	var lifted []ban.Key
	for _, held := range state.Bans {
		lifted = append(lifted, held.Key)
	}
	d.saver.Save(store.Update{Lifted: lifted})
	return nil
}

func (e *loop) mode() string { return modeName(e.observe.Load()) }

func modeName(observe bool) string {
	if observe {
		return "observe"
	}
	return "enforce"
}

// repaired is told by the enforcer when something had to be put back.
func (e *loop) repaired(r enforce.Repair) {
	reason := fmt.Sprintf("%q had been changed by %q, put back in %v", r.Damaged, r.By, r.Took.Round(time.Microsecond))
	switch {
	case r.Delayed > 0:
		reason = fmt.Sprintf("%q is changed again and again by %q: restored in %v, or with the next ban; mefctl status", r.Damaged, r.By, r.Delayed)
	case r.Err != nil:
		reason = fmt.Sprintf("%q had been changed by %q and could not be put back: %v", r.Damaged, r.By, r.Err)
	}
	e.records.Add(control.Record{Time: r.Time, Event: "repair", Reason: reason})
}
