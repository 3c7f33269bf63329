// Package logtime reads the dates that log lines begin with: RFC 3164 ("Jan  2 15:04:05"), asctime ("Tue Jan  2 15:04:05
// 2024"), RFC 3339 and what resembles it ("2024-01-02 15:04:05,678"), RFC 5424, TAI64N labels, and the dates of
// journalctl's output modes, in other languages too ("sie 02 15:04:05", "Mon 2024-01-02 15:04:05 UTC", "1704207845.123456",
// "[12345.678901]"), and dates in brackets, as web servers write.
//
// A date may lack its year and its zone. The year is then the one that puts it nearest to a time that the caller names, so
// that a log of December read in January is a few days old and not a year ahead; the zone is one that the caller names too.
package logtime

import (
	"bytes"
	"time"
)

// A Stamp is a date as it stands in a line.
type Stamp struct {
	year                   int // 0: the line names none
	month                  time.Month
	day, hour, minute, sec int
	nsec                   int
	offset                 int // seconds east of UTC, if zoned
	zoned                  bool
	uptime                 bool // the line gives the time since boot, which is no date
}

// Parse returns the time that a line begins with, behind a syslog priority if there is one, or that an access log has in it: the first
// date such as [02/Jan/2006:15:04:05 -0700], or the time in a JSON object. near decides the year and loc the zone where
// the line names none. It reports false if the line has no date.
func Parse(line []byte, near time.Time, loc *time.Location) (time.Time, bool) {
	at, _, ok := parse(line, near, loc)
	return at, ok
}

// parse is Parse that also returns what stands behind the date.
func parse(line []byte, near time.Time, loc *time.Location) (at time.Time, rest []byte, ok bool) {
	s := skipBlanks(line)
	if rest, _, ok := CutPriority(s); ok {
		s = rest
	}
	stamp, rest, ok := Cut(s)
	if !ok {
		stamp, ok = inside(s)
		ok = ok && stamp.valid()
		rest = nil // what the line begins with says nothing about its time
	}
	if !ok || stamp.uptime {
		return time.Time{}, line, false
	}
	return stamp.Time(near, loc), rest, true
}

// A Reader reads the dates of one log. It remembers the last, for many lines begin with the same.
type Reader struct {
	Near time.Time      // as in Parse
	Loc  *time.Location // as in Parse

	front []byte // what the last line with a date began with: the date and one more word
	at    time.Time
}

// maxFront bounds what a Reader compares.
const maxFront = 128

// Parse is the function Parse.
//
// A date is read from the left, and the word behind it decides whether it belongs to it (a year, a zone), so lines that begin with the
// same date and the same word behind it are of the same time.
func (r *Reader) Parse(line []byte) (time.Time, bool) {
	if r.Same(line) {
		return r.at, true
	}
	at, rest, ok := parse(line, r.Near, r.Loc)
	if !ok {
		return at, false
	}
	r.front, r.at = r.front[:0], at
	if word := bytes.IndexByte(rest, ' '); word >= 0 {
		if n := len(line) - len(rest) + word + 1; n <= maxFront {
			r.front = append(r.front, line[:n]...)
		}
	}
	return at, true
}

// Same reports whether a line begins with the date that Parse has returned last, and nothing else needs to be looked at to know.
func (r *Reader) Same(line []byte) bool { return len(r.front) > 0 && bytes.HasPrefix(line, r.front) }

// Time returns the stamp's time. near decides the year and loc the zone where it has none.
func (t Stamp) Time(near time.Time, loc *time.Location) time.Time {
	if t.zoned {
		loc = time.FixedZone("", t.offset)
	}
	if t.year != 0 {
		return t.in(t.year, loc)
	}
	year := near.In(loc).Year()
	const halfYear = 182 * 24 * time.Hour
	if at := t.in(year, loc); at.Month() == t.month && at.Sub(near).Abs() < halfYear {
		return at // any other year is further away
	}
	var best time.Time
	for _, y := range []int{year, year - 1, year + 1} {
		at := t.in(y, loc)
		if at.Month() != t.month { // the year has no 29 February
			continue
		}
		if best.IsZero() || at.Sub(near).Abs() < best.Sub(near).Abs() {
			best = at
		}
	}
	if best.IsZero() {
		return t.in(year, loc)
	}
	return best
}

func (t Stamp) in(year int, loc *time.Location) time.Time {
	return time.Date(year, t.month, t.day, t.hour, t.minute, t.sec, t.nsec, loc)
}

