package conf

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Web reports what a rule with engine=webscan counts in access logs.
type Web struct {
	Patterns []Pattern // of lines, with the groups ip, method, uri, status and ua; none: the usual formats of web servers

	MaxSources int           // sources that are followed at a time
	Idle       time.Duration // a source without a request for so long is forgotten

	Thresholds []Threshold // at least one

	// Requests that do not count: globs of the path and of the agent, in lower case, and extensions of the path without dot.
	AllowURIs, AllowAgents, AllowExtensions []string

	windows []time.Duration
	set     []Origin
}

// A Threshold is reached when all that it asks for holds of one source within Window. A number of 0 asks for nothing.
type Threshold struct {
	Number   int    // in the file
	Name     string // unique in the rule
	Requests int
	URIs     int // different paths
	Agents   int // different user agents
	Refused  int // requests with a status of Status
	Status   Statuses
	Codes    string // Status as it is written; empty: all
	Window   time.Duration
	Action   Action
	BanTime  time.Duration // 0: that of the rule

	// URI and Agent are globs in lower case, of the path with its query and of the agent. With any, only requests that match one of them,
	// and have a status of Status, count at all.
	URI, Agent []string

	// FalseCrawler asks that the agent is that of a search engine's crawler, which the address is not.
	FalseCrawler bool

	pos Pos
}

// Narrow reports whether only some requests count for the threshold.
func (t *Threshold) Narrow() bool { return len(t.URI)+len(t.Agent) > 0 }

// Most is how many URIs or agents of a source can be told apart, and how long a list of globs may be.
const Most = 1024

// Statuses is a set of HTTP status codes from 100 to 599.
type Statuses [8]uint64

// Has reports whether the set has a code.
func (s *Statuses) Has(code int) bool {
	return code >= 100 && code < 600 && s[(code-100)/64]>>((code-100)%64)&1 != 0
}

func (s *Statuses) add(first, last int) {
	for code := first; code <= last; code++ {
		s[(code-100)/64] |= 1 << ((code - 100) % 64)
	}
}

// webKeys are the keys of a file with engine=webscan beside those of [rule], by section.
var webKeys = []struct {
	section string
	keys    table[Web]
}{
	{"detection", table[Web]{
		{name: "failregex", adds: true, form: webPattern(),
			doc: "how a line of the log is written, with groups ip, method, uri, status and ua; if missing, as nginx, Apache, lighttpd, Caddy and Traefik write it"},
	}},
	{"webscan", table[Web]{
		{name: "windows", form: durations(func(w *Web) *[]time.Duration { return &w.windows }),
			doc: "the longest is the window of thresholds that name none"},
		{name: "uri_hash_limit", form: number(1, 1000000, nowhere[Web, int]), doc: "accepted", notice: noticeHashLimit},
		{name: "ua_hash_limit", form: number(1, 1000000, nowhere[Web, int]), doc: "accepted", notice: noticeHashLimit},
		{name: "max_active_ips", value: "8192", form: number(16, 10000000, func(w *Web) *int { return &w.MaxSources }),
			doc: "sources that are followed at a time, 65536 at most; when there are more, the least suspicious one is dropped"},
		{name: "ip_inactivity_timeout", value: "15m", form: duration(time.Second, day, func(w *Web) *time.Duration { return &w.Idle }),
			doc: "a source without a request for so long is forgotten"},
	}},
	{"thresholds", table[Web]{
		{name: "rule_N_name", form: each(name(func(t *Threshold) *string { return &t.Name })),
			doc: "its name; bans are by RULE/NAME"},
		{name: "rule_N_requests_min", form: each(number(0, 1000000, func(t *Threshold) *int { return &t.Requests })),
			doc: "so many requests"},
		{name: "rule_N_uri_count_min", form: each(number(0, 1000000, func(t *Threshold) *int { return &t.URIs })),
			doc: "for so many different paths, 1024 at most"},
		{name: "rule_N_ua_count_min", form: each(number(0, 1000000, func(t *Threshold) *int { return &t.Agents })),
			doc: "by so many different agents, 1024 at most"},
		{name: "rule_N_status_code", form: each(statuses()),
			doc: "statuses that rule_N_status_threshold counts; all if missing"},
		{name: "rule_N_status_threshold", form: each(number(0, 1000000, func(t *Threshold) *int { return &t.Refused })),
			doc: "so many answers with one of these statuses"},
		{name: "rule_N_uri", adds: true, form: each(webGlobs(func(t *Threshold) *[]string { return &t.URI })),
			doc: "globs of the path with its query; requests that match none of these and of rule_N_ua, or have another status, do not count for the threshold"},
		{name: "rule_N_ua", adds: true, form: each(webGlobs(func(t *Threshold) *[]string { return &t.Agent })),
			doc: "globs of the agent, beside rule_N_uri"},
		{name: "rule_N_crawler", form: each(choice(func(t *Threshold, _ int) { t.FalseCrawler = true }, "false")),
			doc: "false: the agent is that of a search engine, and the address is none of its addresses by reverse and forward look-up"},
		{name: "rule_N_window", form: each(duration(time.Second, day, func(t *Threshold) *time.Duration { return &t.Window })),
			doc: "all of that within this time; 5m if neither it nor windows is there"},
		{name: "rule_N_action", form: each(choice(func(t *Threshold, i int) { t.Action = Action(i) }, "ban", "detect")),
			doc: "detect reports and never bans; ban if missing"},
		{name: "rule_N_bantime", form: each(duration(time.Second, year, func(t *Threshold) *time.Duration { return &t.BanTime })),
			doc: "first ban; bantime of the rule if missing"},
	}},
	{"whitelist", table[Web]{
		{name: "uri", adds: true, form: webGlobs(func(w *Web) *[]string { return &w.AllowURIs }),
			doc: "globs of paths; requests for them do not count"},
		{name: "ua", adds: true, form: webGlobs(func(w *Web) *[]string { return &w.AllowAgents }),
			doc: "globs of agents whose requests do not count; anybody can send any agent"},
		{name: "extension", adds: true, form: webGlobs(func(w *Web) *[]string { return &w.AllowExtensions }),
			doc: "extensions of paths, such as png, that do not count"},
	}},
}

