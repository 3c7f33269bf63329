// Package rulefile reads detection rules: those that are compiled in, and the operator's, which change them or add to them.
//
// A pattern of the operator that text sent by a client can steer to another address is left out; see lint.go.
package rulefile

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
	"mef/internal/ordered"
)

// Parse reads a rule file; name is its path. With a base, the text changes base: a key that it sets replaces that of base,
// and patterns are added. Notices also report patterns that were left out because a client could steer them; a rule of which
// no pattern is left is disabled.
func Parse(name string, text []byte, base *conf.Rule) (conf.Rule, []diag.Notice, diag.Errors) {
	f := readRule(name, text)
	f.decode(base, false)
	f.refuse(base != nil)
	if f.rule.BanTime == 0 {
		f.rule.BanTime = defaultBanTime
	}
	return f.rule.Rule, f.rule.notices, f.errs
}

// defaultBanTime is the first ban of a rule that was read without a mef.conf.
const defaultBanTime = 10 * time.Minute

// Load reads the rule file at path by itself, to be tried out. A pattern that would be left out is an error here. The error
// is Errors.
func Load(path string) (conf.Rule, error) {
	text, err := conf.ReadFile(path, conf.MaxConfig)
	if err != nil {
		return conf.Rule{}, diag.Errors{conf.FileError(path, err)}
	}
	f := readRule(path, text)
	f.decode(nil, false)
	for _, r := range f.steerable() {
		f.errs = append(f.errs, r.err)
	}
	if f.rule.webscan {
		f.errs = append(f.errs, &diag.Error{Pos: f.rule.Pos, Msg: "a rule with engine=webscan is about many lines of a source, not about one", Hint: "try it with mefctl replay"})
	}
	if f.rule.BanTime == 0 {
		f.rule.BanTime = defaultBanTime
	}
	return f.rule.Rule, f.errs.Err()
}

// ReadOwn reads a rule file of the operator. It changes the shipped rule of its name if there is one. BanTime is 0 where neither names
// one. inWebscanDir is for files of webscan_dir, which must have engine=webscan.
func ReadOwn(path string, text []byte, shipped []conf.Rule, inWebscanDir bool) Own {
	f := readRule(path, text)
	if inWebscanDir && !f.rule.webscan {
		return Own{Errs: diag.Errors{{Pos: f.rule.Pos, Msg: "no engine=webscan in a file of webscan_dir", Hint: "write it under [rule], with the keys that mefdaemon.rules(5) lists for it"}}}
	}
	var base *conf.Rule
	for i := range shipped {
		f.shipped = append(f.shipped, shipped[i].Name)
		if shipped[i].Name == f.rule.Name {
			base = &shipped[i]
		}
	}
	f.decode(base, false)
	f.refuse(base != nil)
	return Own{f.rule.Rule, f.namePos(), f.rule.notices, f.errs}
}

// An Own is a rule of the operator as it was read.
type Own struct {
	Rule    conf.Rule // without a name if the file cannot be read at all
	NamePos diag.Pos  // where the rule gets its name
	Notices []diag.Notice
	Errs    diag.Errors
}

// namePos is where the rule gets its name.
func (f *ruleFile) namePos() diag.Pos {
	if s, ok := f.set["name"]; ok {
		return s.Pos
	}
	return f.rule.Pos
}

// Merge returns the rules of the operator and those that are shipped and that he does not change, ordered by name behind those that are
// shipped disabled. Rules without a ban time get banTime.
func Merge(own map[string]conf.Rule, shipped []conf.Rule, banTime time.Duration) []conf.Rule {
	all := maps.Clone(own)
	for _, rule := range shipped {
		if _, changed := own[rule.Name]; !changed {
			all[rule.Name] = rule
		}
	}
	var merged []conf.Rule
	for _, name := range slices.Sorted(maps.Keys(all)) {
		rule := all[name]
		if rule.BanTime == 0 {
			rule.BanTime = banTime
		}
		merged = append(merged, rule)
	}
	optionalFirst(merged, shipped)
	return merged
}

// A ruleFile is a rule file being read.
type ruleFile struct {
	path     string
	settings []ini.Setting // of section [rule]
	others   map[string][]ini.Setting
	headers  []ini.Header
	rule     draft
	set      map[string]ini.Setting
	shipped  []string // names of the compiled-in rules
	errs     diag.Errors
}

