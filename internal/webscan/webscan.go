// Package webscan finds sources that search web sites for holes, by their requests in access logs.
//
// No line of such a log is an attack by itself: a visitor may follow an old link, and a browser requests an icon that does not exist.
// But no visitor requests /.env, /wp-login.php and /vendor/phpunit within a minute, and is refused each time. A Reader makes a
// Request of a line; a Scanner counts the requests of each source by the thresholds of a rule, and reports when one is reached.
//
// # Windows
//
// "Ten requests within a minute" holds if the tenth last request is at most a minute old. So a Scanner keeps the times of as many
// requests of a source as its thresholds ask for, and no more; for "five different agents" it keeps the last five, each with the time of
// its last request. Windows slide, nothing is rounded to full minutes, and memory is fixed: a source takes the same room whatever it does.
//
// # When there is no room
//
// MaxSources are followed. To make room for a new one, a few sources are compared, and one is dropped: one that is idle, otherwise the
// one that is farthest from every threshold, otherwise the one that was seen longest ago. Somebody who comes from very many addresses with a request each
// pushes out others that have done as little, and not a scanner.
//
// # Who is left out
//
// Crawlers of search engines request every page that others link to. The requests of a verified crawler do not count; see Crawler.
//
// The package does no I/O. A Scanner belongs to one goroutine, and uses only the times that it is given.
package webscan

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/duration"
	"mef/internal/event"
	"mef/internal/filter/tdfa"
)

// A Scanner counts requests by one rule.
type Scanner struct {
	rule       *conf.Rule
	thresholds []threshold
	allowed    glob // paths
	allowedUA  glob
	agents     [agentSlots]agent

	table table
	form  *form  // of the rule's own patterns; nil: there are none
	path  []byte // scratch: the target as globs are compared with it
}

// A threshold is one of the rule's with what it needs to be counted.
type threshold struct {
	*conf.Threshold
	event  string // name of its events: RULE/NAME
	window uint32 // seconds
	uri    glob
	ua     glob

	requests, refused ring
	uris, agents      set
}

// An Episode is a threshold that a source has reached.
type Episode struct {
	Rule     string // RULE/NAME
	Text     string // a description of what was counted
	Evidence []string
}

// New returns a Scanner for a rule with engine=webscan.
func New(rule *conf.Rule) *Scanner {
	w := rule.Web
	s := &Scanner{rule: rule, form: newForm(w.Patterns), allowed: glob{list: w.AllowURIs}, allowedUA: glob{list: w.AllowAgents}}
	words := 0
	for i := range w.Thresholds {
		t := threshold{Threshold: &w.Thresholds[i], event: EventRule(rule, &w.Thresholds[i])}
		t.window = uint32(t.Window / time.Second)
		t.uri.list, t.ua.list = t.URI, t.Agent
		t.requests, words = newRing(t.Requests, words)
		t.refused, words = newRing(t.Refused, words)
		t.uris, words = newSet(t.URIs, words)
		t.agents, words = newSet(t.Agents, words)
		s.thresholds = append(s.thresholds, t)
	}
	s.table = newTable(w.MaxSources, words, uint32(w.Idle/time.Second))
	return s
}

// EventRule names the events of a threshold.
func EventRule(rule *conf.Rule, t *conf.Threshold) string { return rule.Name + "/" + t.Name }

// Rules returns how the events of a rule's thresholds count: each is an episode, and the first bans.
func Rules(rule *conf.Rule) []event.Rule {
	var all []event.Rule
	for i := range rule.Web.Thresholds {
		t := &rule.Web.Thresholds[i]
		r := event.Rule{Name: EventRule(rule, t), Service: rule.Service, MaxRetry: 1, FindTime: max(t.Window, time.Minute), BanTime: t.BanTime,
			Points: rule.Weight, Ports: rule.Ports, ServicePorts: rule.ServicePorts, PortsAuto: rule.PortsAuto,
			ServiceAuto: rule.ServiceAuto || rule.ServicePorts == "" && rule.PortsAuto, Detect: t.Action == conf.ActionDetect}
		if r.BanTime == 0 {
			r.BanTime = rule.BanTime
		}
		if r.ServicePorts == "" {
			r.ServicePorts = rule.Ports
		}
		if rule.Escalation.Enabled {
			r.Escalation = event.Escalation{Window: rule.Escalation.Window, Threshold: rule.Escalation.Threshold}
		}
		all = append(all, r)
	}
	return all
}

