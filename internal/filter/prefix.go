package filter

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

// header is parseHeader with a memory.
func (p *prefix) header(line []byte) header {
	if rest, ok := p.cut(line); ok {
		if h, ok := firstTag(trimEnd(rest)); ok {
			return h
		}
	}
	h := parseHeader(line)
	if h.front > 0 {
		p.learn(line[:h.front])
	}
	return h
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
