package rulefile

import (
	"cmp"
	"fmt"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/duration"
	"mef/internal/ordered"
)

// A webDraft is the part of a webscan rule beside [rule] while its file is read.
type webDraft struct {
	conf.Web
	windows []time.Duration
}

// WebKeys are the keys of a file with engine=webscan beside those of [rule], by section.
var WebKeys = []struct {
	Section string
	Keys    ini.Table[webDraft]
}{
	{"detection", ini.Table[webDraft]{
		{Name: "failregex", Adds: true, Form: webPattern(),
			Doc: "how a line of the log is written, with groups ip, method, uri, status and ua; if missing, as nginx, Apache, lighttpd, Caddy and Traefik write it"},
	}},
	{"webscan", ini.Table[webDraft]{
		{Name: "windows", Form: durations(func(w *webDraft) *[]time.Duration { return &w.windows }),
			Doc: "the longest of these is the window of thresholds without rule_N_window"},
		{Name: "uri_hash_limit", Form: ini.Number(1, 1000000, ini.Nowhere[webDraft, int]), Doc: "limit of different paths for a source", Notice: noticeHashLimit},
		{Name: "ua_hash_limit", Form: ini.Number(1, 1000000, ini.Nowhere[webDraft, int]), Doc: "limit of different agents for a source", Notice: noticeHashLimit},
		{Name: "max_active_ips", Value: "8192", Form: ini.Number(16, 10000000, func(w *webDraft) *int { return &w.MaxSources }),
			Doc: "sources that are followed at a time, 65536 at most; when there are more, the least suspicious one is dropped"},
		{Name: "ip_inactivity_timeout", Value: "15m", Form: ini.Duration(time.Second, duration.Day, func(w *webDraft) *time.Duration { return &w.Idle }),
			Doc: "time without a request after which a source is forgotten"},
	}},
	{"thresholds", ini.Table[webDraft]{
		{Name: "rule_N_name", Form: each(ini.Name(func(t *conf.Threshold) *string { return &t.Name })),
			Doc: "name of the threshold; its bans are named RULE/NAME"},
		{Name: "rule_N_requests_min", Form: each(ini.Number(0, 1000000, func(t *conf.Threshold) *int { return &t.Requests })),
			Doc: "minimum number of requests"},
		{Name: "rule_N_uri_count_min", Form: each(ini.Number(0, 1000000, func(t *conf.Threshold) *int { return &t.URIs })),
			Doc: "minimum number of different paths, up to 1024"},
		{Name: "rule_N_ua_count_min", Form: each(ini.Number(0, 1000000, func(t *conf.Threshold) *int { return &t.Agents })),
			Doc: "minimum number of different agents, up to 1024"},
		{Name: "rule_N_status_code", Form: each(statuses()),
			Doc: "statuses that rule_N_status_threshold counts; all if missing"},
		{Name: "rule_N_status_threshold", Form: each(ini.Number(0, 1000000, func(t *conf.Threshold) *int { return &t.Refused })),
			Doc: "minimum number of answers with one of these statuses"},
		{Name: "rule_N_uri", Adds: true, Form: each(webGlobs(func(t *conf.Threshold) *[]string { return &t.URI })),
			Doc: "globs of the path with its query; requests that match none of these and of rule_N_ua, or have another status, do not count for the threshold"},
		{Name: "rule_N_ua", Adds: true, Form: each(webGlobs(func(t *conf.Threshold) *[]string { return &t.Agent })),
			Doc: "globs of the agent; a request must match one of these or of rule_N_uri"},
		{Name: "rule_N_crawler", Form: each(ini.Choice(func(t *conf.Threshold, _ int) { t.FalseCrawler = true }, "false")),
			Doc: "false: the agent is that of a search engine, and the address is none of its addresses by reverse and forward look-up"},
		{Name: "rule_N_window", Form: each(ini.Duration(time.Second, duration.Day, func(t *conf.Threshold) *time.Duration { return &t.Window })),
			Doc: "time within which all of that must happen; 5m if neither this key nor windows is set"},
		{Name: "rule_N_action", Form: each(ini.Choice(func(t *conf.Threshold, i int) { t.Action = conf.Action(i) }, "ban", "detect")),
			Doc: "detect reports and never bans; ban if missing"},
		{Name: "rule_N_bantime", Form: each(ini.Duration(time.Second, duration.Year, func(t *conf.Threshold) *time.Duration { return &t.BanTime })),
			Doc: "length of the first ban; bantime of the rule if missing"},
	}},
	{"whitelist", ini.Table[webDraft]{
		{Name: "uri", Adds: true, Form: webGlobs(func(w *webDraft) *[]string { return &w.AllowURIs }),
			Doc: "globs of paths; requests for them do not count"},
		{Name: "ua", Adds: true, Form: webGlobs(func(w *webDraft) *[]string { return &w.AllowAgents }),
			Doc: "globs of agents whose requests do not count; anybody can send any agent"},
		{Name: "extension", Adds: true, Form: webGlobs(func(w *webDraft) *[]string { return &w.AllowExtensions }),
			Doc: "extensions of paths, such as png, that do not count"},
	}},
}

