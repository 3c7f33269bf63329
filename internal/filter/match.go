package filter

import (
	"net/netip"
	"strconv"

	"mef/internal/conf"
	"mef/internal/event"
	"mef/internal/filter/tdfa"
	"mef/internal/logtext"
)

// A View matches lines against some rules of a Set. One goroutine owns it.
type View struct {
	*family
	sessions *sessions // of all views of the same Views
	number   int       // of the view among them, so that a process ID of one file is not taken for that of another
	prefix   prefix
	last     last
	carrier  logtext.Carrier
}

const maxCount = 1000 // attempts that one line may report

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

	UnknownUser, ExistingUser, EmptyUser bool // see event.Event

	Count int // at least 1

	// Session is what the daemon calls the session; if no pattern of the rule has the group, the process ID. Empty if unknown.
	Session []byte

	pid [10]byte // room for Session
}

// Event makes ev the match, without the texts that Texts adds.
func (m *Match) Event(ev *event.Event, batch *event.Batch, line *event.Line) {
	*ev = event.Event{} // a literal with values would be made elsewhere and copied
	ev.Time, ev.From = line.Time, line
	ev.Position.Stream, ev.Position.Offset = batch.Stream, line.Offset
	ev.Rule, ev.Service, ev.Verified = m.Rule.Name, m.Rule.Service, !m.Rule.UDP && !batch.Unverified
	ev.Addr, ev.Kind, ev.Count = m.Addr, m.Kind, m.Count
	ev.UnknownUser, ev.ExistingUser, ev.EmptyUser = m.UnknownUser, m.ExistingUser, m.EmptyUser
	ev.Form, ev.Echo, ev.Each = m.Form, m.Echo, m.Each
}

// Texts adds the names that a match has read to an event: copies, so that they may be kept.
func (m *Match) Texts(ev *event.Event, names *Names) {
	ev.Host = names.of(m.Host)
	ev.User = names.of(m.User[:min(len(m.User), maxUser)])
	ev.Session = names.of(m.Session)
}

// Names has the latest copies of names, because most come again soon. The zero value is ready.
type Names struct{ lately [256]string }

// of returns name as a string.
func (n *Names) of(name []byte) string {
	last := len(name) - 1
	if last < 0 || last >= maxUser {
		return string(name)
	}
	at := &n.lately[(len(name)*41+int(name[0])*13+int(name[last/2])*5+int(name[max(last-1, 0)])*10+int(name[last]))%len(n.lately)]
	if *at != string(name) {
		*at = string(name)
	}
	return *at
}

// Match reads a line. It reports false if no rule recognizes it, or if it reports nothing by itself; m is then undefined.
// Match allocates nothing once the view has seen a few lines of the kind.
func (v *View) Match(line *event.Line, m *Match) bool {
	var h header
	var g *group
	if line.Entry != nil {
		g = v.groupOfEntry(line.Entry)
		h.program, h.message = line.Entry.Identifier, trimEnd(line.Text)
	} else {
		text := line.Text
		if isObject(text) {
			var ok bool
			if text, ok = v.carrier.Cut(text, line.Offset); !ok {
				return false
			}
		}
		text = trimEnd(text)
		if isObject(text) { // JSON has no header
			h.message, g = text, v.groupOfProgram(nil)
		} else {
			g = v.header(text, &h)
		}
		h.line = text
		if v.last.set {
			if n, ok := lastRepeated(&h); ok {
				return v.last.repeat(m, n)
			}
		}
	}
	matched := false
	if g != nil {
		inner := &h
		if mayBeginDate(h.message) {
			cut := cutInner(&h)
			inner = &cut
		}
		matched = v.matchIn(g, inner, line, m)
	}
	if !matched && h.whole != nil {
		h = header{message: h.whole, line: h.line}
		g = v.groupOfProgram(nil)
		matched = g != nil && v.matchIn(g, &h, line, m)
	}
	if line.Entry == nil {
		v.last.note(m, matched)
	}
	return matched
}

// isObject reports whether text begins as JSON objects do.
func isObject(text []byte) bool { return len(text) > 0 && text[0] == '{' }

// matchIn reads a line by the rules of g.
func (v *View) matchIn(g *group, h *header, line *event.Line, m *Match) bool {
	if g.reader != nil && isObject(h.message) && v.matchJSON(g, h, line, m) {
		return true
	}
	message, repeats := unwrap(h.message)
	if p, loc, ok := g.texts.match(message); ok {
		m.Count = repeats
		if v.read(p, loc, message, peerText{}, h, line, m) {
			return true
		}
	}
	if g.whole == nil || line.Entry != nil {
		return false
	}
	p, loc, ok := g.whole.match(h.line)
	m.Count = 1
	return ok && v.read(p, loc, h.line, peerText{}, h, line, m)
}

