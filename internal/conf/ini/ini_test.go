package ini_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mef/internal/ban"
	"mef/internal/conf/diag"
	"mef/internal/conf/ini"
)

// A section of every form.
type section struct {
	on     bool
	count  int
	lasts  time.Duration
	mode   int
	text   string
	name   string
	path   string
	ports  ban.Ports
	banned ban.Ports
	hosts  []string
}

var table = ini.Table[section]{
	{Name: "on", Value: "true", Form: ini.Bool(func(s *section) *bool { return &s.on })},
	{Name: "count", Value: "3", Form: ini.Number(1, 9, func(s *section) *int { return &s.count })},
	{Name: "lasts", Value: "10m", Form: ini.Duration(time.Second, time.Hour, func(s *section) *time.Duration { return &s.lasts })},
	{Name: "mode", Form: ini.Choice(func(s *section, i int) { s.mode = i }, "enforce", "observe")},
	{Name: "text", Form: ini.Text(8, func(s *section) *string { return &s.text })},
	{Name: "name", Form: ini.Name(func(s *section) *string { return &s.name })},
	{Name: "path", Form: ini.Path(20, func(s *section) *string { return &s.path })},
	{Name: "ports", Form: ini.Ports(func(s *section) *ban.Ports { return &s.ports })},
	{Name: "ban_ports", Form: ini.BanPorts(func(s *section) *ban.Ports { return &s.banned })},
	{Name: "hosts", Form: ini.List("names", ini.IsName, func(s *section) *[]string { return &s.hosts })},
	{Name: "more", Adds: true, Form: ini.List("names", ini.IsName, func(s *section) *[]string { return &s.hosts })},
	{Name: "port_N_limit", Form: ini.Number(1, 9, func(s *section) *int { return &s.count })},
	{Name: "zone_K_limit", Form: ini.Number(1, 9, func(s *section) *int { return &s.count })},
	{Name: "old", Form: ini.Bool(ini.Nowhere[section, bool]), Notice: "ignored"},
	{Name: "older", Form: ini.Choice(ini.Dropped[section], "a", "b"), Notice: "ignored", When: ini.Is("b")},
	{Name: "oldest", Form: ini.Choice(ini.Dropped[section], "a", "b"), Notice: "ignored", When: ini.IsNot("a")},
}

// read reads a file with one section and returns everything an operator would see.
func read(text string) (section, string) {
	f := ini.Scan("x.conf", []byte(text), "global")
	var s section
	table.SetDefaults(&s)
	d := table.Decode(&s, f.Settings)
	var out []string
	if err := append(f.Errs, d.Errs...).Err(); err != nil {
		out = append(out, err.Error())
	}
	for _, n := range d.Notices {
		out = append(out, fmt.Sprintf("%s: %s", n.Pos, n.Text))
	}
	return s, strings.Join(out, "\n")
}

func TestValues(t *testing.T) {
	s, said := read("[global]\non=false\ncount=9\nlasts=1h\nmode=observe\ntext=a # b\nname=a-b.c_d\npath=/a//b/../c\nports=all\nban_ports=443,80,22-25\nhosts=a,,b\nmore=c\n")
	if said != "" {
		t.Fatal(said)
	}
	if s.on || s.count != 9 || s.lasts != time.Hour || s.mode != 1 || s.text != "a" || s.name != "a-b.c_d" || s.path != "/a/c" || s.ports != "" ||
		s.banned != "22-25,80,443" || !slices.Equal(s.hosts, []string{"c"}) {
		t.Errorf("%+v", s)
	}
	if s, said = read("[global]\n"); said != "" || !s.on || s.count != 3 || s.lasts != 10*time.Minute {
		t.Errorf("defaults %+v, %s", s, said)
	}
}

// Each mistake has its place, and the bounds are exact.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"count=0":                    `x.conf:2:7: count: wrong value "0"; write a number from 1 to 9`,
		"count=10":                   `count: wrong value "10"`,
		"count=1e0":                  `count: wrong value "1e0"`,
		"lasts=999ms":                `lasts: wrong value "999ms"; write a duration from 1s to 1h`,
		"lasts=3601":                 `lasts: wrong value "3601"`,
		"mode=observer":              `mode: wrong value "observer"; did you mean "observe"?`,
		"text=123456789":             `text: wrong value "123456789"; write at most 8 characters`,
		"name=-a":                    `name: wrong value "-a"`,
		"name=.a":                    `name: wrong value ".a"`,
		"name=a b":                   `name: wrong value "a b"`,
		"path=/12345678901234567890": `path: wrong value`,
		"ports=all,22":               `ports: wrong value "all"`,
		"ports=0":                    `ports: wrong value "0"`,
		"hosts=a,b c":                `x.conf:2:9: hosts: wrong value "b c"`,
		"on=":                        `on: no value; write true or false, or remove the line`,
		"port_0_limit=1":             `unknown key "port_0_limit"`,
		"port_65536_limit=1":         `unknown key "port_65536_limit"`,
		"port__limit=1":              `unknown key "port__limit"`,
		"zone_A_limit=1":             `unknown key "zone_A_limit"`,
		"on=true\non=true":           `"on" is set twice; first at x.conf:2:1`,
	} {
		_, said := read("[global]\n" + text + "\n")
		if !strings.Contains(said, want) {
			t.Errorf("%s: %s, want %s", text, said, want)
		}
	}
	for _, text := range []string{"port_1_limit=2", "port_65535_limit=2", "zone_a1_limit=2", "more=a\nmore=b"} {
		if _, said := read("[global]\n" + text + "\n"); said != "" {
			t.Errorf("%s: %s", text, said)
		}
	}
}

