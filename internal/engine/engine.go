// Package engine is filter, webscan, portscan, track and decide as one value: lines, packets or events go in, outcomes come out.
//
// An Engine does no I/O, starts no goroutine and reads no clock: its caller passes the time. mefdaemon connects it to a kernel, a disk and a
// control socket; mefctl replay to none of them. So both decide the same by construction, and everything else than a log line (the answer of
// a block list, a ban on another host) comes in as an event.
//
// An Engine belongs to one goroutine.
package engine

import (
	"slices"
	"strings"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/decide"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/portscan"
	"mef/internal/prefixset"
	"mef/internal/track"
	"mef/internal/track/bounded"
	"mef/internal/webscan"
)

// A Config configures an Engine. FromConf makes one of mef.conf.
type Config struct {
	Rules  *filter.Set   // how lines become events
	Scan   conf.Scan     // how packets to closed ports become events
	Flood  conf.Flood    // and those of sources that exceed limits
	Track  track.Config  // how events are counted; its rules need not be in Rules
	RBL    conf.RBL      // which block lists may be asked about sources, and what a listing leads to
	Feeds  bool          // feeds may be asked about sources, too
	Decide decide.Config // what limits that are reached lead to

	// WhatIf leaves out events that a ban would have kept from the host. A daemon counts them: they did reach it.
	WhatIf bool

	// Reads reports whether a rule reads the lines of a source (Batch.Source). The engine calls it once for each source and rule. nil: every
	// rule reads every source.
	Reads func(rule *conf.Rule, source string) bool

	// Accept reports whether an event from a source counts. A daemon leaves out what another source of the same rule has reported
	// already. nil: every event counts.
	Accept func(source string, ev *event.Event) bool
}

// FromConf returns the configuration in mef.conf, with its rules compiled.
func FromConf(cfg *conf.Config, rules *filter.Set) Config {
	all := counted(cfg.Rules)
	for _, r := range rules.Web() {
		all = append(all, webscan.Rules(r)...)
	}
	all = append(all, portscan.Rule(cfg.Scan), ruleOfFloods(cfg.Flood))
	all = append(all, rulesOfLists(cfg)...)
	return Config{
		Rules: rules,
		Scan:  cfg.Scan,
		Flood: cfg.Flood,
		RBL:   cfg.RBL,
		Feeds: slices.ContainsFunc(cfg.Feeds, func(f conf.Feed) bool { return f.Action != conf.FeedDrop }),
		Track: track.Config{Rules: all, Score: cfg.Score, Known: cfg.Known, History: cfg.Ban.History,
			IPv6Prefix: cfg.IPv6Prefix, NAT64: cfg.NAT64Prefixes(), Canaries: cfg.Canaries, StarterNames: cfg.StarterNames,
			LoginAlarms: cfg.LoginAlarms},
		Decide: decide.Config{Times: cfg.Ban, Observe: cfg.Observe, Alone: !cfg.BanNetworks},
	}
}

// FactsFromConf returns the facts that mef.conf states. The allow list and the host's own are not among them.
func FactsFromConf(cfg *conf.Config) exempt.Facts {
	return exempt.Facts{Proxies: cfg.ProxyAddrs(), CDNs: exempt.CDNs()}
}

// An Engine turns lines and events into bans.
type Engine struct {
	cfg     Config
	facts   exempt.Facts
	blocked *prefixset.Packed
	rules   map[string]*rule
	ruleBy  bounded.ByName[*rule] // the same
	listens map[string]ban.Ports  // where the services of rules listen, by the name of the rule in its file
	views   map[string]*view      // by Batch.Source
	shared  *filter.Views         // which makes them
	tracker *track.Tracker
	newest  newest
	spared  map[string]uint64
	web     web
	scans   *portscan.Scanner
	listed  listings

	// The line at hand and what follows from it, kept here so that they cost no allocation.
	match   filter.Match
	names   filter.Names
	ev      event.Event
	out     Outcome
	counted Outcome // of kind Counted or Blocked, which have no Ban and no Reason: most outcomes are of them
}

// A rule is one of Config.Track.Rules with what status shows of it.
type rule struct {
	event.Rule
	counts event.RuleCounts
	recent recent
}

// A view is what one source's lines are matched against.
type view struct {
	*filter.View
	web    *webView // nil: no rule with engine=webscan reads it
	counts event.SourceCounts
}

// New returns an Engine that has counted nothing.
func New(cfg Config, facts exempt.Facts) *Engine {
	e := &Engine{cfg: cfg, facts: facts, views: make(map[string]*view), spared: make(map[string]uint64), scans: portscan.New(cfg.Scan)}
	e.setRules()
	e.tracker = track.New(e.tracked())
	e.shared = cfg.Rules.Views()
	e.web = newWeb(cfg.Rules, nil)
	e.web.setFacts(&e.facts)
	return e
}

