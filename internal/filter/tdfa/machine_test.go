package tdfa

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A joined is the yardstick: the patterns as one expression of package regexp, each in a group of its own.
type joined struct {
	re     *regexp.Regexp
	groups []int // by pattern: the number of its whole match in re
	counts []int // by pattern: how many groups it has, with the whole match
}

func join(patterns []string) (joined, error) {
	var j joined
	var parts []string
	n := 1
	for _, expr := range patterns {
		re, err := regexp.Compile(expr)
		if err != nil {
			return j, err
		}
		parts = append(parts, "("+expr+")")
		j.groups = append(j.groups, n)
		j.counts = append(j.counts, re.NumSubexp()+1)
		n += re.NumSubexp() + 1
	}
	re, err := regexp.Compile(strings.Join(parts, "|"))
	j.re = re
	return j, err
}

// match returns the pattern that matched and its groups' positions; pattern is -1 if none did.
func (j joined) match(text []byte) (pattern int, loc []int) {
	found := j.re.FindSubmatchIndex(text)
	if found == nil {
		return -1, nil
	}
	for i, n := range j.groups {
		if found[2*n] >= 0 {
			return i, found[2*n : 2*(n+j.counts[i])]
		}
	}
	panic("a match of no pattern")
}

// result is Match in the form of joined.match.
func result(m *Machine, text []byte) (pattern int, loc []int) {
	loc = make([]int, m.p.LocLen())
	pattern, ok := m.Match(text, loc)
	if !ok {
		return -1, nil
	}
	return pattern, loc[:m.p.patterns[pattern].slots]
}

// compare reports where the machines, all of the same patterns, differ from package regexp.
func compare(t *testing.T, patterns []string, want joined, text []byte, machines ...*Machine) {
	t.Helper()
	pattern, loc := want.match(text)
	for i, m := range machines {
		if p, l := result(m, text); p != pattern || !slices.Equal(l, loc) {
			t.Errorf("machine %d, patterns %q, text %q: got %d %v, want %d %v", i, patterns, text, p, l, pattern, loc)
		}
	}
}

