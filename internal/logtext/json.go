// Package logtext reads pieces that lines of many logs have in common: addresses, JSON objects, and the records in which Docker's json-file driver writes lines.
package logtext

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxNesting bounds how deep a line may be nested.
const maxNesting = 64

// A Reader reads the values that are wanted out of lines that are JSON objects. The zero value wants none.
//
// Text inside a value must never choose another, so a line is read whole and strictly before anything in it counts: it is one object,
// nothing stands behind it, and no member that is wanted is there twice, for readers differ about which one counts. Keys are compared
// after their escapes are decoded. A Reader belongs to one goroutine.
type Reader struct {
	Values []Value // of the last line, by the numbers that Want returned; valid until the next Read

	root node

	text    []byte // the rest to read
	decoded []byte // room for strings with escapes
	round   uint32
}

// A node is a part of the paths that are wanted.
type node struct {
	members map[string]*node
	value   int    // 1 + number of the path that ends here, 0 if none
	seen    uint32 // the round in which it was last met
}

// A Value is the value at a path. Its text is that of a string without quotes and escapes, or that of a number or word.
type Value struct {
	Kind Kind
	Text []byte
}

// A Kind is the kind of a value.
type Kind uint8

// The kinds of value.
const (
	Missing Kind = iota
	String
	Number
	Word // true, false, null
	Compound
)

// Want returns the number of a path, -1 if it is empty.
func (r *Reader) Want(path []string) int {
	if len(path) == 0 {
		return -1
	}
	n := &r.root
	for _, name := range path {
		if n.members == nil {
			n.members = make(map[string]*node)
		}
		next := n.members[name]
		if next == nil {
			next = new(node)
			n.members[name] = next
		}
		n = next
	}
	if n.value == 0 {
		r.Values = append(r.Values, Value{})
		n.value = len(r.Values)
	}
	return n.value - 1
}

// Read reads a line, and reports whether it is one object that means one thing.
func (r *Reader) Read(line []byte) bool {
	r.round++
	clear(r.Values)
	r.text, r.decoded = line, r.decoded[:0]
	return r.value(&r.root, 0) && len(r.blanks()) == 0
}

// blanks skips white space and returns what is left.
func (r *Reader) blanks() []byte {
	for len(r.text) > 0 && (r.text[0] == ' ' || r.text[0] == '\t' || r.text[0] == '\r' || r.text[0] == '\n') {
		r.text = r.text[1:]
	}
	return r.text
}

// next takes c off the front of what is left, if it stands there.
func (r *Reader) next(c byte) bool {
	s := r.blanks()
	if len(s) == 0 || s[0] != c {
		return false
	}
	r.text = s[1:]
	return true
}

// value reads a value. n is the node that it stands at; nil if neither it nor a value in it is wanted.
func (r *Reader) value(n *node, depth int) bool {
	s := r.blanks()
	if len(s) == 0 || depth > maxNesting {
		return false
	}
	var v Value
	ok := false
	switch c := s[0]; {
	case c == '{':
		v.Kind = Compound
		ok = r.object(n, depth)
	case c == '[':
		v.Kind = Compound
		ok = r.array(n, depth)
	case c == '"':
		v.Kind = String
		v.Text, ok = r.string(n != nil && n.value > 0)
	case c == '-' || isDigit(c):
		v.Kind = Number
		v.Text, ok = r.word(&numberBytes)
	default:
		v.Kind = Word
		v.Text, ok = r.word(&wordBytes)
		ok = ok && (string(v.Text) == "true" || string(v.Text) == "false" || string(v.Text) == "null")
	}
	if n != nil && n.value > 0 {
		r.Values[n.value-1] = v
	}
	return ok
}

func (r *Reader) object(n *node, depth int) bool {
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
		var member *node
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

func (r *Reader) array(n *node, depth int) bool {
	r.text = r.text[1:]
	if r.next(']') {
		return true
	}
	var number [20]byte
	for i := 0; ; i++ {
		var member *node
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

// A byteSet has the bytes whose entry is true.
type byteSet [256]bool

func bytesOf(s string) (set byteSet) {
	for i := range len(s) {
		set[s[i]] = true
	}
	return set
}

var (
	numberBytes = bytesOf("+-.eE0123456789")
	wordBytes   = bytesOf("aeflnrstu") // of true, false and null

	// inString has the bytes of strings that stand for themselves: all but control characters, the quotation mark and the backslash.
	inString = func() (set byteSet) {
		for b := ' '; int(b) < len(set); b++ {
			set[b] = b != '"' && b != '\\'
		}
		return set
	}()
)

// word reads bytes of set, at least one.
func (r *Reader) word(set *byteSet) (text []byte, ok bool) {
	n := 0
	for n < len(r.text) && set[r.text[n]] {
		n++
	}
	text, r.text = r.text[:n], r.text[n:]
	return text, n > 0
}

// string reads a string, which r.text begins with. Unless it is wanted, its content is undefined.
func (r *Reader) string(wanted bool) (text []byte, ok bool) {
	s := r.text[1:]
	end, escapes := 0, false
	for {
		for end < len(s) && inString[s[end]] {
			end++
		}
		if end >= len(s) || s[end] < ' ' {
			return nil, false
		}
		if s[end] == '"' {
			break
		}
		escapes = true
		end += 2 // what the backslash is for is read later
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
