package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	tea "charm.land/bubbletea/v2"

	"mef/internal/control"
	"mef/internal/mefctl/cli"
)

// keys is the help.
var keys = []string{
	"Keys:",
	"",
	"  up, down      choose an address; page up and down, home and end too",
	"  w, enter      why: explain the address, with its log lines",
	"  u             unban: lift the bans of an address or network",
	"  b             ban an address or network, for a time",
	"  a             allow: never ban an address, a network or a host name",
	"  f, /          filter: show only what contains a text; esc shows everything",
	"  s             sort by score, attempts, time left or address",
	"  p, space      pause: keep the picture as it is, or go on",
	"  h, ?          this help",
	"  q, ctrl+c     quit",
	"",
	"u, b and a let you change the address, and ask before they do anything.",
	"",
	"SCORE is the score of the address and the score that bans. LEFT is how long the ban",
	"lasts; - means that the address is not banned. ATTEMPTS counts failures and probes.",
	"The column with * is the one that attackers are sorted by.",
}

// View returns the screen.
func (m Model) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen = true
	return v
}

// screen returns the lines of the screen: at most height of them, each at most width characters wide.
func (m Model) screen() string {
	var lines []line
	if m.view == why || m.view == help {
		lines = m.reading()
	} else {
		lines = m.main()
	}
	var b strings.Builder
	for i, l := range lines[:min(len(lines), max(m.height, 0))] {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(l.render(m.width, m.look))
	}
	return b.String()
}

// reading returns the screen of a text.
func (m Model) reading() []line {
	text := m.wrapped()
	rows := max(0, m.height-2)
	from := max(0, min(m.scroll, len(text)-1))
	to := min(len(text), from+rows)
	lines := make([]line, 0, m.height)
	for _, t := range text[from:to] {
		lines = append(lines, line{{faint(false), t}})
	}
	for len(lines) < rows {
		lines = append(lines, nil)
	}
	return append(lines, nil, line{{bold, fmt.Sprintf("lines %d-%d of %d  up/down: scroll  any other key: back", from+1, to, len(text))}})
}

// wrapped returns the text in lines of the screen's width.
func (m Model) wrapped() (out []string) {
	width := max(m.width, 20)
	for _, t := range m.text {
		indent := len(t) - len(strings.TrimLeft(t, " "))
		for t = clean(t, m.look.Unicode, maxText); len([]rune(t)) > width; {
			r := []rune(t)
			cut := width
			if space := strings.LastIndexByte(string(r[:width]), ' '); space > width/2 && len(string(r[:width])) == width {
				cut = space + 1
			}
			out = append(out, string(r[:cut]))
			t = strings.Repeat(" ", min(indent+2, width/2)) + string(r[cut:])
		}
		out = append(out, t)
	}
	return out
}

// main returns the screen with head, services and attackers.
func (m Model) main() []line {
	lines := m.head()
	rest := m.height - len(lines) - 2 // the table's heading and the foot
	services := m.services(rest / 2)
	lines = append(lines, services...)
	lines = append(lines, m.attackers(m.height-len(lines)-1)...)
	for len(lines) < m.height-1 {
		lines = append(lines, nil)
	}
	return append(lines[:max(0, m.height-1)], m.foot())
}

// head returns whether the host is protected, the sparklines, alarms and warnings.
func (m Model) head() []line {
	p := &m.picture
	title := line{{bold, "mefdaemon " + p.Version}, {normal, fmt.Sprintf("  up %s  mode %s  %d bans (%d unverified)  %d attempts",
		cli.Span(p.Now.Sub(p.Since)), p.Mode, p.Bans.Total, p.Bans.Unverified, p.Attempts+p.Probes)}}
	if m.paused {
		title = append(line{{warn, "PAUSED "}}, title...)
	}
	lines := []line{title, m.state()}
	width := min(60, max(0, m.width-32))
	attempts, drops := make([]uint64, len(p.Seconds)), make([]uint64, len(p.Seconds))
	for i, s := range p.Seconds {
		attempts[i], drops[i] = s.Attempts, s.Drops
	}
	lines = append(lines, m.spark("Attempts/s", attempts, width), m.spark("Drops/s", drops, width))

	var notes []line
	for _, a := range p.Alarms {
		notes = append(notes, line{{alarm, "ALARM: "}, {alarm, a}})
	}
	if more := p.AlarmCount - len(p.Alarms); more > 0 {
		notes = append(notes, line{{alarm, fmt.Sprintf("%d more alarms: see mefctl alarms", more)}})
	}
	for _, a := range p.Attacks {
		notes = append(notes, line{{warn, "attack: "}, {normal, a}})
	}
	for _, t := range p.Missing {
		notes = append(notes, line{{alarm, "missing: "}, {normal, t}})
	}
	for _, t := range p.Warnings {
		notes = append(notes, line{{warn, "warning: "}, {normal, t}})
	}
	if room := max(1, m.height/5); len(notes) > room {
		notes = append(notes[:room-1], line{{warn, fmt.Sprintf("%d more alarms and warnings: see mefctl status", len(notes)-room+1)}})
	}
	return append(lines, notes...)
}

