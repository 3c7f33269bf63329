package filter

import "bytes"

// A header is what stands in front of a message, read off a line of a log file. The slices point into the line.
type header struct {
	program []byte // empty: the line names none
	pid     []byte // decimal digits; empty if unknown
	message []byte
}

// maxHosts is how many words may stand between the date and the program: one host name.
const maxHosts = 1

// parseHeader reads the header of a whole line. It knows the forms of syslogd, rsyslog, syslog-ng, journalctl, metalog,
// multilog and of daemons that write their own file: dates of RFC 3164, RFC 3339 and asctime, TAI64N labels, RFC 5424.
//
// The header is read strictly from the left, so that a message never poses as one: the first word that can be a program's
// name is the program, whatever follows. A line without date needs "program[pid]:" to have a header at all. Where the
// program cannot be told, the message is all that follows the date.
func parseHeader(line []byte) header {
	s := bytes.TrimRight(line, " \t\r\n")
	s = skipBlanks(s)
	if rest, version, ok := cutPriority(s); ok {
		if version {
			if h, ok := parseRFC5424(rest); ok {
				return h
			}
		}
		s = rest
	}
	rest, dated := cutStamp(s)
	h, relayed := parseTag(rest, dated)
	if relayed {
		// The writer put its own date and the name of the facility in front of a whole line.
		s = h.message
		rest, dated = cutStamp(s)
		h, _ = parseTag(rest, true)
	}
	return h
}

// parseTag reads host name, facility and program off the text behind the date. It reports relayed if what it took for the
// program is the name of a facility, so that another header may follow in h.message.
func parseTag(s []byte, dated bool) (h header, relayed bool) {
	h.message = s
	rest := s
	for hosts := 0; ; {
		if isFacility(firstWord(rest)) {
			rest = skipBlanks(rest[len(firstWord(rest)):])
			// Without a name behind it, the message starts here: "auth.info Invalid user ..."
			if hosts == 0 {
				h.message = rest
			}
			if dated && hosts == 0 {
				if _, again := cutStamp(rest); again {
					h.message = rest
					return h, true
				}
			}
			continue
		}
		if t, ok := cutTag(rest); ok && (dated || len(t.pid) > 0) {
			return t, false
		}
		if hosts == maxHosts {
			return h, false
		}
		word := firstWord(rest)
		if len(word) == 0 {
			return h, false
		}
		rest = skipBlanks(rest[len(word):])
		hosts++
	}
}

