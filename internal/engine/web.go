package engine

import (
	"bytes"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/exempt"
	"mef/internal/filter"
	"mef/internal/prefixset"
	"mef/internal/webscan"
)

// web is the rules with engine=webscan. Lines of all sources that such a rule reads are counted together.
type web struct {
	rules    []webRule
	proxies  prefixset.Set // addresses with many clients behind them
	crawlers *crawlers
}

type webRule struct {
	*conf.Rule
	scanner  *webscan.Scanner
	believes func(*event.Entry) bool
}

// A webView is the rules that read one source.
type webView struct {
	reader webscan.Reader
	rules  []webRule
	usual  bool // no rule has a format of its own
}

// newWeb returns the rules of a set, with what before has counted for those that are unchanged.
func newWeb(set *filter.Set, before *web) web {
	w := web{crawlers: newCrawlers()}
	if before != nil {
		w.crawlers, w.proxies = before.crawlers, before.proxies
	}
	for _, r := range set.Web() {
		one := webRule{r, webscan.New(r), set.Believer(r.Name)}
		if before != nil {
			for _, old := range before.rules {
				if old.Name == r.Name {
					one.scanner.Inherit(old.scanner)
				}
			}
		}
		w.rules = append(w.rules, one)
	}
	return w
}

// setFacts sets which addresses have many clients behind them.
func (w *web) setFacts(facts *exempt.Facts) {
	if len(w.rules) == 0 {
		return
	}
	w.proxies = facts.Proxies
	for _, cdn := range facts.CDNs {
		w.proxies = w.proxies.Union(cdn.Networks)
	}
}

func (w *web) view(reads func(*conf.Rule) bool) *webView {
	v := webView{usual: true}
	for _, r := range w.rules {
		if reads(r.Rule) {
			v.rules = append(v.rules, r)
			v.usual = v.usual && !r.scanner.HasFormat()
		}
	}
	if len(v.rules) == 0 {
		return nil
	}
	return &v
}

// request counts a line that may be a request, and yields what follows. It returns false once yield does.
func (e *Engine) request(v *webView, b *event.Batch, line *event.Line, now time.Time, yield func(*Outcome) bool) bool {
	if v.usual && bytes.IndexByte(line.Text, '"') < 0 {
		return true // no usual format is without
	}
	var usual, own webscan.Request
	read, readable := false, false
	for i := range v.rules {
		rule := &v.rules[i]
		if line.Entry != nil && !rule.believes(line.Entry) {
			continue
		}
		r := &own
		has, ok := rule.scanner.Read(line.Text, r)
		if !has {
			if !read {
				read, readable = true, v.reader.Read(line.Text, line.Offset, &usual)
			}
			r, ok = &usual, readable
		}
		if ok && !e.countRequest(rule, r, b, line, now, yield) {
			return false
		}
	}
	return true
}

// countRequest counts a request by one rule.
func (e *Engine) countRequest(rule *webRule, r *webscan.Request, b *event.Batch, line *event.Line, now time.Time, yield func(*Outcome) bool) bool {
	client, through := r.Addr, netip.Addr{}
	if e.web.proxies.Contains(client) {
		addr, ok := r.Client(e.web.proxies.Contains)
		if !ok {
			return true // many clients
		}
		client, through = addr, client
	}
	if e.cfg.WhatIf && e.tracker.Blocked(client, rule.ServicePorts, line.Time) {
		return true
	}
	standing := webscan.Ordinary
	if c := rule.scanner.Crawler(r); c != nil {
		var ask bool
		if standing, ask = e.web.crawlers.standing(client, c, line.Time); ask &&
			!e.emit(Outcome{Kind: Verify, Time: line.Time, Claim: Claim{Addr: client, Crawler: c}}, yield) {
			return false
		}
	}
	more := true
	rule.scanner.Count(e.tracker.Source(client), r, standing, line.Text, line.Time, func(ep webscan.Episode) {
		if !more {
			return
		}
		e.ev = event.Event{Time: line.Time, Rule: ep.Rule, Service: rule.Service, Addr: client, Kind: event.Failure, Count: 1,
			Verified: !rule.UDP && !b.Unverified && !through.IsValid(), Position: event.Position{Stream: b.Stream, Offset: line.Offset},
			From:    line,
			Episode: &event.Episode{Text: ep.Text, Lines: ep.Evidence, Through: through}}
		more = e.event(b.Source, &e.ev, now, yield)
	})
	return more
}

// webRule returns the counts of a rule with engine=webscan: those of all its thresholds.
func (e *Engine) webRule(name string) (sum event.RuleCounts) {
	for r := range e.thresholds(name) {
		sum.Failures += r.counts.Failures
		sum.Bans += r.counts.Bans
	}
	return sum
}

