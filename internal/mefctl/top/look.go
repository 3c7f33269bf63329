package top

import (
	"strconv"
	"strings"
	"unicode"

	"mef/internal/printable"
)

// A Look is what the terminal can show.
type Look struct {
	Color   bool
	Unicode bool // otherwise ASCII only
}

// A style is the parameters of an SGR sequence: those with color, and those without.
type style struct{ color, mono string }

var (
	normal  = style{}
	bold    = style{"1", "1"}
	title   = style{"1;4", "1;4"}
	good    = style{"1;32", "1"}
	warn    = style{"1;33", "1"}
	alarm   = style{"1;31", "1"}
	bad     = style{"31", ""}
	graph   = style{"36", ""}
	reverse = style{"7", "7"}
)

// faint returns the style of what matters less, if it is to.
func faint(on bool) style {
	if on {
		return style{"2", ""}
	}
	return normal
}

// maxText is how much of one text is shown, in bytes.
const maxText = 4096

// A span is text of one style, a line what stands in one line of the screen.
type (
	span struct {
		style style
		text  string
	}
	line []span
)

// cell is text in a column of a table, with a space behind.
func cell(text string, width int) span { return span{normal, pad(text, width, Look{}) + " "} }

// pad cuts or fills a text to a width.
func pad(text string, width int, look Look) string {
	text = clean(text, look.Unicode, width)
	return text + strings.Repeat(" ", max(0, width-len([]rune(text))))
}

// render returns the line, at most width characters wide. Its escape sequences are those of the styles; all text is cleaned here,
// whatever it is.
func (l line) render(width int, look Look) string {
	var b strings.Builder
	for _, s := range l {
		text := clean(s.text, look.Unicode, width)
		width -= len([]rune(text))
		sgr := s.style.mono
		if look.Color {
			sgr = s.style.color
		}
		if sgr == "" || text == "" {
			b.WriteString(text)
			continue
		}
		b.WriteString("\x1b[" + sgr + "m" + text + "\x1b[m")
	}
	return b.String()
}

// clean returns a text of at most width characters that each take one column, in the order in which they are: what is not printable is
// escaped, and so are letters that are written from right to left, take two columns or combine. The end of a text that is cut is "~".
func clean(text string, unicodeToo bool, width int) string {
	if width <= 0 {
		return ""
	}
	cut := len(text) > 4*width
	if cut {
		text = text[:4*width] // a character has at most four bytes
	}
	var raw strings.Builder
	p := printable.Text(&raw)
	_, _ = p.Write([]byte(text))
	_ = p.Flush()
	out := make([]rune, 0, width)
	for _, r := range raw.String() {
		switch {
		case len(out) > width:
		case r == '\n' || r == '\t':
			out = append(out, ' ')
		case r < unicode.MaxASCII || unicodeToo && narrow(r):
			out = append(out, r)
		case r == '→' || r == '×': // of our own sentences
			out = append(out, map[rune]rune{'→': '>', '×': 'x'}[r])
		default:
			out = append(out, []rune(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))...)
		}
	}
	if cut || len(out) > width {
		out = out[:min(len(out), width)]
		out[len(out)-1] = '~'
	}
	return string(out)
}

// narrow reports whether a character takes one column everywhere, and is written from left to right.
func narrow(r rune) bool {
	return r < 0x2000 && unicode.IsLetter(r) && unicode.In(r, unicode.Latin, unicode.Greek, unicode.Cyrillic) || r == '×' || r >= '▁' && r <= '█'
}
