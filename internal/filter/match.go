package filter

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"

	"mef/internal/conf"
	"mef/internal/event"
)

// A View matches lines against some rules of a Set. One goroutine owns it.
type View struct {
	rules    []*rule
	programs map[string]*group // by program name; nil: no rule knows it
	groups   map[string]*group // by the rules in it
	sessions sessions
	prefix   prefix
	last     last

	picked []*rule // scratch
	key    []byte
}

const (
	maxPrograms = 1024 // program names remembered
	maxProgram  = 128  // bytes of a program name; no rule knows a longer one
	maxCount    = 1000 // attempts that one line may tell of
)

// A Match is what a view read out of a line. Its slices point into the line or the view, and are valid until the next Match.
type Match struct {
	Rule *conf.Rule
	Kind event.Kind
	Echo bool // see event.Event, as Each and Form
	Each bool
	Form uint8
	Addr netip.Addr // invalid if the line names the peer by Host only
	Host []byte
	User []byte

	// UnknownUser reports that the daemon said that it has no user of this name.
	UnknownUser bool

	Count int // at least 1

	// Session is what the daemon calls the session; if no pattern of the rule has the group, the process ID. Empty if unknown.
	Session []byte

	pid [10]byte // room for Session
}

// Event returns the match as an event that may be kept: it holds copies. Its texts mostly share one, that of the line, so
// whoever keeps a user's name for long makes his own.
func (m *Match) Event(batch *event.Batch, line *event.Line) event.Event {
	text := string(line.Text[:min(len(line.Text), event.MaxEvidence)])
	return event.Event{
		Time:    line.Time,
		Rule:    m.Rule.Name,
		Service: m.Rule.Service,
		Addr:    m.Addr,
		Host:    cutOut(text, line.Text, m.Host),
		User:    cutOut(text, line.Text, m.User[:min(len(m.User), maxUser)]),
		Kind:    m.Kind,

		UnknownUser: m.UnknownUser,

		Count:    m.Count,
		Form:     m.Form,
		Echo:     m.Echo,
		Each:     m.Each,
		Session:  cutOut(text, line.Text, m.Session),
		Verified: !m.Rule.UDP,
		Position: event.Position{Stream: batch.Stream, Offset: line.Offset},
		Line:     text,
	}
}

// cutOut returns part as a string: where it is a slice of line, and text is a copy of line's beginning, out of text.
func cutOut(text string, line, part []byte) string {
	// If they share an array, their capacities tell how far into line part begins. If they do not, the place is a guess, and
	// what counts is whether the same bytes stand there.
	at := cap(line) - cap(part)
	if at >= 0 && at+len(part) <= len(text) && text[at:at+len(part)] == string(part) {
		return text[at : at+len(part)]
	}
	return string(part)
}

// Match reads a line. It reports false if no rule recognises it, or if it says nothing by itself; m is then undefined.
// Match allocates nothing once the view has seen a few lines of the kind.
func (v *View) Match(line *event.Line, m *Match) bool {
	var h header
	var g *group
	if line.Entry != nil {
		g = v.groupOfEntry(line.Entry)
		h.program, h.message = line.Entry.Identifier, trimEnd(line.Text)
	} else {
		h = v.prefix.header(line.Text)
		if v.last.set {
			if n, ok := lastRepeated(h); ok {
				return v.last.repeat(m, n)
			}
		}
		if g = v.groupOfProgram(h.program); g == nil && h.whole != nil {
			h = header{message: h.whole}
			g = v.groupOfProgram(nil)
		}
	}
	matched := g != nil && v.matchIn(g, cutInner(h), line, m)
	if line.Entry == nil {
		v.last.note(m, matched)
	}
	return matched
}

// matchIn reads a line by the rules of g.
func (v *View) matchIn(g *group, h header, line *event.Line, m *Match) bool {
	message, repeats := unwrap(h.message)
	p, ok := g.match(message)
	if !ok {
		return false
	}
	r := p.rule
	if g.ignores(r, message) {
		return false
	}
	*m = Match{Rule: r.Rule, Count: repeats, Form: p.form}
	m.User = g.group(message, p.user)
	m.UnknownUser = len(g.group(message, p.unknown)) > 0
	m.Host = g.group(message, p.host)
	m.Count = min(m.Count*parseCount(g.group(message, p.count)), maxCount)
	m.Session = g.group(message, p.session)
	if !r.namesSessions {
		m.setProcess(h.pid, line.Entry)
	}
	if text := g.group(message, p.ip); len(text) > 0 {
		if m.Addr, ok = parseAddr(text); !ok {
			return false
		}
		m.Host = nil
	} else if len(m.Host) == 0 && p.verdict != orphan {
		return false
	}
	return v.judge(r, p.verdict, line, m)
}

