package filter

import (
	"encoding/binary"
	"slices"

	"mef/internal/conf"
)

// Views are the matchers of one goroutine. They share what is compiled: views that read by the same rules, as those of the files of
// one glob do, cost next to nothing each.
type Views struct {
	set      *Set
	families map[string]*family // by their rules
	groups   map[string]*group  // by their rules
	sessions *sessions
	views    int    // made so far
	key      []byte // scratch
}

// A family is the rules of a view, and which of them each program's messages meet.
type family struct {
	views    *Views
	rules    []*rule
	programs map[string]*programOf       // by name
	lately   [1 << latelyBits]*programOf // some of them by a cheap hash, for most lines are of few programs
	picked   []*rule                     // scratch
}

const latelyBits = 6

// A programOf is a program that has written lines, and the rules that name it; no group if none does.
type programOf struct {
	name  string
	group *group
	tag   bool // the name is what stands in front of "[pid]: " or ": ", and is no facility
}

const (
	maxPrograms = 1024 // program names remembered
	maxProgram  = 128  // bytes of a program name; no rule names a longer one
)

// Views returns matchers for one goroutine.
func (s *Set) Views() *Views {
	return &Views{set: s, families: make(map[string]*family), groups: make(map[string]*group), sessions: newSessions()}
}

// View returns a new matcher for the rules that include accepts.
func (s *Views) View(include func(*conf.Rule) bool) *View {
	var rules []*rule
	for _, r := range s.set.rules {
		if r.Web == nil && include(r.Rule) {
			rules = append(rules, r)
		}
	}
	key := string(s.keyOf(rules))
	f := s.families[key]
	if f == nil {
		f = &family{views: s, rules: rules, programs: make(map[string]*programOf)}
		s.families[key] = f
	}
	s.views++
	return &View{family: f, sessions: s.sessions, number: s.views}
}

// View returns a new matcher for the rules that include accepts, which shares nothing with others. It is for one goroutine.
func (s *Set) View(include func(*conf.Rule) bool) *View { return s.Views().View(include) }

// keyOf returns a key of rules, valid until the next call.
func (s *Views) keyOf(rules []*rule) []byte {
	s.key = s.key[:0]
	for _, r := range rules {
		s.key = binary.LittleEndian.AppendUint32(s.key, uint32(r.place))
	}
	return s.key
}

// groupOf returns the group of these rules, nil if there are none.
func (s *Views) groupOf(rules []*rule) *group {
	if len(rules) == 0 {
		return nil
	}
	key := s.keyOf(rules)
	g, ok := s.groups[string(key)]
	if !ok {
		g = newGroup(slices.Clone(rules))
		s.groups[string(key)] = g
	}
	return g
}
