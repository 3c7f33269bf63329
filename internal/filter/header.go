package filter

import (
	"bytes"
	"strings"

	"mef/internal/logtext"
	"mef/internal/logtime"
)

// A header is what stands in front of a message, read off a line of a log file. The slices point into the line.
type header struct {
	program []byte // empty: the line names none
	pid     []byte // decimal digits; empty if unknown
	message []byte

	// whole is all that follows the date if there is no host name in front of the program and no process ID behind it: what
	// looks like a program's name may be the first word of the message ("pam_unix(sshd:auth): ..."). Otherwise it is nil.
	whole []byte

	line []byte // all of it

	// front is how much of the line stands ahead of the program's name, if that is only a date and the name of a host; it is
	// 0 otherwise.
	front int
}

// maxHosts is how many words may stand between the date and the program: one host name.
const maxHosts = 1

// parseHeader reads the header of a whole line. It knows the forms of syslogd, rsyslog, syslog-ng, journalctl, metalog,
// multilog and of daemons that write their own file: dates of RFC 3164, RFC 3339 and asctime, TAI64N labels, RFC 5424.
//
// The header is read strictly from the left, so that a message never poses as one: the first word that can be a program's
// name is the program, whatever follows. A line without date needs "program[pid]:" to have a header at all. Where the
// program is unknown, the message is all that follows the date.
func parseHeader(line []byte) header {
	s := skipBlanks(trimEnd(line))
	if rest, version, ok := logtime.CutPriority(s); ok {
		if version {
			if h, ok := parseRFC5424(rest); ok {
				return h
			}
		}
		s = rest
	}
	_, rest, dated := logtime.Cut(s)
	h, relayed := parseTag(rest, dated)
	if relayed {
		// The writer put its own date and the name of the facility in front of a whole line.
		_, rest, _ = logtime.Cut(h.message)
		h, _ = parseTag(rest, true)
		h.front = 0
	}
	switch {
	case h.front == 0:
	case line[0] == '<' || line[0] == ' ' || line[0] == '\t':
		h.front = 0
	default:
		h.front += len(s) - len(rest)
	}
	return h
}

// parseTag reads host name, facility and program off the text behind the date. It reports relayed if a facility stands where
// the program is expected and another date follows it: h.message is then a whole line.
func parseTag(s []byte, dated bool) (h header, relayed bool) {
	h.message = s
	whole, plain := len(s), dated // plain: no facility was met
	var host []byte
	for hosts := 0; hosts <= maxHosts; {
		if dated && len(s) > 0 && s[0] == '[' {
			if t, ok := cutBracketed(s); ok {
				return t, false
			}
		}
		n := tagLen(s)
		word := s[:n]
		if n == len(s) || s[n] != ' ' {
			t, ok := cutTag(s, n)
			if ok && hosts == 0 && len(t.pid) == 0 && isSeverity(t.program) {
				return h, false // no program wrote its name: the message begins here
			}
			if ok && (dated || len(t.pid) > 0) && !(len(t.pid) == 0 && isFacility(t.program)) {
				switch {
				case plain && hosts == 1:
					t.front = whole - len(s)
				case hosts == 0 && len(t.pid) == 0:
					t.whole = h.message
				}
				return t, false
			}
			word = firstWord(s)
		}
		s = skipBlanks(s[len(word):])
		if !isFacility(word) {
			if len(word) > 0 && strings.IndexByte(`([{"'|`, word[0]) >= 0 || isAddrPort(word) {
				return h, false // no host has such a name: the message begins in front of it, or is all there is
			}
			if hosts == 0 {
				host = word
				if t, ok := cutFields(s); ok && dated {
					return t, false
				}
			}
			if hosts == 0 || len(word) == 0 || string(word) != string(host) { // some relays write the host's name twice
				hosts++
			}
			plain = plain && len(host) > 0 && hosts == 1
			continue
		}
		plain = false
		if hosts == 0 {
			h.message = s // of "auth.info: Invalid user ...", where no program follows
			if _, _, again := logtime.Cut(s); again && dated {
				return h, true
			}
		}
	}
	return h, false
}

