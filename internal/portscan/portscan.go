// Package portscan recognises port scans: sources whose packets come to many ports at which nothing listens.
//
// The packet filter reports such packets, each port of a source once in a while. A source is scanning if it has come to more than a number
// of different ports within a time, or, slowly, to three times as many within much longer. Sources of one IPv4 /24 that each try less are
// scanning together if all of them have come to four times as many.
//
// Source addresses of single packets can be forged, so whatever follows from a scan is unverified.
//
// Memory is bounded by the number of sources and by that of ports. A flood of packets with forged sources brings very many sources with one
// port each, so those go first when there is no room, up to a quarter of the room, which is for newcomers.
package portscan

import (
	"cmp"
	"container/list"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/duration"
	"mef/internal/event"
	"mef/internal/ordered"
)

// RuleName is the name of the rule whose events are scans.
const RuleName = "portscan"

// Rule returns the rule for events of scans: each bans.
func Rule(cfg conf.Scan) event.Rule {
	return event.Rule{Name: RuleName, Service: RuleName, MaxRetry: 1, FindTime: cfg.Interval, BanTime: cfg.BanTime, Detect: !cfg.Enabled}
}

const (
	slowTimes = 48 // a slow scan is looked for within so many times the interval,
	slowPorts = 3  // for so many times the limit of ports

	spreadBits  = 24 // IPv4 networks of this length scan together,
	spreadPorts = 4  // with so many times the limit of ports

	quiet = time.Minute      // a source is reported once in this time
	pace  = 10 * time.Minute // of maxReports: as long as an unverified ban lasts

	maxSources = 16_384
	maxPorts   = 131_072 // of all sources together
	maxReports = 5_000   // in each pace: more forged sources must not fill the packet filter
	maxSpread  = 1_000   // of these, sources that scan together
	shownPorts = 12
)

// mailPorts count as one port. A mail program that looks for the servers of an address tries all of them within a second, also at a web server
// of that domain, where nothing listens at any.
var mailPorts = []uint16{25, 110, 143, 465, 587, 993, 995}

// A Scanner counts the ports of sources. It belongs to one goroutine. Its time is that of the packets.
type Scanner struct {
	cfg     conf.Scan
	sources map[netip.Prefix]*source
	single  *list.List // sources with one port, the one seen last in front
	several *list.List // the others
	ports   int

	began             time.Time // of the present pace
	reported, spread  int       // in it: scans, and those of several sources together
	scans, suppressed uint64
	evicted           uint64
	last              *Scan
}

// A source is an address or network, or a /24 around some.
type source struct {
	prefix   netip.Prefix
	hits     []hit // the latest for each port, oldest first
	packets  uint64
	first    time.Time
	reported time.Time
	place    *list.Element
	in       *list.List
}

// A hit is a port that a source came to, and when it did last.
type hit struct {
	at       int64
	protocol event.Protocol
	port     uint16
}

// same reports whether two hits count as one.
func (h hit) same(o hit) bool {
	if h.protocol != o.protocol {
		return false
	}
	return h.port == o.port || h.protocol == event.TCP && slices.Contains(mailPorts, h.port) && slices.Contains(mailPorts, o.port)
}

// New returns a Scanner that has counted nothing.
func New(cfg conf.Scan) *Scanner {
	return &Scanner{cfg: cfg, sources: make(map[netip.Prefix]*source), single: list.New(), several: list.New()}
}

// Configure replaces the limits. What was counted stays.
func (s *Scanner) Configure(cfg conf.Scan) { s.cfg = cfg }

// Count counts a packet of a source, which is its address or a network around it. It returns a description of the scan if the source is
// scanning and was not reported within the last minute; otherwise nil.
func (s *Scanner) Count(from netip.Prefix, p *event.Packet) *event.Episode {
	src := s.count(from, p, slowPorts*s.cfg.Limit+1)
	now := p.Time
	if !src.reported.IsZero() && now.Sub(src.reported) < quiet {
		return nil
	}
	text, together := s.alone(src, now), false
	if text == "" {
		text = s.together(from, p)
		together = text != ""
	}
	if text == "" || !s.mayReport(now, together) {
		return nil
	}
	src.reported = now
	s.scans++
	s.last = &Scan{Time: now, From: p.From, Text: text}
	return &event.Episode{Text: text}
}

