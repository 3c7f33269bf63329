package filter

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// A prefix remembers what the last lines of a log began with, up to the program's name: a date without fraction of a second
// and a host name stay the same for many lines, and need not be read again. Where there is a fraction, it alone differs.
//
// That is an economy and changes no answer: a header is read strictly from the left, so equal beginnings mean the same.
type prefix struct {
	head   [maxPrefix]byte // the beginning of the line
	tail   [maxPrefix]byte // what follows the fraction
	n      int             // bytes of head; 0: nothing is remembered
	digits int             // of the fraction, between head and tail
	behind int             // bytes of tail
}

// maxPrefix is how long a part may be: a date takes 35 bytes at most, the rest is for the name of the host.
const maxPrefix = 96

// header reads the header of a line that has no blanks at its end, and returns the rules that its program's messages meet. It finds what
// parseHeader does; what the lines before had in front is read faster.
func (v *View) header(line []byte, h *header) *group {
	if rest, ok := v.prefix.cut(line); ok {
		if p := v.cutKnown(rest, h); p != nil {
			return p.group
		}
		if *h, ok = firstTag(rest); ok {
			return v.groupOfProgram(h.program)
		}
	}
	*h = parseHeader(line)
	if h.front > 0 {
		v.prefix.learn(line[:h.front])
	}
	return v.groupOfProgram(h.program)
}

// maxTag is how long the name of a program may be for cutKnown.
const maxTag = 32

// cutKnown is firstTag for "name[pid]: " and "name: " with the name of a program that has written lines. It returns nil for all else.
func (v *family) cutKnown(s []byte, h *header) *programOf {
	front := s[:min(len(s), maxTag)]
	if n := bytes.IndexByte(front, '['); n > 0 {
		if p := *v.recent(s[:n]); p != nil && p.tag && p.name == string(s[:n]) {
			digits := pidLen(s[n+1:])
			if digits == 0 || s[n+1+digits+1] != ':' {
				return nil
			}
			h.program, h.pid, h.message = s[:n], s[n+1:n+1+digits], skipBlanks(s[n+1+digits+2:])
			return p
		}
	}
	n := bytes.IndexByte(front, ':')
	if n <= 0 || n+1 == len(s) || s[n+1] != ' ' {
		return nil
	}
	if p := *v.recent(s[:n]); p != nil && p.tag && p.name == string(s[:n]) {
		h.program, h.message = s[:n], skipBlanks(s[n+1:])
		return p
	}
	return nil
}

// isTag reports whether a program's name may stand in front of "[pid]: " or ": " as it is; see cutTag.
func isTag(name []byte) bool {
	return len(name) > 0 && name[0] != '/' && tagLen(name) == len(name) && !isFacility(name)
}

// pidLen returns how many digits s begins with in front of "]", and that something stands behind it; 0 if there are none, or more than 7.
func pidLen(s []byte) int {
	if len(s) < 9 {
		return 0
	}
	const (
		ones  = 0x0101010101010101
		zeros = '0' * ones
		high  = 0xf0 * ones
	)
	eight := binary.LittleEndian.Uint64(s)
	end := eight ^ ']'*ones // a byte is zero where the bracket is
	at := bits.TrailingZeros64((end-ones)&^end&(0x80*ones)) &^ 7
	if at == 64 {
		return 0
	}
	digits := eight&(1<<at-1) | zeros&^(1<<at-1) // what does not count is made a digit
	if digits&high != zeros || (digits+6*ones)&high != zeros {
		return 0
	}
	return at / 8
}

// cut takes the prefix off a line that begins with it.
func (p *prefix) cut(line []byte) (rest []byte, ok bool) {
	end := p.n + p.digits
	if p.n == 0 || len(line) <= end+p.behind || string(line[:p.n]) != string(p.head[:p.n]) {
		return nil, false
	}
	if p.digits > 0 && (!isNumber(line[p.n:end]) || string(line[end:end+p.behind]) != string(p.tail[:p.behind])) {
		return nil, false
	}
	return line[end+p.behind:], true
}

// firstTag reads the program off the front of s, where date and host name stood before.
func firstTag(s []byte) (header, bool) {
	n := tagLen(s)
	h, ok := cutTag(s, n)
	return h, ok && !(len(h.pid) == 0 && isFacility(h.program))
}

// learn remembers a front as parseHeader finds it.
func (p *prefix) learn(front []byte) {
	const fraction = len("2006-01-02T15:04:05.")
	head, digits := len(front), 0
	if len(front) > fraction && isDigit(front[0]) && (front[fraction-1] == '.' || front[fraction-1] == ',') {
		head = fraction
		for head+digits < len(front) && isDigit(front[head+digits]) {
			digits++
		}
		if digits == 0 {
			head = len(front)
		}
	}
	if len(front) > maxPrefix {
		p.n = 0
		return
	}
	p.n = copy(p.head[:], front[:head])
	p.digits = digits
	p.behind = copy(p.tail[:], front[head+digits:])
}