const (
	noticeHashLimit = "accepted without effect, the thresholds determine how much is kept for a source"
	noticeMost      = "more than 1024 are not distinguished: 1024 is used"
	noticeSources   = "65536 is used: more sources are not followed"
	noticeNoEffect  = "has no effect with engine=webscan"

	defaultWindow = 5 * time.Minute
	maxSources    = 65536
	maxThresholds = 32
)

// webNames are the names of the sections.
func webNames() (names []string) {
	for _, s := range WebKeys {
		names = append(names, s.Section)
	}
	return names
}

// webIdle are the keys of [rule] that report how single lines are read and counted.
var webIdle = []string{"format", "addr", "user", "message", "when", "okwhen", "probewhen", "failregex", "attemptregex", "echoregex", "proberegex",
	"okregex", "orphanregex", "peerregex", "ignoreregex", "maxretry", "findtime"}

// each is the form of a key of one threshold, which its number names.
func each(f ini.Form[conf.Threshold]) ini.Form[webDraft] {
	return ini.Form[webDraft]{Syntax: f.Syntax, Empty: f.Empty, Set: func(w *webDraft, s ini.Setting) *ini.Fault {
		n := thresholdOf(s.Key)
		i := slices.IndexFunc(w.Thresholds, func(t conf.Threshold) bool { return t.Number == n })
		if i < 0 {
			if len(w.Thresholds) == maxThresholds {
				return &ini.Fault{Msg: fmt.Sprintf("more than %d thresholds", maxThresholds), Hint: "write a second rule file"}
			}
			i = len(w.Thresholds)
			w.Thresholds = append(w.Thresholds, conf.Threshold{Number: n, Pos: s.KeyPos})
		}
		return f.Set(&w.Thresholds[i], s)
	}}
}

// thresholdOf returns the number in the key of a threshold, 0 if it is another key.
func thresholdOf(key string) int {
	rest, ok := strings.CutPrefix(key, "rule_")
	number, _, _ := strings.Cut(rest, "_")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return 0
	}
	return n
}

// durations is a list of durations.
func durations(field func(*webDraft) *[]time.Duration) ini.Form[webDraft] {
	const syntax = "durations with commas, such as 60s,300s"
	return ini.Form[webDraft]{Syntax: syntax, Set: func(w *webDraft, s ini.Setting) *ini.Fault {
		for offset, word := range ini.Items(s.Value) {
			d, err := duration.Parse(word)
			if err != nil || d < time.Second || d > duration.Day {
				return ini.Wrong(offset, word, syntax)
			}
			*field(w) = append(*field(w), d)
		}
		return nil
	}}
}

// statuses is a list of HTTP status codes.
func statuses() ini.Form[conf.Threshold] {
	const syntax = "status codes with commas, such as 200, 4xx or *"
	return ini.Form[conf.Threshold]{Syntax: syntax, Set: func(t *conf.Threshold, s ini.Setting) *ini.Fault {
		t.Status, t.Codes = conf.Statuses{}, s.Value
		for offset, word := range ini.Items(s.Value) {
			code, err := strconv.Atoi(strings.Replace(word, "xx", "00", 1))
			switch {
			case word == "*":
				t.Status.Add(100, 599)
			case err != nil || len(word) != 3 || code < 100 || code > 599:
				return ini.Wrong(offset, word, syntax)
			case strings.HasSuffix(word, "xx"):
				t.Status.Add(code, code+99)
			default:
				t.Status.Add(code, code)
			}
		}
		return nil
	}}
}

