package mefconf

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/duration"
	"mef/internal/ordered"
)

// builtInFeeds are the feeds that need no section: their publishers' addresses and formats, and how often these want to be asked. None is
// on until an operator enables it.
var builtInFeeds = []struct {
	name, url, format, member, refresh, about string
}{
	{"spamhaus-drop", "https://www.spamhaus.org/drop/drop_v4.json", "json", "cidr", "12h", "Spamhaus DROP: IPv4 networks that criminals control"},
	{"spamhaus-dropv6", "https://www.spamhaus.org/drop/drop_v6.json", "json", "cidr", "12h", "Spamhaus DROP: IPv6 networks that criminals control"},
	{"blocklist-de", "https://lists.blocklist.de/lists/all.txt", "plain", "", "1h", "blocklist.de: addresses that attacked its members in the last two days"},
	{"firehol-level1", "https://iplists.firehol.org/files/firehol_level1.netset", "plain", "", "6h", "FireHOL level 1: a union of lists with few false entries; has private networks, which are left out"},
	{"tor-exits", "https://check.torproject.org/torbulkexitlist", "plain", "", "1h", "Tor: addresses from which users of Tor reach other hosts"},
	{"cins", "https://cinsscore.com/list/ci-badguys.txt", "plain", "", "6h", "CINS Army: addresses with a bad score at Sentinel's sensors"},
	{"emerging-threats", "https://rules.emergingthreats.net/fwrules/emerging-Block-IPs.txt", "plain", "", "12h", "Emerging Threats: addresses and networks that its firewall rules block"},
}

// feedKeys are the keys of a section [feed NAME], in the order of the documentation.
var feedKeys = ini.Table[conf.Feed]{
	{Name: "enabled", Value: "true", Form: ini.Bool(func(f *conf.Feed) *bool { return &f.Enabled }),
		Doc: "use the feed; mefctl feeds enable and disable override this"},
	{Name: "url", Form: feedURL(), Doc: "where the feed is published, https://HOST/PATH or file:///PATH; a built-in feed has one"},
	{Name: "format", Value: "plain", Form: ini.Choice(setFeedFormat, "plain", "netset", "csv", "json", "spamhaus"),
		Doc: "how it is written, with an entry a line: plain and netset: the first word of the line, # and ; begin comments; csv: the column of a table; json: an object a line, of which a member counts; spamhaus: json with the member cidr"},
	{Name: "column", Value: "1", Form: ini.Number(1, 100, func(f *conf.Feed) *int { return &f.Column }), Doc: "with format=csv, the column of the addresses"},
	{Name: "member", Value: "ip", Form: ini.Name(func(f *conf.Feed) *string { return &f.Member }), Doc: "with format=json, the member with the address"},
	{Name: "refresh", Value: "6h", Form: ini.Duration(5*time.Minute, 30*duration.Day, func(f *conf.Feed) *time.Duration { return &f.Refresh }),
		Doc: "how often it is asked for; an unchanged feed is not downloaded again where the server supports that"},
	{Name: "action", Value: "drop", Form: ini.Choice(func(f *conf.Feed, i int) { f.Action = conf.FeedAction(i) }, conf.FeedActions[:]...),
		Doc: "drop: drop packets of its addresses; score: add points to the score of an address that fails to log in or probes; detect: report such an address in mefctl events, nothing more"},
	{Name: "weight", Value: "40", Form: ini.Number(0, maxWeight, func(f *conf.Feed) *int { return &f.Weight }), Doc: "with action=score, points of an address of the feed"},
	{Name: "direction", Value: "in", Form: ini.Choice(func(f *conf.Feed, i int) { f.Both = i == 1 }, "in", "both"),
		Doc: "with action=drop, in: drop what opens a connection to this host, so that this host can connect to its addresses; both: drop every packet from and to them"},
	{Name: "ports", Value: "all", Form: ini.BanPorts(func(f *conf.Feed) *ban.Ports { return &f.Ports }), Doc: "with action=drop, ports of this host that are closed to its addresses"},
	{Name: "max_size", Value: "32", Form: ini.Number(1, 256, func(f *conf.Feed) *int { return &f.MaxSize }), Doc: "megabytes that it may have; a larger one is refused"},
	{Name: "max_share", Value: "20", Form: ini.Number(1, 100, func(f *conf.Feed) *int { return &f.MaxShare }),
		Doc: "percent of the public addresses of a family that it may cover; one that covers more is refused"},
}