const (
	noticeHashLimit = "accepted and ignored, the thresholds say how much is kept of a source"
	noticeMost      = "more than 1024 are not told apart: 1024 is used"
	noticeSources   = "65536 is used: more sources are not followed"
	noticeNoEffect  = "has no effect with engine=webscan"

	defaultWindow = 5 * time.Minute
	maxSources    = 65536
	maxThresholds = 32
)

// webNames are the names of the sections.
func webNames() (names []string) {
	for _, s := range webKeys {
		names = append(names, s.section)
	}
	return names
}

// webIdle are the keys of [rule] that report how single lines are read and counted.
var webIdle = []string{"format", "addr", "user", "message", "when", "okwhen", "probewhen", "failregex", "attemptregex", "echoregex", "proberegex",
	"okregex", "orphanregex", "peerregex", "ignoreregex", "maxretry", "findtime"}

// each is the form of a key of one threshold, which its number names.
func each(f form[Threshold]) form[Web] {
	return form[Web]{syntax: f.syntax, empty: f.empty, set: func(w *Web, s setting) *fault {
		n := thresholdOf(s.key)
		i := slices.IndexFunc(w.Thresholds, func(t Threshold) bool { return t.Number == n })
		if i < 0 {
			if len(w.Thresholds) == maxThresholds {
				return &fault{0, fmt.Sprintf("more than %d thresholds", maxThresholds), "write a second rule file"}
			}
			i = len(w.Thresholds)
			w.Thresholds = append(w.Thresholds, Threshold{Number: n, pos: s.keyPos})
		}
		return f.set(&w.Thresholds[i], s)
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
func durations(field func(*Web) *[]time.Duration) form[Web] {
	const syntax = "durations with commas, such as 60s,300s"
	return form[Web]{syntax: syntax, set: func(w *Web, s setting) *fault {
		for offset, word := range items(s.value) {
			d, err := ParseDuration(word)
			if err != nil || d < time.Second || d > day {
				return wrong(offset, word, syntax)
			}
			*field(w) = append(*field(w), d)
		}
		return nil
	}}
}

// statuses is a list of HTTP status codes.
func statuses() form[Threshold] {
	const syntax = "status codes with commas, such as 200, 4xx or *"
	return form[Threshold]{syntax: syntax, set: func(t *Threshold, s setting) *fault {
		t.Status, t.Codes = Statuses{}, s.value
		for offset, word := range items(s.value) {
			code, err := strconv.Atoi(strings.Replace(word, "xx", "00", 1))
			switch {
			case word == "*":
				t.Status.add(100, 599)
			case err != nil || len(word) != 3 || code < 100 || code > 599:
				return wrong(offset, word, syntax)
			case strings.HasSuffix(word, "xx"):
				t.Status.add(code, code+99)
			default:
				t.Status.add(code, code)
			}
		}
		return nil
	}}
}

// webGlobs adds globs, in lower case.
func webGlobs[T any](field func(*T) *[]string) form[T] {
	syntax := fmt.Sprintf("globs with commas, in which * and ? are wildcards, %d in all at most", Most)
	return form[T]{syntax: syntax, empty: true, set: func(t *T, s setting) *fault {
		for offset, word := range items(s.value) {
			if len(*field(t)) == Most || len(word) > maxPath {
				return wrong(offset, word, syntax)
			}
			*field(t) = append(*field(t), strings.ToLower(word))
		}
		return nil
	}}
}

// webGroups are the groups of a pattern of a webscan rule.
var webGroups = []string{"ip", "method", "uri", "status", "ua"}

// webPattern is a regular expression of whole lines.
func webPattern() form[Web] {
	return form[Web]{syntax: "a regular expression (RE2)", empty: true, set: func(w *Web, s setting) *fault {
		if s.value == "" {
			return nil
		}
		text := Expand(s.value)
		re, err := syntax.Parse(text, syntax.Perl)
		if err != nil {
			return explain(s.value, err)
		}
		for _, group := range []string{"ip", "uri", "status"} {
			if !slices.Contains(re.CapNames(), group) {
				return &fault{0, fmt.Sprintf("no group %s in %s", Quote(group), Quote(s.value)), "write (?P<" + group + ">...) around it; there are " + strings.Join(webGroups, ", ")}
			}
		}
		w.Patterns = append(w.Patterns, Pattern{Text: text, Pos: s.pos})
		return nil
	}}
}

// GlobPattern returns the regular expression of whole texts that a glob stands for, in which * and ? are wildcards.
func GlobPattern(glob string) string {
	return "(?s)^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(glob)) + "$"
}

// decodeWeb reads the sections of a webscan rule, on top of base if there is one.
func (f *ruleFile) decodeWeb(base *Web) {
	w := new(Web)
	set := make(map[string]setting)
	for _, part := range webKeys {
		part.keys.defaults(w)
		d := part.keys.decode(w, f.others[part.section])
		f.errs = append(f.errs, d.errs...)
		f.rule.notices = append(f.rule.notices, d.notices...)
		for key, s := range d.set {
			set[key] = s
		}
		for _, s := range f.others[part.section] {
			w.set = append(w.set, Origin{Section: part.section, Key: s.key, Value: s.value, Pos: s.pos})
		}
	}
	for _, key := range webIdle {
		if s, ok := f.set[key]; ok {
			f.rule.notices = append(f.rule.notices, Notice{s.keyPos, key + ": " + noticeNoEffect})
		}
	}
	if w.MaxSources > maxSources {
		w.MaxSources = maxSources
		f.rule.notices = append(f.rule.notices, Notice{set["max_active_ips"].keyPos, "max_active_ips: " + noticeSources})
	}
	f.checkThresholds(w)
	if base != nil {
		w.inherit(base, set)
	}
	for i := range w.Thresholds {
		if f.rule.Action == ActionDetect {
			w.Thresholds[i].Action = ActionDetect
		}
	}
	f.refuseWeb(w)
	if len(w.Thresholds) == 0 && len(f.errs) == 0 {
		f.errs = append(f.errs, &Error{f.rule.Pos, fmt.Sprintf("rule %q has no threshold", f.rule.Name), "add rule_1_requests_min= and its like under [thresholds]"})
	}
	f.rule.Web = w
}

// checkThresholds finds what is wrong with a threshold as a whole, and fills in what it leaves out.
func (f *ruleFile) checkThresholds(w *Web) {
	slices.SortFunc(w.Thresholds, func(a, b Threshold) int { return cmp.Compare(a.Number, b.Number) })
	window := defaultWindow
	if len(w.windows) > 0 {
		window = slices.Max(w.windows)
	}
	names := make(map[string]bool)
	for i := range w.Thresholds {
		t := &w.Thresholds[i]
		t.Name = cmp.Or(t.Name, fmt.Sprintf("rule_%d", t.Number))
		t.Window = cmp.Or(t.Window, window)
		if t.Status == (Statuses{}) {
			t.Status.add(100, 599)
		}
		for _, n := range []*int{&t.URIs, &t.Agents} {
			if *n > Most {
				*n = Most
				f.rule.notices = append(f.rule.notices, Notice{t.pos, t.Name + ": " + noticeMost})
			}
		}
		if names[t.Name] {
			f.errs = append(f.errs, &Error{t.pos, "two thresholds have the name " + Quote(t.Name), fmt.Sprintf("set rule_%d_name to another", t.Number)})
		}
		names[t.Name] = true
		if t.Requests+t.URIs+t.Agents+t.Refused == 0 {
			f.errs = append(f.errs, &Error{t.pos, fmt.Sprintf("threshold %s asks for nothing, so that every request would reach it", Quote(t.Name)),
				fmt.Sprintf("add rule_%d_requests_min=", t.Number)})
		}
	}
}

// inherit takes over what the file leaves of base: lists are added, and so are thresholds of other names.
func (w *Web) inherit(base *Web, set map[string]setting) {
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
	others := slices.DeleteFunc(slices.Clone(base.Thresholds), func(t Threshold) bool {
		return slices.ContainsFunc(w.Thresholds, func(own Threshold) bool { return own.Name == t.Name })
	})
	w.Thresholds = slices.Concat(others, w.Thresholds)
	replaced := func(o Origin) bool {
		_, again := set[o.Key]
		return again && o.Section != "thresholds" && o.Section != "whitelist"
	}
	kept := slices.DeleteFunc(slices.Clone(base.set), func(o Origin) bool {
		n := thresholdOf(o.Key)
		return replaced(o) || n > 0 && !slices.ContainsFunc(others, func(t Threshold) bool { return t.Number == n })
	})
	w.set = slices.Concat(kept, w.set)
}

// refuseWeb leaves out patterns that free text can steer. The usual formats are read in their place.
func (f *ruleFile) refuseWeb(w *Web) {
	w.Patterns = slices.DeleteFunc(slices.Clone(w.Patterns), func(p Pattern) bool {
		found := steerable(p.Text)
		if found == flawless {
			return false
		}
		f.rule.notices = append(f.rule.notices, Notice{p.Pos, "failregex refused: " + found.why + "; the usual formats of access logs are read instead"})
		return true
	})
}

// origins returns the settings of the sections beside [rule], as they are in force: thresholds one by one, those of a shipped rule first.
func (w *Web) origins() []Origin {
	var all []Origin
	for _, part := range webKeys {
		first := len(all)
		for _, k := range part.keys {
			set := slices.DeleteFunc(slices.Clone(w.set), func(o Origin) bool { return o.Section != part.section || !k.is(o.Key) })
			if len(set) == 0 && k.value != "" {
				set = []Origin{{Section: part.section, Key: k.name, Value: k.value}}
			}
			all = append(all, set...)
		}
		slices.SortStableFunc(all[first:], func(a, b Origin) int {
			if part.section != "thresholds" {
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

const defaultWebscanDir = "/etc/mef/webscan.d"

// webscanFiles returns the files of the directory in which MEF 1.0 keeps its rules about web requests.
func (r *reader) webscanFiles() []string {
	dir := r.cfg.Paths.WebscanDir
	if dir == defaultWebscanDir {
		dir = filepath.Join(filepath.Dir(r.cfg.Paths.RulesDir), "webscan.d")
	}
	if e := CheckDirOwner(dir); e != nil {
		r.errs = append(r.errs, e)
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.conf"))
	return files
}