// CutPriority takes "<34>" off the front of s, and the version "1 " of RFC 5424 behind it, which it reports.
func CutPriority(s []byte) (rest []byte, rfc5424, ok bool) {
	if len(s) < 3 || s[0] != '<' {
		return s, false, false
	}
	_, n := number(s[1:], 3)
	if n == 0 || n+1 == len(s) || s[n+1] != '>' {
		return s, false, false
	}
	s = s[n+2:]
	if bytes.HasPrefix(s, []byte("1 ")) {
		return s[2:], true, true
	}
	return skipBlanks(s), false, true
}

// Cut takes a date, or a time since boot, off the front of s, with the blanks behind it. It allocates nothing.
func Cut(s []byte) (t Stamp, rest []byte, ok bool) {
	if rest, ok = t.cut(s); !ok || !t.valid() {
		return Stamp{}, s, false
	}
	return t, skipBlanks(rest), true
}

// cut reads what has the form of a date, or of a time since boot.
func (t *Stamp) cut(s []byte) (rest []byte, ok bool) {
	rest = s
	if len(s) < 8 {
		return s, false
	}
	switch c := s[0]; {
	case isDigit(c):
		if rest, ok = t.cutISO(s); !ok {
			rest, ok = t.cutUnix(s)
		}
		if !ok {
			rest, ok = t.cutAsctime(s) // the months of Chinese and Japanese begin with their number
		}
	case c == '@':
		rest, ok = t.cutTAI64N(s)
	case c == '[':
		if rest, ok = t.cutUptime(s); !ok {
			rest, ok = t.cutBracketed(s)
		}
	case 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c >= 0x80:
		if rest, ok = t.cutAsctime(s); !ok {
			*t = Stamp{}
			rest, ok = t.cutFull(s)
		}
	}
	if ok && len(rest) > 0 && rest[0] == ':' { // as Cisco ends a date
		rest = rest[1:]
	}
	return rest, ok && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t')
}

// valid reports whether there is such a day and time. Without a year, 29 February is one.
func (t *Stamp) valid() bool {
	return t.uptime || 1 <= t.month && t.month <= 12 && 1 <= t.day && (t.day <= 28 || t.day <= daysIn(t.month, t.year)) && t.hour < 24 && t.minute < 60 && t.sec <= 60
}

// daysIn returns how many days a month has; year is 0 if it is not known.
func daysIn(month time.Month, year int) int {
	switch month {
	case time.February:
		if year == 0 {
			return 29
		}
		return time.Date(year, time.March, 0, 0, 0, 0, 0, time.UTC).Day()
	case time.April, time.June, time.September, time.November:
		return 30
	}
	return 31
}

// Impossible reports whether a line has what has the form of a date, where Parse looks for one, and there is no such day or time.
func Impossible(line []byte) bool {
	s := skipBlanks(line)
	if rest, _, ok := CutPriority(s); ok {
		s = rest
	}
	var t Stamp
	if _, ok := t.cut(s); ok {
		return !t.valid()
	}
	t, ok := inside(s)
	return ok && !t.valid()
}

// cutISO reads 2006-01-02T15:04:05.999999+01:00: T or a blank, a fraction behind "." or ",", a zone or none.
func (t *Stamp) cutISO(s []byte) (rest []byte, ok bool) {
	if len(s) < 19 || s[4] != s[7] || s[4] != '-' && s[4] != '/' || s[10] != 'T' && s[10] != ' ' {
		return s, false
	}
	century, year, month, day := two(s[0], s[1]), two(s[2], s[3]), two(s[5], s[6]), two(s[8], s[9])
	if century|year|month|day < 0 {
		return s, false
	}
	t.year, t.month, t.day = 100*century+year, time.Month(month), day
	rest, ok = t.cutClock(s[11:])
	if !ok {
		return s, false
	}
	rest = t.cutZone(rest)
	if !t.zoned && len(rest) > 2 && rest[0] == ' ' && (rest[1] == '+' || rest[1] == '-') {
		if behind := t.cutZone(rest[1:]); t.zoned {
			rest = behind
		}
	}
	return rest, true
}

const (
	weekdays = "MonTueWedThuFriSatSun"
	months   = "JanFebMarAprMayJunJulAugSepOctNovDec"
)

