package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/control"
	"mef/internal/enforce"
	"mef/internal/enforce/kernel"
	"mef/internal/engine"
	"mef/internal/eventlog"
	"mef/internal/feed"
	"mef/internal/prefixset"
)

// unbanGrace is how long an address stays unbanned after an operator lifted its ban, so that lines already written, or a
// client that goes on with an old password, do not bring it back at once.
const unbanGrace = 10 * time.Minute

// Bans returns the bans in force, as the kernel holds them.
func (d *daemon) Bans(ctx context.Context) ([]control.Ban, error) {
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	return d.book.show(ctx, state, d.askListed), nil
}

// Ban puts a manual ban in force.
func (d *daemon) Ban(ctx context.Context, req control.BanRequest) (control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return control.Ban{}, err
	}
	ports, err := ban.ParsePorts(req.Ports)
	if err != nil {
		return control.Ban{}, refuse("%v", err)
	}
	if err := d.bannable(req.For, req.Note); err != nil {
		return control.Ban{}, err
	}
	wish := engine.Request{Prefix: prefix, For: req.For, Ports: ports, Author: req.Author, Note: req.Note, Caller: req.Caller.Unmap().WithZone(""), Force: req.Force}
	type decided struct {
		ban     ban.Ban
		refused error
	}
	decision, err := query(ctx, d.loop, func() (r decided) {
		r.ban, r.refused = d.engine.Manual(wish, time.Now())
		return r
	})
	if err != nil {
		return control.Ban{}, err
	}
	if decision.refused != nil {
		return control.Ban{}, refuse("%v", decision.refused)
	}
	b := decision.ban
	results, err := d.enforcer.BanNow(ctx, req.Force, b)
	if err != nil {
		return control.Ban{}, err
	}
	if err := results[0].Err; err != nil {
		return control.Ban{}, refuse("%v", err)
	}
	b.Until = results[0].Until
	err = d.do(ctx, func() {
		d.engine.Banned(b)
		d.unsaved.bans = append(d.unsaved.bans, b)
		d.save()
	})
	if err != nil {
		return control.Ban{}, err
	}
	d.flush(ctx)
	shown := showBan(b)
	shown.Kernel = true
	return shown, nil
}

// Unban lifts bans and returns once the kernel showed that they are gone.
func (d *daemon) Unban(ctx context.Context, req control.UnbanRequest) ([]control.Ban, error) {
	prefix, err := parsePrefix(req.Prefix)
	if err != nil {
		return nil, err
	}
	state, err := d.enforcer.Held(ctx)
	if err != nil {
		return nil, err
	}
	var lift enforce.State
	for _, held := range state.Bans {
		if held.Prefix == prefix || req.Covering && held.Prefix.Contains(prefix.Addr()) {
			lift.Bans = append(lift.Bans, held)
		}
	}
	if lift.Bans, err = d.withoutListed(ctx, lift.Bans); err != nil {
		return nil, err
	}
	keys := make([]ban.Key, len(lift.Bans))
	for i, held := range lift.Bans {
		keys[i] = held.Key
	}
	if len(keys) == 0 {
		return nil, refuse("%s is not banned; mefctl why %s says what is known", ban.Key{Prefix: prefix}, prefix.Addr())
	}
	if err := d.enforcer.Unban(ctx, unbanGrace, keys...); err != nil {
		return nil, err
	}
	lifted := d.book.show(ctx, lift, d.askListed)
	lifted = slices.DeleteFunc(lifted, func(b control.Ban) bool { return !b.Kernel })
	d.book.lift(keys)
	now := time.Now()
	err = d.do(ctx, func() {
		d.engine.Lifted(now, keys...)
		d.unsaved.lifted = append(d.unsaved.lifted, keys...)
		d.save()
	})
	d.flush(ctx)
	for _, b := range lifted {
		rec := unbanRecord(b, now)
		rec.Author = req.Author
		d.records.Add(rec)
	}
	return lifted, err
}

// unbanRecord tells that a ban is lifted, by the prefix by which its beginning was told.
func unbanRecord(b control.Ban, now time.Time) control.Record {
	if p, err := parsePrefix(b.Prefix); err == nil {
		b.Prefix = p.String()
	}
	return control.Record{Time: now, Event: "unban", Rule: b.Rule, Prefix: b.Prefix, Ports: b.Ports, Class: b.Class}
}

// Follow streams records.
func (d *daemon) Follow(ctx context.Context, emit func(control.Record) error) error {
	return d.records.Follow(ctx, emit)
}

// Stop ends the daemon.
func (d *daemon) Stop(author string) {
	d.log.Info("asked to stop", "by", author)
	d.stop()
}

