package logtime

import (
	"bytes"
	"time"
)

// maxInside bounds what is looked through for a date: what stands in front of it in an access log is host, address and user.
const maxInside = 1024

// inside finds what has the form of a date in a line of an access log.
func inside(line []byte) (t Stamp, ok bool) {
	if len(line) > 0 && line[0] == '{' {
		return inJSON(line)
	}
	head := line[:min(len(line), maxInside)]
	for {
		i := bytes.Index(head, []byte(" ["))
		if i < 0 {
			return Stamp{}, false
		}
		head = head[i+2:]
		if t.cutAccess(head) {
			return t, true
		}
		t = Stamp{}
	}
}

// cutAccess reads 02/Jan/2006:15:04:05 -0700] of the Common Log Format.
func (t *Stamp) cutAccess(s []byte) bool {
	if len(s) < 27 || s[2] != '/' || s[6] != '/' || s[11] != ':' || s[20] != ' ' || s[26] != ']' {
		return false
	}
	t.day = two(s[0], s[1])
	century, year := two(s[7], s[8]), two(s[9], s[10])
	month := bytes.Index([]byte(months), s[3:6])
	if century|year|t.day < 0 || month < 0 || month%3 != 0 {
		return false
	}
	t.year, t.month = 100*century+year, time.Month(month/3+1)
	if rest, ok := t.cutClock(s[12:]); !ok || len(rest) == 0 || rest[0] != ' ' {
		return false
	}
	t.cutZone(s[21:])
	return t.zoned
}

// inJSON finds the time of a JSON object: an ISO date, or a number of seconds or milliseconds since 1970. Quotation marks in the text of a
// value are escaped, so that none passes for a key.
func inJSON(line []byte) (t Stamp, ok bool) {
	for _, key := range [...]string{`"ts":`, `"time":`, `"@timestamp":`, `"timestamp":`, `"time_iso8601":`, `"t":`, `"$date":`} {
		i := bytes.Index(line, []byte(key))
		if i < 0 {
			continue
		}
		t = Stamp{}
		value := skipBlanks(line[i+len(key):])
		if len(value) > 0 && isDigit(value[0]) {
			if t.cutSeconds(value) {
				return t, true
			}
			continue
		}
		if len(value) == 0 || value[0] != '"' {
			continue
		}
		rest, ok := t.cutISO(value[1:])
		if !ok {
			continue
		}
		if behind, utc := bytes.CutPrefix(rest, []byte(" UTC")); utc {
			rest, t.zoned = behind, true
		}
		if len(rest) > 0 && rest[0] == '"' {
			return t, true
		}
	}
	return Stamp{}, false
}

// cutSeconds reads seconds since 1970, with a fraction, or milliseconds, as a number of JSON.
func (t *Stamp) cutSeconds(s []byte) bool {
	sec, n := number(s, 10)
	if n < 9 {
		return false
	}
	nsec, unit := 0, 100_000_000
	if milli, more := number(s[n:], 3); more == 3 {
		nsec, s = milli*1_000_000, s[n+3:]
	} else if s = s[n:]; len(s) > 0 && s[0] == '.' {
		for s = s[1:]; len(s) > 0 && isDigit(s[0]); s = s[1:] {
			nsec += unit * int(s[0]-'0')
			unit /= 10
		}
	}
	if len(s) > 0 && isDigit(s[0]) {
		return false
	}
	at := time.Unix(int64(sec), int64(nsec)).UTC()
	t.year, t.month, t.day = at.Date()
	t.hour, t.minute, t.sec = at.Clock()
	t.nsec, t.zoned = at.Nanosecond(), true
	return true
}
