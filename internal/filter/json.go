package filter

import (
	"bytes"
	"net/netip"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"mef/internal/conf"
	"mef/internal/event"
)

// Lines that are JSON objects (format=json).
//
// Text inside a value must never choose the address, so a line is read whole and strictly before anything in it counts: it is one
// object, nothing stands behind it, and no member that a rule reads is there twice, for readers differ about which one counts.
// Keys are compared after their escapes are decoded. A line that is no such object says nothing.

// maxNesting bounds how deep a line may be nested.
const maxNesting = 64

// A jsonReader reads the values that some rules want out of a line, once for all of them. It belongs to a group.
type jsonReader struct {
	root   jsonNode
	values []jsonValue // by number of the path

	text    []byte // what is left to read
	decoded []byte // room for strings with escapes
	round   uint32
}

// A jsonNode is a part of the paths that are wanted.
type jsonNode struct {
	members map[string]*jsonNode
	value   int    // number of the path that ends here, -1 if none
	seen    uint32 // the round in which it was last met
}

// A jsonValue is what stands at a path. Its text is that of a string without quotes and escapes, or that of a number or word.
type jsonValue struct {
	kind jsonKind
	text []byte
}

type jsonKind uint8

const (
	missing jsonKind = iota
	aString
	aNumber
	aWord // true, false, null
	compound
)

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
func newJSONReader(rules []*rule) (r *jsonReader, places []jsonPlace) {
	for _, one := range rules {
		if one.JSON == nil {
			continue
		}
		if r == nil {
			r = &jsonReader{root: jsonNode{value: -1}}
		}
		j := one.JSON
		p := jsonPlace{rule: one, addr: r.want(j.Addr), user: r.want(j.User), message: r.want(j.Message)}
		for _, kind := range []struct {
			verdict verdict
			list    []conf.Condition
		}{{failure, j.Fail}, {probe, j.Probe}, {success, j.OK}} {
			for _, c := range kind.list {
				out := jsonCondition{verdict: kind.verdict}
				for _, t := range c {
					out.terms = append(out.terms, jsonTerm{r.want(t.Path), t.Test, t.Value})
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

// want returns the number of a path, -1 if it is empty.
func (r *jsonReader) want(path conf.Path) int {
	if len(path) == 0 {
		return -1
	}
	n := &r.root
	for _, name := range path {
		if n.members == nil {
			n.members = make(map[string]*jsonNode)
		}
		next := n.members[name]
		if next == nil {
			next = &jsonNode{value: -1}
			n.members[name] = next
		}
		n = next
	}
	if n.value < 0 {
		n.value = len(r.values)
		r.values = append(r.values, jsonValue{})
	}
	return n.value
}

// read reads a line, and reports whether it is one object that means one thing.
func (r *jsonReader) read(line []byte) bool {
	r.round++
	clear(r.values)
	r.text, r.decoded = line, r.decoded[:0]
	return r.value(&r.root, 0) && len(r.blanks()) == 0
}

// blanks skips white space and returns what is left.
func (r *jsonReader) blanks() []byte {
	for len(r.text) > 0 && (r.text[0] == ' ' || r.text[0] == '\t' || r.text[0] == '\r' || r.text[0] == '\n') {
		r.text = r.text[1:]
	}
	return r.text
}

// next takes c off the front of what is left, if it stands there.
func (r *jsonReader) next(c byte) bool {
	s := r.blanks()
	if len(s) == 0 || s[0] != c {
		return false
	}
	r.text = s[1:]
	return true
}

// value reads a value. n is the node that it stands at; nil if nobody wants it or anything in it.
func (r *jsonReader) value(n *jsonNode, depth int) bool {
	s := r.blanks()
	if len(s) == 0 || depth > maxNesting {
		return false
	}
	var v jsonValue
	ok := false
	switch c := s[0]; {
	case c == '{':
		v.kind = compound
		ok = r.object(n, depth)
	case c == '[':
		v.kind = compound
		ok = r.array(n, depth)
	case c == '"':
		v.kind = aString
		v.text, ok = r.string(n != nil && n.value >= 0)
	case c == '-' || isDigit(c):
		v.kind = aNumber
		v.text, ok = r.word("+-.eE0123456789")
	default:
		v.kind = aWord
		v.text, ok = r.word("aeflnrstu")
		ok = ok && (string(v.text) == "true" || string(v.text) == "false" || string(v.text) == "null")
	}
	if n != nil && n.value >= 0 {
		r.values[n.value] = v
	}
	return ok
}

func (r *jsonReader) object(n *jsonNode, depth int) bool {
	r.text = r.text[1:]
	if r.next('}') {
		return true
	}
	for {
		if s := r.blanks(); len(s) == 0 || s[0] != '"' {
			return false
		}
		key, ok := r.string(n != nil && len(n.members) > 0)
		if !ok || !r.next(':') {
			return false
		}
		var member *jsonNode
		if n != nil {
			member = n.members[string(key)]
		}
		if member != nil {
			if member.seen == r.round {
				return false // there is one already
			}
			member.seen = r.round
		}
		if !r.value(member, depth+1) {
			return false
		}
		if !r.next(',') {
			return r.next('}')
		}
	}
}

func (r *jsonReader) array(n *jsonNode, depth int) bool {
	r.text = r.text[1:]
	if r.next(']') {
		return true
	}
	var number [20]byte
	for i := 0; ; i++ {
		var member *jsonNode
		if n != nil && len(n.members) > 0 {
			member = n.members[string(strconv.AppendInt(number[:0], int64(i), 10))]
		}
		if !r.value(member, depth+1) {
			return false
		}
		if !r.next(',') {
			return r.next(']')
		}
	}
}

// word reads bytes of set, at least one.
func (r *jsonReader) word(set string) (text []byte, ok bool) {
	n := 0
	for n < len(r.text) && bytes.IndexByte([]byte(set), r.text[n]) >= 0 {
		n++
	}
	text, r.text = r.text[:n], r.text[n:]
	return text, n > 0
}

// string reads a string, which r.text begins with. Unless it is wanted, its content is undefined.
func (r *jsonReader) string(wanted bool) (text []byte, ok bool) {
	s := r.text[1:]
	end, escapes := 0, false
	for ; ; end++ {
		if end >= len(s) || s[end] < ' ' {
			return nil, false
		}
		if s[end] == '"' {
			break
		}
		if s[end] == '\\' {
			escapes = true
			end++
		}
	}
	text, r.text = s[:end], s[end+1:]
	if !escapes {
		return text, true
	}
	start := len(r.decoded)
	if r.decoded, ok = appendUnescaped(r.decoded, text); !ok {
		return nil, false
	}
	if !wanted {
		r.decoded = r.decoded[:start]
		return nil, true
	}
	return r.decoded[start:], true
}

// appendUnescaped appends what a string with escapes stands for. Half of a surrogate pair becomes U+FFFD, as in encoding/json.
func appendUnescaped(to, s []byte) ([]byte, bool) {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			to = append(to, s[i])
			continue
		}
		i++ // there is a byte, otherwise the string would go on
		switch c := s[i]; c {
		case '"', '\\', '/':
			to = append(to, c)
		case 'b':
			to = append(to, '\b')
		case 'f':
			to = append(to, '\f')
		case 'n':
			to = append(to, '\n')
		case 'r':
			to = append(to, '\r')
		case 't':
			to = append(to, '\t')
		case 'u':
			unit, ok := codeUnit(s[i+1:])
			if !ok {
				return to, false
			}
			i += 4
			if utf16.IsSurrogate(unit) {
				second := rune(0)
				if i+2 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					second, _ = codeUnit(s[i+3:])
				}
				if pair := utf16.DecodeRune(unit, second); pair != utf8.RuneError {
					unit = pair
					i += 6
				}
			}
			to = utf8.AppendRune(to, unit) // a lone half becomes U+FFFD
		default:
			return to, false
		}
	}
	return to, true
}

// codeUnit reads four hexadecimal digits.
func codeUnit(s []byte) (unit rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for _, c := range s[:4] {
		digit := hexValue(c)
		if digit < 0 {
			return 0, false
		}
		unit = unit<<4 | rune(digit)
	}
	return unit, true
}

// holds reports whether all terms hold of the values.
func (c *jsonCondition) holds(values []jsonValue) bool {
	for _, t := range c.terms {
		v := values[t.value]
		ok := false
		switch t.test {
		case conf.Equal:
			ok = v.kind != missing && v.kind != compound && string(v.text) == t.want
		case conf.NotEqual:
			ok = v.kind != missing && v.kind != compound && string(v.text) != t.want
		case conf.Begins:
			ok = v.kind == aString && hasPrefix(v.text, t.want)
		case conf.Present:
			ok = v.present()
		case conf.Absent:
			ok = !v.present()
		}
		if !ok {
			return false
		}
	}
	return true
}

// present reports whether there is anything: null, false and the empty string are as good as nothing.
func (v jsonValue) present() bool {
	switch v.kind {
	case missing:
		return false
	case aString:
		return len(v.text) > 0
	case aWord:
		return string(v.text) == "true"
	}
	return true
}

// matchJSON reads a message by the rules with format=json of g.
func (v *View) matchJSON(g *group, h header, line *event.Line, m *Match) bool {
	if len(h.message) == 0 || h.message[0] != '{' || !g.reader.read(h.message) {
		return false
	}
	values := g.reader.values
	for i := range g.places {
		p := &g.places[i]
		if p.message >= 0 && p.texts != nil && values[p.message].kind == aString {
			m.Count = 1
			if v.matchTexts(p.texts, values[p.message].text, p.from(values), h, line, m) {
				return true
			}
		}
		for j := range p.conditions {
			c := &p.conditions[j]
			if !c.holds(values) {
				continue
			}
			*m = Match{Rule: p.rule.Rule, Count: 1}
			from := p.from(values)
			addr, ok := parsePeer(from.addr)
			if !ok {
				break
			}
			m.Addr, m.User = addr, from.user
			return v.judge(p.rule, c.verdict, line, m)
		}
	}
	return false
}

// A peerText is what a JSON object says of the peer besides the text that patterns match.
type peerText struct{ addr, user []byte }

func (p *jsonPlace) from(values []jsonValue) (from peerText) {
	if p.addr >= 0 && values[p.addr].kind == aString {
		from.addr = values[p.addr].text
	}
	if p.user >= 0 && values[p.user].kind == aString {
		from.user = values[p.user].text
	}
	return from
}

// parsePeer reads an address, behind which a port may stand.
func parsePeer(s []byte) (addr netip.Addr, ok bool) {
	if len(s) > 0 && s[0] == '[' {
		end := bytes.IndexByte(s, ']')
		if end < 0 || end+1 < len(s) && (s[end+1] != ':' || !isNumber(s[end+2:])) {
			return addr, false
		}
		return parseAddr(s[1:end])
	}
	if colon := bytes.IndexByte(s, ':'); colon >= 0 && bytes.IndexByte(s, '.') >= 0 && colon == bytes.LastIndexByte(s, ':') && isNumber(s[colon+1:]) {
		s = s[:colon]
	}
	return parseAddr(s)
}

// carrier are the members of what Docker's json-file driver puts around a line.
var carrier = []string{"log", "stream", "time"}

// cutCarrier takes a line out of {"log":"...\n","stream":"stdout","time":"..."}, as Docker's json-file driver writes it. It reports
// false if the line begins like that and is not that. The text is valid until the next call.
func (v *View) cutCarrier(line []byte) (text []byte, ok bool) {
	if !hasPrefix(line, `{"log":"`) {
		return line, true
	}
	if v.docker == nil {
		v.docker = &jsonReader{root: jsonNode{value: -1}}
		for _, name := range carrier {
			v.docker.want(conf.Path{name})
		}
	}
	if !v.docker.read(trimEnd(line)) {
		return nil, false
	}
	for _, value := range v.docker.values {
		if value.kind != aString {
			return nil, false
		}
	}
	return bytes.TrimSuffix(v.docker.values[0].text, []byte("\n")), true
}