func mustCompile(t testing.TB, patterns ...string) *Program {
	t.Helper()
	p, err := Compile(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMatchLikeRegexp(t *testing.T) {
	for name, tt := range map[string]struct{ patterns, texts []string }{
		"literal":             {[]string{`abc`}, []string{"abc", "xxabcx", "ab", "", "abab", "ababc"}},
		"no patterns match":   {[]string{`[^\x00-\x{10FFFF}]`, `x`}, []string{"", "a", "x"}},
		"empty pattern":       {[]string{``}, []string{"", "a"}},
		"empty second":        {[]string{`a+`, ``}, []string{"", "aa", "baa"}},
		"pattern order":       {[]string{`ab`, `abc`, `a`}, []string{"abc", "ac", "xa"}},
		"leftmost wins":       {[]string{`bc`, `abc`}, []string{"abc", "bc", "aabc"}},
		"greedy":              {[]string{`(a+)(a*)`, `(.*)(b)`}, []string{"aaa", "xbbb", ""}},
		"lazy":                {[]string{`(a+?)(a*)`, `(x*?)(y)`}, []string{"aaa", "xxy", "xxxyy"}},
		"lazy to the end":     {[]string{`^(.*?)(\d*)$`}, []string{"abc123", "123", "", "1a2"}},
		"alternation":         {[]string{`(a|ab)(c|bcd)(d*)`}, []string{"abcd", "abcdd", "acd"}},
		"nested groups":       {[]string{`((a)(b(c)?)?)+`}, []string{"abcab", "aab", "aaabca", "abcabca"}},
		"groups in loops":     {[]string{`^(?:(a)|(b)|(c))*$`}, []string{"abc", "aab", "cba", "", "abx"}},
		"empty loops":         {[]string{`(a*)*`, `(a*)+b`, `(|a)*`, `(|a)+`, `(a|b*)*c`}, []string{"", "aa", "aab", "abbac"}},
		"empty loops first":   {[]string{`(|a)+(b)`}, []string{"", "aa", "aab", "b"}},
		"counted":             {[]string{`(a{2,3})(a?)`, `(?:ab){2}`}, []string{"aaaa", "aa", "a", "abab", "xababab"}},
		"two ways in":         {[]string{`(a)?(ab)?(abc)?`}, []string{"ababc", "aababc", "abc", "aabc"}},
		"swapped registers":   {[]string{`(?:(a)(b)|(b)(a))*c`, `^(?:(?:(.)(.))*(.))$`}, []string{"abbac", "baabc", "abcde", "a", "abababc"}},
		"late decision":       {[]string{`^(\w+) (.*) from (\S+) port (\d+)$`}, []string{"a b from c port 1", "a b from c port 1 from d port 22", "a  from  port 1", "a b from c port x"}},
		"match then longer":   {[]string{`a(?:b+c)?`, `(x)(?:y*z)?`}, []string{"abbbb", "abbbc", "xyyyy", "xyyyzz", "a"}},
		"longer is cut":       {[]string{`(?:ab|a)(c|bcd)?`}, []string{"abcd", "abc", "ac"}},
		"fold":                {[]string{`(?i)straße`, `(?i)k+`, `(?i:S)t`, `(?i)[a-f]x`}, []string{"STRAßE", "kKK", "ſt", "sT", "st", "Cx", "DX"}},
		"dot":                 {[]string{`^a.b`, `^(?s)c.d`, `(?s)^.$`}, []string{"a\nb", "axb", "a\xffb", "aéb", "c\nd", "\n", "\xff", "é", "\xe2\x82"}},
		"negated class":       {[]string{`^([^,]*),(\S+)$`}, []string{"a,b", "é€😀,\xff\xfe", "\xe2\x82,x", ",", "a,b c", "a,\u00a0"}},
		"unicode class":       {[]string{`(\p{Greek}+)|(\pL+)`, `[[:^ascii:]]`}, []string{"αβγ", "abcαβ", "12é", "1€", "\xce"}},
		"literal non-ascii":   {[]string{`^€uro: (\d+)`, `^naïve`}, []string{"€uro: 12", "€uro: x", "naïve", "na\xc3ve", "na\xc3"}},
		"replacement rune":    {[]string{"a\uFFFDbcdef", `x[\x{FFFD}]`}, []string{"a\xffbcdef", "a\uFFFDbcdef", "a\xe2\x82bcdef", "x\xff", "x\uFFFD", "x\xc3\xa9"}},
		"invalid bytes":       {[]string{`^..$`, `^.$`, `^\x{FFFD}{3}$`}, []string{"\xff\xff", "\xc3\xa9", "\xe2\x82", "\xed\xa0\x80", "\xf0\x9f\x98", "\xc0\x80"}},
		"NUL":                 {[]string{`^\x00+(.)`, `a\x00b`}, []string{"\x00\x00\x01", "a\x00b", "a\x00"}},
		"begin":               {[]string{`^a`, `\Ab`, `(?m)^c`}, []string{"a", "xa", "b", "\nb", "\nc", "x\nc", "xc"}},
		"end":                 {[]string{`a$`, `b\z`, `(?m)c$`}, []string{"a", "a\n", "ba", "b", "b\n", "c\n", "c", "cx", "cx\nxc\n"}},
		"begin and end":       {[]string{`^$`, `(?m)^$`, `\b$`}, []string{"", "\n", "a\n\nb", "a", "ab "}},
		"end in the middle":   {[]string{`a$b`, `a\z|b`, `c^d`, `(?m)e$\n^f`}, []string{"ab", "a", "b", "cd", "e\nf", "e\n"}},
		"word boundary":       {[]string{`\bfoo\b`, `\Boo`, `x\b`, `\b`}, []string{"foo", "a foo.", "foob", "foo_", "éfooé", "xoo", "x", "", " ", "é"}},
		"no word boundary":    {[]string{`\B`, `a\Bb`}, []string{"", "a", "ab", "  ", "é"}},
		"boundary and group":  {[]string{`(\w+)\b(.)(\B)`, `(\b)(\w*)`}, []string{"ab  c", "ab c", "", "é a"}},
		"anchored and not":    {[]string{`^error: (\w+)`, `failed (\w+)`}, []string{"error: x", "x error: failed y", "failed", "failed failed z"}},
		"common prefix":       {[]string{`^Failed password for (\w+)`, `^Failed publickey for (\w+)`, `^Failed none`}, []string{"Failed password for a", "Failed publickey for b", "Failed none", "Failed nonx", "Faile", "Failed p"}},
		"match before prefix": {[]string{`^ab(?:cdefg(h))?`}, []string{"ab", "abcdefgh", "abcdefg", "abcdeX", "abc"}},
		"same place twice":    {[]string{`^(?:(ab)|(a.))*abc`}, []string{"abababc", "acababc", "abc", "aababc"}},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := join(tt.patterns)
			if err != nil {
				t.Fatal(err)
			}
			m, tiny := mustCompile(t, tt.patterns...).NewMachine(), mustCompile(t, tt.patterns...).newMachine(1)
			for range 2 { // cold, then warm
				for _, text := range tt.texts {
					compare(t, tt.patterns, want, []byte(text), m, tiny)
				}
			}
		})
	}
}

