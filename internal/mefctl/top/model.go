package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"mef/internal/control"
)

// second is how often the picture is renewed, and late after what time without an answer the screen reports that.
const (
	second = time.Second
	late   = 3 * time.Second
)

// maxTyped is how many characters an operator can type.
const maxTyped = 100

// A view is what the screen shows below its head.
type view int

const (
	list   view = iota // attackers
	why                // about one of them
	help               // the keys
	typing             // attackers, and a line to type in
	asking             // attackers, and a question
)

// orders are what attackers can be sorted by: score, attempts, time left and address.
var orders = []func(a, b *control.Attacker) int{
	func(a, b *control.Attacker) int { return cmp.Compare(b.Score, a.Score) },
	func(a, b *control.Attacker) int { return cmp.Compare(b.Attempts, a.Attempts) },
	func(a, b *control.Attacker) int { return cmp.Compare(ends(b), ends(a)) },
	func(a, b *control.Attacker) int { return cmp.Compare(a.Addr, b.Addr) },
}

// ends orders by the end of the ban: those until lifted first, those that are not banned last.
func ends(a *control.Attacker) int64 {
	switch {
	case !a.Banned:
		return 0
	case a.Until == nil:
		return 1 << 62
	}
	return a.Until.Unix()
}

// A Model is the state of the screen.
type Model struct {
	daemon daemon
	look   Look

	width, height int
	now           time.Time
	asked         time.Time // when the picture was asked for; zero: no question is open
	lost          time.Time // since when the daemon does not answer; zero: it does
	err           error     // why it does not
	paused        bool

	picture control.Picture
	view    view
	order   int    // of orders
	filter  string // attackers whose address, rule or service contains it are shown
	chosen  string // the address of the row with the cursor
	prompt  string // "ban", "unban", "allow" or "filter"
	typed   string
	request request  // that waits for y
	text    []string // of why and help
	scroll  int      // the first line of text that is shown
	notice  string   // what became of the last request
}

// New returns a Model without a picture.
func New(d daemon, look Look) Model { return Model{daemon: d, look: look, width: 80, height: 24} }

// tick is a message of the clock.
type tick time.Time

func clock() tea.Cmd { return tea.Tick(second, func(t time.Time) tea.Msg { return tick(t) }) }

// Init starts the clock.
func (m Model) Init() tea.Cmd { return clock() }

// Update changes the state by a message.
func (m Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) { return m.update(msg) }

func (m Model) update(msg tea.Msg) (Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		m.now = time.Time(msg)
		if m.paused || !m.asked.IsZero() {
			return m, clock()
		}
		m.asked = m.now
		return m, tea.Batch(clock(), m.daemon.picture)
	case answer:
		m.take(msg)
	case reply:
		switch {
		case msg.err != nil:
			m.notice = msg.err.Error()
		case msg.why != nil:
			m.view, m.text, m.scroll = why, msg.why, 0
		default:
			m.notice = msg.text
		}
	case tea.KeyPressMsg:
		return m.key(msg.String(), msg.Text)
	case tea.PasteMsg:
		if m.view == typing {
			m.typed = plain(m.typed + msg.Content)
		}
	}
	return m, nil
}

// take takes an answer about the picture, or that there is none.
func (m *Model) take(a answer) {
	m.asked = time.Time{}
	if a.err != nil {
		if m.lost.IsZero() {
			m.lost = m.now
		}
		m.err = a.err
		return
	}
	if !m.picture.Since.IsZero() && !a.picture.Since.Equal(m.picture.Since) {
		m.notice = "mefdaemon was restarted at " + a.picture.Since.Local().Format(time.TimeOnly) + "; its counters begin anew."
	}
	m.lost, m.err = time.Time{}, nil
	if !m.paused {
		m.picture, m.now = a.picture, a.picture.Now
	}
}