// Status says whether the host is protected.
func (d *daemon) Status(ctx context.Context) (control.Status, error) {
	s := control.Status{Mode: d.mode(), Version: d.version, PID: os.Getpid(), Since: d.since, Config: d.path}
	bans, wrong, err := d.enforcer.Overview(ctx)
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	s.Kernel = d.showKernel(bans.Total, wrong, err)
	s.Bans = control.Tally{Total: bans.Total, IPv4: bans.IPv4, IPv6: bans.IPv6, Unverified: bans.Unverified, Permanent: bans.Permanent}
	s.Bans.Ever = d.book.total()
	h := d.lookAround(ctx)
	if err := d.proveJournal(ctx); err != nil {
		return s, err
	}
	seen := s
	s, err = query(ctx, d.loop, func() control.Status {
		s := seen
		d.readers = feed.Read(d.cfg, d.set, h, d.readers)
		d.describe(&s, h)
		return s
	})
	if err != nil {
		return s, err
	}
	d.proof.Load().show(&s, time.Now())
	d.judge(&s)
	showWindow(d.window.Load(), &s, time.Now())
	if undone := d.undone.Load(); undone != nil {
		s.Missing = append(s.Missing, "not done yet, mefdaemon tries again: "+*undone)
	}
	s.Protected = len(s.Missing) == 0
	return s, nil
}

// proveJournal has an entry go through the journal, if rules read it, so that the status shows what is so now.
func (d *daemon) proveJournal(ctx context.Context) error {
	sources, err := query(ctx, d.loop, func() *feed.Sources { return d.sources })
	if err == nil {
		sources.Prove(ctx)
	}
	return err
}

// kernel says whether the kernel holds what it should, by a look at it and by what the enforcer knows.
func (d *daemon) showKernel(bans int, wrong []string, err error) control.Kernel {
	e := d.enforcer.Status()
	k := control.Kernel{Backend: kernel.Backend, Table: kernel.Table, Present: err == nil && e.Ready && !slices.Contains(wrong, "table"),
		Elements: bans, Repairs: e.Repairs, Evicted: e.Evicted}
	if err != nil {
		k.Problems = append(k.Problems, err.Error())
	}
	if e.Problem != "" {
		k.Problems = append(k.Problems, e.Problem)
	}
	if k.Present && len(wrong) > 0 {
		k.Problems = append(k.Problems, "missing or changed, and not put back yet: "+strings.Join(wrong, ", "))
	}
	k.Matches = k.Present && len(k.Problems) == 0
	return k
}

// describe fills in what the engine knows. It runs on the engine's goroutine.
func (d *daemon) describe(s *control.Status, h *feed.Host) {
	d.readers.Describe(s, d.cfg, d.set, h, d.engine.Rule)
	d.warnLists(s)
	d.describeThreats(s)
	facts := d.engine.Facts()
	for _, family := range facts.FullyExempt() {
		s.Missing = append(s.Missing, fmt.Sprintf("the allow list has all of %s, so that nobody is banned; see mefctl lists whitelist", family))
	}
	s.WatchingSince = end(d.watching)
	var missing []string
	s.Sources, missing = d.sources.Status(d.readers, d.engine.Source)
	s.Missing = append(s.Missing, missing...)
	saved := d.saver.Status()
	s.Store = control.Store{Path: d.storePath(), Size: saved.Size, Pending: saved.Pending, Problem: saved.Problem, LastSaved: end(saved.LastCommit)}
	st := d.engine.Stats()
	s.Spared = control.Spared{AdminPeers: d.admins, Reasons: d.engine.Spared()}
	s.Tracker = control.Tracker{Sources: st.Sources, Limit: st.MaxSources, Evicted: st.Evicted, KnownLogins: st.Logins}
}

// judge says what is missing for the host to be protected, and what else is amiss.
func (d *daemon) judge(s *control.Status) {
	if d.observe.Load() && !d.window.Load().HasLapsed() {
		s.Missing = append(s.Missing, "mode=observe: bans are logged, not applied; set mode=enforce in "+d.path)
	}
	if !s.Kernel.Present {
		s.Missing = append(s.Missing, s.Kernel.Table+" is not in the kernel")
	}
	s.Missing = append(s.Missing, s.Kernel.Problems...)
	s.Missing = append(s.Missing, d.firewall()...)
	live := slices.ContainsFunc(s.Sources, func(src control.Source) bool { return src.State == "active" && len(src.Rules) > 0 })
	if !live {
		s.Missing = append(s.Missing, "no rule has a live source of log lines; see SOURCE and RULE below")
	}
	if s.Store.Problem != "" {
		s.Warnings = append(s.Warnings, fmt.Sprintf("state is not saved: %s; bans go on, and what a crash now would lose is counted anew", s.Store.Problem))
	}
	for _, why := range d.records.Problems() {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%s; bans go on, and mefctl events has the last %d records", why, eventlog.Kept))
	}
	if n := s.Kernel.Evicted; n > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("there were too many bans: %d have ended early since start, those with the least time left", n))
	}
	for _, src := range s.Sources {
		if src.Lost > 0 {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s: %d lines were lost: too long, suppressed or cut off", src.Name, src.Lost))
		}
	}
}

func refuse(format string, args ...any) error {
	return &control.Error{Message: fmt.Sprintf(format, args...)}
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return netip.Prefix{}, refuse("%q is no address and no network", s)
	}
	return prefixset.Normalize(p), nil
}