// Keys with one notice share it, and a notice may depend on the value.
func TestNotices(t *testing.T) {
	_, said := read("[global]\nold=true\nolder=b\noldest=b\n")
	if want := "x.conf:2:1: old, older, oldest: ignored"; said != want {
		t.Errorf("%s, want %s", said, want)
	}
	if _, said = read("[global]\nolder=a\noldest=a\n"); said != "" {
		t.Errorf("values without a notice: %s", said)
	}
}

// A default that is no value is a mistake of the program.
func TestDefaultsAreChecked(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a wrong default is taken")
		}
	}()
	bad := ini.Table[section]{{Name: "count", Value: "none", Form: ini.Number(1, 9, func(s *section) *int { return &s.count })}}
	bad.SetDefaults(new(section))
}

// Lines are cut as docs/configuration.md says: comments, sections, values with "#", Windows line ends.
func TestScan(t *testing.T) {
	f := ini.Scan("x.conf", []byte("\xef\xbb\xbf# first\r\n[ global ] # x\r\n  a = b#c # d\r\n\r\nfailregex=x # y\r\n[rule]\na=\r\n"), "global")
	if len(f.Errs) > 0 {
		t.Fatal(f.Errs)
	}
	var got []string
	for _, s := range f.Settings {
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s", s.Section, s.Key, s.Value, s.KeyPos, s.Pos))
	}
	want := []string{
		"global|a|b#c|x.conf:3:3|x.conf:3:7",
		"global|failregex|x # y|x.conf:5:1|x.conf:5:11", // patterns go on to the end of the line
		"rule|a||x.conf:7:1|x.conf:7:3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("settings\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(f.Headers) != 2 || f.Headers[0].Name != "global" || f.Headers[1].Pos != (diag.Pos{File: "x.conf", Line: 6, Col: 1}) {
		t.Errorf("headers %+v", f.Headers)
	}
}

func TestScanErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a=b":                "x.conf:1:1: setting before the first section; write [global] in front of it",
		"[global\n":          `x.conf:1:1: section "[global" does not end with ]; write [section] on a line of its own`,
		"[global]\n; old":    `x.conf:2:1: ";" does not begin a comment here; begin comments with #`,
		"[global]\n[global]": `x.conf:2:1: section "[global]" occurs twice; first at x.conf:1:1`,
		"[global]\n=b":       `x.conf:2:1: "=b" is not a setting; write key=value`,
		"[global]\nword":     `x.conf:2:1: "word" is not a setting; write key=value`,
		"[global]\na=b\x1bc": `x.conf:2:4: byte 0x1b is not text; save the file as UTF-8`,
		"[global]\n\xe9=b":   `x.conf:2:1: byte 0xe9 is not text; save the file as UTF-8`,
		"[global]\n" + strings.Repeat("x\n", 200): "too many mistakes, the rest of the file is not read; fix those before it first",
	} {
		f := ini.Scan("x.conf", []byte(text), "global")
		if err := f.Errs.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
		if len(f.Errs) > 102 {
			t.Errorf("%.20q: %d errors", text, len(f.Errs))
		}
	}
}

func TestItems(t *testing.T) {
	var got []string
	for offset, word := range ini.Items(" a,, bc , ") {
		got = append(got, fmt.Sprintf("%d:%s", offset, word))
	}
	if want := []string{"1:a", "5:bc"}; !slices.Equal(got, want) {
		t.Errorf("items %q, want %q", got, want)
	}
	for range ini.Items("a,b") {
		break // a caller may stop early
	}
}

func TestUnknownSection(t *testing.T) {
	h := ini.Header{Name: "globl", Pos: diag.Pos{File: "x.conf", Line: 3, Col: 1}}
	if got, want := ini.UnknownSection(h, []string{"global", "rule"}).Error(), `x.conf:3:1: unknown section "globl"; did you mean "global"?`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	h.Name = "zzz"
	if got, want := ini.UnknownSection(h, []string{"global", "rule"}).Error(), `x.conf:3:1: unknown section "zzz"; there is [global], [rule]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