// cutTag reads what stands behind the name of a program, s[:n]: "name: ", "name[pid]: " or, with the tag left in the message,
// "name(whatever...". The last is how old PAM and dovecot's own log write: "sshd(pam_unix)[15794]: ...",
// "auth(user,192.0.2.7)<id>: ...".
func cutTag(s []byte, n int) (h header, ok bool) {
	if n == 0 || n == len(s) {
		return h, false
	}
	h.program = s[:n]
	if s[0] == '/' { // logged under its whole path
		h.program = s[bytes.LastIndexByte(s[:n], '/')+1 : n]
	}
	switch rest := s[n:]; rest[0] {
	case '(':
		h.message = s
		return h, true
	case '[':
		d := 1
		for d < len(rest) && isDigit(rest[d]) {
			d++
		}
		if d == 1 || d+1 >= len(rest) || rest[d] != ']' {
			return h, false
		}
		behind := rest[d+1:]
		if level, ok := bytes.CutPrefix(behind, []byte(" ")); ok && isSeverity(level[:tagLen(level)]) {
			behind = level[tagLen(level):] // "sshd[12] info: ..."
		}
		if len(behind) == 0 || behind[0] != ':' {
			return h, false
		}
		h.pid = rest[1:d]
		h.message = skipBlanks(behind[1:])
		return h, true
	case ':':
		if len(rest) > 1 && rest[1] != ' ' && rest[1] != '\t' {
			return h, false
		}
		h.message = skipBlanks(rest[1:])
		return h, true
	}
	return h, false
}

// cutFields reads what stands behind the date and the host of RFC 5424 where its number and version are left out, as rsyslog's template
// SyslogProtocol23Format does if that is all it is changed in: "name 12 - - ".
func cutFields(s []byte) (h header, ok bool) {
	name := firstWord(s)
	if len(name) == 0 || len(name) == len(s) || tagLen(name) != len(name) {
		return h, false
	}
	rest := s[len(name)+1:]
	pid := firstWord(rest)
	message, ok := bytes.CutPrefix(rest[len(pid):], []byte(" - - "))
	if !ok || !isNumber(pid) {
		return h, false
	}
	return header{program: name, pid: pid, message: skipBlanks(message)}, true
}

// cutBracketed reads "[name]: ".
func cutBracketed(s []byte) (h header, ok bool) {
	n := tagLen(s[1:])
	if n == 0 || isNumber(s[1:1+n]) || !bytes.HasPrefix(s[1+n:], []byte("]: ")) {
		return h, false
	}
	h.program = s[1 : 1+n]
	h.message = skipBlanks(s[n+3:])
	return h, true
}

// tagLen returns how many bytes s begins with that can be a program's name.
func tagLen(s []byte) int {
	for i, c := range s {
		if !isTagByte[c] {
			return i
		}
	}
	return len(s)
}

// isTagByte has the bytes of a program's name.
var isTagByte = byteSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./@+")

func byteSet(s string) (set [256]bool) {
	for i := range len(s) {
		set[s[i]] = true
	}
	return set
}

// parseRFC5424 reads what follows "<34>1 ": TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG.
func parseRFC5424(s []byte) (h header, ok bool) {
	var field [5][]byte
	for i := range field {
		field[i] = firstWord(s)
		if len(field[i]) == 0 || len(field[i]) == len(s) {
			return h, false
		}
		s = s[len(field[i])+1:]
	}
	if _, _, ok := logtime.Cut(field[0]); !ok && string(field[0]) != "-" {
		return h, false
	}
	s, ok = cutStructuredData(s)
	if !ok {
		return h, false
	}
	if string(field[2]) != "-" {
		h.program = field[2]
	}
	if isNumber(field[3]) {
		h.pid = field[3]
	}
	h.message = skipBlanks(bytes.TrimPrefix(s, []byte("\xef\xbb\xbf"))) // the BOM marks MSG as UTF-8
	return h, true
}

