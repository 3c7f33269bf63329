package daemon

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/engine"
	"mef/internal/feed"
	"mef/internal/hostwatch"
	"mef/internal/owner"
	"mef/internal/pipeline"
)

// A setup is a configuration checked whole and compiled: nothing in it can fail any more.
type setup struct {
	cfg   *conf.Config
	rules *engine.Rules
}

// compile makes a set of the rules. The error is conf.Errors.
func compile(cfg *conf.Config) (*engine.Rules, error) {
	return engine.Compile(cfg.Rules, hostwatch.UserID)
}

// prepare reads the configuration again. Its error has the text that mefctl config check prints.
func (c *configurator) prepare() (*setup, error) {
	cfg, err := c.load()
	if err != nil {
		return nil, err
	}
	rules, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	keepPaths(cfg, c.cfg)
	return &setup{cfg, rules}, nil
}

// keepPaths leaves the paths in force that a running daemon cannot change, and reports that in a notice.
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
			Text: fmt.Sprintf("%s: %q takes effect when mefdaemon is restarted; until then it is %q", p.key, *p.path, p.unchange)})
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

// Reload reads the configuration again and puts it in force, if it has no mistakes.
func (d *daemon) Reload(ctx context.Context, author string) (control.Reloaded, error) {
	return owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Reloaded, error) { return c.reload(ctx, author) })
}

// reload reads the configuration again and puts it in force: whole, or not at all if anything in it is wrong.
func (c *configurator) reload(ctx context.Context, author string) (control.Reloaded, error) {
	c.notified(c.manager.Reloading())
	defer func() { c.notified(c.manager.Ready(c.inBrief())) }()
	next, err := c.prepare()
	if err != nil {
		c.Log.Error("the configuration was not reloaded; the current one stays in force", "by", author, "err", err)
		c.Records.Add(control.Record{Time: time.Now(), Event: "error", Reason: "reload: " + err.Error(), Author: author})
		return control.Reloaded{}, control.Refuse("%v", err)
	}
	if err := c.swap(ctx, next); err != nil {
		return control.Reloaded{}, err
	}
	r := control.Reloaded{Config: next.cfg.Path, Mode: c.Mode(), Mistakes: c.lists.Mistakes()}
	for _, rule := range next.cfg.Rules {
		if rule.Enabled {
			r.Rules++
		}
	}
	for _, n := range next.cfg.Notices {
		r.Notices = append(r.Notices, fmt.Sprintf("%s: %s", n.Pos, n.Text))
		c.Log.Warn("configuration", "note", r.Notices[len(r.Notices)-1])
	}
	c.Log.Info("the configuration is reloaded", "by", author, "rules", r.Rules, "mode", r.Mode)
	c.Records.Add(control.Record{Time: time.Now(), Event: "reload", Author: author, Reason: fmt.Sprintf("%d rules are enabled", r.Rules)})
	return r, nil
}

// recompile compiles the rules again and puts them in force.
func recompile(ctx context.Context, c *configurator) error {
	rules, err := compile(c.cfg)
	if err != nil {
		return err
	}
	return c.swap(ctx, &setup{c.cfg, rules})
}

// swap puts a setup in force between two batches. A follower whose files change ends first, with every line that it handed
// over still in the engine's queue; its successor begins behind the last of them. Those that need not change go on.
func (c *configurator) swap(ctx context.Context, next *setup) error {
	h := c.look(ctx)
	readers, err := owner.Query(ctx, c.Engine, func(s *pipeline.State) feed.Readers { return feed.Read(next.cfg, next.rules, h, s.Readers, time.Now()) })
	if err != nil {
		return err
	}
	before := c.sources.Load()
	c.followers.Stop(before, readers, feed.StreamsFromConf(next.cfg))
	err = owner.Act(ctx, c.Engine, func(ctx context.Context, s *pipeline.State) error {
		if err := s.Drain(ctx); err != nil {
			return err
		}
		s.Configure(next.cfg, next.rules, readers)
		c.sources.Store(feed.New(s.FeedConfig(), readers, before))
		return nil
	})
	if err != nil {
		return err
	}
	c.followers.Start(ctx, c.sources.Load())
	if settings := settingsOf(next.cfg); !reflect.DeepEqual(settings, settingsOf(c.cfg)) {
		if err := c.kernel.Configure(ctx, settings); err != nil {
			c.Log.Error("change what the packet filter logs and reports", "err", err)
		}
	}
	c.cfg = next.cfg
	if c.level != nil {
		c.level.Set(next.cfg.LogLevel)
	}
	c.rereadLists(ctx)
	return nil
}