// thresholds yields the rules that the thresholds of a rule with engine=webscan are.
func (e *Engine) thresholds(name string) iter.Seq[*rule] {
	return func(yield func(*rule) bool) {
		for _, web := range e.web.rules {
			if web.Name != name {
				continue
			}
			for i := range web.Web.Thresholds {
				if r, ok := e.rules[webscan.EventRule(web.Rule, &web.Web.Thresholds[i])]; ok && !yield(r) {
					return
				}
			}
		}
	}
}

// explainRequests returns what is counted for an address, and whether it is a crawler.
func (e *Engine) explainRequests(addr netip.Addr, now time.Time) (lines []string) {
	if text := e.web.crawlers.explain(addr); text != "" {
		lines = append(lines, text)
	}
	for _, r := range e.web.rules {
		lines = append(lines, r.scanner.Explain(e.tracker.Source(addr), now)...)
	}
	if len(lines) > 0 && e.web.proxies.Contains(addr) {
		lines = append(lines, "requests through it count for the clients that it names")
	}
	return lines
}

// WebStats returns how full the tables of rules with engine=webscan are, by rule.
func (e *Engine) WebStats() map[string]webscan.Stats {
	all := make(map[string]webscan.Stats, len(e.web.rules))
	for _, r := range e.web.rules {
		all[r.Name] = r.scanner.Stats()
	}
	return all
}

// A Claim is that an address is one of a search engine's crawler.
type Claim struct {
	Addr netip.Addr
	*webscan.Crawler
}

// Answered records whether a Claim is true. An err means that it could not be verified; Verify is emitted again later.
func (e *Engine) Answered(c Claim, is bool, err error, now time.Time) {
	e.web.crawlers.answered(c, is, err, now)
}

// crawlers are addresses whose requests claim to come from search engines. Verified ones have a table of their own, so that
// false claims do not evict them.
type crawlers struct {
	verified, others claims
}

// Bounds on what is kept.
const (
	maxVerified = 1024
	maxClaims   = 4096

	keepVerified = 7 * 24 * time.Hour
	keepFalse    = 24 * time.Hour
	askAgain     = 10 * time.Minute // where it could not be found out
	patience     = 30 * time.Second // how long what a source does is held back for an answer
)

// claims are the last claims of a kind: the oldest goes when there is no room.
type claims struct {
	by    map[claimKey]*claim
	ring  []claimKey
	next  int
	limit int
}

type claimKey struct {
	addr    netip.Addr
	crawler *webscan.Crawler
}

type claim struct {
	standing webscan.Standing
	at       time.Time // when it was asked, or answered
}

func newCrawlers() *crawlers {
	return &crawlers{claims{by: make(map[claimKey]*claim), limit: maxVerified}, claims{by: make(map[claimKey]*claim), limit: maxClaims}}
}

func (c *claims) put(key claimKey, to claim) {
	if old, ok := c.by[key]; ok {
		*old = to
		return
	}
	if len(c.ring) < c.limit {
		c.ring = append(c.ring, key)
	} else {
		delete(c.by, c.ring[c.next])
		c.ring[c.next] = key
		c.next = (c.next + 1) % c.limit
	}
	c.by[key] = &to
}

// standing returns what is known of a claim at a time, and whether it is to be asked.
func (c *crawlers) standing(addr netip.Addr, of *webscan.Crawler, at time.Time) (is webscan.Standing, ask bool) {
	key := claimKey{addr, of}
	if v, ok := c.verified.by[key]; ok && at.Sub(v.at) < keepVerified {
		return webscan.Verified, false
	}
	o, ok := c.others.by[key]
	switch {
	case !ok:
	case o.standing == webscan.False && at.Sub(o.at) < keepFalse:
		return webscan.False, false
	case o.standing != webscan.False && at.Sub(o.at) < patience && o.standing == webscan.Pending:
		return webscan.Pending, false
	case o.standing != webscan.False && at.Sub(o.at) < askAgain:
		return webscan.Ordinary, false
	}
	c.others.put(key, claim{webscan.Pending, at})
	return webscan.Pending, true
}

func (c *crawlers) answered(of Claim, is bool, err error, now time.Time) {
	key := claimKey{of.Addr, of.Crawler}
	switch {
	case err != nil:
		c.others.put(key, claim{webscan.Ordinary, now})
	case is:
		c.verified.put(key, claim{webscan.Verified, now})
	default:
		c.others.put(key, claim{webscan.False, now})
	}
}

// explain returns what is known of an address.
func (c *crawlers) explain(addr netip.Addr) string {
	for key, v := range c.verified.by {
		if key.addr == addr {
			return fmt.Sprintf("a verified crawler of %s since %s: its requests do not count", key.crawler.Name, v.at.Format(time.DateTime))
		}
	}
	for key, o := range c.others.by {
		if key.addr == addr && o.standing == webscan.False {
			return fmt.Sprintf("its agent is that of %s, its name is not", key.crawler.Name)
		}
	}
	return ""
}