// A generator makes random patterns and texts over few letters, so that they often meet.
type generator struct{ *rand.Rand }

func (g generator) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g generator) pattern(depth int) string {
	if depth == 0 || g.IntN(8) == 0 {
		return g.pick("a", "b", "c", "ab", "abc", ".", "é", "[ab]", "[^a]", `\w`, `\S`, `\n`, " ", `[^\n]`, "(?i:a)", "(?s:.)",
			"^", "$", `\b`, `\B`, `\A`, `\z`, "(?m:^)", "(?m:$)", "", `\x{FFFD}`, `\pL`, "[a-cé-ü]", "€")
	}
	sub := func() string { return g.pattern(depth - 1) }
	switch g.IntN(10) {
	case 0, 1, 2:
		return sub() + sub()
	case 3:
		return sub() + sub() + sub()
	case 4, 5:
		return "(" + sub() + ")"
	case 6:
		return "(?:" + sub() + "|" + sub() + ")"
	case 7:
		return "(?:" + sub() + "|" + sub() + "|" + sub() + ")"
	}
	return "(?:" + sub() + ")" + g.pick("*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?")
}

func (g generator) text(n int) []byte {
	var text []byte
	for range g.IntN(n + 1) {
		text = append(text, g.pick("a", "b", "c", "a", "b", "ab", "abc", "A", "é", "€", "\n", " ", "_", "\xff", "\xc3", "\xe2\x82", "\x00", "\uFFFD")...)
	}
	return text
}

func TestRandomLikeRegexp(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(1, 2))}
	rounds := 4000
	if testing.Short() {
		rounds = 500
	}
	for range rounds {
		var patterns []string
		for range 1 + g.IntN(4) {
			patterns = append(patterns, g.pick("", "", "^")+g.pattern(1+g.IntN(5)))
		}
		want, err := join(patterns)
		if err != nil {
			continue // too many repeats in repeats
		}
		p := mustCompile(t, patterns...)
		roomy, small := p.NewMachine(), p.newMachine(3000)
		for range 15 {
			compare(t, patterns, want, g.text(12), roomy, small)
			small.plain = 0 // states, not package regexp, are what is tested
		}
		if t.Failed() {
			t.Fatal("stopped at the first pattern that differs")
		}
	}
}

func TestFullCacheKeepsMatching(t *testing.T) {
	patterns := []string{`(a).{9}(b)`, `^(\w+) (\d+) `, `(?:x(.)|y(.))*z`}
	want, err := join(patterns)
	if err != nil {
		t.Fatal(err)
	}
	g := generator{rand.New(rand.NewPCG(3, 4))}
	p := mustCompile(t, patterns...)
	for _, limit := range []int{0, 1, 5000, 50000} {
		m := p.newMachine(limit)
		for range 300 {
			text := []byte(strings.ReplaceAll(strings.Repeat(string(g.text(40)), 1+g.IntN(4)), "c", "x"))
			compare(t, patterns, want, text, m)
			m.plain = min(m.plain, 2)
			if most := limit + 10000; m.size > most {
				t.Fatalf("a cache limited to %d bytes has %d", limit, m.size)
			}
		}
	}
}

func TestManyRegisters(t *testing.T) {
	patterns := []string{`(?:(a)|(b)|.){1,300}(c)`, `(.)(.{400})(.{400})(y)$`}
	want, err := join(patterns)
	if err != nil {
		t.Fatal(err)
	}
	m := mustCompile(t, patterns...).NewMachine()
	for _, text := range []string{strings.Repeat("ab", 500) + "c", strings.Repeat("abx", 600), strings.Repeat("x", 900) + "y"} {
		compare(t, patterns, want, []byte(text), m)
		m.plain = 0
	}
}