// readRule cuts text into settings and finds out the rule's name.
func readRule(path string, text []byte) *ruleFile {
	sc := ini.Scan(path, text, "rule")
	f := &ruleFile{path: path, headers: sc.Headers, others: make(map[string][]ini.Setting), errs: sc.Errs}
	f.rule.Name = strings.TrimSuffix(filepath.Base(path), ".conf")
	f.rule.Pos = diag.Pos{File: path}
	for i, h := range sc.Headers {
		if h.Name == "rule" || i == 0 {
			f.rule.Pos = h.Pos
		}
	}
	for _, s := range sc.Settings {
		if s.Section != "rule" {
			f.others[s.Section] = append(f.others[s.Section], s)
			continue
		}
		f.settings = append(f.settings, s)
		switch {
		case s.Key == "name" && ini.IsName(s.Value):
			f.rule.Name = s.Value
		case s.Key == "engine" && s.Value == "webscan":
			f.rule.webscan = true
		case s.Key == "addr":
			f.rule.addr = true
		}
	}
	if f.rule.webscan {
		f.rule.Name = webName(f.rule.Name)
	}
	if ban.Reserved(f.rule.Name) {
		f.errs = append(f.errs, &diag.Error{Pos: diag.Pos{File: path}, Msg: "rule name " + diag.Quote(f.rule.Name) + " is reserved: it marks bans that no detection rule made",
			Hint: "rename the file, or set name= to another name"})
	}
	if !ini.IsName(f.rule.Name) {
		f.errs = append(f.errs, &diag.Error{Pos: diag.Pos{File: path}, Msg: "the file's name " + diag.Quote(f.rule.Name) + " is not a valid name for a rule", Hint: "add name="})
	}
	return f
}

// decode makes the rule of the settings, on top of base if there is one.
func (f *ruleFile) decode(base *conf.Rule, shipped bool) {
	pos, name, webscan := f.rule.Pos, f.rule.Name, f.rule.webscan || base != nil && base.Web != nil
	var web *conf.Web
	if base != nil {
		web = base.Web
		f.rule.Rule = clone(*base)
		f.rule.isJSON = base.JSON != nil
		f.rule.addr = f.rule.addr || base.JSON != nil && len(base.JSON.Addr) > 0
	} else {
		Keys.SetDefaults(&f.rule)
	}
	f.rule.Pos, f.rule.Name, f.rule.webscan, f.rule.shipped = pos, name, webscan, shipped
	inherited := f.rule.Files
	f.rule.Files = nil
	d := Keys.Decode(&f.rule, f.settings)
	f.rule.Name = name
	f.set = d.Set
	f.rule.Set = f.origins(base)
	f.rule.notices = append(f.rule.notices, d.Notices...)
	f.errs = append(f.errs, d.Errs...)
	if _, ok := d.Set["files"]; !ok {
		f.rule.Files = inherited
	}
	if f.rule.Service == "" {
		f.rule.Service = f.rule.Name
	}
	f.rule.Programs = slices.DeleteFunc(f.rule.Programs, func(p string) bool { return p == "*" })
	for i, u := range f.rule.Units {
		if !strings.ContainsAny(u, ".*") {
			f.rule.Units[i] = u + ".service" // as systemctl(1) does
		}
	}
	f.checkSections()
	if webscan {
		f.decodeWeb(web)
	}
	f.checkRule()
}

// clone returns a copy of r that shares no slice with it.
func clone(r conf.Rule) conf.Rule {
	for _, list := range []*[]conf.Pattern{&r.Fail, &r.Attempt, &r.Echo, &r.Probe, &r.OK, &r.Orphan, &r.Peer, &r.Ignore} {
		*list = slices.Clone(*list)
	}
	for _, list := range []*[]string{&r.Programs, &r.Units, &r.UIDs, &r.Files, &r.Containers, &r.Images} {
		*list = slices.Clone(*list)
	}
	r.JSON = cloneJSON(r.JSON)
	return r
}

// checkSections finds sections that a rule file does not have.
func (f *ruleFile) checkSections() {
	known := []string{"rule"}
	if f.rule.webscan {
		known = append(known, webNames()...)
	}
	for _, h := range f.headers {
		if !f.rule.webscan && slices.Contains(webNames(), h.Name) {
			f.errs = append(f.errs, &diag.Error{Pos: h.Pos, Msg: "section " + diag.Quote(h.Name) + " in a rule about single lines", Hint: "for a rule about web requests, write engine=webscan under [rule]"})
		} else if !slices.Contains(known, h.Name) {
			f.errs = append(f.errs, ini.UnknownSection(h, known))
		}
	}
}