// Configure replaces the configuration; Config.Track.Seed stays as it was. Counts stay, except those of rules that the configuration no longer has.
func (e *Engine) Configure(cfg Config) {
	cfg.Track.Accounts = e.cfg.Track.Accounts
	e.cfg = cfg
	e.setRules()
	e.tracker.Configure(e.tracked())
	e.scans.Configure(cfg.Scan)
	e.listed.configure(e.rules)
	e.shared = cfg.Rules.Views()
	e.web = newWeb(cfg.Rules, &e.web)
	for source, old := range e.views {
		v := e.newView(source)
		v.counts = old.counts
		v.Inherit(old.View)
		if v.web != nil && old.web != nil {
			v.web.reader = old.web.reader // a line may have come in part
		}
		e.views[source] = v
	}
}

// setRules replaces the rules by those of the configuration, each with the counts of the rule of its name before.
func (e *Engine) setRules() {
	before := e.rules
	e.rules = make(map[string]*rule, len(e.cfg.Track.Rules))
	for _, r := range e.cfg.Track.Rules {
		file, _, _ := strings.Cut(r.Name, "/") // engine=webscan: rule/threshold
		e.rules[r.Name] = &rule{Rule: r.Listening(e.listens[file])}
		if old, ok := before[r.Name]; ok {
			e.rules[r.Name].counts, e.rules[r.Name].recent = old.counts, old.recent
		}
	}
	e.ruleBy.Set(e.rules)
}

// tracked returns the configuration of the tracker, with the ports of rules as they are now.
func (e *Engine) tracked() track.Config {
	cfg := e.cfg.Track
	cfg.OnLink = e.facts.OnLink
	cfg.Rules = slices.Clone(cfg.Rules)
	for i := range cfg.Rules {
		cfg.Rules[i] = e.rules[cfg.Rules[i].Name].Rule
	}
	return cfg
}

// SetListening replaces the TCP ports at which the services of rules listen, by the names of the rules in their files. They count for rules
// with ports=auto, and for bans from now on.
func (e *Engine) SetListening(ports map[string]ban.Ports) {
	e.listens = ports
	e.setRules()
	e.tracker.Configure(e.tracked())
}

// Ports returns the ports of the bans of the rule of that name; of one with engine=webscan, those of its thresholds.
func (e *Engine) Ports(name string) ban.Ports {
	if r, ok := e.rules[name]; ok {
		return r.Ports
	}
	for r := range e.thresholds(name) {
		return r.Ports
	}
	return ""
}

// SetObserve makes decisions be reported and not applied, or ends that.
func (e *Engine) SetObserve(observe bool) { e.cfg.Decide.Observe = observe }

// Facts returns which addresses must stay reachable. What it shares with the engine must not be changed.
func (e *Engine) Facts() exempt.Facts { return e.facts }

// SetFacts replaces the addresses that must stay reachable. Bans in force stay as they are.
func (e *Engine) SetFacts(facts exempt.Facts) {
	e.facts = facts
	e.web.setFacts(&facts)
	e.tracker.SetOnLink(facts.OnLink)
}

// SetBlocked replaces the addresses that the blacklist bans. Events from there count, and lead to no further ban.
func (e *Engine) SetBlocked(addrs *prefixset.Packed) { e.blocked = addrs }

// SetAccounts replaces the accounts of this host; see track.Config.
func (e *Engine) SetAccounts(accounts map[string]bool) {
	e.cfg.Track.Accounts = accounts
	e.tracker.SetAccounts(accounts)
}

func (e *Engine) newView(source string) *view {
	reads := e.cfg.Reads
	if reads == nil {
		reads = func(*conf.Rule, string) bool { return true }
	}
	mine := func(r *conf.Rule) bool { return reads(r, source) }
	return &view{View: e.shared.View(mine), web: e.web.view(mine)}
}

// view returns the view of a source, made when its first line arrives.
func (e *Engine) view(source string) *view {
	v, ok := e.views[source]
	if !ok {
		v = e.newView(source)
		e.views[source] = v
	}
	return v
}

// Forget drops what is kept for a source that has ended: its view, with the sessions that its lines belong to, and its counts.
func (e *Engine) Forget(source string) { delete(e.views, source) }

// Sources returns the names of the sources with views, sorted.
func (e *Engine) Sources() []string {
	names := make([]string, 0, len(e.views))
	for name := range e.views {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
