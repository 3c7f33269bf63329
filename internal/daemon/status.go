package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"mef/internal/control"
	"mef/internal/enforce/kernel"
	"mef/internal/eventlog"
	"mef/internal/feed"
)

// Status says whether the host is protected.
func (d *daemon) Status(ctx context.Context) (control.Status, error) {
	s := control.Status{Mode: d.mode(), Version: d.version, PID: os.Getpid(), Since: d.since, Config: d.path}
	bans, wrong, err := d.enforcer.Overview(ctx)
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	s.Kernel = d.showKernel(bans.Total, wrong, err)
	s.Bans = control.Tally{Total: bans.Total, IPv4: bans.IPv4, IPv6: bans.IPv6, Unverified: bans.Unverified, Permanent: bans.Permanent}
	s.Bans.Ever = d.reasons.total()
	h := d.lookAround(ctx)
	if err := d.proveJournal(ctx); err != nil {
		return s, err
	}
	seen := s
	s, err = query(ctx, d.loop, func() control.Status {
		s := seen
		d.readers = feed.Read(d.cfg, d.set, h, d.readers, time.Now())
		d.describe(&s, h)
		return s
	})
	if err != nil {
		return s, err
	}
	d.selftest.Load().show(&s, time.Now())
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

// showKernel returns whether the kernel holds what it should, by a look at it and by what the enforcer knows.
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

// notify tells the service manager when the kernel holds the bans, from then on that the engine answers, and at last that ctx
// is done. A daemon that hangs falls silent, and is started again.
func (d *daemon) notify(ctx context.Context) error {
	if err := d.enforcer.Ready(ctx); err == nil {
		d.notified(d.manager.Ready(d.inBrief()))
		d.manager.Watch(ctx, func(ctx context.Context) (string, error) {
			return d.inBrief(), d.do(ctx, func() {})
		}, d.notified)
	}
	<-ctx.Done()
	d.notified(d.manager.Stopping())
	return nil
}

func (d *daemon) notified(err error) {
	if err != nil {
		d.log.Warn("service manager", "err", err)
	}
}

// inBrief is what systemctl status shows of the daemon.
func (d *daemon) inBrief() string {
	s := d.enforcer.Status()
	if s.Problem != "" {
		return fmt.Sprintf("%s: %s", d.mode(), s.Problem)
	}
	return fmt.Sprintf("%s, %d bans; mefctl status tells more", d.mode(), s.Bans)
}

const (
	// testAfter lets the daemon take up its work before it proves that it works.
	testAfter = time.Second
	// testEvery is how often it is proven, in namespaces of its own, that a ban blocks on this machine.
	testEvery = time.Hour
	// testAge is how old the last self-test may be before the host no longer counts as protected.
	testAge = testEvery + 10*time.Minute
)

// prove runs the self-test at the start and every hour until ctx is done.
func (d *daemon) runSelftests(ctx context.Context) error {
	next := time.NewTimer(testAfter)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			next.Reset(testEvery)
		}
		p := d.testOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		d.selftest.Store(&p)
		if !p.ok && p.impossible == "" {
			d.log.Error("the self-test failed: bans may not block", "detail", p.detail)
			d.records.Add(control.Record{Time: p.at, Event: "error", Reason: "self-test: " + p.detail})
		}
	}
}

// testOnce tries bans with packets, and compares the table that guards this host with what it should hold.
func (d *daemon) testOnce(ctx context.Context) selftestResult {
	impossible, problem := d.selfTest(ctx)
	p := selftestResult{ok: impossible == "" && problem == "", impossible: impossible, detail: problem}
	if wrong := d.enforcer.Fault(ctx, control.MendTime); wrong != "" {
		p = selftestResult{detail: strings.TrimPrefix(p.detail+"; live table: "+wrong, "; ")}
	}
	p.at = time.Now()
	return p
}

// A selftestResult is the outcome of one self-test.
type selftestResult struct {
	at         time.Time
	ok         bool
	impossible string // why it cannot be run here
	detail     string // what failed
}

// show adds the result to a status as of now: a failure means unprotected, no possibility of a test is a warning.
func (p *selftestResult) show(s *control.Status, now time.Time) {
	switch {
	case p == nil:
		s.Proof = control.Proof{State: "running"}
	case p.impossible != "":
		s.Proof = control.Proof{State: "impossible", At: &p.at, Detail: p.impossible}
		s.Warnings = append(s.Warnings, "the self-test cannot be run here: "+p.impossible)
	case !p.ok:
		s.Proof = control.Proof{State: "failed", At: &p.at, Detail: p.detail}
		s.Missing = append(s.Missing, "the self-test failed: "+p.detail+"; run mefctl selftest")
	case now.Sub(p.at) > testAge:
		s.Proof = control.Proof{State: "old", At: &p.at}
		s.Missing = append(s.Missing, "the last self-test is older than an hour; run mefctl selftest")
	default:
		s.Proof = control.Proof{State: "passed", At: &p.at}
	}
}
