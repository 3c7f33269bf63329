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

// inJSON finds the member ts or time of a JSON object. Quotation marks in the text of a value are escaped, so that none passes for a key.
func inJSON(line []byte) (t Stamp, ok bool) {
	if i := bytes.Index(line, []byte(`"ts":`)); i >= 0 && t.cutSeconds(line[i+len(`"ts":`):]) {
		return t, true
	}
	for _, key := range [...]string{`"time":"`, `"@timestamp":"`, `"timestamp":"`, `"time_iso8601":"`, `"ts":"`} {
		i := bytes.Index(line, []byte(key))
		if i < 0 {
			continue
		}
		t = Stamp{}
		if rest, ok := t.cutISO(line[i+len(key):]); ok && len(rest) > 0 && rest[0] == '"' {
			return t, true
		}
	}
	return Stamp{}, false
}

// cutSeconds reads seconds since 1970, with a fraction, as a number of JSON.
func (t *Stamp) cutSeconds(s []byte) bool {
	sec, n := number(s, 10)
	if n < 9 {
		return false
	}
	nsec, unit := 0, 100_000_000
	if s = s[n:]; len(s) > 0 && s[0] == '.' {
		for s = s[1:]; len(s) > 0 && isDigit(s[0]); s = s[1:] {
			nsec += unit * int(s[0]-'0')
			unit /= 10
		}
	}
	at := time.Unix(int64(sec), int64(nsec)).UTC()
	t.year, t.month, t.day = at.Date()
	t.hour, t.minute, t.sec = at.Clock()
	t.nsec, t.zoned = at.Nanosecond(), true
	return true
}