// setFeedFormat takes the index of a format in feedKeys.
func setFeedFormat(f *conf.Feed, i int) {
	f.Format = []conf.FeedFormat{conf.FeedPlain, conf.FeedPlain, conf.FeedCSV, conf.FeedJSON, conf.FeedJSON}[i]
	if i == 4 {
		f.Member = "cidr"
	}
}

// feedURL is the address of a feed.
func feedURL() ini.Form[conf.Feed] {
	const syntax = "https://HOST/PATH or file:///PATH"
	return ini.Form[conf.Feed]{Syntax: syntax, Set: func(f *conf.Feed, s ini.Setting) *ini.Fault {
		u, err := url.Parse(s.Value)
		switch {
		case err != nil || len(s.Value) > ini.MaxPath:
			return ini.Wrong(0, s.Value, syntax)
		case u.Scheme == "http":
			return &ini.Fault{Msg: diag.Quote(s.Value) + " can be changed on its way", Hint: "write " + syntax}
		case u.Scheme == "https" && u.Host != "" && u.User == nil, u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
			f.URL = s.Value
			return nil
		}
		return ini.Wrong(0, s.Value, syntax)
	}}
}

// newFeed returns a feed with its defaults: those of a built-in one, if it has that name.
func newFeed(name string) conf.Feed {
	f := conf.Feed{Name: name}
	feedKeys.SetDefaults(&f)
	for _, b := range builtInFeeds {
		if b.name != name {
			continue
		}
		settings := []ini.Setting{{Key: "url", Value: b.url}, {Key: "format", Value: b.format}, {Key: "refresh", Value: b.refresh}}
		if b.member != "" {
			settings = append(settings, ini.Setting{Key: "member", Value: b.member})
		}
		if d := feedKeys.Decode(&f, settings); len(d.Errs) > 0 {
			panic("mefconf: feed " + name + ": " + d.Errs.Error())
		}
		f.About = b.about
	}
	return f
}

// maxFeeds bounds the sections of feeds.
const maxFeeds = 32

// feeds reads the sections of feeds, and adds the built-in ones that have none.
func (r *reader) feeds(sc ini.File) {
	begin := func(name string, at diag.Pos) conf.Feed {
		f := newFeed(name)
		f.Pos = at
		return f
	}
	sections(r, sc, "feed", maxFeeds, feedKeys, begin, func(f conf.Feed, _ diag.Pos, d ini.Decoded) {
		r.checkFeed(&f, d.Set)
		r.cfg.Feeds = append(r.cfg.Feeds, f)
	})
	for _, b := range builtInFeeds {
		if !slices.ContainsFunc(r.cfg.Feeds, func(f conf.Feed) bool { return f.Name == b.name }) {
			f := newFeed(b.name)
			f.Enabled = false
			r.cfg.Feeds = append(r.cfg.Feeds, f)
		}
	}
	ordered.Sort(r.cfg.Feeds, func(a, b conf.Feed) int { return strings.Compare(a.Name, b.Name) })
}

// checkFeed finds what is missing in a feed, and what has no effect.
func (r *reader) checkFeed(f *conf.Feed, set map[string]ini.Setting) {
	if f.URL == "" && set["url"].Key == "" {
		hint := "add url=https://HOST/PATH"
		if similar := diag.DidYouMean(f.Name, builtInFeedNames()); similar != "" {
			hint += ", or use a built-in feed: " + similar
		}
		r.errs = append(r.errs, &diag.Error{Pos: f.Pos, Msg: fmt.Sprintf("[feed %s]: no url", f.Name), Hint: hint})
	}
	unused := r.unused(set)
	unused("column", "format=csv", f.Format == conf.FeedCSV)
	unused("member", "format=json", f.Format == conf.FeedJSON)
	unused("weight", "action=score", f.Action == conf.FeedScore)
	unused("direction", "action=drop", f.Action == conf.FeedDrop)
	unused("ports", "action=drop", f.Action == conf.FeedDrop)
}

func builtInFeedNames() (names []string) {
	for _, b := range builtInFeeds {
		names = append(names, b.name)
	}
	return names
}
