package rulefile

import (
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf"
	"mef/internal/conf/ini"
	"mef/internal/duration"
)

// Settings returns the keys of a rule as they are in force, in the order of the documentation, each with the place where it is set: a
// key that may be repeated as often as it is, and patterns expanded. A zero Pos means the default.
func Settings(r *conf.Rule) []conf.Origin {
	patterns := map[string][]conf.Pattern{"failregex": r.Fail, "attemptregex": r.Attempt, "echoregex": r.Echo, "proberegex": r.Probe, "okregex": r.OK,
		"orphanregex": r.Orphan, "peerregex": r.Peer, "ignoreregex": r.Ignore}
	var all []conf.Origin
	for _, k := range Keys {
		list, isPattern := patterns[k.Name]
		for _, p := range list {
			all = append(all, conf.Origin{Key: k.Name, Value: p.Text, Pos: p.Pos})
		}
		switch {
		case isPattern, k.Name == "engine" && r.Web == nil, r.Web != nil && slices.Contains(webIdle, k.Name):
		default:
			all = append(all, settingOf(r, k)...)
		}
	}
	if r.Web != nil {
		all = append(all, webOrigins(r.Web)...)
	}
	return all
}

// settingOf returns the settings of a key, otherwise its default.
func settingOf(r *conf.Rule, k ini.Key[draft]) []conf.Origin {
	set := slices.DeleteFunc(slices.Clone(r.Set), func(o conf.Origin) bool { return o.Key != k.Name })
	if len(set) == 0 {
		set = []conf.Origin{{Key: k.Name, Value: k.Value}}
	}
	last := &set[len(set)-1]
	switch k.Name { // what a rule has without a word in its file, or in spite of one
	case "enabled":
		last.Value = strconv.FormatBool(r.Enabled)
	case "name":
		last.Value = r.Name
	case "engine":
		last.Value = "webscan"
	case "service":
		last.Value = r.Service
	case "bantime":
		last.Value = duration.Format(r.BanTime)
	}
	return set
}

// origins returns where keys other than patterns are set: those of the file, and what it leaves of those of base.
func (f *ruleFile) origins(base *conf.Rule) (all []conf.Origin) {
	if base != nil {
		all = slices.DeleteFunc(slices.Clone(base.Set), func(o conf.Origin) bool { _, again := f.set[o.Key]; return again })
	}
	for _, s := range f.settings {
		if k, ok := Keys.Find(s.Key); ok && !strings.HasSuffix(k.Name, "regex") {
			all = append(all, conf.Origin{Key: k.Name, Value: s.Value, Pos: s.Pos})
		}
	}
	return all
}
