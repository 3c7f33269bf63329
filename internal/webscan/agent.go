package webscan

import (
	"bytes"

	"mef/internal/event"
)

// A Crawler is a search engine whose crawlers can be verified: its operator documents that their addresses have names in Domains, which have
// these addresses.
type Crawler struct {
	Name    string
	Agents  []string // texts of which an agent has one
	Domains []string
}

// crawlers are the search engines whose operators document how to verify them. An engine that publishes lists of addresses only is
// not here.
var crawlers = []Crawler{
	{"Google", []string{"Googlebot", "AdsBot-Google", "Mediapartners-Google", "Google-InspectionTool"}, []string{"googlebot.com", "google.com"}},
	{"Bing", []string{"bingbot", "adidxbot", "BingPreview"}, []string{"search.msn.com"}},
	{"Yandex", []string{"YandexBot", "YandexImages", "YandexMobileBot"}, []string{"yandex.ru", "yandex.net", "yandex.com"}},
	{"Apple", []string{"Applebot"}, []string{"applebot.apple.com"}},
	{"Baidu", []string{"Baiduspider"}, []string{"crawl.baidu.com", "crawl.baidu.jp"}},
	{"Yahoo", []string{"Yahoo! Slurp"}, []string{"crawl.yahoo.net"}},
	{"Seznam", []string{"SeznamBot"}, []string{"seznam.cz"}},
	{"Petal", []string{"PetalBot"}, []string{"petalsearch.com", "aspiegel.com"}},
}

// A Standing reports whether a source is the crawler that its agent names.
type Standing uint8

// The standings of a source.
const (
	Ordinary Standing = iota // the agent names no crawler, or its address cannot be verified
	Pending                  // it is not known yet
	Verified                 // it is
	False                    // it is not
)

// An agent describes a text of the header User-Agent.
type agent struct {
	full    uint64 // hash of the text; 0: the slot is free
	hash    uint32
	allowed bool
	crawler *Crawler
	globs   uint64 // thresholds whose rule_N_ua it matches
}

func (a *agent) matches(threshold int) bool { return a.globs>>threshold&1 != 0 }

// agentSlots is how many agents are remembered; the next in the same slot takes its place.
const agentSlots = 256

// agent describes the text of a header. The result is valid until the next call.
func (s *Scanner) agent(text []byte) *agent {
	full := event.Hash(text) | 1
	a := &s.agents[(full>>32)%agentSlots]
	if a.full == full {
		return a
	}
	*a = agent{full: full, hash: max(uint32(full>>32), 1)}
	for i := range crawlers {
		for _, name := range crawlers[i].Agents {
			if bytes.Contains(text, []byte(name)) {
				a.crawler = &crawlers[i]
			}
		}
	}
	s.path = fold(s.path[:0], text)
	a.allowed = s.allowedUA.match(s.path)
	for i := range s.thresholds {
		if s.thresholds[i].ua.match(s.path) {
			a.globs |= 1 << i
		}
	}
	return a
}
