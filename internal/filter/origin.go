package filter

import (
	"mef/internal/conf"
	"mef/internal/event"
)

// Web returns the rules with engine=webscan, whose lines no View reads.
func (s *Set) Web() (rules []*conf.Rule) {
	if s == nil {
		return nil
	}
	for _, r := range s.rules {
		if r.Web != nil {
			rules = append(rules, r.Rule)
		}
	}
	return rules
}

// Covers reports whether the rule of that name is about a program. It is about where a service logs, not about the content of lines.
func (s *Set) Covers(rule, program string) bool {
	r := s.rule(rule)
	return r != nil && r.covers([]byte(program))
}

// Believes reports whether the rule of that name is about the entry's program and trusts its sender.
func (s *Set) Believes(rule string, e *event.Entry) bool {
	r := s.rule(rule)
	return r != nil && r.covers(e.Identifier) && r.trusts(e)
}

// Believer returns Believes for one rule, which is then looked up only once.
func (s *Set) Believer(rule string) func(*event.Entry) bool {
	r := s.rule(rule)
	return func(e *event.Entry) bool { return r != nil && r.covers(e.Identifier) && r.trusts(e) }
}

// Serves reports whether the rule of that name is about what a system unit logs.
func (s *Set) Serves(rule, unit string) bool {
	r := s.rule(rule)
	return r != nil && unit != "" && !isSessionScope([]byte(unit)) && r.trusts(&event.Entry{Unit: []byte(unit)})
}

func (s *Set) rule(name string) *rule {
	for _, r := range s.rules {
		if r.Name == name {
			return r
		}
	}
	return nil
}
