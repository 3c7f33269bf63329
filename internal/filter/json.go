package filter

import (
	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/logtext"
)

// Lines that are JSON objects (format=json); see logtext.Reader. Other lines match nothing.

// A jsonPlace is where a rule's conditions and patterns find their values.
type jsonPlace struct {
	rule                *rule
	addr, user, message int // numbers of paths, -1 if there is none
	conditions          []jsonCondition
	texts               *texts // of the rule's patterns; nil if it has none
}

type jsonCondition struct {
	verdict verdict
	terms   []jsonTerm
}

type jsonTerm struct {
	value int
	test  conf.Test
	want  string
}

// newJSONReader returns the reader for the rules with format=json among rules, nil if there are none.
func newJSONReader(rules []*rule) (r *logtext.Reader, places []jsonPlace) {
	for _, one := range rules {
		if one.JSON == nil {
			continue
		}
		if r == nil {
			r = new(logtext.Reader)
		}
		j := one.JSON
		p := jsonPlace{rule: one, addr: r.Want(j.Addr), user: r.Want(j.User), message: r.Want(j.Message)}
		for _, kind := range []struct {
			verdict verdict
			list    []conf.Condition
		}{{failure, j.Fail}, {probe, j.Probe}, {success, j.OK}} {
			for _, c := range kind.list {
				out := jsonCondition{verdict: kind.verdict}
				for _, t := range c {
					out.terms = append(out.terms, jsonTerm{r.Want(t.Path), t.Test, t.Value})
				}
				p.conditions = append(p.conditions, out)
			}
		}
		if len(one.patterns) > 0 {
			p.texts = newTexts([]*rule{one}, func(*pattern) bool { return true })
		}
		places = append(places, p)
	}
	return r, places
}

// holds reports whether all terms hold of the values.
func (c *jsonCondition) holds(values []logtext.Value) bool {
	for _, t := range c.terms {
		v := values[t.value]
		ok := false
		switch t.test {
		case conf.Equal:
			ok = v.Kind != logtext.Missing && v.Kind != logtext.Compound && string(v.Text) == t.want
		case conf.NotEqual:
			ok = v.Kind != logtext.Missing && v.Kind != logtext.Compound && string(v.Text) != t.want
		case conf.Begins:
			ok = v.Kind == logtext.String && hasPrefix(v.Text, t.want)
		case conf.Present:
			ok = present(v)
		case conf.Absent:
			ok = !present(v)
		}
		if !ok {
			return false
		}
	}
	return true
}

// present reports whether there is anything: null, false and the empty string are as good as nothing.
func present(v logtext.Value) bool {
	switch v.Kind {
	case logtext.Missing:
		return false
	case logtext.String:
		return len(v.Text) > 0
	case logtext.Word:
		return string(v.Text) == "true"
	}
	return true
}

// matchJSON reads a message by the rules with format=json of g.
func (v *View) matchJSON(g *group, h *header, line *event.Line, m *Match) bool {
	if !g.reader.Read(h.message) {
		return false
	}
	values := g.reader.Values
	for i := range g.places {
		p := &g.places[i]
		if p.message >= 0 && p.texts != nil && values[p.message].Kind == logtext.String {
			text := values[p.message].Text
			if pattern, loc, ok := p.texts.match(text); ok {
				m.Count = 1
				if v.read(pattern, loc, text, p.from(values), h, line, m) {
					return true
				}
			}
		}
		for j := range p.conditions {
			c := &p.conditions[j]
			if !c.holds(values) {
				continue
			}
			*m = Match{Rule: p.rule.Rule, Count: 1}
			from := p.from(values)
			addr, ok := logtext.Peer(from.addr)
			if !ok {
				break
			}
			m.Addr, m.User = addr, from.user
			return v.judge(p.rule, c.verdict, line, m)
		}
	}
	return false
}

// A peerText is what a JSON object has of the peer besides the text that patterns match.
type peerText struct{ addr, user []byte }

func (p *jsonPlace) from(values []logtext.Value) (from peerText) {
	if p.addr >= 0 && values[p.addr].Kind == logtext.String {
		from.addr = values[p.addr].Text
	}
	if p.user >= 0 && values[p.user].Kind == logtext.String {
		from.user = values[p.user].Text
	}
	return from
}