// read reads a message that a pattern matches. from is what is known of the peer besides; m.Count how often the message was logged.
func (v *View) read(p *located, loc []int, message []byte, from peerText, h *header, line *event.Line, m *Match) (ok bool) {
	r := p.rule
	count := m.Count
	*m = Match{}
	m.Rule, m.Count, m.Form = r.Rule, count, p.form
	if m.User = tdfa.Group(message, loc, p.user); p.user == 0 {
		m.User = from.user
	} else {
		m.EmptyUser = m.User != nil && len(m.User) == 0
	}
	m.UnknownUser = len(tdfa.Group(message, loc, p.unknown)) > 0
	m.ExistingUser = p.unknown > 0 && !m.UnknownUser
	m.Host = tdfa.Group(message, loc, p.host)
	m.Count = min(m.Count*parseCount(tdfa.Group(message, loc, p.count)), maxCount)
	m.Session = tdfa.Group(message, loc, p.session)
	if !r.namesSessions {
		m.setProcess(h.pid, line.Entry)
	}
	if text := tdfa.Group(message, loc, p.ip); len(text) > 0 {
		if m.Addr, ok = logtext.Addr(text); !ok {
			return false
		}
		m.Host = nil
	} else if p.ip == 0 && len(from.addr) > 0 {
		if m.Addr, ok = logtext.Peer(from.addr); !ok {
			return false
		}
	} else if len(m.Host) == 0 && p.verdict != orphan {
		return false
	}
	return v.judge(r, p.verdict, line, m)
}

// A last is what the line before reported, for syslog daemons that write "last message repeated 4 times".
type last struct {
	set      bool
	kind     event.Kind
	echo     bool
	unknown  bool
	existing bool
	rule     *conf.Rule
	addr     netip.Addr
	count    int

	userLen, sessionLen int
	user                [maxUser]byte
	session             [maxSession]byte
}

// maxSession is how much of a session's name is kept, in bytes.
const maxSession = 64

// note keeps a match, or that there was none. A repetition is never a login: those are written once.
func (l *last) note(m *Match, matched bool) {
	l.set = matched && m.Kind != event.Success && m.Addr.IsValid() && len(m.Session) <= maxSession
	if !l.set {
		return
	}
	l.kind, l.echo, l.unknown, l.existing, l.rule, l.addr, l.count = m.Kind, m.Echo, m.UnknownUser, m.ExistingUser, m.Rule, m.Addr, m.Count
	l.userLen = copy(l.user[:], m.User)
	l.sessionLen = copy(l.session[:], m.Session)
}

// repeat is the match of n further lines like the last.
func (l *last) repeat(m *Match, n int) bool {
	*m = Match{Rule: l.rule, Kind: l.kind, Echo: l.echo, Addr: l.addr, UnknownUser: l.unknown, ExistingUser: l.existing, Count: min(l.count*n, maxCount),
		User: l.user[:l.userLen], Session: l.session[:l.sessionLen]}
	l.set = false
	return true
}

// judge turns the verdict of a pattern into the kind of an event, given what the earlier lines of the session reported.
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
	key := v.sessions.key(v.number, r, m.Session)
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

// groupOfProgram returns the rules that name the program of a file's line. A line that names no program may be of any: the
// rules of a view are those that read the file.
func (v *family) groupOfProgram(program []byte) *group {
	at := v.recent(program)
	if p := *at; p != nil && p.name == string(program) {
		return p.group
	}
	if p := v.programs[string(program)]; p != nil {
		*at = p
		return p.group
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
	g := v.views.groupOf(v.picked)
	if len(v.programs) < maxPrograms {
		name := string(program)
		v.programs[name] = &programOf{name, g, isTag(program)}
	}
	return g
}

// recent returns where in lately a program is, if it is there.
func (v *family) recent(program []byte) **programOf {
	n := len(program)
	if n == 0 {
		return &v.lately[0]
	}
	const spread = 0x9e3779b1
	h := uint32(n) + uint32(program[0])<<8 + uint32(program[n/2])<<16 + uint32(program[n-1])<<24
	return &v.lately[h*spread>>(32-latelyBits)]
}

// groupOfEntry returns the rules that name the program of a journal entry and trust its sender.
func (v *family) groupOfEntry(e *event.Entry) *group {
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
	return v.views.groupOf(v.picked)
}