// cutStructuredData reads "-" or one or more [id name="value" ...]; in a value, \ escapes the next byte.
func cutStructuredData(s []byte) (rest []byte, ok bool) {
	if len(s) > 0 && s[0] == '-' {
		return skipBlanks(s[1:]), true
	}
	elements, quoted, inside := 0, false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case inside && c == '"':
			quoted = !quoted
		case quoted:
		case !inside && c == '[':
			inside = true
			elements++
		case inside && c == ']':
			inside = false
		case !inside:
			return skipBlanks(s[i:]), elements > 0
		}
	}
	return nil, elements > 0 && !inside
}

// isSeverity reports whether the word is how a message begins, and not a program's name: "error: ...".
func isSeverity(word []byte) bool {
	switch string(word) {
	case "debug", "debug1", "debug2", "debug3", "info", "notice", "warning", "error", "fatal", "panic",
		"Debug", "Info", "Notice", "Warning", "Error", "Fatal", "Panic",
		"DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "FATAL", "PANIC":
		return true
	}
	return false
}

// cutInner takes a second header off a message: that of a container's own log within the host's. The program must be the same or
// missing, so that no text poses as the message of another program.
func cutInner(h *header) header {
	_, rest, ok := logtime.Cut(h.message)
	if !ok {
		return *h
	}
	inner, _ := parseTag(rest, true)
	if string(inner.program) != string(h.program) {
		inner = *h
		inner.message = rest
	}
	inner.line = h.line
	return inner
}

// mayBeginDate reports whether a message may begin with a date as daemons write them: with a digit, or with the name of a month or a
// weekday, in any language, and a number or a month behind it.
func mayBeginDate(message []byte) bool {
	const maxName = 12 // bytes of a weekday
	if len(message) == 0 || !beginsDate[message[0]] {
		return false
	}
	if isDigit(message[0]) {
		return true
	}
	end := bytes.IndexByte(message[:min(len(message), maxName+1)], ' ')
	if end <= 0 {
		return false
	}
	rest := skipBlanks(message[end:])
	return len(rest) > 0 && (isDigit(rest[0]) || end == 3 && beginsDate[rest[0]])
}

// beginsDate has the bytes that the dates of daemons begin with.
var beginsDate = byteSet("0123456789ADFJMNOSTW")

// isFacility reports whether the word is a syslog facility and severity, as some writers put into the header:
// "auth.info", "auth.info:", "<10.5>", "<auth.info>".
func isFacility(word []byte) bool {
	if len(word) > 2 && word[0] == '<' && word[len(word)-1] == '>' {
		return bytes.IndexByte(word, '.') > 0
	}
	if len(word) > 1 && word[len(word)-1] == ':' {
		word = word[:len(word)-1]
	}
	dot := bytes.IndexByte(word, '.')
	if dot < 3 {
		return false
	}
	switch string(word[dot+1:]) {
	case "debug", "info", "notice", "warning", "warn", "err", "error", "crit", "alert", "emerg":
	default:
		return false
	}
	switch string(word[:dot]) {
	case "auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "security", "syslog", "user", "uucp",
		"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7":
		return true
	}
	return false
}

// firstWord returns s up to its first blank.
func firstWord(s []byte) []byte {
	if i := bytes.IndexByte(s, ' '); i >= 0 {
		return s[:i]
	}
	return s
}

func skipBlanks(s []byte) []byte {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	return s
}

// trimEnd returns s without the blanks and line ends behind it.
func trimEnd(s []byte) []byte {
	for len(s) > 0 && s[len(s)-1] <= ' ' && strings.IndexByte(" \t\r\n", s[len(s)-1]) >= 0 {
		s = s[:len(s)-1]
	}
	return s
}

