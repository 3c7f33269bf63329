package filter_test

import (
	"net/netip"
	"strings"
	"testing"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter"
)

// Whoever writes the name of a user writes what he likes: also a whole message of this or any other rule, with the address of
// somebody else. For each sample that names a user, put there each sample of all rules: the sample's own address and kind stay as
// they are, or the line says nothing.
func TestNoMessageHidesInAName(t *testing.T) {
	const victim = "198.51.100.77"
	rules := shippedRules(t)
	views := compile(t, rules).Views()
	var texts []string
	for _, rule := range rules {
		for _, s := range readSamples(t, rule.Name) {
			text := s.text
			for word := range strings.FieldsSeq(s.want) {
				if _, err := netip.ParseAddr(word); err == nil {
					text = strings.ReplaceAll(text, word, victim)
				}
			}
			texts = append(texts, text)
			if tail := strings.Index(text, ": "); tail > 0 {
				texts = append(texts, "x "+text[tail+2:])
			}
		}
	}
	step := 1
	if testing.Short() {
		step = 23
	}
	// The daemons of these refuse names with blanks before they log.
	checked := map[string]bool{"ejabberd": true}
	for _, rule := range rules {
		if checked[rule.Name] {
			continue
		}
		v := views.View(func(r *conf.Rule) bool { return r.Name == rule.Name }) // as its file is read
		for _, s := range readSamples(t, rule.Name) {
			var m filter.Match
			if !v.Match(line(s.text), &m) || len(m.User) < 3 || !m.Addr.IsValid() || strings.Count(s.text, string(m.User)) != 1 || m.Kind == event.Success {
				continue
			}
			if m.Rule.JSON != nil || strings.Contains(s.text, `time="`) || s.text[0] == '{' {
				continue // the daemon escapes what the peer writes, see TestJSON
			}
			if strings.Contains(s.text, " ssh1: ruser ") {
				continue // this user exists, and is one word
			}
			user, addr, kind := string(m.User), m.Addr, m.Kind
			for i := 0; i < len(texts); i += step {
				forged := strings.Replace(s.text, user, texts[i], 1)
				if !v.Match(line(forged), &m) || !m.Addr.IsValid() {
					continue
				}
				if m.Addr != addr || m.Kind != kind && m.Kind == event.Success {
					t.Errorf("%s.log:%d: %v of %v, want %v of %v\n%s", rule.Name, s.number, m.Kind, m.Addr, kind, addr, forged)
					break
				}
			}
		}
	}
}
