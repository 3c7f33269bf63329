package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"mef/internal/conf"
	"mef/internal/control"
	"mef/internal/enforce/kernel"
	"mef/internal/engine"
	"mef/internal/hostwatch"
	"mef/internal/lists"
	"mef/internal/owner"
)

// compile makes a set of the rules. The error is conf.Errors.
func compile(cfg *conf.Config) (*engine.Rules, error) {
	return engine.Compile(cfg.Rules, hostwatch.UserIDs())
}

// prepare reads the configuration again and compiles it: nothing in it can fail any more. Its error has the text that mefctl config check
// prints.
func (c *configurator) prepare() (*conf.Config, *engine.Rules, error) {
	cfg, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	cfg.KeepPaths(c.cfg)
	rules, err := compile(cfg)
	return cfg, rules, err
}

// Reload reads the configuration again and puts it in force, if it has no mistakes.
func (d *daemon) Reload(ctx context.Context, author string) (control.Reloaded, error) {
	return owner.Ask(ctx, d.config, func(ctx context.Context, c *configurator) (control.Reloaded, error) { return c.reload(ctx, author) })
}

// reload reads the configuration again and puts it in force: whole, or not at all if anything in it is wrong.
func (c *configurator) reload(ctx context.Context, author string) (control.Reloaded, error) {
	c.notified(c.manager.Reloading())
	defer func() { c.notified(c.manager.Ready(c.inBrief())) }()
	next, rules, err := c.prepare()
	if err == nil {
		err = c.lockOut(ctx, next)
	}
	if err != nil {
		c.Log.Error("the configuration was not reloaded; the current one stays in force", "by", author, "err", err)
		c.Records.Add(control.Record{Time: time.Now(), Event: "error", Reason: "reload: " + err.Error(), Author: author})
		return control.Reloaded{}, control.Refuse("%v", err)
	}
	if err := c.swap(ctx, next, rules); err != nil {
		return control.Reloaded{}, err
	}
	r := control.Reloaded{Config: next.Path, Mode: c.Mode(), Mistakes: c.lists.Mistakes()}
	for _, rule := range next.Rules {
		if rule.Enabled {
			r.Rules++
		}
	}
	for _, n := range next.Notices {
		r.Notices = append(r.Notices, fmt.Sprintf("%s: %s", n.Pos, n.Text))
		c.Log.Warn("configuration", "note", r.Notices[len(r.Notices)-1])
	}
	c.Log.Info("the configuration is reloaded", "by", author, "rules", r.Rules, "mode", r.Mode)
	c.Records.Add(control.Record{Time: time.Now(), Event: "reload", Author: author, Reason: fmt.Sprintf("%d rules are enabled", r.Rules)})
	return r, nil
}

// lockOut returns an error if a configuration would close the SSH ports to the country of an administrator who is logged in. The address stays
// reachable as long as it is known; others in that country do not.
func (c *configurator) lockOut(ctx context.Context, next *conf.Config) error {
	facts, err := c.facts(ctx)
	if err != nil {
		return err
	}
	if why := lists.LockOut(next, c.cfg.Access, facts.Sessions.Subtract(facts.Reachable()), cmp.Or(facts.SSHPorts, "22")); why != "" {
		return errors.New(why)
	}
	return nil
}

// recompile compiles the rules again and puts them in force.
func recompile(ctx context.Context, c *configurator) error {
	rules, err := compile(c.cfg)
	if err != nil {
		return err
	}
	return c.swap(ctx, c.cfg, rules)
}

// swap puts a configuration and its rules in force between two batches.
func (c *configurator) swap(ctx context.Context, next *conf.Config, rules *engine.Rules) error {
	if err := c.sources.Configure(ctx, next, rules); err != nil {
		return err
	}
	if settings := kernel.SettingsFromConf(next); !reflect.DeepEqual(settings, kernel.SettingsFromConf(c.cfg)) {
		if err := c.kernel.Configure(ctx, settings); err != nil {
			c.Log.Error("change what the packet filter logs and reports", "err", err)
		}
	}
	c.cfg = next
	if c.level != nil {
		c.level.Set(next.LogLevel)
	}
	c.lists.Feeds().Configure(next)
	c.notifier.Configure(next.Notify)
	c.page.Configure(next.Page)
	c.rereadLists(ctx)
	return nil
}