// isAddrPort reports whether the word is an IPv4 address and a port, which begin the messages of some daemons.
func isAddrPort(word []byte) bool {
	colon := bytes.IndexByte(word, ':')
	if colon < 0 || !isNumber(word[colon+1:]) {
		return false
	}
	_, ok := logtext.Addr(word[:colon])
	return ok
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isNumber(s []byte) bool {
	for _, c := range s {
		if !isDigit(c) {
			return false
		}
	}
	return len(s) > 0
}

// maxRepeats bounds the N of "message repeated N times".
const maxRepeats = 10000

// unwrap takes off what syslog daemons put around a message: "message repeated 5 times: [ ...]" of rsyslog, whose number it
// returns (otherwise 1), "[ID 800047 auth.info] " of Solaris, and the "kernel:[  970.699396]: " that a console leaves.
func unwrap(s []byte) (message []byte, count int) {
	count = 1
	if len(s) == 0 || s[0] != '[' && s[0] != 'k' && s[0] != 'm' {
		return s, count
	}
	if inner, n, ok := cutRepeated(s); ok {
		s, count = inner, n
	}
	if bytes.HasPrefix(s, []byte("[ID ")) {
		if end := bytes.IndexByte(s, ']'); end > 0 {
			s = skipBlanks(s[end+1:])
		}
	}
	if bytes.HasPrefix(s, []byte("kernel:[")) {
		if end := bytes.IndexByte(s, ']'); end > 0 && isUptime(s[len("kernel:["):end]) {
			s = s[end+1:]
			if len(s) > 0 && s[0] == ':' {
				s = s[1:]
			}
			s = skipBlanks(s)
		}
	}
	return s, count
}

// isUptime reports whether s is seconds since boot as the kernel writes them.
func isUptime(s []byte) bool {
	for _, c := range s {
		if !isDigit(c) && c != '.' && c != ' ' {
			return false
		}
	}
	return true
}

// lastRepeated returns how often the line before this one was written again, if that is what the line reports: "last message
// repeated 4 times" of BSD's, sysklogd's and BusyBox' syslogd, whose name may stand before it.
func lastRepeated(h *header) (count int, ok bool) {
	const before = "last message repeated "
	s := h.message
	if len(h.program) > 0 && string(h.program) != "syslogd" {
		return 0, false
	}
	if !bytes.HasPrefix(s, []byte(before)) { // the host's name stands before it
		s = skipBlanks(s[len(firstWord(s)):])
	}
	rest, ok := bytes.CutPrefix(s, []byte(before))
	if !ok {
		return 0, false
	}
	for len(rest) > 0 && isDigit(rest[0]) {
		count = min(count*10+int(rest[0]-'0'), maxRepeats)
		rest = rest[1:]
	}
	return count, count > 0 && (string(rest) == " times" || string(rest) == " time")
}

func cutRepeated(s []byte) (inner []byte, count int, ok bool) {
	const before, between = "message repeated ", " times: ["
	if !bytes.HasPrefix(s, []byte(before)) || s[len(s)-1] != ']' {
		return s, 1, false
	}
	rest := s[len(before):]
	n := 0
	for n < len(rest) && isDigit(rest[n]) {
		count = min(count*10+int(rest[n]-'0'), maxRepeats)
		n++
	}
	if count == 0 || !bytes.HasPrefix(rest[n:], []byte(between)) {
		return s, 1, false
	}
	inner = rest[n+len(between):]
	if len(inner) == 0 {
		return s, 1, false
	}
	return skipBlanks(inner[:len(inner)-1]), count, true
}

// Split returns the program that a line of a log file names, "" if it names none, and the message behind its header. Both point into the line.
func Split(line []byte) (program, message []byte) {
	h := parseHeader(line)
	return h.program, h.message
}