// cutAsctime reads "Jan  2 15:04:05", with the weekday before it, the year before or behind the time, a fraction, a zone.
func (t *Stamp) cutAsctime(s []byte) (rest []byte, ok bool) {
	month, rest := cutMonth(s)
	if month == 0 && name(s, weekdays) > 0 {
		month, rest = cutMonth(skipBlanks(s[4:]))
	}
	if month == 0 {
		return s, false
	}
	t.month = month
	day, n := number(rest, 2)
	if n == 0 || n == len(rest) || rest[n] != ' ' {
		return s, false
	}
	t.day = day
	rest = skipBlanks(rest[n:])
	if year, n := number(rest, 4); n == 4 && len(rest) > 4 && rest[4] == ' ' {
		t.year = year
		rest = rest[5:]
	}
	if rest, ok = t.cutClock(rest); !ok {
		return s, false
	}
	rest = t.cutZone(rest)
	if t.year == 0 && len(rest) >= 5 && rest[0] == ' ' {
		if year, n := number(rest[1:], 4); n == 4 && (len(rest) == 5 || rest[5] == ' ' || rest[5] == ']' || rest[5] == ':' && (len(rest) == 6 || rest[6] == ' ')) {
			t.year = year
			rest = rest[5:]
		}
	}
	return rest, true
}

// cutMonth takes the short name of a month off the front of s, in English or in a language of foreignMonths.
func cutMonth(s []byte) (month time.Month, rest []byte) {
	if m := name(s, months); m > 0 {
		return time.Month(m), skipBlanks(s[4:])
	}
	word := s[:min(len(s), maxMonth+1)]
	end := bytes.IndexByte(word, ' ')
	if end <= 0 {
		return 0, s
	}
	m, ok := foreignMonths[string(word[:end])]
	if !ok {
		return 0, s
	}
	return m, skipBlanks(s[end:])
}

// cutFull reads "Mon 2006-01-02 15:04:05 UTC" of journalctl -o short-full, whose weekday may be in any language. A zone other
// than UTC is the host's own.
func (t *Stamp) cutFull(s []byte) (rest []byte, ok bool) {
	const maxWeekday = 12 // bytes
	end := bytes.IndexByte(s[:min(len(s), maxWeekday+1)], ' ')
	if end <= 0 || bytes.ContainsAny(s[:end], ":[(") {
		return s, false
	}
	rest, ok = t.cutISO(s[end+1:])
	if !ok || t.zoned || len(rest) < 2 || rest[0] != ' ' {
		return rest, ok
	}
	zone := rest[1:]
	n := 0
	for n < len(zone) && 'A' <= zone[n] && zone[n] <= 'Z' {
		n++
	}
	if n < 3 || n > 5 || n == len(zone) || zone[n] != ' ' {
		return rest, ok
	}
	t.zoned = string(zone[:n]) == "UTC" || string(zone[:n]) == "GMT"
	return zone[n:], true
}

// cutUnix reads "1136214245.123456" of journalctl -o short-unix: seconds since 1970, and microseconds.
func (t *Stamp) cutUnix(s []byte) (rest []byte, ok bool) {
	sec, n := number(s, 10)
	if n < 9 || n+8 > len(s) || s[n] != '.' {
		return s, false
	}
	usec, digits := number(s[n+1:], 6)
	if digits != 6 || s[n+7] != ' ' {
		return s, false
	}
	at := time.Unix(int64(sec), int64(usec)*1000).UTC()
	t.year, t.month, t.day = at.Date()
	t.hour, t.minute, t.sec = at.Clock()
	t.nsec, t.zoned = at.Nanosecond(), true
	return s[n+7:], true
}

// cutUptime reads "[12345.678901] " of journalctl -o short-monotonic, "[12345.678901 <    0.000123 >] " of short-delta, and the
// same of the kernel's own buffer.
func (t *Stamp) cutUptime(s []byte) (rest []byte, ok bool) {
	const longest = 48
	end := bytes.IndexByte(s[:min(len(s), longest)], ']')
	if end < 0 || end+1 == len(s) || s[end+1] != ' ' {
		return s, false
	}
	digits, dot := 0, false
	for _, c := range s[1:end] {
		switch {
		case isDigit(c):
			digits++
		case c == '.' && digits > 0:
			dot = true
		case c != ' ' && c != '<' && c != '>' && c != '.':
			return s, false
		}
	}
	t.uptime = dot
	return s[end+1:], dot
}

// cutBracketed reads a date in brackets: asctime or ISO, or "20060102-15:04:05".
func (t *Stamp) cutBracketed(s []byte) (rest []byte, ok bool) {
	inner := s[1:]
	if rest, ok = t.cutISO(inner); !ok {
		*t = Stamp{}
		if rest, ok = t.cutAsctime(inner); !ok {
			*t = Stamp{}
			rest, ok = t.cutCompact(inner)
		}
	}
	if !ok || len(rest) == 0 || rest[0] != ']' {
		return s, false
	}
	return rest[1:], true
}

