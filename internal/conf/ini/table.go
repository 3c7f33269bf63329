package ini

import (
	"slices"
	"strconv"
	"strings"

	"mef/internal/conf/diag"
)

// A Key is all that is known about a key: the reader, the documentation and mefctl take it from here.
type Key[T any] struct {
	Name  string // "_N_" in it stands for a number from 1 to 65535, "_K_" for letters and digits
	Value string // the default, as it would be written
	Form  Form[T]
	Doc   string // what it does, in a sentence

	Adds   bool // the key may stand there several times
	Secret bool // the value is not shown

	// Notice says why the key does not do what its author may expect: whenever it is set or, if When is not nil, if When returns true for
	// the value. Keys with the same notice share one.
	Notice string
	When   func(value string) bool
}

// Is reports whether s describes the key.
func (s Key[T]) Is(key string) bool {
	if s.Name == key {
		return true
	}
	before, after, indexed := s.Cut()
	if !indexed || len(key) <= len(before)+len(after) || !strings.HasPrefix(key, before) || !strings.HasSuffix(key, after) {
		return false
	}
	index := key[len(before) : len(key)-len(after)]
	if strings.Contains(s.Name, "_N_") {
		n, err := strconv.ParseUint(index, 10, 16)
		return err == nil && n > 0
	}
	return !strings.ContainsFunc(index, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') })
}

// Cut returns what stands before and after the index of the key's name.
func (s Key[T]) Cut() (before, after string, indexed bool) {
	for _, index := range []string{"_N_", "_K_"} {
		if before, after, ok := strings.Cut(s.Name, index); ok {
			return before + "_", "_" + after, true
		}
	}
	return s.Name, "", false
}

// A Table is every key of one section, in the order of the documentation.
type Table[T any] []Key[T]

// Names returns the names of the keys, in order.
func (t Table[T]) Names() []string {
	names := make([]string, len(t))
	for i, s := range t {
		names[i] = s.Name
	}
	return names
}

// Find returns the description of a key.
func (t Table[T]) Find(key string) (Key[T], bool) {
	i := slices.IndexFunc(t, func(s Key[T]) bool { return s.Name == key })
	if i < 0 {
		i = slices.IndexFunc(t, func(s Key[T]) bool { return s.Is(key) })
	}
	if i < 0 {
		return Key[T]{}, false
	}
	return t[i], true
}

// SetDefaults puts the default of every key into v.
func (t Table[T]) SetDefaults(v *T) {
	for _, s := range t {
		if s.Value == "" || strings.Contains(s.Name, "_N_") || strings.Contains(s.Name, "_K_") {
			continue
		}
		if f := s.Form.Set(v, Setting{Key: s.Name, Value: s.Value}); f != nil {
			panic("conf: default of " + s.Name + ": " + f.Msg)
		}
	}
}

// A Decoded is what Decode found: the keys that are set, notices about them, and mistakes.
type Decoded struct {
	Set     map[string]Setting
	Notices []diag.Notice
	Errs    diag.Errors
}

// Decode puts settings into v as the table says.
func (t Table[T]) Decode(v *T, settings []Setting) Decoded {
	d := Decoded{Set: make(map[string]Setting)}
	noted := make(map[string]int) // index of the notice with a text
	for _, s := range settings {
		if len(d.Errs) > maxMistakes {
			d.Errs = append(d.Errs, tooMany(diag.Pos{File: s.Pos.File, Line: s.Pos.Line}))
			break
		}
		key, ok := t.Find(s.Key)
		if !ok {
			d.Errs = append(d.Errs, &diag.Error{Pos: s.KeyPos, Msg: "unknown key " + diag.Quote(s.Key), Hint: diag.DidYouMean(s.Key, t.Names())})
			continue
		}
		if first, again := d.Set[s.Key]; again && !key.Adds {
			d.Errs = append(d.Errs, &diag.Error{Pos: s.KeyPos, Msg: diag.Quote(s.Key) + " is set twice", Hint: "first at " + first.KeyPos.String()})
			continue
		}
		d.Set[s.Key] = s
		if s.Value == "" && !key.Form.Empty {
			d.Errs = append(d.Errs, &diag.Error{Pos: s.Pos, Msg: s.Key + ": no value", Hint: "write " + key.Form.Syntax + ", or remove the line"})
			continue
		}
		if f := key.Form.Set(v, s); f != nil {
			at := s.Pos
			at.Col += f.Offset
			d.Errs = append(d.Errs, &diag.Error{Pos: at, Msg: s.Key + ": " + f.Msg, Hint: f.Hint})
			continue
		}
		if key.Notice == "" || key.When != nil && !key.When(s.Value) {
			continue
		}
		if i, ok := noted[key.Notice]; ok {
			names := strings.TrimSuffix(d.Notices[i].Text, ": "+key.Notice)
			d.Notices[i].Text = names + ", " + s.Key + ": " + key.Notice
			continue
		}
		noted[key.Notice] = len(d.Notices)
		d.Notices = append(d.Notices, diag.Notice{Pos: s.KeyPos, Text: s.Key + ": " + key.Notice})
	}
	return d
}

// Is returns a test for one value among those that a notice is about.
func Is(values ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

// IsNot is the opposite of Is.
func IsNot(values ...string) func(string) bool {
	return func(v string) bool { return !slices.Contains(values, v) }
}