// A last is what the line before said, for syslog daemons that write "last message repeated 4 times".
type last struct {
	set     bool
	match   Match
	user    [maxUser]byte
	session [maxSession]byte
}

// maxSession is how much of a session's name is kept, in bytes.
const maxSession = 64

// note keeps a match, or that there was none. A repetition is never a login: those are written once.
func (l *last) note(m *Match, matched bool) {
	l.set = matched && m.Kind != event.Success && m.Addr.IsValid() && len(m.Session) <= maxSession
	if !l.set {
		return
	}
	l.match = Match{Rule: m.Rule, Kind: m.Kind, Echo: m.Echo, Addr: m.Addr, UnknownUser: m.UnknownUser, Count: m.Count}
	l.match.User = l.user[:copy(l.user[:], m.User)]
	l.match.Session = l.session[:copy(l.session[:], m.Session)]
}

// repeat is the match of n further lines like the last.
func (l *last) repeat(m *Match, n int) bool {
	*m = l.match
	m.Count = min(m.Count*n, maxCount)
	l.set = false
	return true
}

// judge makes the verdict of a pattern the kind of an event, with what the session's earlier lines told.
func (v *View) judge(r *rule, verdict verdict, line *event.Line, m *Match) bool {
	m.Kind = event.Failure
	m.Each = verdict == attempt
	m.Echo = m.Each || verdict == echo || verdict == orphan
	switch verdict {
	case probe:
		m.Kind = event.Probe
	case success:
		m.Kind = event.Success
	}
	if !r.correlates || len(m.Session) == 0 {
		return verdict != orphan && verdict != peer
	}
	key := v.sessions.key(r.Name, m.Session)
	switch verdict {
	case orphan:
		return v.sessions.open(key, line.Time).orphan(m)
	case success:
		if s := v.sessions.find(key, line.Time); s != nil {
			s.end()
		}
		return true
	}
	return v.sessions.open(key, line.Time).line(verdict, m)
}

// setProcess names the session by its process, for daemons that have a process for each.
func (m *Match) setProcess(pid []byte, e *event.Entry) {
	switch {
	case e == nil:
		m.Session = pid
	case e.PID != 0:
		m.Session = strconv.AppendUint(m.pid[:0], uint64(e.PID), 10)
	}
}

// parseCount returns the number of attempts that a line names, 1 if it names none.
func parseCount(digits []byte) int {
	n := 0
	for _, c := range digits {
		if !isDigit(c) {
			return 1
		}
		n = min(n*10+int(c-'0'), maxCount)
	}
	return max(n, 1)
}

// groupOfProgram returns the rules that know the program of a file's line. A line that names no program may be of any: the
// rules of a view are those that read the file.
func (v *View) groupOfProgram(program []byte) *group {
	if g, ok := v.programs[string(program)]; ok {
		return g
	}
	if len(program) > maxProgram {
		return nil
	}
	v.picked = v.picked[:0]
	for _, r := range v.rules {
		if len(program) == 0 || r.covers(program) {
			v.picked = append(v.picked, r)
		}
	}
	g := v.groupOf(v.picked)
	if len(v.programs) < maxPrograms {
		v.programs[string(program)] = g
	}
	return g
}

// groupOfEntry returns the rules that know the program of a journal entry and believe its sender.
func (v *View) groupOfEntry(e *event.Entry) *group {
	if len(e.Identifier) == 0 {
		return nil
	}
	g := v.groupOfProgram(e.Identifier)
	if g == nil {
		return nil
	}
	v.picked = v.picked[:0]
	for _, r := range g.rules {
		if r.trusts(e) {
			v.picked = append(v.picked, r)
		}
	}
	if len(v.picked) == len(g.rules) {
		return g
	}
	return v.groupOf(v.picked)
}

// groupOf returns the group of these rules, nil if there are none.
func (v *View) groupOf(rules []*rule) *group {
	if len(rules) == 0 {
		return nil
	}
	v.key = v.key[:0]
	for _, r := range rules {
		v.key = binary.LittleEndian.AppendUint32(v.key, uint32(r.place))
	}
	g, ok := v.groups[string(v.key)]
	if !ok {
		g = newGroup(slices.Clone(rules))
		v.groups[string(v.key)] = g
	}
	return g
}