func TestMachinesAreIndependent(t *testing.T) {
	p := mustCompile(t, `^(\w+)=(\w+)$`, `(\d+)\.(\d+)`, `(?:a.{8})(b)`)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			m := p.newMachine(20000)
			loc := make([]int, p.LocLen())
			for i := range 2000 {
				key, value := fmt.Sprint("key", worker), fmt.Sprint(i)
				text := []byte(key + "=" + value)
				pattern, ok := m.Match(text, loc)
				if !ok || pattern != 0 || string(text[loc[2]:loc[3]]) != key || string(text[loc[4]:loc[5]]) != value {
					t.Errorf("text %q: got %d %v %v", text, pattern, ok, loc)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestWarmMachineDoesNotAllocate(t *testing.T) {
	p := mustCompile(t, sshd...)
	m := p.NewMachine()
	loc := make([]int, p.LocLen())
	texts := [][]byte{[]byte(failedPassword), []byte("nothing of interest"), []byte("Invalid user \xff\xfeé from 192.0.2.1 port 2")}
	all := func() {
		for _, text := range texts {
			m.Match(text, loc)
		}
	}
	all()
	if n := testing.AllocsPerRun(100, all); n != 0 {
		t.Errorf("%v allocations for %d texts, want none", n, len(texts))
	}
}

func TestShortLoc(t *testing.T) {
	m := mustCompile(t, `a(b)(c)`, `x`).NewMachine()
	loc := []int{7, 7, 7}
	if pattern, ok := m.Match([]byte("-abc"), loc); pattern != 0 || !ok || !slices.Equal(loc, []int{1, 4, 2}) {
		t.Errorf("got %d %v %v", pattern, ok, loc)
	}
	if pattern, ok := m.Match([]byte("-x"), nil); pattern != 1 || !ok {
		t.Errorf("without loc: got %d %v", pattern, ok)
	}
}

func TestNoPatterns(t *testing.T) {
	p := mustCompile(t)
	if pattern, ok := p.NewMachine().Match([]byte("text"), nil); ok || p.Len() != 0 || p.LocLen() != 0 {
		t.Errorf("a Program of no patterns matched as %d", pattern)
	}
}

func TestGroups(t *testing.T) {
	p := mustCompile(t, `(?P<user>a)(b)(?<host>c)|(?<other>d)`, `x`)
	loc := make([]int, p.LocLen())
	text := []byte("abc")
	if pattern, ok := p.NewMachine().Match(text, loc); !ok || pattern != 0 {
		t.Fatalf("%q: pattern %d, %v", text, pattern, ok)
	}
	for name, want := range map[string]struct {
		number int
		text   string
	}{"user": {1, "a"}, "host": {3, "c"}, "other": {4, ""}, "none": {0, ""}} {
		n := p.Group(0, name)
		if got := Group(text, loc, n); n != want.number || string(got) != want.text || (got == nil) != (want.text == "") {
			t.Errorf("group %s has number %d and holds %q, want %+v", name, n, got, want)
		}
	}
	if n := p.Group(1, "user"); n != 0 {
		t.Errorf("a pattern without groups has one of number %d", n)
	}
	if p.Len() != 2 || p.LocLen() != 10 {
		t.Errorf("Len, LocLen = %d, %d, want 2, 10", p.Len(), p.LocLen())
	}
}

func TestCompileErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		patterns []string
		want     string
	}{
		"parenthesis":   {[]string{`a`, `b(`}, "pattern 1: error parsing regexp: missing closing ): `b(`"},
		"closing early": {[]string{`a)|(b`}, "pattern 0: error parsing regexp: unexpected ): `a)|(b`"},
		"backreference": {[]string{`(a)\1`}, "pattern 0: error parsing regexp: invalid escape sequence: `\\1`"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Compile(tt.patterns); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(`^a(b|c)*$`, `(\w+)`, []byte("abcbc"))
	f.Add(`(?i)k\b`, `(?m)^$`, []byte("\xe2\x84\xaa\n\n\xff"))
	f.Add(`(a*)*|(b??c)`, `\B.`, []byte("bc\x00aa"))
	f.Add(`(?:(a)(b)|(b)(a))*c`, `(|a)+`, []byte("abbac"))
	f.Fuzz(func(t *testing.T, first, second string, text []byte) {
		patterns := []string{first, second}
		if len(first)+len(second) > 200 || len(text) > 200 {
			return
		}
		p, err := Compile(patterns)
		want, err2 := join(patterns)
		if err2 != nil && err == nil {
			return // too large only when joined, or both use a group name
		}
		if (err != nil) != (err2 != nil) {
			t.Fatalf("Compile: %v, regexp: %v", err, err2)
		}
		if err == nil {
			compare(t, patterns, want, text, p.NewMachine(), p.newMachine(2000))
		}
	})
}