// key changes the state by a key; text is what it types.
func (m Model) key(name, text string) (Model, tea.Cmd) {
	if name == "ctrl+c" {
		return m, tea.Quit
	}
	if name == "ctrl+z" {
		return m, tea.Suspend
	}
	switch m.view {
	case typing:
		return m.typingKey(name, text)
	case asking:
		m.view = list
		if name == "y" || name == "Y" {
			m.notice = "Waiting for mefdaemon ..."
			return m, m.daemon.do(m.request)
		}
		m.notice = "Nothing was changed."
		return m, nil
	case why, help:
		return m.readingKey(name), nil
	}
	return m.listKey(name)
}

// listKey is key while attackers are shown.
func (m Model) listKey(name string) (Model, tea.Cmd) {
	m.notice = ""
	switch name {
	case "q":
		return m, tea.Quit
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup":
		m.move(-10)
	case "pgdown":
		m.move(10)
	case "home":
		m.move(-control.MaxAttackers)
	case "end":
		m.move(control.MaxAttackers)
	case "w", "enter":
		if a, ok := m.current(); ok {
			return m, m.daemon.why(a.Addr)
		}
	case "u", "b", "a":
		m.view, m.prompt = typing, map[string]string{"u": "unban", "b": "ban", "a": "allow"}[name]
		m.typed = ""
		if a, ok := m.current(); ok {
			m.typed = plain(a.Addr)
			if name == "b" {
				m.typed += " 24h"
			}
		}
	case "f", "/":
		m.view, m.prompt, m.typed = typing, "filter", m.filter
	case "esc":
		m.filter = ""
	case "s":
		m.order = (m.order + 1) % len(orders)
	case "p", "space":
		m.paused = !m.paused
	case "h", "?":
		m.view, m.text, m.scroll = help, keys, 0
	}
	return m, nil
}

// typingKey is key while the operator types.
func (m Model) typingKey(name, text string) (Model, tea.Cmd) {
	switch name {
	case "esc":
		m.view = list
	case "backspace":
		m.typed = m.typed[:max(0, len(m.typed)-1)]
	case "ctrl+u":
		m.typed = ""
	case "enter":
		m.view = list
		if m.prompt == "filter" {
			m.filter = strings.TrimSpace(m.typed)
			return m, nil
		}
		r, err := parse(m.prompt, m.typed)
		if err != nil {
			m.notice = err.Error()
			return m, nil
		}
		m.view, m.request = asking, r
	default:
		m.typed = plain(m.typed + text)
	}
	return m, nil
}

// plain leaves of what was typed or pasted what an address, a name or a time can have.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	return text[:min(len(text), maxTyped)]
}

// readingKey is key while a text is shown.
func (m Model) readingKey(name string) Model {
	page := max(1, m.height-2)
	switch name {
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup":
		m.scroll -= page
	case "pgdown", "space":
		m.scroll += page
	case "home":
		m.scroll = 0
	case "end":
		m.scroll = len(m.wrapped())
	default:
		m.view, m.text = list, nil
	}
	m.scroll = max(0, min(m.scroll, len(m.wrapped())-page))
	return m
}

// shown returns the attackers that pass the filter, in order.
func (m *Model) shown() []control.Attacker {
	all := make([]control.Attacker, 0, len(m.picture.Attackers))
	for _, a := range m.picture.Attackers {
		if strings.Contains(fmt.Sprint(a.Addr, " ", a.Rule, " ", a.Service), m.filter) {
			all = append(all, a)
		}
	}
	slices.SortStableFunc(all, func(a, b control.Attacker) int { return orders[m.order](&a, &b) })
	return all
}

// at returns the row of the cursor: that of the chosen address, or the first.
func (m *Model) at(shown []control.Attacker) int {
	return max(0, slices.IndexFunc(shown, func(a control.Attacker) bool { return a.Addr == m.chosen }))
}

func (m *Model) current() (a control.Attacker, ok bool) {
	shown := m.shown()
	if len(shown) == 0 {
		return a, false
	}
	return shown[m.at(shown)], true
}

// move moves the cursor by rows.
func (m *Model) move(rows int) {
	if shown := m.shown(); len(shown) > 0 {
		m.chosen = shown[min(len(shown)-1, max(0, m.at(shown)+rows))].Addr
	}
}
