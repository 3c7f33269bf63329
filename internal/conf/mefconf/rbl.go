package mefconf

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/ordered"
)

// knownZones are the lists whose zone need not be written: their zones and the answers that say something about a client that logs in. They
// are asked only if the operator enables them.
var knownZones = map[string]conf.RBLZone{
	"blocklist": {Zone: "bl.blocklist.de", Match: []string{"127.0.0.*"}},
	"dronebl":   {Zone: "dnsbl.dronebl.org", Match: []string{"127.0.0.3-255"}}, // 2 is the test entry
	"spamcop":   {Zone: "bl.spamcop.net", Match: []string{"127.0.0.2"}},
	"spamhaus":  {Zone: "zen.spamhaus.org", Match: []string{"127.0.0.2-7", "127.0.0.9"}}, // 10 and 11 are the networks of private customers
}

// defaultZone is asked if rbl_enabled=true and no list is enabled, as by MEF 1.0.
const defaultZone = "blocklist"

// newZone returns a list with its defaults.
func newZone(name string) *conf.RBLZone {
	z := knownZones[name]
	z.Name = name
	if z.Zone == "" {
		z.Match = []string{"127.0.0.*"}
	}
	z.Weight, z.BanTime, z.Timeout = 40, time.Hour, 2*time.Second
	z.Positive, z.Negative, z.Error = time.Hour, 15*time.Minute, 30*time.Second
	z.Rate, z.InFlight = 20, 8
	return &z
}

// ofZone is a form of the value of a key rbl_K_*, which it puts into the list K.
func ofZone[V any](form func(func(*conf.Config) *V) ini.Form[conf.Config], field func(*conf.RBLZone) *V) ini.Form[conf.Config] {
	f := form(ini.Nowhere[conf.Config, V])
	f.Set = func(c *conf.Config, s ini.Setting) *ini.Fault {
		name := strings.Split(s.Key, "_")[1]
		i := slices.IndexFunc(c.RBL.Zones, func(z conf.RBLZone) bool { return z.Name == name })
		if i < 0 {
			i = len(c.RBL.Zones)
			c.RBL.Zones = append(c.RBL.Zones, *newZone(name))
		}
		return form(func(*conf.Config) *V { return field(&c.RBL.Zones[i]) }).Set(c, s)
	}
	return f
}

// checkRBL leaves the lists that are asked, in order.
func (r *reader) checkRBL() {
	rbl := &r.cfg.RBL
	asked := slices.DeleteFunc(slices.Clone(rbl.Zones), func(z conf.RBLZone) bool { return !z.Enabled })
	if rbl.Enabled && len(asked) == 0 {
		z := newZone(defaultZone)
		if i := slices.IndexFunc(rbl.Zones, func(z conf.RBLZone) bool { return z.Name == defaultZone }); i >= 0 {
			z = &rbl.Zones[i]
		}
		asked = append(asked, *z)
	}
	ordered.Sort(asked, func(a, b conf.RBLZone) int { return cmp.Compare(a.Name, b.Name) })
	for _, z := range asked {
		enabled := r.set["rbl_"+z.Name+"_enabled"]
		if z.Zone == "" {
			r.errs = append(r.errs, &diag.Error{Pos: enabled.KeyPos, Msg: fmt.Sprintf("%s: no DNS zone is known for %q", enabled.Key, z.Name),
				Hint: fmt.Sprintf("add rbl_%s_zone=ZONE, or use a list whose zone is known: %s", z.Name, strings.Join(slices.Sorted(maps.Keys(knownZones)), ", "))})
		}
		r.noticeUnused(z)
	}
	if rbl.Zones = asked; !rbl.Enabled {
		rbl.Zones = nil
	}
}