// alone returns why a source is scanning by itself; "" if it is not.
func (s *Scanner) alone(src *source, now time.Time) string {
	if n, since := src.within(now, s.cfg.Interval); n > s.cfg.Limit {
		return s.text(src, n, since, now, s.cfg.Limit, s.cfg.Interval)
	}
	slow := s.cfg.Interval * slowTimes
	if n, since := src.within(now, slow); n > slowPorts*s.cfg.Limit {
		return s.text(src, n, since, now, slowPorts*s.cfg.Limit, slow)
	}
	return ""
}

// text describes n ports of a source since a time.
func (s *Scanner) text(src *source, n int, since, now time.Time, limit int, in time.Duration) string {
	return fmt.Sprintf("%d closed ports in %s%s (limit %d in %s): %s", n, duration.Span(now.Sub(since)), rate(n, now.Sub(since)), limit,
		duration.Span(in), src.list(since))
}

// rate returns how many ports a second that is; "" where there is nothing to divide by.
func rate(n int, d time.Duration) string {
	if d < time.Second {
		return ""
	}
	return fmt.Sprintf(", %.2g a second", float64(n)/d.Seconds())
}

// together returns why a source is scanning together with others of its /24; "" if it is not. Ports count for the /24 only while their
// source is not reported by itself, so that they come from more than spreadPorts addresses. A source that comes to a port to which a
// neighbour has come is not counted among the scanning ones: it may be a client that tries once what many try, the web or mail.
func (s *Scanner) together(from netip.Prefix, p *event.Packet) string {
	if !from.Addr().Is4() || !from.IsSingleIP() {
		return ""
	}
	around, _ := from.Addr().Prefix(spreadBits)
	limit := spreadPorts * s.cfg.Limit
	before := s.sources[around]
	tried := before != nil && slices.ContainsFunc(before.hits, func(o hit) bool { return o.same(hit{0, p.Protocol, p.Port}) })
	all := s.count(around, p, limit+1)
	n, since := all.within(p.Time, s.cfg.Interval)
	if n <= limit || tried {
		return ""
	}
	return fmt.Sprintf("several addresses of %s scan together: %s", around, s.text(all, n, since, p.Time, limit, s.cfg.Interval))
}

// mayReport reports whether one more scan may be reported within the present pace, and counts it.
func (s *Scanner) mayReport(now time.Time, together bool) bool {
	if now.Sub(s.began) >= pace {
		s.began, s.reported, s.spread = now, 0, 0
	}
	if s.reported >= maxReports || together && s.spread >= maxSpread {
		s.suppressed++
		return false
	}
	s.reported++
	if together {
		s.spread++
	}
	return true
}

// count notes a port of a source, of which it keeps the latest.
func (s *Scanner) count(prefix netip.Prefix, p *event.Packet, keep int) *source {
	src, ok := s.sources[prefix]
	if !ok {
		src = &source{prefix: prefix, first: p.Time, in: s.single}
		src.place = s.single.PushFront(src)
		s.sources[prefix] = src
	}
	src.packets++
	s.ports -= len(src.hits)
	src.note(hit{p.Time.UnixNano(), p.Protocol, p.Port}, p.Time.Add(-s.cfg.Interval*slowTimes).UnixNano(), keep)
	s.ports += len(src.hits)
	src.in.Remove(src.place)
	if src.in = s.single; len(src.hits) > 1 {
		src.in = s.several
	}
	src.place = src.in.PushFront(src)
	s.forget(p.Time, src)
	return src
}

// note puts a port behind the others, without those from before a time and without more than keep.
func (src *source) note(h hit, since int64, keep int) {
	src.hits = slices.DeleteFunc(src.hits, func(o hit) bool { return o.at < since || o.same(h) })
	if len(src.hits) >= keep {
		src.hits = append(src.hits[:0], src.hits[len(src.hits)-keep+1:]...)
	}
	src.hits = append(src.hits, h)
}

