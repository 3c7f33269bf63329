// Package learn makes detection rules from sample lines.
//
// A message is cut into pieces: the client's address, the user name, numbers, identifiers, text in quotes, and words. A piece that varies from
// line to line becomes a class of characters, and the words stay as they are: the shape of the message. Lines of one shape become one
// pattern, anchored at both ends. In a line that is a JSON object, the paths of the address and the user name are found, and a condition: the
// value that reports a refused login; if a text reports it, that text is cut into pieces. The linter of package rulefile and the sample lines
// decide whether a proposal becomes a rule.
package learn

import (
	"net/netip"
	"regexp"
	"strings"

	"mef/internal/filter"
	"mef/internal/logtext"
)

// A kind is the kind of a piece of a message.
type kind uint8

const (
	pieceText kind = iota // as it stands
	addr                  // the address
	user                  // the user name
	number                // digits
	ident                 // letters and digits: a session, a queue, a file
	quoted                // anything between quotes, which stand beside it as text
	address               // another address
)

type piece struct {
	kind kind
	text string
}

// A Line is a line of a log, cut into pieces.
type Line struct {
	Program string // empty: the line names none
	Addr    netip.Addr
	User    string
	Refused bool // its words report a refused login
	Login   bool // its words report a successful login
	Several bool // it names other addresses, too, and Addr is the first one
	pieces  []piece
	text    string  // that pattern is matched against
	object  *object // nil if the line is text
}

var (
	tokens  = regexp.MustCompile(`"[^"]{0,200}"|'[^']{0,200}'|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*|\d{1,3}(?:\.\d{1,3}){3}|[\pL\pN_.@+-]+|.`)
	letters = regexp.MustCompile(`[\pL\pN]`)
	digits  = regexp.MustCompile(`^\d+$`)
	// Words in front of a user name, words that stand there and are none, and words of refused and of successful logins.
	beforeUser = regexp.MustCompile(`(?i)^(user|username|login|logname|account|usr|user_?name|for|principal)$`)
	notUser    = regexp.MustCompile(`(?i)^(user|username|login|account|for|from|name|invalid|illegal|unknown|failed|failure|attempt|by|on|in|at|is|was|not|the|a|an|and|with|has|to|of|host|ip|rhost|incorrect|denied|refused|error)$`)
	refusing   = regexp.MustCompile(`(?i)\b(fail(ed|ure|s)?|invalid|denied|refused|incorrect|wrong|unknown|bad|reject(ed)?|unauthori[sz]ed|not allowed|mismatch|illegal|no such user|forbidden)\b`)
	admitting  = regexp.MustCompile(`(?i)\b(accepted|success(ful|fully)?|succeeded|ok|granted|passed|authenticated|(logged|signed) (in|on)|session opened)\b`)
)

// Read cuts a line. client is the address that the rule is to ban, the first one of the line if it is not valid. ok is false if the line does not
// name it.
func Read(raw string, client netip.Addr) (l Line, ok bool) {
	var carrier logtext.Carrier
	carried, ok := carrier.Cut([]byte(strings.TrimRight(raw, "\r\n")), 0)
	if !ok {
		return l, false
	}
	program, message := filter.Split(carried)
	if l, ok = readObject(program, message, client); l.object != nil {
		return l, ok
	}
	l = cut(message, client)
	l.Program = string(program)
	return l, l.Addr.IsValid()
}

// cut cuts a message that is text.
func cut(message []byte, client netip.Addr) Line {
	l := Line{text: string(message), Refused: refusing.Match(message), Login: admitting.Match(message)}
	expectUser := false
	for _, token := range tokens.FindAllString(string(message), -1) {
		p, isAddr := classify(token, client, l.Addr)
		l.Several = l.Several || p.other
		switch {
		case isAddr:
			l.Addr = p.addr
			l.pieces = append(l.pieces, piece{addr, ""})
			expectUser = false
			continue
		case expectUser && l.User == "" && p.isName:
			l.User = strings.Trim(token, `"'`)
			l.pieces = append(l.pieces, wrapped(token, user)...)
			expectUser = false
			continue
		case p.kind == quoted && !refusing.MatchString(token) && !admitting.MatchString(token): // these report whether the login was refused
			l.pieces = append(l.pieces, wrapped(token, quoted)...)
		case p.kind == quoted:
			l.pieces = append(l.pieces, piece{pieceText, token})
		default:
			l.pieces = append(l.pieces, piece{p.kind, token})
		}
		if beforeUser.MatchString(token) {
			expectUser = true
		} else if p.isWord {
			expectUser = false
		}
	}
	return l
}