// state returns whether the host is protected, and how many packets were dropped, or that nobody knows.
func (m Model) state() line {
	p := &m.picture
	switch {
	case !m.lost.IsZero():
		return line{{alarm, "NO ANSWER"}, {normal, fmt.Sprintf(" from mefdaemon for %s, asking again every second: ", cli.Span(m.now.Sub(m.lost)))},
			{normal, m.err.Error()}}
	case !m.asked.IsZero() && m.now.Sub(m.asked) > late:
		return line{{warn, "SLOW"}, {normal, fmt.Sprintf(": mefdaemon has not answered for %s", cli.Span(m.now.Sub(m.asked)))}}
	}
	state := span{alarm, "PROTECTED: NO"}
	switch p.Level {
	case control.Green:
		state = span{good, "PROTECTED: yes"}
	case control.Yellow:
		state = span{warn, "PROTECTED: yes, with warnings"}
	}
	if !p.Dropped.Known {
		return line{state}
	}
	return line{state, {normal, fmt.Sprintf("  %d packets dropped", p.Dropped.Total)}}
}

// spark returns a sparkline of the latest values, with the latest one and the highest as numbers.
func (m Model) spark(name string, values []uint64, width int) line {
	values = values[max(0, len(values)-width):]
	var highest, last uint64
	for _, v := range values {
		highest = max(highest, v)
		last = v
	}
	steps := []rune("_.:-=+*#")
	if m.look.Unicode {
		steps = []rune("▁▂▃▄▅▆▇█")
	}
	var b strings.Builder
	for _, v := range values {
		step := 0
		if v > 0 { // the lowest step is for nothing only
			step = 1 + int(float64(v)/float64(highest)*float64(len(steps)-2)+0.5)
			step = min(step, len(steps)-1)
		}
		b.WriteRune(steps[step])
	}
	return line{{normal, fmt.Sprintf("%-10s ", name)}, {graph, b.String()}, {normal, fmt.Sprintf(" %d (highest %d)", last, highest)}}
}

// services returns the table of the services of this host, those with most failures first, in at most rows lines.
func (m Model) services(rows int) []line {
	all := slices.DeleteFunc(slices.Clone(m.picture.Services), func(s control.ServiceCounter) bool { return s.State == "off" })
	slices.SortStableFunc(all, func(a, b control.ServiceCounter) int { return cmp.Compare(b.Failures+b.Probes, a.Failures+a.Probes) })
	if len(all) == 0 || rows < 2 {
		return nil
	}
	lines := []line{{{title, fmt.Sprintf("%-16s %-10s %9s %9s %9s %7s %7s", "SERVICE", "STATE", "FAILURES", "PROBES", "LOGINS", "SOURCES", "BANS")}}}
	for i := range all {
		if len(lines) == rows-1 && len(all)-i > 1 {
			return append(lines, line{{normal, fmt.Sprintf("%d more services: see mefctl services", len(all)-i)}})
		}
		s := &all[i]
		state := normal
		if s.State == "none" {
			state = warn
		}
		lines = append(lines, line{cell(s.Name, 16), {state, pad(s.State, 10, m.look)},
			{normal, fmt.Sprintf(" %9d %9d %9d %7d %7d", s.Failures, s.Probes, s.Logins, s.Sources, s.Bans)}})
	}
	return lines
}

// attackers returns the table of attackers around the cursor, in rows lines.
func (m Model) attackers(rows int) []line {
	shown := m.shown()
	width := 18
	for i := range shown {
		width = min(39, max(width, len(shown[i].Addr))) // 39 is the longest IPv6 address
	}
	names := []string{"SCORE", "ATTEMPTS", "LEFT", "ADDRESS"} // as orders
	names[m.order] += "*"
	lines := []line{{{title, fmt.Sprintf("  %-*s %9s %-12s %9s %-10s %s", width, names[3], names[0], names[2], names[1], "RULE", "SERVICE")}}}
	rows = max(0, rows-1)
	if len(shown) == 0 {
		text := "  Nobody has attacked lately."
		if m.filter != "" {
			text = "  No address, rule or service contains the text; esc shows everything."
		}
		return append(lines, line{{normal, text}})
	}
	at := m.at(shown)
	from := max(0, min(at-rows/2, len(shown)-rows))
	for i := from; i < min(len(shown), from+rows); i++ {
		lines = append(lines, m.attacker(&shown[i], width, i == at))
	}
	return lines
}

// attacker returns the row of one attacker.
func (m Model) attacker(a *control.Attacker, width int, chosen bool) line {
	mark, left, style := "  ", "-", normal
	if a.Banned {
		left, style = cli.Left(a.Until, m.now), bad
	}
	if chosen {
		mark, style = "> ", reverse
	}
	score := strconv.FormatFloat(a.Score, 'f', 0, 64)
	if a.Limit > 0 {
		score += "/" + strconv.Itoa(a.Limit)
	}
	return line{{style, mark + pad(a.Addr, width, m.look) + fmt.Sprintf(" %9s ", score) + pad(left, 12, m.look) + fmt.Sprintf(" %9d ", a.Attempts) +
		pad(a.Rule, 10, m.look) + " " + a.Service}}
}

// foot returns the last line: a question, what is typed, what became of a request, or the keys.
func (m Model) foot() line {
	switch {
	case m.view == asking:
		return line{{warn, m.request.question()}}
	case m.view == typing && m.prompt == "filter":
		return line{{bold, "Filter: "}, {normal, m.typed + "_"}}
	case m.view == typing:
		what := map[string]string{"ban": "Ban address or network, time: ", "unban": "Unban address or network: ", "allow": "Allow address, network or name, [time]: "}[m.prompt]
		return line{{bold, what}, {normal, m.typed + "_"}}
	case m.notice != "":
		return line{{bold, m.notice}}
	}
	text := "w why  u unban  b ban  a allow  f filter  s sort  p pause  h help  q quit"
	if m.filter != "" {
		text = "filter: " + m.filter + "  " + text
	}
	return line{{faint(true), text}}
}