// checkCommunity adds the list of the community server to those that are asked, unless this host has a copy.
func (r *reader) checkCommunity() {
	c := &r.cfg.Community
	if c.Lookup == conf.LookupFeed {
		var unused []string
		for _, end := range []string{"bantime", "timeout", "positive_ttl", "negative_ttl", "error_ttl"} {
			if _, ok := r.set["community_cloud_"+end]; ok {
				unused = append(unused, "community_cloud_"+end)
			}
		}
		if len(unused) > 0 && c.Protection {
			r.notice(r.set[unused[0]].KeyPos, strings.Join(unused, ", ")+": "+noticeCommunity)
		}
		return
	}
	z := c.Listing
	z.Name, z.Match, z.Action, z.Ports, z.Rate, z.InFlight = conf.CommunityName, []string{"127.0.0.2-99"}, conf.RBLBan, c.Ports, 20, 8
	if z.Zone = c.Lookup; c.Lookup == conf.LookupPrefix {
		z.Zone, z.Prefix = "community server", true
	}
	if !c.Protection {
		return
	}
	if slices.ContainsFunc(r.cfg.RBL.Zones, func(z conf.RBLZone) bool { return z.Name == conf.CommunityName }) {
		r.errs = append(r.errs, &diag.Error{Pos: r.set["community_cloud_lookup"].KeyPos, Msg: "community_cloud_lookup: rbl_community_enabled has another list of the name community", Hint: "name that one otherwise"})
	}
	r.cfg.RBL.Zones = append(r.cfg.RBL.Zones, z)
}

// lookup is how the list of a community server is used.
func lookup(field func(*conf.Config) *string) ini.Form[conf.Config] {
	const syntax = "feed, prefix, or the name of a DNS zone such as bl.example.org"
	zone := zoneName(field)
	return ini.Form[conf.Config]{Syntax: syntax, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		if s.Value == conf.LookupFeed || s.Value == conf.LookupPrefix {
			*field(c) = s.Value
			return nil
		}
		if !strings.Contains(s.Value, ".") || zone.Set(c, s) != nil {
			return ini.Wrong(0, s.Value, syntax)
		}
		return nil
	}}
}

// noticeUnused reports settings of bans for a list that leads to no ban.
func (r *reader) noticeUnused(z conf.RBLZone) {
	if z.Action == conf.RBLBan || slices.ContainsFunc(z.Codes, func(c conf.RBLCode) bool { return c.Action == conf.RBLBan }) {
		return
	}
	for _, end := range []string{"ports", "bantime"} {
		if s, ok := r.set["rbl_"+z.Name+"_"+end]; ok {
			r.notice(s.KeyPos, fmt.Sprintf("%s: a listing adds points to the score; ports and bantime have an effect with rbl_%s_action=ban", s.Key, z.Name))
			return
		}
	}
}

// zoneName is the name of a DNS zone.
func zoneName(field func(*conf.Config) *string) ini.Form[conf.Config] {
	const syntax = "the name of a DNS zone"
	return ini.Form[conf.Config]{Syntax: syntax, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		if !conf.IsHostName(s.Value) {
			return ini.Wrong(0, s.Value, syntax)
		}
		*field(c) = strings.ToLower(strings.TrimSuffix(s.Value, "."))
		return nil
	}}
}

// answerList is a list of answers.
func answerList(field func(*conf.Config) *[]string) ini.Form[conf.Config] {
	f := ini.List("answers such as 127.0.0.2, 127.0.0.4-7 or 127.0.0.*", isAnswer, field)
	f.Empty = false
	return f
}

// durations and numbers are forms with bounds.
func durations(lo, hi time.Duration) func(func(*conf.Config) *time.Duration) ini.Form[conf.Config] {
	return func(field func(*conf.Config) *time.Duration) ini.Form[conf.Config] {
		return ini.Duration(lo, hi, field)
	}
}

func numbers(lo, hi int) func(func(*conf.Config) *int) ini.Form[conf.Config] {
	return func(field func(*conf.Config) *int) ini.Form[conf.Config] { return ini.Number(lo, hi, field) }
}

