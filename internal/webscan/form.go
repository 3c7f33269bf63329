package webscan

import (
	"mef/internal/conf"
	"mef/internal/filter/tdfa"
	"mef/internal/logtext"
)

// A form reads lines by the patterns of a rule.
type form struct {
	machine *tdfa.Machine
	loc     []int
	groups  []formGroups // by pattern
}

// formGroups are the numbers of a pattern's groups, 0 for one that is not there.
type formGroups struct{ ip, method, uri, status, ua int }

// newForm returns the form of patterns, nil if there are none. They were found to be well-formed one by one.
func newForm(patterns []conf.Pattern) *form {
	if len(patterns) == 0 {
		return nil
	}
	texts := make([]string, len(patterns))
	for i, p := range patterns {
		texts[i] = p.Text
	}
	program, err := tdfa.Compile(texts)
	if err != nil {
		panic(err)
	}
	f := &form{machine: program.NewMachine(), loc: make([]int, program.LocLen())}
	for i := range patterns {
		group := func(name string) int { return program.Group(i, name) }
		f.groups = append(f.groups, formGroups{ip: group("ip"), method: group("method"), uri: group("uri"), status: group("status"), ua: group("ua")})
	}
	return f
}

func (f *form) read(line []byte, r *Request) bool {
	i, ok := f.machine.Match(line, f.loc)
	if !ok {
		return false
	}
	group := func(n int) []byte { return tdfa.Group(line, f.loc, n) }
	g := &f.groups[i]
	*r = Request{Method: group(g.method), Target: group(g.uri), Agent: group(g.ua)}
	r.Target = r.Target[:min(len(r.Target), maxTarget)]
	r.Agent = r.Agent[:min(len(r.Agent), maxTarget)]
	if r.Addr, ok = logtext.Peer(group(g.ip)); !ok {
		return false
	}
	r.Status, ok = number(group(g.status))
	return ok
}

// HasFormat reports whether the rule has patterns of its own.
func (s *Scanner) HasFormat() bool { return s.form != nil }

// Read reads a line by the rule's own patterns. ok is false if it has patterns and none matches; own is false if it has none, so that a
// Reader is to read the line.
func (s *Scanner) Read(line []byte, r *Request) (own, ok bool) {
	if s.form == nil {
		return false, false
	}
	return true, s.form.read(line, r)
}
