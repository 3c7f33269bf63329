package conf

import (
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/ban"
)

// A form is how the value of a key is written, and where it goes in a T.
type form[T any] struct {
	syntax string // in words, as in "write SYNTAX"
	empty  bool   // whether nothing is a value
	set    func(t *T, s setting) *fault
}

// A fault is what is wrong with a value.
type fault struct {
	offset    int // of the word at fault, in the value
	msg, hint string
}

// wrong is the usual fault: word, which begins at offset, is not what syntax says.
func wrong(offset int, word, syntax string) *fault {
	return &fault{offset, "wrong value " + Quote(word), "write " + syntax}
}

// nowhere is the place of values that are checked and have no effect.
func nowhere[T, V any](*T) *V { return new(V) }

// boolean is true or false.
func boolean[T any](field func(*T) *bool) form[T] {
	const syntax = "true or false"
	return form[T]{syntax: syntax, set: func(t *T, s setting) *fault {
		if s.value != "true" && s.value != "false" {
			return wrong(0, s.value, syntax)
		}
		*field(t) = s.value == "true"
		return nil
	}}
}

// number is a whole number from lo to hi.
func number[T any](lo, hi int, field func(*T) *int) form[T] {
	syntax := fmt.Sprintf("a number from %d to %d", lo, hi)
	return form[T]{syntax: syntax, set: func(t *T, s setting) *fault {
		n, err := strconv.Atoi(s.value)
		if err != nil || n < lo || n > hi {
			return wrong(0, s.value, syntax)
		}
		*field(t) = n
		return nil
	}}
}

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// ParseDuration reads a duration as all of mef writes it: in Go's syntax ("10m", "1h30m"), with days in front ("7d", "1d12h"),
// or in plain seconds ("600").
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("duration %s: write seconds, or a number with s, m, h or d such as 10m or 7d", Quote(s))
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		if seconds < 0 || seconds > math.MaxInt64/int64(time.Second) {
			return 0, bad
		}
		return time.Duration(seconds) * time.Second, nil
	}
	var total time.Duration
	if days, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, bad
		}
		total, s = time.Duration(n)*day, rest
		if s == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || total > math.MaxInt64-d {
		return 0, bad
	}
	return total + d, nil
}

// FormatDuration writes d with the largest unit that divides it, as an operator would.
func FormatDuration(d time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d != 0 && d%unit.size == 0 {
			return strconv.FormatInt(int64(d/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(d/time.Second), 10)
}

// Span writes a duration for people: "30d", "2h40m", "3m12s"; at most two units, rounded down.
func Span(d time.Duration) string {
	if d < time.Second {
		return "under 1s"
	}
	units := []struct {
		name string
		d    time.Duration
	}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	var s string
	for i, u := range units {
		if d < u.d {
			continue
		}
		s = fmt.Sprintf("%d%s", d/u.d, u.name)
		if i+1 < len(units) && d%u.d >= units[i+1].d {
			s += fmt.Sprintf("%d%s", d%u.d/units[i+1].d, units[i+1].name)
		}
		break
	}
	return s
}

// duration is what ParseDuration reads, from lo to hi.
func duration[T any](lo, hi time.Duration, field func(*T) *time.Duration) form[T] {
	syntax := fmt.Sprintf("a duration from %s to %s such as 90, 10m or 7d", FormatDuration(lo), FormatDuration(hi))
	return form[T]{syntax: syntax, set: func(t *T, s setting) *fault {
		d, err := ParseDuration(s.value)
		if err != nil || d < lo || d > hi {
			return wrong(0, s.value, syntax)
		}
		*field(t) = d
		return nil
	}}
}

// choice is one of names; take is told its index.
func choice[T any](take func(t *T, i int), names ...string) form[T] {
	syntax := strings.Join(names, " or ")
	return form[T]{syntax: syntax, set: func(t *T, s setting) *fault {
		i := slices.Index(names, s.value)
		if i < 0 {
			f := wrong(0, s.value, syntax)
			if hint := DidYouMean(s.value, names); hint != "" {
				f.hint = hint
			}
			return f
		}
		take(t, i)
		return nil
	}}
}

// dropped takes the choices of keys without effect.
func dropped[T any](*T, int) {}

// text is anything of at most limit bytes.
func text[T any](limit int, field func(*T) *string) form[T] {
	syntax := fmt.Sprintf("at most %d characters", limit)
	return form[T]{syntax: syntax, empty: true, set: func(t *T, s setting) *fault {
		if len(s.value) > limit {
			return wrong(0, s.value, syntax)
		}
		*field(t) = s.value
		return nil
	}}
}

// name is a word of letters, digits and . _ - that names something of ours.
func name[T any](field func(*T) *string) form[T] {
	const syntax = "a name of letters, digits, and . _ - up to 64 characters"
	return form[T]{syntax: syntax, set: func(t *T, s setting) *fault {
		if !isName(s.value) {
			return wrong(0, s.value, syntax)
		}
		*field(t) = s.value
		return nil
	}}
}

func isName(s string) bool {
	return s != "" && len(s) <= 64 && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool { return !isNameRune(r) })
}

func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-'
}