// webGlobs adds globs, in lower case.
func webGlobs[T any](field func(*T) *[]string) ini.Form[T] {
	syntax := fmt.Sprintf("globs with commas, in which * and ? are wildcards, %d in all at most", conf.Most)
	return ini.Form[T]{Syntax: syntax, Empty: true, Set: func(t *T, s ini.Setting) *ini.Fault {
		for offset, word := range ini.Items(s.Value) {
			if len(*field(t)) == conf.Most || len(word) > ini.MaxPath {
				return ini.Wrong(offset, word, syntax)
			}
			*field(t) = append(*field(t), strings.ToLower(word))
		}
		return nil
	}}
}

// webGroups are the groups of a pattern of a webscan rule.
var webGroups = []string{"ip", "method", "uri", "status", "ua"}

// webPattern is a regular expression of whole lines.
func webPattern() ini.Form[webDraft] {
	return ini.Form[webDraft]{Syntax: "a regular expression (RE2)", Empty: true, Set: func(w *webDraft, s ini.Setting) *ini.Fault {
		if s.Value == "" {
			return nil
		}
		text := conf.Expand(s.Value)
		re, err := syntax.Parse(text, syntax.Perl)
		if err != nil {
			return explain(s.Value, err)
		}
		for _, group := range []string{"ip", "uri", "status"} {
			if !slices.Contains(re.CapNames(), group) {
				return &ini.Fault{Msg: fmt.Sprintf("no group %s in %s", diag.Quote(group), diag.Quote(s.Value)), Hint: "write (?P<" + group + ">...) around it; there are " + strings.Join(webGroups, ", ")}
			}
		}
		w.Patterns = append(w.Patterns, conf.Pattern{Text: text, Pos: s.Pos})
		return nil
	}}
}

// decodeWeb reads the sections of a webscan rule, on top of base if there is one.
func (f *ruleFile) decodeWeb(base *conf.Web) {
	w := new(webDraft)
	set := make(map[string]ini.Setting)
	for _, part := range WebKeys {
		part.Keys.SetDefaults(w)
		d := part.Keys.Decode(w, f.others[part.Section])
		f.errs = append(f.errs, d.Errs...)
		f.rule.notices = append(f.rule.notices, d.Notices...)
		for key, s := range d.Set {
			set[key] = s
		}
		for _, s := range f.others[part.Section] {
			w.Set = append(w.Set, conf.Origin{Section: part.Section, Key: s.Key, Value: s.Value, Pos: s.Pos})
		}
	}
	for _, key := range webIdle {
		if s, ok := f.set[key]; ok {
			f.rule.notices = append(f.rule.notices, diag.Notice{Pos: s.KeyPos, Text: key + ": " + noticeNoEffect})
		}
	}
	if w.MaxSources > maxSources {
		w.MaxSources = maxSources
		f.rule.notices = append(f.rule.notices, diag.Notice{Pos: set["max_active_ips"].KeyPos, Text: "max_active_ips: " + noticeSources})
	}
	f.checkThresholds(w)
	if base != nil {
		inherit(&w.Web, base, set)
	}
	for i := range w.Thresholds {
		if f.rule.Action == conf.ActionDetect {
			w.Thresholds[i].Action = conf.ActionDetect
		}
	}
	f.refuseWeb(w)
	if len(w.Thresholds) == 0 && len(f.errs) == 0 {
		f.errs = append(f.errs, &diag.Error{Pos: f.rule.Pos, Msg: fmt.Sprintf("rule %q has no threshold", f.rule.Name), Hint: "add rule_1_requests_min= and its like under [thresholds]"})
	}
	f.rule.Web = &w.Web
}