// cutTag reads "program: ", "program[pid]: " or, with the tag left in the message, "program(whatever...". The last is how
// old PAM and dovecot's own log write: "sshd(pam_unix)[15794]: ...", "auth(user,192.0.2.7)<id>: ...".
func cutTag(s []byte) (h header, ok bool) {
	n := 0
	for n < len(s) && isTagByte[s[n]] {
		n++
	}
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
		if d == 1 || d+1 >= len(rest) || rest[d] != ']' || rest[d+1] != ':' {
			return h, false
		}
		h.pid = rest[1:d]
		h.message = skipBlanks(rest[d+2:])
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

// isTagByte has the bytes of a program's name.
var isTagByte = byteSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./@+")

func byteSet(s string) (set [256]bool) {
	for i := range len(s) {
		set[s[i]] = true
	}
	return set
}

// cutPriority reads "<34>", and the "1 " of RFC 5424 behind it.
func cutPriority(s []byte) (rest []byte, version, ok bool) {
	if len(s) < 3 || s[0] != '<' {
		return s, false, false
	}
	n := 1
	for n < len(s) && n <= 3 && isDigit(s[n]) {
		n++
	}
	if n == 1 || n == len(s) || s[n] != '>' {
		return s, false, false
	}
	s = s[n+1:]
	if len(s) > 2 && s[0] == '1' && s[1] == ' ' {
		return s[2:], true, true
	}
	return skipBlanks(s), false, true
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
	if _, ok := cutStamp(field[0]); !ok && string(field[0]) != "-" {
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
	h.message = skipBlanks(bytes.TrimPrefix(s, []byte("\xef\xbb\xbf"))) // the BOM says that MSG is UTF-8
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

// cutStamp takes a date off the front of s, and the blanks behind it.
func cutStamp(s []byte) (rest []byte, ok bool) {
	if len(s) < 8 {
		return s, false
	}
	switch c := s[0]; {
	case isDigit(c):
		return cutISO(s)
	case c == '@':
		return cutTAI64N(s)
	case 'A' <= c && c <= 'W':
		return cutAsctime(s)
	}
	return s, false
}

// cutTAI64N reads the label of multilog: @ and 24 hexadecimal digits.
func cutTAI64N(s []byte) (rest []byte, ok bool) {
	if len(s) < 26 || s[25] != ' ' {
		return s, false
	}
	for _, c := range s[1:25] {
		if !isDigit(c) && (c < 'a' || c > 'f') {
			return s, false
		}
	}
	return skipBlanks(s[25:]), true
}

// cutISO reads 2006-01-02T15:04:05.999999+01:00: T or a blank, a fraction behind "." or ",", a zone or none.
func cutISO(s []byte) (rest []byte, ok bool) {
	if !shaped(s, "0000-00-00") && !shaped(s, "0000/00/00") {
		return s, false
	}
	if len(s) < 19 || s[10] != 'T' && s[10] != ' ' {
		return s, false
	}
	n, ok := clockLen(s[11:])
	if !ok {
		return s, false
	}
	rest = s[11+n:]
	rest = rest[zoneLen(rest):]
	if z := skipBlanks(rest); len(z) > 0 && (z[0] == '+' || z[0] == '-') && zoneLen(z) > 0 {
		rest = z[zoneLen(z):]
	}
	return endOfStamp(s, rest)
}

// cutAsctime reads "Jan  2 15:04:05", with the weekday before it, the year before or behind the time, a fraction, a zone.
func cutAsctime(s []byte) (rest []byte, ok bool) {
	rest = s
	if isName(rest, "MonTueWedThuFriSatSun") {
		rest = skipBlanks(rest[4:])
	}
	if !isName(rest, "JanFebMarAprMayJunJulAugSepOctNovDec") {
		return s, false
	}
	rest = skipBlanks(rest[4:])
	n := 0
	for n < len(rest) && n < 2 && isDigit(rest[n]) {
		n++
	}
	if n == 0 || n == len(rest) || rest[n] != ' ' {
		return s, false
	}
	rest = skipBlanks(rest[n:])
	year := shaped(rest, "0000 ")
	if year {
		rest = rest[5:]
	}
	n, ok = clockLen(rest)
	if !ok {
		return s, false
	}
	rest = rest[n:]
	rest = rest[zoneLen(rest):]
	if !year && shaped(rest, " 0000") && (len(rest) == 5 || rest[5] == ' ' || rest[5] == ':') {
		rest = rest[5:]
	}
	return endOfStamp(s, rest)
}

// endOfStamp accepts a date only if a blank, a colon or the end follows it.
func endOfStamp(s, rest []byte) ([]byte, bool) {
	if len(rest) > 0 && rest[0] == ':' {
		rest = rest[1:]
	}
	if len(rest) > 0 && rest[0] != ' ' && rest[0] != '\t' {
		return s, false
	}
	return skipBlanks(rest), true
}

// clockLen returns the length of 15:04:05 with an optional fraction.
func clockLen(s []byte) (int, bool) {
	if !shaped(s, "00:00:00") {
		return 0, false
	}
	n := 8
	if n+1 < len(s) && (s[n] == '.' || s[n] == ',') && isDigit(s[n+1]) {
		for n++; n < len(s) && isDigit(s[n]); n++ {
		}
	}
	return n, true
}

// zoneLen returns the length of Z, +01, +0100 or +01:00 at the start of s, or 0.
func zoneLen(s []byte) int {
	switch {
	case len(s) == 0:
		return 0
	case s[0] == 'Z':
		return 1
	case s[0] != '+' && s[0] != '-':
		return 0
	case shaped(s[1:], "00:00"):
		return 6
	case shaped(s[1:], "0000"):
		return 5
	case shaped(s[1:], "00"):
		return 3
	}
	return 0
}

// shaped reports whether s begins with the shape: 0 stands for any digit, other bytes for themselves.
func shaped(s []byte, shape string) bool {
	if len(s) < len(shape) {
		return false
	}
	for i := range len(shape) {
		if shape[i] == '0' {
			if !isDigit(s[i]) {
				return false
			}
		} else if s[i] != shape[i] {
			return false
		}
	}
	return true
}

// isName reports whether s begins with one of the three-letter names and a blank.
func isName(s []byte, names string) bool {
	if len(s) < 4 || s[3] != ' ' {
		return false
	}
	for i := 0; i < len(names); i += 3 {
		if names[i] == s[0] && names[i+1] == s[1] && names[i+2] == s[2] {
			return true
		}
	}
	return false
}

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

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isNumber(s []byte) bool {
	for _, c := range s {
		if !isDigit(c) {
			return false
		}
	}
	return len(s) > 0
}

// maxRepeats bounds what "message repeated N times" is believed.
const maxRepeats = 10000

// unwrap takes off what syslog daemons put around a message: "message repeated 5 times: [ ...]" of rsyslog, whose number it
// returns (else 1), "[ID 800047 auth.info] " of Solaris, and the "kernel:[  970.699396]: " that a console leaves.
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
