package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/feed"
	"mef/internal/host"
)

// A setup is a configuration checked whole and compiled: nothing in it can fail any more.
type setup struct {
	cfg *conf.Config
	set *engine.Rules
}

// compile makes a set of the rules. The error is conf.Errors.
func compile(cfg *conf.Config) (*engine.Rules, error) {
	return engine.Compile(cfg.Rules, host.UserID)
}

// LoadConfig reads the mef.conf at path and the rules, for Run. The lists are not read: Run does that. The error is conf.Errors.
func LoadConfig(path string) (*conf.Config, error) {
	return conf.Loader{Shipped: engine.ShippedRules(), Optional: path == conf.DefaultPath, SkipLists: true}.Load(path)
}

// prepare reads the configuration again. Its error has the text that mefctl config check prints.
func (d *daemon) prepare() (*setup, error) {
	cfg, err := LoadConfig(d.path)
	if err != nil {
		return nil, err
	}
	set, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	keepPaths(cfg, d.cfg)
	return &setup{cfg: cfg, set: set}, nil
}

// keepPaths leaves the paths in force that a running daemon cannot change, and says so.
func keepPaths(cfg, running *conf.Config) {
	for _, p := range []struct {
		key      string
		path     *string
		unchange string
	}{
		{"control_socket", &cfg.Paths.ControlSocket, running.Paths.ControlSocket},
		{"cache_dir", &cfg.Paths.StateDir, running.Paths.StateDir},
	} {
		if *p.path == p.unchange {
			continue
		}
		cfg.Notices = append(cfg.Notices, conf.Notice{Pos: placeOf(cfg, p.key),
			Text: fmt.Sprintf("%s: %q takes effect when mefdaemon is started again; until then it is %q", p.key, *p.path, p.unchange)})
		*p.path = p.unchange
	}
}

// placeOf returns where a key of mef.conf is set, the file as a whole if it is not.
func placeOf(cfg *conf.Config, key string) conf.Pos {
	i := slices.IndexFunc(cfg.Origins, func(o conf.Origin) bool { return o.Key == key })
	if i < 0 || cfg.Origins[i].Pos.File == "" {
		return conf.Pos{File: cfg.Path}
	}
	return cfg.Origins[i].Pos
}

// reload reads the configuration again and puts it in force: whole, or not at all if anything in it is wrong. It runs on the
// configurator's goroutine.
func (d *daemon) reload(ctx context.Context, author string) (control.Reloaded, error) {
	d.notified(d.manager.Reloading())
	defer func() { d.notified(d.manager.Ready(d.inBrief())) }()
	next, err := d.prepare()
	if err != nil {
		d.log.Error("the configuration is not reloaded, the one before stays in force", "by", author, "err", err)
		d.records.Add(control.Record{Time: time.Now(), Event: "error", Reason: "reload: " + err.Error(), Author: author})
		return control.Reloaded{}, refuse("%v", err)
	}
	if err := d.swap(ctx, next); err != nil {
		return control.Reloaded{}, err
	}
	r := reloaded(next.cfg)
	r.Mode, r.Mistakes = d.mode(), d.lists.Mistakes()
	for _, text := range r.Notices {
		d.log.Warn("configuration", "note", text)
	}
	d.log.Info("the configuration is reloaded", "by", author, "rules", r.Rules, "mode", r.Mode)
	d.records.Add(control.Record{Time: time.Now(), Event: "reload", Author: author, Reason: fmt.Sprintf("%d rules are enabled", r.Rules)})
	return r, nil
}

// reloaded says what a configuration amounts to.
func reloaded(cfg *conf.Config) control.Reloaded {
	r := control.Reloaded{Config: cfg.Path, Mode: modeName(cfg.Observe)}
	for _, rule := range cfg.Rules {
		if rule.Enabled {
			r.Rules++
		}
	}
	for _, n := range cfg.Notices {
		r.Notices = append(r.Notices, fmt.Sprintf("%s: %s", n.Pos, n.Text))
	}
	return r
}

// swap puts a setup in force between two batches. A follower whose files change ends first, with every line that it handed
// over still in the engine's queue; its successor begins behind the last of them. Those that need not change go on.
func (d *daemon) swap(ctx context.Context, next *setup) error {
	h := d.lookAround(ctx)
	readers, err := query(ctx, d.loop, func() feed.Readers { return feed.Read(next.cfg, next.set, h, d.readers, time.Now()) })
	if err != nil {
		return err
	}
	before, drops := d.sources, d.cfg.Log
	d.followers.Stop(before, readers)
	drainErr, err := query(ctx, d.loop, func() error {
		err := d.drain(ctx)
		if err == nil {
			d.adopt(next, readers)
			d.sources = feed.New(d.feedConfig(), readers, before)
		}
		return err
	})
	if err = cmp.Or(err, drainErr); err != nil {
		return err
	}
	d.followers.Start(ctx, d.sources)
	if drops != next.cfg.Log && d.kernel != nil {
		if err := d.kernel.LogDrops(ctx, next.cfg.Log); err != nil {
			d.log.Error("change what the kernel logs", "err", err)
		}
	}
	if d.level != nil {
		d.level.Set(next.cfg.LogLevel)
	}
	d.reread(ctx)
	return nil
}

// drain deals with the batches that are waiting.
func (e *loop) drain(ctx context.Context) error {
	for range len(e.batches) {
		if err := e.batch(ctx, <-e.batches); err != nil {
			return err
		}
	}
	return nil
}

// adopt replaces the configuration. What was counted, and what was read, stays. It runs on the engine's goroutine.
func (e *loop) adopt(next *setup, readers feed.Readers) {
	e.cfg, e.set, e.readers = next.cfg, next.set, readers
	e.saveOrigins()
	e.engine.Configure(e.settings(next.cfg, next.set))
	e.setFacts(func(f *engine.Facts) { f.Proxies = next.cfg.ProxyAddrs() })
	e.applyMode()
	e.openEventLog(next.cfg)
}