// cutCompact reads 20060102-15:04:05.
func (t *Stamp) cutCompact(s []byte) (rest []byte, ok bool) {
	if len(s) < 17 || s[8] != '-' {
		return s, false
	}
	date, n := number(s, 8)
	if n != 8 {
		return s, false
	}
	t.year, t.month, t.day = date/10000, time.Month(date/100%100), date%100
	return t.cutClock(s[9:])
}

// taiEpoch is 1970 in TAI64, as multilog counts it: ten seconds ahead of UTC, leap seconds left out.
const taiEpoch = 1<<62 + 10

// cutTAI64N reads the label of multilog: @ and 24 hexadecimal digits, seconds and nanoseconds.
func (t *Stamp) cutTAI64N(s []byte) (rest []byte, ok bool) {
	if len(s) < 25 {
		return s, false
	}
	var sec, nsec uint64
	for i, c := range s[1:25] {
		digit := bytes.IndexByte([]byte("0123456789abcdef"), c)
		if digit < 0 {
			return s, false
		}
		if i < 16 {
			sec = sec<<4 | uint64(digit)
		} else {
			nsec = nsec<<4 | uint64(digit)
		}
	}
	const lastYear = 253402300800 // 10000-01-01, beyond which no log goes
	if sec < taiEpoch || sec-taiEpoch >= lastYear || nsec >= 1e9 {
		return s, false
	}
	at := time.Unix(int64(sec-taiEpoch), int64(nsec)).UTC()
	t.year, t.month, t.day = at.Date()
	t.hour, t.minute, t.sec = at.Clock()
	t.nsec = int(nsec)
	t.zoned = true
	return s[25:], true
}

// cutClock reads 15:04:05 with an optional fraction, of which nanoseconds are kept.
func (t *Stamp) cutClock(s []byte) (rest []byte, ok bool) {
	if len(s) < 8 || s[2] != ':' || s[5] != ':' {
		return s, false
	}
	t.hour, t.minute, t.sec = two(s[0], s[1]), two(s[3], s[4]), two(s[6], s[7])
	if t.hour|t.minute|t.sec < 0 {
		return s, false
	}
	rest = s[8:]
	if len(rest) < 2 || rest[0] != '.' && rest[0] != ',' || !isDigit(rest[1]) {
		return rest, true
	}
	rest = rest[1:]
	for unit := 100_000_000; len(rest) > 0 && isDigit(rest[0]); unit /= 10 {
		t.nsec += unit * int(rest[0]-'0')
		rest = rest[1:]
	}
	return rest, true
}

// cutZone reads Z, +01, +0100 or +01:00, if there is one.
func (t *Stamp) cutZone(s []byte) (rest []byte) {
	if len(s) == 0 {
		return s
	}
	sign := 1
	switch s[0] {
	case 'Z':
		t.zoned = true
		return s[1:]
	case '-':
		sign = -1
	case '+':
	default:
		return s
	}
	hours, n := number(s[1:], 2)
	if n != 2 {
		return s
	}
	rest = s[3:]
	behind := rest
	if len(behind) > 0 && behind[0] == ':' {
		behind = behind[1:]
	}
	minutes, n := number(behind, 2)
	if n == 2 {
		rest = behind[2:]
	} else {
		minutes = 0
	}
	t.zoned = true
	t.offset = sign * (hours*3600 + minutes*60)
	return rest
}

// name returns which of the three-letter names s begins with, from 1; 0 is none. A blank must follow it.
func name(s []byte, names string) int {
	if len(s) < 4 || s[3] != ' ' {
		return 0
	}
	for i := 0; i < len(names); i += 3 {
		if names[i] == s[0] && names[i+1] == s[1] && names[i+2] == s[2] {
			return i/3 + 1
		}
	}
	return 0
}

// two returns the number that two digits make, or -1.
func two(tens, ones byte) int {
	if !isDigit(tens) || !isDigit(ones) {
		return -1
	}
	return int(tens-'0')*10 + int(ones-'0')
}

// number returns the number that s begins with, of at most limit digits, and how many it has.
func number(s []byte, limit int) (value, digits int) {
	for digits < len(s) && digits < limit && isDigit(s[digits]) {
		value = value*10 + int(s[digits]-'0')
		digits++
	}
	return value, digits
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func skipBlanks(s []byte) []byte {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	return s
}

// Yearless reports whether a line begins with a date that names no year.
func Yearless(line []byte) bool {
	stamp, _, ok := Cut(skipBlanks(line))
	return ok && !stamp.uptime && stamp.year == 0
}
