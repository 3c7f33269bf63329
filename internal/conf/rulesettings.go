package conf

import (
	"slices"
	"strconv"
	"strings"
)

// Settings returns the keys of a rule as they are in force, in the order of the documentation, each with the place where it is set: a
// key that may be repeated as often as it is, and patterns expanded. A zero Pos means the default.
func (r *Rule) Settings() []Origin {
	patterns := map[string][]Pattern{"failregex": r.Fail, "attemptregex": r.Attempt, "echoregex": r.Echo, "proberegex": r.Probe, "okregex": r.OK,
		"orphanregex": r.Orphan, "peerregex": r.Peer, "ignoreregex": r.Ignore}
	var all []Origin
	for _, k := range ruleKeys {
		list, isPattern := patterns[k.name]
		for _, p := range list {
			all = append(all, Origin{Key: k.name, Value: p.Text, Pos: p.Pos})
		}
		switch {
		case isPattern, k.name == "engine" && r.Web == nil, r.Web != nil && slices.Contains(webIdle, k.name):
		default:
			all = append(all, r.setting(k)...)
		}
	}
	if r.Web != nil {
		all = append(all, r.Web.origins()...)
	}
	return all
}

// setting returns what is set of a key, else its default.
func (r *Rule) setting(k spec[draft]) []Origin {
	set := slices.DeleteFunc(slices.Clone(r.Set), func(o Origin) bool { return o.Key != k.name })
	if len(set) == 0 {
		set = []Origin{{Key: k.name, Value: k.value}}
	}
	last := &set[len(set)-1]
	switch k.name { // what a rule has without a word in its file, or in spite of one
	case "enabled":
		last.Value = strconv.FormatBool(r.Enabled)
	case "name":
		last.Value = r.Name
	case "engine":
		last.Value = "webscan"
	case "service":
		last.Value = r.Service
	case "bantime":
		last.Value = FormatDuration(r.BanTime)
	}
	return set
}

// origins returns where keys other than patterns are set: those of the file, and what it leaves of those of base.
func (f *ruleFile) origins(base *Rule) (all []Origin) {
	if base != nil {
		all = slices.DeleteFunc(slices.Clone(base.Set), func(o Origin) bool { _, again := f.set[o.Key]; return again })
	}
	for _, s := range f.settings {
		if k, ok := ruleKeys.find(s.key); ok && !strings.HasSuffix(k.name, "regex") {
			all = append(all, Origin{Key: k.name, Value: s.value, Pos: s.pos})
		}
	}
	return all
}
