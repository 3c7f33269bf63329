package ini

import (
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"mef/internal/ban"
	"mef/internal/conf/diag"
	"mef/internal/duration"
)

// A Form is how the value of a key is written, and where it goes in a T.
type Form[T any] struct {
	Syntax string // in words, as in "write SYNTAX"
	Empty  bool   // whether nothing is a value
	Set    func(t *T, s Setting) *Fault
}

// A Fault is what is wrong with a value.
type Fault struct {
	Offset    int // of the word at fault, in the value
	Msg, Hint string
}

// Wrong is the usual fault: word, which begins at offset, does not have the form that syntax describes.
func Wrong(offset int, word, syntax string) *Fault {
	return &Fault{offset, "wrong value " + diag.Quote(word), "write " + syntax}
}

// Nowhere is the place of values that are checked and have no effect.
func Nowhere[T, V any](*T) *V { return new(V) }

// Bool is true or false.
func Bool[T any](field func(*T) *bool) Form[T] {
	const syntax = "true or false"
	return Form[T]{Syntax: syntax, Set: func(t *T, s Setting) *Fault {
		if s.Value != "true" && s.Value != "false" {
			return Wrong(0, s.Value, syntax)
		}
		*field(t) = s.Value == "true"
		return nil
	}}
}

// Number is a whole number from lo to hi.
func Number[T any](lo, hi int, field func(*T) *int) Form[T] {
	syntax := fmt.Sprintf("a number from %d to %d", lo, hi)
	return Form[T]{Syntax: syntax, Set: func(t *T, s Setting) *Fault {
		n, err := strconv.Atoi(s.Value)
		if err != nil || n < lo || n > hi {
			return Wrong(0, s.Value, syntax)
		}
		*field(t) = n
		return nil
	}}
}

// Duration is what ParseDuration reads, from lo to hi.
func Duration[T any](lo, hi time.Duration, field func(*T) *time.Duration) Form[T] {
	syntax := fmt.Sprintf("a duration from %s to %s such as 90, 10m or 7d", duration.Format(lo), duration.Format(hi))
	return Form[T]{Syntax: syntax, Set: func(t *T, s Setting) *Fault {
		d, err := duration.Parse(s.Value)
		if err != nil || d < lo || d > hi {
			return Wrong(0, s.Value, syntax)
		}
		*field(t) = d
		return nil
	}}
}

// Choice is one of names; take gets its index.
func Choice[T any](take func(t *T, i int), names ...string) Form[T] {
	syntax := strings.Join(names, " or ")
	return Form[T]{Syntax: syntax, Set: func(t *T, s Setting) *Fault {
		i := slices.Index(names, s.Value)
		if i < 0 {
			f := Wrong(0, s.Value, syntax)
			if hint := diag.DidYouMean(s.Value, names); hint != "" {
				f.Hint = hint
			}
			return f
		}
		take(t, i)
		return nil
	}}
}

// Dropped takes the choices of keys without effect.
func Dropped[T any](*T, int) {}

// Text is anything of at most limit bytes.
func Text[T any](limit int, field func(*T) *string) Form[T] {
	syntax := fmt.Sprintf("at most %d characters", limit)
	return Form[T]{Syntax: syntax, Empty: true, Set: func(t *T, s Setting) *Fault {
		if len(s.Value) > limit {
			return Wrong(0, s.Value, syntax)
		}
		*field(t) = s.Value
		return nil
	}}
}

// Name is a word of letters, digits and . _ - that names something of ours.
func Name[T any](field func(*T) *string) Form[T] {
	const syntax = "a name of letters, digits, and . _ - up to 64 characters"
	return Form[T]{Syntax: syntax, Set: func(t *T, s Setting) *Fault {
		if !IsName(s.Value) {
			return Wrong(0, s.Value, syntax)
		}
		*field(t) = s.Value
		return nil
	}}
}

func IsName(s string) bool {
	return s != "" && len(s) <= 64 && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool { return !IsNameRune(r) })
}

func IsNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-'
}

// Path is an absolute path of at most limit bytes.
func Path[T any](limit int, field func(*T) *string) Form[T] {
	const syntax = "an absolute path"
	return Form[T]{Syntax: syntax, Set: func(t *T, s Setting) *Fault {
		if !filepath.IsAbs(s.Value) || len(s.Value) > limit {
			return Wrong(0, s.Value, syntax)
		}
		*field(t) = filepath.Clean(s.Value)
		return nil
	}}
}

// MaxPath is what the kernel takes as a path, MaxSocket what it takes as a socket's name (unix(7)).
const (
	MaxPath   = 4095
	MaxSocket = 107
)

// Ports is a port list as ban.ParsePorts reads it.
func Ports[T any](field func(*T) *ban.Ports) Form[T] {
	const syntax = `"all", or ports and ranges from 1 to 65535 such as 22,8000-8010`
	return Form[T]{Syntax: syntax, Set: func(t *T, s Setting) *Fault {
		for offset, word := range Items(s.Value) {
			if _, err := ban.ParsePorts(word); err != nil || word == "all" && word != s.Value {
				return Wrong(offset, word, syntax)
			}
		}
		p, err := ban.ParsePorts(s.Value)
		if err != nil {
			return Wrong(0, s.Value, syntax)
		}
		*field(t) = p
		return nil
	}}
}

// BanPorts is a port list that is short enough for a ban.
func BanPorts[T any](field func(*T) *ban.Ports) Form[T] {
	f := Ports(field)
	anyList := f.Set
	f.Set = func(t *T, s Setting) *Fault {
		if wrong := anyList(t, s); wrong != nil {
			return wrong
		}
		if n := len(*field(t)); n > ban.MaxPorts {
			return &Fault{0, fmt.Sprintf("%d characters of ports are too many for a ban", n), fmt.Sprintf("write ranges, %d characters in all at most", ban.MaxPorts)}
		}
		return nil
	}
	return f
}

// List is items between commas, each of which valid takes. An empty value is an empty list.
func List[T any](syntax string, valid func(string) bool, field func(*T) *[]string) Form[T] {
	return Form[T]{Syntax: syntax, Empty: true, Set: func(t *T, s Setting) *Fault {
		var out []string
		for offset, word := range Items(s.Value) {
			if !valid(word) {
				return Wrong(offset, word, syntax)
			}
			out = append(out, word)
		}
		*field(t) = out
		return nil
	}}
}

// Items yields what stands between the commas of value, and where it begins.
func Items(value string) iter.Seq2[int, string] {
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