// checkThresholds finds what is wrong with a threshold as a whole, and fills in what it leaves out.
func (f *ruleFile) checkThresholds(w *webDraft) {
	ordered.Sort(w.Thresholds, func(a, b conf.Threshold) int { return cmp.Compare(a.Number, b.Number) })
	window := defaultWindow
	if len(w.windows) > 0 {
		window = slices.Max(w.windows)
	}
	names := make(map[string]bool)
	for i := range w.Thresholds {
		t := &w.Thresholds[i]
		t.Name = cmp.Or(t.Name, fmt.Sprintf("rule_%d", t.Number))
		t.Window = cmp.Or(t.Window, window)
		if t.Status == (conf.Statuses{}) {
			t.Status.Add(100, 599)
		}
		for _, n := range []*int{&t.URIs, &t.Agents} {
			if *n > conf.Most {
				*n = conf.Most
				f.rule.notices = append(f.rule.notices, diag.Notice{Pos: t.Pos, Text: t.Name + ": " + noticeMost})
			}
		}
		if names[t.Name] {
			f.errs = append(f.errs, &diag.Error{Pos: t.Pos, Msg: "two thresholds have the name " + diag.Quote(t.Name), Hint: fmt.Sprintf("set rule_%d_name to another", t.Number)})
		}
		names[t.Name] = true
		if t.Requests+t.URIs+t.Agents+t.Refused == 0 {
			f.errs = append(f.errs, &diag.Error{Pos: t.Pos, Msg: fmt.Sprintf("threshold %s asks for nothing, so that every request would reach it", diag.Quote(t.Name)),
				Hint: fmt.Sprintf("add rule_%d_requests_min=", t.Number)})
		}
	}
}

// inherit takes over what the file leaves of base: lists are added, and so are thresholds of other names.
func inherit(w, base *conf.Web, set map[string]ini.Setting) {
	if len(w.Patterns) == 0 {
		w.Patterns = base.Patterns
	}
	if _, ok := set["max_active_ips"]; !ok {
		w.MaxSources = base.MaxSources
	}
	if _, ok := set["ip_inactivity_timeout"]; !ok {
		w.Idle = base.Idle
	}
	w.AllowURIs = slices.Concat(base.AllowURIs, w.AllowURIs)
	w.AllowAgents = slices.Concat(base.AllowAgents, w.AllowAgents)
	w.AllowExtensions = slices.Concat(base.AllowExtensions, w.AllowExtensions)
	w.Thresholds = slices.Clone(w.Thresholds)
	others := slices.DeleteFunc(slices.Clone(base.Thresholds), func(t conf.Threshold) bool {
		return slices.ContainsFunc(w.Thresholds, func(own conf.Threshold) bool { return own.Name == t.Name })
	})
	w.Thresholds = slices.Concat(others, w.Thresholds)
	replaced := func(o conf.Origin) bool {
		_, again := set[o.Key]
		return again && o.Section != "thresholds" && o.Section != "whitelist"
	}
	kept := slices.DeleteFunc(slices.Clone(base.Set), func(o conf.Origin) bool {
		n := thresholdOf(o.Key)
		return replaced(o) || n > 0 && !slices.ContainsFunc(others, func(t conf.Threshold) bool { return t.Number == n })
	})
	w.Set = slices.Concat(kept, w.Set)
}

// refuseWeb leaves out patterns that free text can steer. The usual formats are read in their place.
func (f *ruleFile) refuseWeb(w *webDraft) {
	w.Patterns = slices.DeleteFunc(slices.Clone(w.Patterns), func(p conf.Pattern) bool {
		found := steerable(p.Text)
		if found == flawless {
			return false
		}
		f.rule.notices = append(f.rule.notices, diag.Notice{Pos: p.Pos, Text: "failregex refused: " + found.why + "; the usual formats of access logs are read instead"})
		return true
	})
}

// webOrigins returns the settings of the sections beside [rule], as they are in force: thresholds one by one, those of a shipped rule first.
func webOrigins(w *conf.Web) []conf.Origin {
	var all []conf.Origin
	for _, part := range WebKeys {
		first := len(all)
		for _, k := range part.Keys {
			set := slices.DeleteFunc(slices.Clone(w.Set), func(o conf.Origin) bool { return o.Section != part.Section || !k.Is(o.Key) })
			if len(set) == 0 && k.Value != "" {
				set = []conf.Origin{{Section: part.Section, Key: k.Name, Value: k.Value}}
			}
			all = append(all, set...)
		}
		ordered.Sort(all[first:], func(a, b conf.Origin) int {
			if part.Section != "thresholds" {
				return 0
			}
			return cmp.Or(cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(thresholdOf(a.Key), thresholdOf(b.Key)))
		})
	}
	return all
}

// webName is the name of a webscan rule. Files of MEF 1.0 in webscan.d have the names of ordinary rules, such as nginx.
func webName(name string) string {
	if strings.HasPrefix(name, "webscan") {
		return name
	}
	return "webscan-" + name
}