// answerCodes is a list of answers, each with what it leads to.
func answerCodes(field func(*conf.Config) *[]conf.RBLCode) ini.Form[conf.Config] {
	const syntax = "answers with points or an action, such as 127.0.0.2=60, 127.0.0.4-7=ban, 127.0.0.10=detect"
	return ini.Form[conf.Config]{Syntax: syntax, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		var all []conf.RBLCode
		for offset, word := range ini.Items(s.Value) {
			match, does, _ := strings.Cut(word, "=")
			code := conf.RBLCode{Match: strings.TrimSpace(match)}
			points, err := strconv.Atoi(strings.TrimSpace(does))
			switch action := slices.Index(rblActions, strings.TrimSpace(does)); {
			case !isAnswer(code.Match):
				return ini.Wrong(offset, word, syntax)
			case action > 0:
				code.Action = conf.RBLAction(action)
			case err == nil && points >= 0 && points <= maxWeight:
				code.Weight = points
			default:
				return ini.Wrong(offset, word, syntax)
			}
			all = append(all, code)
		}
		*field(c) = all
		return nil
	}}
}

// maxWeight is the most points of a listing.
const maxWeight = 1000

// rblActions are the names of actions.
var rblActions = []string{conf.RBLScore: "score", conf.RBLBan: "ban", conf.RBLDetect: "detect"}

// rblAction is one of them.
func rblAction(field func(*conf.Config) *conf.RBLAction) ini.Form[conf.Config] {
	return ini.Choice(func(c *conf.Config, i int) { *field(c) = conf.RBLAction(i) }, rblActions...)
}

// addresses is a list of IP addresses.
func addresses(field func(*conf.Config) *[]netip.Addr) ini.Form[conf.Config] {
	const syntax = "addresses such as 192.0.2.7,2001:db8::7"
	return ini.Form[conf.Config]{Syntax: syntax, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		var all []netip.Addr
		for offset, word := range ini.Items(s.Value) {
			addr, err := netip.ParseAddr(word)
			if err != nil || addr.Zone() != "" {
				return ini.Wrong(offset, word, syntax)
			}
			all = append(all, addr.Unmap())
		}
		*field(c) = all
		return nil
	}}
}

// servers is a list of name servers; without a port it is 53.
func servers(field func(*conf.Config) *[]string) ini.Form[conf.Config] {
	const syntax = "addresses of name servers such as 127.0.0.1 or [2001:db8::53]:5353, with commas"
	return ini.Form[conf.Config]{Syntax: syntax, Empty: true, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		var all []string
		for offset, word := range ini.Items(s.Value) {
			server, err := netip.ParseAddrPort(word)
			if addr, plain := netip.ParseAddr(word); plain == nil {
				server, err = netip.AddrPortFrom(addr, 53), nil
			}
			if err != nil || server.Port() == 0 {
				return ini.Wrong(offset, word, syntax)
			}
			all = append(all, server.String())
		}
		*field(c) = all
		return nil
	}}
}

// isAnswer reports whether s is an IPv4 address, the ends of which may be "*" and the last number a range: 127.0.0.*, 127.*, 127.0.0.4-7.
func isAnswer(s string) bool { return s == "*" || conf.IsAnswer(s) }

// hasOtherAnswers reports whether the value has answers that never mean "listed".
func hasOtherAnswers(value string) bool {
	for _, answer := range ini.Items(value) {
		if !strings.HasPrefix(answer, "127.") || strings.HasPrefix(answer, "127.255.255.") {
			return true
		}
	}
	return false
}

// mailAddress is a mail address, or nothing.
func mailAddress(field func(*conf.Config) *string) ini.Form[conf.Config] {
	const syntax = "a mail address such as mef@example.org"
	return ini.Form[conf.Config]{Syntax: syntax, Empty: true, Set: func(c *conf.Config, s ini.Setting) *ini.Fault {
		user, domain, _ := strings.Cut(s.Value, "@")
		if s.Value != "" && (user == "" || strings.ContainsAny(user, " <>") || !conf.IsHostName(domain)) {
			return ini.Wrong(0, s.Value, syntax)
		}
		*field(c) = s.Value
		return nil
	}}
}

// checkReport finds collectors that cannot be sent reports.
func (r *reader) checkReport() {
	if s := r.set["report_blocklist_de"]; r.cfg.Report.BlocklistDE.Enabled && r.cfg.Report.BlocklistDE.Server == "" {
		r.errs = append(r.errs, &diag.Error{Pos: s.KeyPos, Msg: "report_blocklist_de: it is not known how this host is registered there",
			Hint: "add report_blocklist_de_server=ADDRESS, the mail address of this server in your account"})
	}
}