// forget removes sources without packets for the time of a slow scan, and others where there is no room, but never the source but.
func (s *Scanner) forget(now time.Time, but *source) {
	old := now.Add(-s.cfg.Interval * slowTimes).UnixNano()
	for _, l := range []*list.List{s.single, s.several} {
		for e := l.Back(); e != nil && e.Value.(*source).latest() < old && e.Value != but; e = l.Back() {
			s.remove(e.Value.(*source))
		}
	}
	for len(s.sources) > maxSources || s.ports > maxPorts {
		e := s.several.Back()
		if e == nil || s.single.Len() > maxSources/4 {
			e = s.single.Back()
		}
		if e == nil || e.Value == but {
			return
		}
		s.remove(e.Value.(*source))
		s.evicted++
	}
}

func (s *Scanner) remove(src *source) {
	src.in.Remove(src.place)
	delete(s.sources, src.prefix)
	s.ports -= len(src.hits)
}

func (src *source) latest() int64 {
	if len(src.hits) == 0 {
		return 0
	}
	return src.hits[len(src.hits)-1].at
}

// within returns the number of ports of a source within a time before now, and the time of the first of these packets.
func (src *source) within(now time.Time, d time.Duration) (n int, since time.Time) {
	from := now.Add(-d).UnixNano()
	i, _ := slices.BinarySearchFunc(src.hits, from, func(h hit, at int64) int { return cmp.Compare(h.at, at) })
	if i == len(src.hits) {
		return 0, now
	}
	return len(src.hits) - i, time.Unix(0, src.hits[i].at)
}

// list returns the ports since a time, in order: "tcp 22, 23, udp 161".
func (src *source) list(since time.Time) string {
	hits := slices.DeleteFunc(slices.Clone(src.hits), func(h hit) bool { return h.at < since.UnixNano() })
	ordered.Sort(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port)) })
	var b strings.Builder
	for i, h := range hits {
		if i == shownPorts {
			fmt.Fprintf(&b, " and %d more", len(hits)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		if i == 0 || hits[i-1].protocol != h.protocol {
			fmt.Fprintf(&b, "%s ", h.protocol)
		}
		fmt.Fprintf(&b, "%d", h.port)
	}
	return b.String()
}

// Explain returns what is counted for a source, in a sentence each; nothing if nothing is.
func (s *Scanner) Explain(prefix netip.Prefix, now time.Time) []string {
	src, ok := s.sources[prefix]
	if !ok {
		return nil
	}
	n, _ := src.within(now, s.cfg.Interval)
	all, since := src.within(now, s.cfg.Interval*slowTimes)
	if all == 0 {
		return nil
	}
	return []string{
		fmt.Sprintf("%d closed ports within %s (limit %d), %d within %s (limit %d)", n, duration.Span(s.cfg.Interval), s.cfg.Limit,
			all, duration.Span(s.cfg.Interval*slowTimes), slowPorts*s.cfg.Limit),
		fmt.Sprintf("%d of its packets were reported since %s%s: %s", src.packets, src.first.Local().Format(time.DateTime),
			rate(int(src.packets), now.Sub(src.first)), src.list(since)),
	}
}

// A Scan is the last one found.
type Scan struct {
	Time time.Time
	From netip.Addr
	Text string
}

// Stats show how many sources a Scanner holds, and what it found since the start.
type Stats struct {
	Sources, Limit int
	Scans          uint64
	Suppressed     uint64 // scans that were not reported, because there were too many
	Evicted        uint64 // sources that were removed early, to make room
	Full           bool   // scans are suppressed now
	Last           *Scan  // nil: none
}

// Stats returns them.
func (s *Scanner) Stats(now time.Time) Stats {
	return Stats{Sources: len(s.sources), Limit: maxSources, Scans: s.scans, Suppressed: s.suppressed, Evicted: s.evicted,
		Full: s.reported >= maxReports && now.Sub(s.began) < pace, Last: s.last}
}