// Crawler returns the search engine whose crawler the agent of a request names; nil if it names none.
func (s *Scanner) Crawler(r *Request) *Crawler { return s.agent(r.Agent).crawler }

// Count counts a request of a source, and calls reached for each threshold that it reaches. line is the record as evidence. An Episode
// whose threshold has been reached begins anew.
//
// A request of a Verified crawler does not count. Pending means that it is not known yet whether the request is from the crawler that it
// names: a threshold that it reaches is held back, and reached by a later request. False means that it is from another source.
func (s *Scanner) Count(source netip.Prefix, r *Request, is Standing, line []byte, at time.Time, reached func(Episode)) {
	if is == Verified {
		return
	}
	agent := s.agent(r.Agent)
	if agent.allowed || s.allows(r) {
		return
	}
	now := s.table.clock(at)
	var e entry
	found, folded, sampled := false, false, false
	for i := range s.thresholds {
		t := &s.thresholds[i]
		inStatus := t.Status.Has(r.Status)
		if t.FalseCrawler && is != False || t.Narrow() && !inStatus {
			continue
		}
		if t.Narrow() {
			if !folded && len(t.uri.list) > 0 {
				s.path, folded = fold(s.path[:0], r.Target), true
			}
			if !agent.matches(i) && !t.uri.match(s.path) {
				continue
			}
		}
		if !found {
			e, found = s.table.open(source, now, s.danger), true
		}
		held := t.requests.add(e.words, now, t.window)
		if inStatus {
			t.refused.add(e.words, now, t.window)
		}
		held = t.refused.full(e.words, now, t.window) && held
		held = t.uris.add(e.words, hash(r.Path()), now, t.window) && held
		held = t.agents.add(e.words, agent.hash, now, t.window) && held
		if !sampled && inStatus && (t.Narrow() || r.Status >= 400) {
			s.table.sample(&e, line)
			sampled = true
		}
		if held && is != Pending {
			reached(Episode{t.event, t.text(e.words, now, false), s.table.samples(&e)})
			t.clear(e.words)
		}
	}
}

// allows reports whether the rule's whitelist has the path of a request.
func (s *Scanner) allows(r *Request) bool {
	if len(s.allowed.list) == 0 && len(s.rule.Web.AllowExtensions) == 0 {
		return false
	}
	s.path = fold(s.path[:0], r.Path())
	return s.allowed.match(s.path) || hasExtension(s.path, s.rule.Web.AllowExtensions)
}

// text describes what is counted for a threshold, and what the threshold requires if asked is set.
func (t *threshold) text(words []uint32, now uint32, asked bool) string {
	var parts []string
	add := func(n, of int, one, many string) {
		if of == 0 {
			return
		}
		name := many
		if n == 1 && !asked {
			name = one
		}
		if asked {
			parts = append(parts, fmt.Sprintf("%d of %d %s", n, of, name))
		} else {
			parts = append(parts, fmt.Sprintf("%d %s", n, name))
		}
	}
	add(t.requests.count(words, now, t.window), t.Requests, "request", "requests")
	add(t.uris.count(words, now, t.window), t.URIs, "path", "different paths")
	add(t.agents.count(words, now, t.window), t.Agents, "agent", "different agents")
	add(t.refused.count(words, now, t.window), t.Refused, strings.TrimSpace("answer "+t.Codes), strings.TrimSpace("answers "+t.Codes))
	text := strings.Join(parts, ", ") + " in " + duration.Format(t.Window)
	if t.FalseCrawler {
		text = "the agent is that of a search engine, the address is not: " + text
	}
	return text
}