// checkRule finds what is wrong with the rule as a whole.
func (f *ruleFile) checkRule() {
	r := &f.rule
	if len(f.errs) > 0 {
		return // a pattern may be missing only because it has an error
	}
	f.checkJSON()
	if !hasPatterns(&r.Rule) && r.Web == nil {
		hint := diag.DidYouMean(r.Name, f.shipped)
		switch {
		case hint == "" && r.JSON != nil:
			hint = "add when= or message= and failregex="
		case hint == "":
			hint = "add failregex= or proberegex="
		}
		f.errs = append(f.errs, &diag.Error{Pos: r.Pos, Msg: fmt.Sprintf("rule %q has no pattern, and no built-in rule has that name", r.Name), Hint: hint})
	}
	if s, ok := f.set["source"]; ok && r.Source == conf.SourceFile && len(r.Files)+len(r.Containers)+len(r.Images) == 0 {
		f.errs = append(f.errs, &diag.Error{Pos: s.Pos, Msg: "source=file without files", Hint: "add files=, containers= or images="})
	}
}

// hasPatterns reports whether anything can make the rule count.
func hasPatterns(r *conf.Rule) bool {
	return len(r.Fail)+len(r.Probe) > 0 || r.JSON != nil && len(r.JSON.Fail)+len(r.JSON.Probe) > 0
}

// A refusal is a pattern that free text can steer.
type refusal struct {
	key  string
	flaw flaw
	err  *diag.Error
}

// patternLists are the keys whose patterns extract an address, with their lists.
func patternLists(r *conf.Rule) map[string]*[]conf.Pattern {
	return map[string]*[]conf.Pattern{"failregex": &r.Fail, "attemptregex": &r.Attempt, "echoregex": &r.Echo, "proberegex": &r.Probe, "okregex": &r.OK, "peerregex": &r.Peer}
}

// steerable takes the patterns that free text can steer out of the rule and returns them in order of place.
func (f *ruleFile) steerable() []refusal {
	var out []refusal
	for key, list := range patternLists(&f.rule.Rule) {
		*list = slices.DeleteFunc(*list, func(p conf.Pattern) bool {
			if p.Shipped {
				return false
			}
			found := steerable(p.Text)
			if found == flawless && f.rule.JSON != nil && !strings.HasPrefix(p.Text, "^") {
				found = unbound
			}
			if found == flawless && key == "okregex" {
				found = forges(p.Text)
			}
			if found == flawless {
				return false
			}
			out = append(out, refusal{key, found, &diag.Error{Pos: p.Pos, Msg: key + " refused: " + found.why, Hint: found.fix}})
			return true
		})
	}
	ordered.Sort(out, func(a, b refusal) int { return a.err.Line - b.err.Line })
	return out
}

// refuse leaves out the patterns that free text can steer, with a notice for each.
func (f *ruleFile) refuse(override bool) {
	refused := f.steerable()
	for _, r := range refused {
		text := r.err.Msg + "; " + r.err.Hint
		if override {
			text = fmt.Sprintf("%s; the patterns of the built-in rule %q are used with the settings of this file", r.err.Msg, f.rule.Name)
		}
		f.rule.notices = append(f.rule.notices, diag.Notice{Pos: r.err.Pos, Text: text})
	}
	for key, list := range patternLists(&f.rule.Rule) {
		for _, p := range *list {
			if !p.Shipped && describesHeader(p) {
				f.rule.notices = append(f.rule.notices, diag.Notice{Pos: p.Pos,
					Text: key + ": messages do not begin with a date, program or process ID, so this may never match; name the program in programs="})
			}
		}
	}
	f.doubt()
	if len(refused) > 0 && !hasPatterns(&f.rule.Rule) && f.rule.Enabled {
		f.rule.Enabled = false
		f.rule.notices = append(f.rule.notices, diag.Notice{Pos: f.rule.Pos, Text: fmt.Sprintf("rule %q is disabled: none of its patterns can be used", f.rule.Name)})
	}
}

// doubt adds notices of what is used as it is written and may be wrong: patterns that hide failures, files that clients write.
func (f *ruleFile) doubt() {
	for _, p := range f.rule.Ignore {
		if p.Shipped {
			continue
		}
		if found := hides(p.Text); found != flawless {
			f.rule.notices = append(f.rule.notices, diag.Notice{Pos: p.Pos, Text: "ignoreregex: " + found.why + "; " + found.fix})
		}
	}
	if f.rule.Action == conf.ActionDetect {
		return
	}
	for _, from := range []struct {
		key   string
		list  []string
		known func(string) *writableLog
		what  string
	}{{"files", f.rule.Files, clientsWrite, "into "}, {"containers", f.rule.Containers, clientsPrint, "into the output of "}, {"images", f.rule.Images, clientsPrint, "into the output of "}} {
		s, ok := f.set[from.key]
		if !ok {
			continue
		}
		for _, name := range from.list {
			if log := from.known(name); log != nil {
				f.rule.notices = append(f.rule.notices, diag.Notice{Pos: s.Pos, Text: fmt.Sprintf(
					"clients write whole lines %s%s (by %s), so they can have anybody banned; %s", from.what, diag.Quote(name), log.by, log.instead)})
			}
		}
	}
}
