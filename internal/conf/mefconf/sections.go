package mefconf

import (
	"fmt"
	"slices"
	"strings"

	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
)

// maxSectionName is how long the name of a section may be: that of its list in the kernel is a little longer.
const maxSectionName = 32

// sections reads the sections [KIND NAME] of mef.conf, at most so many. begin returns one with its defaults, and take gets each with the
// settings that it has.
func sections[T any](r *reader, sc ini.File, kind string, most int, keys ini.Table[T], begin func(name string, at diag.Pos) T, take func(v T, at diag.Pos, d ini.Decoded)) {
	n := 0
	for _, h := range sc.Headers {
		is, name, _ := strings.Cut(h.Name, " ")
		if is != kind {
			continue
		}
		if !isSectionName(name) {
			r.errs = append(r.errs, &diag.Error{Pos: h.Pos, Msg: fmt.Sprintf("%s %s: wrong name", kind, diag.Quote(name)),
				Hint: fmt.Sprintf("write [%s NAME], a name of lower-case letters, digits and - up to %d characters", kind, maxSectionName)})
			continue
		}
		if n++; n == most+1 {
			r.errs = append(r.errs, &diag.Error{Pos: h.Pos, Msg: fmt.Sprintf("more than %d sections [%s NAME]", most, kind), Hint: "remove or combine some"})
		}
		v := begin(name, h.Pos)
		d := keys.Decode(&v, slices.DeleteFunc(slices.Clone(sc.Settings), func(s ini.Setting) bool { return s.Section != h.Name }))
		r.errs = append(r.errs, d.Errs...)
		r.cfg.Notices = append(r.cfg.Notices, d.Notices...)
		take(v, h.Pos, d)
	}
}

// unused returns a function that reports a key that is set and not used, and with which other setting it would be.
func (r *reader) unused(set map[string]ini.Setting) func(key, needs string, used bool) {
	return func(key, needs string, used bool) {
		if s, ok := set[key]; ok && !used {
			r.notice(s.KeyPos, fmt.Sprintf("%s has an effect with %s only", key, needs))
		}
	}
}

// reservedNames are those of lists that no section describes.
var reservedNames = []string{"blacklist", "whitelist", "community"}

func isSectionName(s string) bool {
	return s != "" && len(s) <= maxSectionName && s[0] != '-' && !slices.Contains(reservedNames, s) && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	})
}
