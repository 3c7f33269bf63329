package conf

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mef/internal/ban"
)

// ParseRule reads a rule file; name is its path. With a base, the text changes base: a key that it sets replaces that of base,
// and patterns are added. Notices also report patterns that were left out because a client could steer them; a rule of which
// no pattern is left is disabled.
func ParseRule(name string, text []byte, base *Rule) (Rule, []Notice, Errors) {
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

// LoadRule reads the rule file at path by itself, to be tried out. A pattern that would be left out is an error here. The error
// is Errors.
func LoadRule(path string) (Rule, error) {
	text, err := readFile(path, maxConfig)
	if err != nil {
		return Rule{}, Errors{fileError(path, err)}
	}
	f := readRule(path, text)
	f.decode(nil, false)
	for _, r := range f.steerable() {
		f.errs = append(f.errs, r.err)
	}
	if f.rule.webscan {
		f.errs = append(f.errs, &Error{f.rule.Pos, "a rule with engine=webscan is about many lines of a source, not about one", "try it with mefctl replay"})
	}
	if f.rule.BanTime == 0 {
		f.rule.BanTime = defaultBanTime
	}
	return f.rule.Rule, f.errs.Err()
}

// A ruleFile is a rule file being read.
type ruleFile struct {
	path     string
	settings []setting // of section [rule]
	others   map[string][]setting
	headers  []header
	rule     draft
	set      map[string]setting
	shipped  []string // names of the compiled-in rules
	errs     Errors
}

// readRule cuts text into settings and finds out the rule's name.
func readRule(path string, text []byte) *ruleFile {
	sc := scan(path, text, "rule")
	f := &ruleFile{path: path, headers: sc.headers, others: make(map[string][]setting), errs: sc.errs}
	f.rule.Name = strings.TrimSuffix(filepath.Base(path), ".conf")
	f.rule.Pos = Pos{File: path}
	for i, h := range sc.headers {
		if h.name == "rule" || i == 0 {
			f.rule.Pos = h.pos
		}
	}
	for _, s := range sc.settings {
		if s.section != "rule" {
			f.others[s.section] = append(f.others[s.section], s)
			continue
		}
		f.settings = append(f.settings, s)
		switch {
		case s.key == "name" && isName(s.value):
			f.rule.Name = s.value
		case s.key == "engine" && s.value == "webscan":
			f.rule.webscan = true
		case s.key == "addr":
			f.rule.addr = true
		}
	}
	if f.rule.webscan {
		f.rule.Name = webName(f.rule.Name)
	}
	if ban.Reserved(f.rule.Name) {
		f.errs = append(f.errs, &Error{Pos{File: path}, "rule name " + Quote(f.rule.Name) + " is reserved: it marks bans that no detection rule made",
			"rename the file, or set name= to another name"})
	}
	if !isName(f.rule.Name) {
		f.errs = append(f.errs, &Error{Pos{File: path}, "the file's name " + Quote(f.rule.Name) + " is not a valid name for a rule", "add name="})
	}
	return f
}

// decode makes the rule of the settings, on top of base if there is one.
func (f *ruleFile) decode(base *Rule, shipped bool) {
	pos, name, webscan := f.rule.Pos, f.rule.Name, f.rule.webscan || base != nil && base.Web != nil
	var web *Web
	if base != nil {
		web = base.Web
		f.rule.Rule = clone(*base)
		f.rule.isJSON = base.JSON != nil
		f.rule.addr = f.rule.addr || base.JSON != nil && len(base.JSON.Addr) > 0
	} else {
		ruleKeys.defaults(&f.rule)
	}
	f.rule.Pos, f.rule.Name, f.rule.webscan, f.rule.shipped = pos, name, webscan, shipped
	inherited := f.rule.Files
	f.rule.Files = nil
	d := ruleKeys.decode(&f.rule, f.settings)
	f.rule.Name = name
	f.set = d.set
	f.rule.Set = f.origins(base)
	f.rule.notices = append(f.rule.notices, d.notices...)
	f.errs = append(f.errs, d.errs...)
	if _, ok := d.set["files"]; !ok {
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
func clone(r Rule) Rule {
	for _, list := range []*[]Pattern{&r.Fail, &r.Attempt, &r.Echo, &r.Probe, &r.OK, &r.Orphan, &r.Peer, &r.Ignore} {
		*list = slices.Clone(*list)
	}
	for _, list := range []*[]string{&r.Programs, &r.Units, &r.UIDs, &r.Files} {
		*list = slices.Clone(*list)
	}
	r.JSON = r.JSON.clone()
	return r
}

// checkSections finds sections that a rule file does not have.
func (f *ruleFile) checkSections() {
	known := []string{"rule"}
	if f.rule.webscan {
		known = append(known, webNames()...)
	}
	for _, h := range f.headers {
		if !f.rule.webscan && slices.Contains(webNames(), h.name) {
			f.errs = append(f.errs, &Error{h.pos, "section " + Quote(h.name) + " in a rule about single lines", "for a rule about web requests, write engine=webscan under [rule]"})
		} else if !slices.Contains(known, h.name) {
			f.errs = append(f.errs, unknownSection(h, known))
		}
	}
}

// unknownSection is the error for h, which is none of known.
func unknownSection(h header, known []string) *Error {
	hint := DidYouMean(h.name, known)
	if hint == "" {
		hint = "there is [" + strings.Join(known, "], [") + "]"
	}
	return &Error{h.pos, "unknown section " + Quote(h.name), hint}
}

// checkRule finds what is wrong with the rule as a whole.
func (f *ruleFile) checkRule() {
	r := &f.rule
	if len(f.errs) > 0 {
		return // a pattern may be missing only because it has an error
	}
	f.checkJSON()
	if !r.hasPatterns() && r.Web == nil {
		hint := DidYouMean(r.Name, f.shipped)
		switch {
		case hint == "" && r.JSON != nil:
			hint = "add when= or message= and failregex="
		case hint == "":
			hint = "add failregex= or proberegex="
		}
		f.errs = append(f.errs, &Error{r.Pos, fmt.Sprintf("rule %q has no pattern, and no built-in rule has that name", r.Name), hint})
	}
	if s, ok := f.set["source"]; ok && r.Source == SourceFile && len(r.Files) == 0 {
		f.errs = append(f.errs, &Error{s.pos, "source=file without files", "add files="})
	}
}

// hasPatterns reports whether anything can make the rule count.
func (r *Rule) hasPatterns() bool {
	return len(r.Fail)+len(r.Probe) > 0 || r.JSON != nil && len(r.JSON.Fail)+len(r.JSON.Probe) > 0
}

// A refusal is a pattern that free text can steer.
type refusal struct {
	key  string
	flaw flaw
	err  *Error
}

// patternLists are the keys whose patterns extract an address, with their lists.
func (r *Rule) patternLists() map[string]*[]Pattern {
	return map[string]*[]Pattern{"failregex": &r.Fail, "attemptregex": &r.Attempt, "echoregex": &r.Echo, "proberegex": &r.Probe, "okregex": &r.OK, "peerregex": &r.Peer}
}

// steerable takes the patterns that free text can steer out of the rule and returns them in order of place.
func (f *ruleFile) steerable() []refusal {
	var out []refusal
	for key, list := range f.rule.patternLists() {
		*list = slices.DeleteFunc(*list, func(p Pattern) bool {
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
			out = append(out, refusal{key, found, &Error{p.Pos, key + " refused: " + found.why, found.mend}})
			return true
		})
	}
	slices.SortFunc(out, func(a, b refusal) int { return a.err.Line - b.err.Line })
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
		f.rule.notices = append(f.rule.notices, Notice{r.err.Pos, text})
	}
	for key, list := range f.rule.patternLists() {
		for _, p := range *list {
			if !p.Shipped && describesHeader(p) {
				f.rule.notices = append(f.rule.notices, Notice{p.Pos,
					key + ": messages do not begin with a date, program or process ID, so this may never match; name the program in programs="})
			}
		}
	}
	f.doubt()
	if len(refused) > 0 && !f.rule.hasPatterns() && f.rule.Enabled {
		f.rule.Enabled = false
		f.rule.notices = append(f.rule.notices, Notice{f.rule.Pos, fmt.Sprintf("rule %q is disabled: none of its patterns can be used", f.rule.Name)})
	}
}

// doubt adds notices of what is used as it is written and may be wrong: patterns that hide failures, files that clients write.
func (f *ruleFile) doubt() {
	for _, p := range f.rule.Ignore {
		if p.Shipped {
			continue
		}
		if found := hides(p.Text); found != flawless {
			f.rule.notices = append(f.rule.notices, Notice{p.Pos, "ignoreregex: " + found.why + "; " + found.mend})
		}
	}
	s, ok := f.set["files"]
	if !ok || f.rule.Action == ActionDetect {
		return
	}
	for _, path := range f.rule.Files {
		if log := clientsWrite(path); log != nil {
			f.rule.notices = append(f.rule.notices, Notice{s.pos, fmt.Sprintf(
				"clients write whole lines into %s (by %s), so they can have anybody banned; %s", Quote(path), log.by, log.instead)})
		}
	}
}
