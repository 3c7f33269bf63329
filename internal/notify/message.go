package notify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mef/internal/conf/diag"
	"mef/internal/control"
	"mef/internal/ordered"
)

// A level is how urgent a message is.
type level string

// The levels, the most urgent last.
const (
	info    level = "info"
	warning level = "warning"
	alarm   level = "alarm"
)

// urgency orders levels.
func (l level) urgency() int { return slices.Index([]level{info, warning, alarm}, l) }

// A message is what is sent at once. Its texts have printable characters only, and whatever a client chose is quoted in them.
type message struct {
	Host  string    `json:"host"`
	Time  time.Time `json:"time"`
	Level level     `json:"level"`
	// Title is one line, and has nothing in it that a client chose.
	Title  string           `json:"title"`
	Text   string           `json:"text"`             // lines
	Events []control.Record `json:"events,omitempty"` // without evidence; of bans the first ones
}

const (
	// maxText is how many bytes of text a message has at most: ntfy makes a file of what has more than 4,096.
	maxText = 3500
	// maxField is how many bytes of a name or a reason are shown.
	maxField = 300
	// maxUrgent is how many records wait one by one; more are counted.
	maxUrgent = 50
	// maxSample is how many bans of a digest are named.
	maxSample = 20
	// maxRules is how many rules of a digest are counted one by one.
	maxRules = 20
)

// testMessage is what mefctl notify test sends.
func testMessage(host string, now time.Time) *message {
	return &message{Host: host, Time: now, Level: info, Title: "mef on " + host + ": this is a test", Text: "mefctl notify test has sent this message. Notifications arrive here."}
}

// waiting is what is to be reported.
type waiting struct {
	urgent []control.Record
	more   int // urgent ones that were not kept
	first  time.Time
	bans   digest
}

// A digest are new bans.
type digest struct {
	count  int
	since  time.Time // of the first one
	rules  map[string]int
	sample []control.Record
}

// add counts a ban.
func (d *digest) add(rec *control.Record, now time.Time) {
	if d.count == 0 {
		d.since, d.rules = now, make(map[string]int)
	}
	d.count++
	d.addRule(rec.Rule, 1)
	if len(d.sample) < maxSample {
		d.sample = append(d.sample, *rec)
	}
}

// addRule counts n bans by a rule.
func (d *digest) addRule(rule string, n int) {
	if _, known := d.rules[rule]; !known && len(d.rules) >= maxRules {
		rule = "other rules"
	}
	d.rules[rule] += n
}

// take returns the digest and begins a new one.
func (d *digest) take() digest {
	taken := *d
	*d = digest{}
	return taken
}

// merge adds bans that are later than those of d.
func (d *digest) merge(later *digest) {
	if d.count == 0 {
		*d = *later
		return
	}
	d.count += later.count
	for rule, n := range later.rules {
		d.addRule(rule, n)
	}
	d.sample = append(d.sample, later.sample[:min(len(later.sample), maxSample-len(d.sample))]...)
}

// message returns what is sent for all urgent records that wait, and for these bans.
func (w *waiting) message(host string, now time.Time, bans *digest) *message {
	m := &message{Host: host, Time: now, Level: info}
	var lines, titles []string
	for i := range w.urgent {
		rec := &w.urgent[i]
		l, title := summary(rec)
		if i == 0 || l.urgency() > m.Level.urgency() {
			m.Level, titles = l, []string{title}
		}
		lines = append(lines, line(rec))
		m.Events = append(m.Events, *rec)
	}
	if others := max(len(w.urgent)-1, 0) + w.more; others > 0 {
		titles = append(titles, plural(others, "more event"))
	}
	if w.more > 0 {
		lines = append(lines, fmt.Sprintf("%s: see mefctl events and the event log", plural(w.more, "more event")))
	}
	if bans.count > 0 {
		titles = append(titles, plural(bans.count, "new ban"))
		lines = append(lines, bans.lines()...)
		m.Events = append(m.Events, bans.sample...)
	}
	m.Title = "mef on " + host + ": " + strings.Join(titles, "; ")
	m.Text = joined(lines)
	return m
}

// joined returns as many lines as fit a message.
func joined(lines []string) string {
	var b strings.Builder
	for i, line := range lines {
		if b.Len()+len(line) > maxText {
			fmt.Fprintf(&b, "... and %s", plural(len(lines)-i, "more line"))
			break
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// lines describes the bans of a digest.
func (d *digest) lines() (all []string) {
	names := slices.Sorted(maps.Keys(d.rules))
	ordered.Sort(names, func(a, b string) int { return cmp.Compare(d.rules[b], d.rules[a]) })
	var counts []string
	for _, name := range names {
		counts = append(counts, fmt.Sprintf("%s %d", name, d.rules[name]))
	}
	all = append(all, fmt.Sprintf("%s since %s: %s", plural(d.count, "new ban"), clock(d.since), strings.Join(counts, ", ")))
	for i := range d.sample {
		all = append(all, line(&d.sample[i]))
	}
	if rest := d.count - len(d.sample); rest > 0 {
		all = append(all, fmt.Sprintf("%d more: see mefctl bans list", rest))
	}
	return all
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// clock is a time of day on its date, as the host shows it.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// summary returns how urgent a record is, and what it says in a few words, none of them a client's.
func summary(rec *control.Record) (level, string) {
	switch rec.Event {
	case "login-alarm":
		return alarm, "login alarm: a login from " + rec.Addr
	case "attack":
		return warning, "an attack has begun"
	case "attack-over":
		return info, "an attack is over"
	}
	switch rec.Level {
	case control.Red:
		return alarm, "this host is not protected"
	case control.Yellow:
		return warning, "protected, with warnings"
	}
	return info, "protected again"
}

// line describes a record.
func line(rec *control.Record) string {
	what := ""
	switch rec.Event {
	case "ban":
		what = "ban of " + rec.Prefix
		if rec.Ports != "" && rec.Ports != "all" {
			what += " at ports " + rec.Ports
		}
		if rec.Until != nil {
			what += " until " + clock(*rec.Until)
		}
		what += " (" + rec.Rule + ")"
	case "login-alarm":
		what = fmt.Sprintf("login alarm: %s has logged in as %s (%s)", rec.Addr, diag.Quote(short(rec.User)), rec.Rule)
	default:
		_, what = summary(rec)
	}
	if rec.Reason != "" {
		what += ": " + short(rec.Reason)
	}
	return clock(rec.Time) + " " + diag.Printable(what)
}

// short returns the beginning of a text.
func short(s string) string {
	if len(s) <= maxField {
		return s
	}
	return strings.ToValidUTF8(s[:maxField], "") + "..."
}