// A class describes a token by itself.
type class struct {
	kind   kind
	addr   netip.Addr
	other  bool // an address beside the one that is taken for the client's
	isName bool // it may be a user name
	isWord bool
}

// classify looks at one token. taken is the address that was found before it.
func classify(token string, client, taken netip.Addr) (c class, isAddr bool) {
	if a, err := netip.ParseAddr(strings.TrimRight(token, ".:")); err == nil && token == strings.TrimRight(token, ".:") {
		a = a.Unmap()
		if !taken.IsValid() && (!client.IsValid() || a == client.Unmap()) {
			return class{addr: a}, true
		}
		return class{kind: address, other: !client.IsValid() && a != taken}, false
	}
	first := token[0]
	switch {
	case len(token) > 1 && (first == '"' || first == '\''):
		return class{kind: quoted, isName: true}, false
	case digits.MatchString(token):
		return class{kind: number, isWord: true}, false
	case !letters.MatchString(token):
		return class{}, false
	}
	name := !notUser.MatchString(token) && !refusing.MatchString(token) && !admitting.MatchString(token)
	if strings.ContainsAny(token, "0123456789") {
		return class{kind: ident, isName: name, isWord: true}, false
	}
	return class{isName: name, isWord: true}, false
}

// wrapped returns a token as a piece of a kind, its quotes beside it as text.
func wrapped(token string, k kind) []piece {
	if q := token[:1]; q == `"` || q == "'" {
		return []piece{{pieceText, q}, {k, ""}, {pieceText, q}}
	}
	return []piece{{k, ""}}
}

// shape returns the text that lines of one shape have in common.
func (l *Line) shape() string {
	var b strings.Builder
	b.WriteString(l.Program)
	if l.object != nil {
		b.WriteString(l.object.shape())
	}
	for _, p := range l.pieces {
		b.WriteByte(byte('0' + p.kind))
		if p.kind == pieceText {
			b.WriteString(p.text)
		}
		b.WriteByte(0)
	}
	return b.String()
}

// A form is how freely a pattern is written: what a user name, an identifier and a hexadecimal number may be.
type form struct{ user, ident, hex string }

// forms are tried in this order: the freest with which the linter agrees is taken.
var forms = []form{{".*", anyIdent, anyIdent}, {`\S+`, anyIdent, anyIdent}, {".*", `\w+`, `\w+`}, {`\S+`, `\w+`, `\w+`}, {".*", anyIdent, `[0-9A-Fa-f-]+`}, {`\S+`, anyIdent, `[0-9A-Fa-f-]+`}}

const anyIdent = `[\w.:@+-]+`

var hexNumber = regexp.MustCompile(`^[0-9A-Fa-f-]*[0-9][0-9A-Fa-f-]*$`)

// pattern returns the regular expression of the line's shape.
func (l *Line) pattern(f form) string {
	var b strings.Builder
	b.WriteByte('^')
	for i, p := range l.pieces {
		switch p.kind {
		case pieceText:
			b.WriteString(regexp.QuoteMeta(p.text))
		case addr:
			b.WriteString("<HOST>")
		case user:
			n := f.user
			if n != ".*" && i > 0 && (l.pieces[i-1].text == `"` || l.pieces[i-1].text == "'") {
				n = "[^" + l.pieces[i-1].text + "]*"
			}
			b.WriteString("(?P<user>" + n + ")")
		case number:
			b.WriteString(`\d+`)
		case ident:
			if hexNumber.MatchString(p.text) {
				b.WriteString(f.hex)
			} else {
				b.WriteString(f.ident)
			}
		case address:
			b.WriteString(`[0-9a-fA-F.:]+`)
		case quoted:
			q := l.pieces[i-1].text
			b.WriteString("[^" + q + "]*")
		}
	}
	b.WriteByte('$')
	return b.String()
}