// path is an absolute path of at most limit bytes.
func path[T any](limit int, field func(*T) *string) form[T] {
	const syntax = "an absolute path"
	return form[T]{syntax: syntax, set: func(t *T, s setting) *fault {
		if !filepath.IsAbs(s.value) || len(s.value) > limit {
			return wrong(0, s.value, syntax)
		}
		*field(t) = filepath.Clean(s.value)
		return nil
	}}
}

// maxPath is what the kernel takes as a path, maxSocket what it takes as a socket's name (unix(7)).
const (
	maxPath   = 4095
	maxSocket = 107
)

// ports is a port list as ban.ParsePorts reads it.
func ports[T any](field func(*T) *ban.Ports) form[T] {
	const syntax = `"all", or ports and ranges from 1 to 65535 such as 22,8000-8010`
	return form[T]{syntax: syntax, set: func(t *T, s setting) *fault {
		for offset, word := range items(s.value) {
			if _, err := ban.ParsePorts(word); err != nil || word == "all" && word != s.value {
				return wrong(offset, word, syntax)
			}
		}
		p, err := ban.ParsePorts(s.value)
		if err != nil {
			return wrong(0, s.value, syntax)
		}
		*field(t) = p
		return nil
	}}
}

// banPorts is a port list that is short enough for a ban.
func banPorts[T any](field func(*T) *ban.Ports) form[T] {
	f := ports(field)
	anyList := f.set
	f.set = func(t *T, s setting) *fault {
		if wrong := anyList(t, s); wrong != nil {
			return wrong
		}
		if n := len(*field(t)); n > ban.MaxPorts {
			return &fault{0, fmt.Sprintf("%d characters of ports are too many for a ban", n), fmt.Sprintf("write ranges, %d characters in all at most", ban.MaxPorts)}
		}
		return nil
	}
	return f
}

// list is items between commas, each of which valid takes. An empty value is an empty list.
func list[T any](syntax string, valid func(string) bool, field func(*T) *[]string) form[T] {
	return form[T]{syntax: syntax, empty: true, set: func(t *T, s setting) *fault {
		var out []string
		for offset, word := range items(s.value) {
			if !valid(word) {
				return wrong(offset, word, syntax)
			}
			out = append(out, word)
		}
		*field(t) = out
		return nil
	}}
}

// items yields what stands between the commas of value, and where it begins.
func items(value string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		offset := 0
		for part := range strings.SplitSeq(value, ",") {
			word := strings.TrimSpace(part)
			if word != "" && !yield(offset+strings.Index(part, word), word) {
				return
			}
			offset += len(part) + 1
		}
	}
}