// Explain describes what is counted for a source at a time: a line for each threshold with a count.
func (s *Scanner) Explain(source netip.Prefix, at time.Time) (lines []string) {
	e, ok := s.table.find(source)
	if !ok {
		return nil
	}
	now := max(s.table.now, s.table.seconds(at))
	for i := range s.thresholds {
		if t := &s.thresholds[i]; t.danger(e.words, now) > 0 {
			lines = append(lines, t.event+": "+t.text(e.words, now, true))
		}
	}
	return lines
}

// danger is how near a source is to the nearest threshold, from 0 to 255.
func (s *Scanner) danger(words []uint32, now uint32) (most int) {
	for i := range s.thresholds {
		most = max(most, s.thresholds[i].danger(words, now))
	}
	return most
}

// danger is the smallest share of a condition of the threshold that is met, from 0 to 1.
func (t *threshold) danger(words []uint32, now uint32) int {
	least := 255
	for _, c := range []struct{ n, of int }{
		{t.requests.count(words, now, t.window), t.Requests}, {t.refused.count(words, now, t.window), t.Refused},
		{t.uris.count(words, now, t.window), t.URIs}, {t.agents.count(words, now, t.window), t.Agents},
	} {
		if c.of > 0 {
			least = min(least, 255*c.n/c.of)
		}
	}
	return least
}

func (t *threshold) clear(words []uint32) {
	t.requests.clear(words)
	t.refused.clear(words)
	t.uris.clear(words)
	t.agents.clear(words)
}

// Stats are the sources that a Scanner follows, how many it can, and how many were dropped for want of room.
type Stats struct {
	Sources, Limit int
	Evicted        uint64
}

// Stats returns how full the Scanner is.
func (s *Scanner) Stats() Stats {
	return Stats{Sources: len(s.table.index), Limit: s.table.limit, Evicted: s.table.evicted}
}

// Inherit takes over what old, a Scanner of the same rule, has counted. It reports false, and does nothing, if their thresholds differ.
func (s *Scanner) Inherit(old *Scanner) bool {
	if len(s.thresholds) != len(old.thresholds) || s.table.limit != old.table.limit || s.table.size != old.table.size {
		return false
	}
	for i := range s.thresholds {
		a, b := &s.thresholds[i], &old.thresholds[i]
		if a.Name != b.Name || a.requests != b.requests || a.refused != b.refused || a.uris != b.uris || a.agents != b.agents {
			return false
		}
	}
	idle := s.table.idle
	s.table = old.table
	s.table.idle = idle
	return true
}

// A glob is a list of globs as one machine; the zero value matches nothing. The machine is made for the first text: most hosts have no
// access log.
type glob struct {
	list    []string
	machine *tdfa.Machine
}

func (g *glob) match(text []byte) bool {
	if len(g.list) == 0 {
		return false
	}
	if g.machine == nil {
		patterns := make([]string, len(g.list))
		for i, one := range g.list {
			patterns[i] = conf.GlobPattern(one)
		}
		program, err := tdfa.Compile(patterns)
		if err != nil {
			panic(err) // text without wildcards is quoted
		}
		g.machine = program.NewMachine()
	}
	_, ok := g.machine.Match(text, nil)
	return ok
}

// fold appends a target as globs are compared with it: percent-encoding decoded once, in lower case.
func fold(to, target []byte) []byte {
	for i := 0; i < len(target); i++ {
		c := target[i]
		if c == '%' && i+2 < len(target) {
			if high, low := hex(target[i+1]), hex(target[i+2]); high >= 0 && low >= 0 {
				c = byte(high<<4 | low)
				i += 2
			}
		}
		if 'A' <= c && c <= 'Z' {
			c |= ' '
		}
		to = append(to, c)
	}
	return to
}

func hex(c byte) int {
	switch c |= ' '; {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// hasExtension reports whether the last part of a path ends with one of the extensions.
func hasExtension(path []byte, extensions []string) bool {
	for _, ext := range extensions {
		ext = strings.TrimPrefix(ext, ".")
		if n := len(path) - len(ext); n > 0 && path[n-1] == '.' && string(path[n:]) == ext {
			return true
		}
	}
	return false
}

// hash shortens a text to 32 bits, never 0.
func hash(s []byte) uint32 {
	h := event.Hash(s)
	return max(uint32(h^h>>32), 1)
}
