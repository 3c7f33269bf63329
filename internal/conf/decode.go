package conf

import (
	"slices"
	"strconv"
	"strings"
)

// A spec is all that is known about a key: the reader, the documentation and mefctl take it from here.
type spec[T any] struct {
	name  string // "_N_" in it stands for a number from 1 to 65535, "_K_" for letters and digits
	value string // the default, as it would be written
	form  form[T]
	doc   string // what it does, in a sentence

	adds   bool // the key may stand there several times
	secret bool // the value is not shown

	// notice reports why the key does not do what its author may expect, whenever it is set or, if when is there, where when
	// reports it of the value. Keys with the same notice share one.
	notice string
	when   func(value string) bool
}

// is reports whether the key is what s is about.
func (s spec[T]) is(key string) bool {
	if s.name == key {
		return true
	}
	before, after, indexed := s.cut()
	if !indexed || len(key) <= len(before)+len(after) || !strings.HasPrefix(key, before) || !strings.HasSuffix(key, after) {
		return false
	}
	index := key[len(before) : len(key)-len(after)]
	if strings.Contains(s.name, "_N_") {
		n, err := strconv.ParseUint(index, 10, 16)
		return err == nil && n > 0
	}
	return !strings.ContainsFunc(index, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') })
}

// cut returns what stands before and after the index of the key's name.
func (s spec[T]) cut() (before, after string, indexed bool) {
	for _, index := range []string{"_N_", "_K_"} {
		if before, after, ok := strings.Cut(s.name, index); ok {
			return before + "_", "_" + after, true
		}
	}
	return s.name, "", false
}

// A table is every key of one section, in the order of the documentation.
type table[T any] []spec[T]

func (t table[T]) names() []string {
	names := make([]string, len(t))
	for i, s := range t {
		names[i] = s.name
	}
	return names
}

func (t table[T]) find(key string) (spec[T], bool) {
	i := slices.IndexFunc(t, func(s spec[T]) bool { return s.name == key })
	if i < 0 {
		i = slices.IndexFunc(t, func(s spec[T]) bool { return s.is(key) })
	}
	if i < 0 {
		return spec[T]{}, false
	}
	return t[i], true
}

// defaults puts the default of every key into v.
func (t table[T]) defaults(v *T) {
	for _, s := range t {
		if s.value == "" || strings.Contains(s.name, "_N_") || strings.Contains(s.name, "_K_") {
			continue
		}
		if f := s.form.set(v, setting{key: s.name, value: s.value}); f != nil {
			panic("conf: default of " + s.name + ": " + f.msg)
		}
	}
}

// A decoded section reports which keys it sets, and what there is to say about them.
type decoded struct {
	set     map[string]setting
	notices []Notice
	errs    Errors
}

// decode puts settings into v as the table says.
func (t table[T]) decode(v *T, settings []setting) decoded {
	d := decoded{set: make(map[string]setting)}
	told := make(map[string]int) // index of the notice of a sentence
	for _, s := range settings {
		if len(d.errs) > maxMistakes {
			d.errs = append(d.errs, tooMany(Pos{File: s.pos.File, Line: s.pos.Line}))
			break
		}
		key, ok := t.find(s.key)
		if !ok {
			d.errs = append(d.errs, &Error{s.keyPos, "unknown key " + Quote(s.key), DidYouMean(s.key, t.names())})
			continue
		}
		if first, again := d.set[s.key]; again && !key.adds {
			d.errs = append(d.errs, &Error{s.keyPos, Quote(s.key) + " is set twice", "first at " + first.keyPos.String()})
			continue
		}
		d.set[s.key] = s
		if s.value == "" && !key.form.empty {
			d.errs = append(d.errs, &Error{s.pos, s.key + ": no value", "write " + key.form.syntax + ", or remove the line"})
			continue
		}
		if f := key.form.set(v, s); f != nil {
			at := s.pos
			at.Col += f.offset
			d.errs = append(d.errs, &Error{at, s.key + ": " + f.msg, f.hint})
			continue
		}
		if key.notice == "" || key.when != nil && !key.when(s.value) {
			continue
		}
		if i, ok := told[key.notice]; ok {
			names := strings.TrimSuffix(d.notices[i].Text, ": "+key.notice)
			d.notices[i].Text = names + ", " + s.key + ": " + key.notice
			continue
		}
		told[key.notice] = len(d.notices)
		d.notices = append(d.notices, Notice{s.keyPos, s.key + ": " + key.notice})
	}
	return d
}

// is returns a test for one value among those that a notice is about.
func is(values ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

// isNot is the opposite of is.
func isNot(values ...string) func(string) bool {
	return func(v string) bool { return !slices.Contains(values, v) }
}
